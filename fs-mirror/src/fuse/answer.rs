//! Answers that wait for the other copy.

use std::time::Duration;

use fuser::{
    Errno, FileAttr, FileHandle, FopenFlags, Generation, ReplyAttr, ReplyCreate, ReplyEmpty,
    ReplyEntry, ReplyWrite,
};

use crate::fs::HandleId;
use crate::replication::shipping::{Completion, Verdict};

/// The answer to a request that changed something, ready to be sent. A request whose answer is dropped gets EIO.
#[derive(Debug)]
pub enum Answer {
    /// Nothing but success.
    Done(ReplyEmpty),
    /// Bytes written.
    Written {
        /// To whom.
        reply: ReplyWrite,
        /// How many.
        bytes: u32,
    },
    /// An object and how long the kernel may believe it.
    Entry {
        /// To whom.
        reply: ReplyEntry,
        /// For how long.
        timeout: Duration,
        /// The object.
        attr: FileAttr,
    },
    /// New attributes and how long the kernel may believe them.
    Attributes {
        /// To whom.
        reply: ReplyAttr,
        /// For how long.
        timeout: Duration,
        /// The attributes.
        attr: FileAttr,
    },
    /// A new file, open.
    Created {
        /// To whom.
        reply: ReplyCreate,
        /// For how long the kernel may believe the attributes.
        timeout: Duration,
        /// The file.
        attr: FileAttr,
        /// Its handle.
        handle: HandleId,
        /// How the kernel treats the open file.
        flags: FopenFlags,
    },
}

impl Completion for Answer {
    fn finish(self, verdict: Verdict) {
        match verdict {
            Verdict::Acknowledged => self.succeed(),
            Verdict::Fenced => self.fail(),
        }
    }
}

impl Answer {
    fn succeed(self) {
        match self {
            Answer::Done(reply) => reply.ok(),
            Answer::Written { reply, bytes } => reply.written(bytes),
            Answer::Entry {
                reply,
                timeout,
                attr,
            } => reply.entry(&timeout, &attr, Generation(0)),
            Answer::Attributes {
                reply,
                timeout,
                attr,
            } => reply.attr(&timeout, &attr),
            Answer::Created {
                reply,
                timeout,
                attr,
                handle,
                flags,
            } => {
                reply.created(&timeout, &attr, Generation(0), FileHandle(handle.0), flags);
            }
        }
    }

    fn fail(self) {
        match self {
            Answer::Done(reply) => reply.error(Errno::EIO),
            Answer::Written { reply, .. } => reply.error(Errno::EIO),
            Answer::Entry { reply, .. } => reply.error(Errno::EIO),
            Answer::Attributes { reply, .. } => reply.error(Errno::EIO),
            Answer::Created { reply, .. } => reply.error(Errno::EIO),
        }
    }
}
