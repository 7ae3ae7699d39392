//! What the source of a resync does next: pure, no file and no thread.
//!
//! Directories are listed first, as long as not too many files are held; then files are compared block by block. Two
//! windows bound what is under way: digests that are not answered, and content that is not applied, so that what the
//! application writes never waits behind much of ours. A file ends where it ended when it was bound, so a resync ends
//! under any load: whatever is written later is shipped as it is written.

use std::collections::{HashMap, HashSet, VecDeque};

use super::BLOCK_BYTES;
use crate::replication::change::FileId;

/// Files that may be known and not compared yet before listing waits: each holds a descriptor.
pub(crate) const FILES_HELD_MAX: usize = 100_000;
/// Digests under way.
pub(crate) const DIGESTS_OUT_MAX: usize = 64;
/// Content under way, in bytes: small, since everything the application writes queues behind it.
pub(crate) const CONTENT_OUT_BYTES_MAX: u64 = 2 << 20;

/// A part of a file: one block, shorter at the end of the file.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Block {
    pub(crate) file: FileId,
    pub(crate) offset: u64,
    pub(crate) length: u32,
}

/// What to do next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    /// List this directory.
    List(FileId),
    /// Ship the digest of this block.
    Compare(Block),
    /// Ship the content of this block.
    Send(Block),
    /// Nothing before something is answered.
    Wait,
    /// Everything is equal: only the barrier is left.
    Finish,
}

/// What was shipped under a sequence number.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Shipped {
    Digest(Block),
    Content(Block),
}

#[derive(Debug, Default)]
struct FileState {
    /// Blocks compared and not known to be equal yet.
    pending: usize,
    is_read: bool,
}

#[derive(Debug)]
struct Reading {
    file: FileId,
    size: u64,
    offset: u64,
}

/// Bytes of the comparison. `done <= total`, `sent <= done` when it is over.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(crate) struct Bytes {
    pub(crate) total: u64,
    pub(crate) done: u64,
    pub(crate) sent: u64,
}

/// The state of a resync.
#[derive(Debug, Default)]
pub(crate) struct Plan {
    directories: Vec<FileId>,
    files: VecDeque<(FileId, u64)>,
    reading: Option<Reading>,
    out: HashMap<u64, Shipped>,
    digests_out: usize,
    content_out: u64,
    /// Blocks that were said to differ and whose digest is not acknowledged yet.
    differing: HashSet<(FileId, u64)>,
    /// Blocks to send.
    wanted: VecDeque<Block>,
    states: HashMap<FileId, FileState>,
    /// Files and directories that are not needed any more.
    over: Vec<FileId>,
    bytes: Bytes,
}

impl Plan {
    /// A directory was bound and is to be listed.
    pub(crate) fn on_directory(&mut self, directory: FileId) {
        self.directories.push(directory);
    }

    /// A file of `size` bytes was bound and is to be compared.
    pub(crate) fn on_file(&mut self, file: FileId, size: u64) {
        self.files.push_back((file, size));
        self.bytes.total += size;
    }

    /// What to do next. `List`, `Compare` and `Send` are begun by this call: each must be followed by its outcome.
    pub(crate) fn next(&mut self) -> Step {
        if let Some(block) = self.next_wanted() {
            return Step::Send(block);
        }
        if self.files.len() < FILES_HELD_MAX
            && let Some(directory) = self.directories.pop()
        {
            return Step::List(directory);
        }
        if self.digests_out < DIGESTS_OUT_MAX
            && let Some(block) = self.next_block()
        {
            return Step::Compare(block);
        }
        let is_idle = self.out.is_empty() && self.wanted.is_empty() && self.reading.is_none();
        if is_idle && self.files.is_empty() && self.directories.is_empty() {
            Step::Finish
        } else {
            Step::Wait
        }
    }

    fn next_wanted(&mut self) -> Option<Block> {
        if self.content_out >= CONTENT_OUT_BYTES_MAX {
            return None;
        }
        self.wanted.pop_front()
    }

    fn next_block(&mut self) -> Option<Block> {
        if self.reading.is_none() {
            let (file, size) = self.files.pop_front()?;
            self.states.insert(file, FileState::default());
            self.reading = Some(Reading {
                file,
                size,
                offset: 0,
            });
        }
        let reading = self.reading.as_ref()?;
        let length = BLOCK_BYTES.min(reading.size - reading.offset) as u32;
        Some(Block {
            file: reading.file,
            offset: reading.offset,
            length,
        })
    }

    /// The directory was listed.
    pub(crate) fn on_listed(&mut self, directory: FileId) {
        self.over.push(directory);
    }

    /// The digest of `block` was shipped as `seq`.
    pub(crate) fn on_compared(&mut self, block: Block, seq: u64) {
        self.out.insert(seq, Shipped::Digest(block));
        self.digests_out += 1;
        self.states.entry(block.file).or_default().pending += 1;
        self.advance(block);
    }

    /// The file has no such block any more: it is gone, or was cut off before it.
    pub(crate) fn on_file_ended(&mut self, block: Block) {
        if let Some(reading) = self.reading.take_if(|reading| reading.file == block.file) {
            self.bytes.done += reading.size - reading.offset;
            self.read(block.file);
        }
    }

    fn advance(&mut self, block: Block) {
        let Some(reading) = self
            .reading
            .as_mut()
            .filter(|reading| reading.file == block.file)
        else {
            return;
        };
        reading.offset = block.offset + u64::from(block.length);
        if reading.offset >= reading.size {
            self.reading = None;
            self.read(block.file);
        }
    }

    fn read(&mut self, file: FileId) {
        self.states.entry(file).or_default().is_read = true;
        self.end_if_over(file);
    }

    /// The secondary's block differs. Told before the digest is acknowledged; what is not under comparison is ignored.
    pub(crate) fn on_needed(&mut self, file: FileId, offset: u64) {
        let is_asked = |shipped: &Shipped| matches!(shipped, Shipped::Digest(block) if (block.file, block.offset) == (file, offset));
        if self.out.values().any(is_asked) {
            self.differing.insert((file, offset));
        }
    }

    /// The content of `block` was shipped: sequence number and bytes; or there was none to ship any more.
    pub(crate) fn on_sent(&mut self, block: Block, shipped: Option<(u64, u32)>) {
        match shipped {
            Some((seq, length)) => {
                self.content_out += u64::from(block.length);
                self.bytes.sent += u64::from(length);
                self.out.insert(seq, Shipped::Content(block));
            }
            None => self.block_done(block),
        }
    }

    /// The secondary has applied `seq`.
    pub(crate) fn on_acknowledged(&mut self, seq: u64) {
        match self.out.remove(&seq) {
            Some(Shipped::Digest(block)) => {
                self.digests_out -= 1;
                if self.differing.remove(&(block.file, block.offset)) {
                    self.wanted.push_back(block);
                } else {
                    self.block_done(block);
                }
            }
            Some(Shipped::Content(block)) => {
                self.content_out -= u64::from(block.length);
                self.block_done(block);
            }
            None => {}
        }
    }

    /// The block is equal on both sides now.
    fn block_done(&mut self, block: Block) {
        self.bytes.done += u64::from(block.length);
        if let Some(state) = self.states.get_mut(&block.file) {
            state.pending -= 1;
        }
        self.end_if_over(block.file);
    }

    fn end_if_over(&mut self, file: FileId) {
        if self
            .states
            .get(&file)
            .is_some_and(|state| state.is_read && state.pending == 0)
        {
            self.states.remove(&file);
            self.over.push(file);
        }
    }

    /// What is not needed any more since the last call.
    pub(crate) fn take_over(&mut self) -> Vec<FileId> {
        std::mem::take(&mut self.over)
    }

    pub(crate) fn bytes(&self) -> Bytes {
        self.bytes
    }

    /// Whether directories are still to be listed: the total is not known before.
    pub(crate) fn is_listing(&self) -> bool {
        !self.directories.is_empty()
    }
}

#[cfg(test)]
mod tests;
