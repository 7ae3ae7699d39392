//! Moving the running session to another link, when the one in use has gone silent.

use std::sync::Arc;
use std::time::Duration;

use super::session::Session;
use super::{AttachError, Completion, GREETING_IN_SYNC_MAX, LossCause, Replicator};
use crate::replication::link::Link;
use crate::replication::wire::{Hello, HelloReply, Start};

/// A link on which nothing was heard for so long is doubted: two pings went unanswered.
pub(super) const QUIET_AFTER: Duration = Duration::from_millis(350);

impl<C: Completion> Replicator<C> {
    /// Goes on with session `hello.session` over `link`, in the epoch in force here: what has not arrived over the link before is sent
    /// again. Blocks for one round trip, at most `GREETING_IN_SYNC_MAX` for each of its two steps.
    ///
    /// # Errors
    /// `Busy`, `NotRunning`, `Fenced`, and `Link` before the greeting: the session is as it was. Otherwise
    /// it is over, and `SessionLost` follows.
    pub fn resume(&self, link: Link, mut hello: Hello) -> Result<(), AttachError> {
        let session = self.begin_resuming(&mut hello)?;
        let resumed = move_session(&session, link, hello);
        self.shared.state.lock().is_attaching = false;
        // What was lost with the other link goes out now, by the thread that may block on it.
        session.wake_pulse();
        resumed
    }

    /// Whether this session runs, and nothing was heard on its link for [`QUIET_AFTER`].
    pub fn is_quiet(&self, session: u64) -> bool {
        let running = self.shared.running();
        running.is_some_and(|running| running.id == session && running.is_quiet())
    }

    fn begin_resuming(&self, hello: &mut Hello) -> Result<Arc<Session>, AttachError> {
        let mut state = self.shared.state.lock();
        if state.is_attaching {
            return Err(AttachError::Busy { session: 0 });
        }
        // A newer record may be applied and not be adopted here yet: the session knows nothing of it either.
        hello.epoch = state.epoch;
        state.check_hello(hello)?;
        let running = state.running.clone();
        let session = running.filter(|running| running.id == hello.session);
        let session = session.ok_or(AttachError::NotRunning {
            session: hello.session,
        })?;
        state.is_attaching = true;
        Ok(session)
    }
}

fn move_session(session: &Session, mut link: Link, mut hello: Hello) -> Result<(), AttachError> {
    link.establish(GREETING_IN_SYNC_MAX)?;
    hello.start = Start::Resume {
        received: session.link.suspend(),
    };
    match link.greet(&hello, GREETING_IN_SYNC_MAX) {
        Ok(HelloReply::Resumed { received }) => Ok(session.link.resume(link, received)?),
        Ok(HelloReply::Refused { reason }) => {
            session.end(LossCause::NotResumed(reason));
            Err(AttachError::Refused(reason))
        }
        Ok(HelloReply::Accepted) => {
            let why = "the secondary began another session".to_owned();
            session.end(LossCause::NotMoved(why));
            Err(AttachError::NotRunning {
                session: hello.session,
            })
        }
        Err(error) => {
            session.end(LossCause::NotMoved(error.to_string()));
            Err(error.into())
        }
    }
}
