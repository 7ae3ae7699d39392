//! Reading a directory in pieces, from any position the kernel remembers.

use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;

use rustix::fs::{FileType, RawDir, SeekFrom, seek};

use super::errno::Errno;

/// One call of `getdents64`; about 800 short names.
const BATCH_BYTES: usize = 32 * 1024;

/// A name as the directory lists it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Listed<'a> {
    /// The name, `.` and `..` included.
    pub name: &'a [u8],
    /// Inode number below.
    pub ino: u64,
    /// Kind, as far as the file system below says it here.
    pub kind: FileType,
    /// Position after this name.
    pub next_position: u64,
}

#[derive(Debug)]
struct Record {
    name_end: usize,
    ino: u64,
    kind: FileType,
    next_position: u64,
}

/// An open directory and the names read ahead from it.
#[derive(Debug)]
pub(crate) struct DirStream {
    directory: OwnedFd,
    names: Vec<u8>,
    records: Vec<Record>,
    /// Index of the first record that was not given out.
    next: usize,
    /// Position of that record.
    position: u64,
    is_at_end: bool,
}

impl DirStream {
    /// `directory` is open for reading, at its start.
    pub(crate) fn new(directory: OwnedFd) -> DirStream {
        DirStream {
            directory,
            names: Vec::new(),
            records: Vec::new(),
            next: 0,
            position: 0,
            is_at_end: false,
        }
    }

    pub(crate) fn directory(&self) -> &OwnedFd {
        &self.directory
    }

    /// Gives names to `take` from `position` on, until it says `false` (and has not taken that one) or none is left.
    pub(crate) fn read(
        &mut self,
        position: u64,
        mut take: impl FnMut(Listed<'_>) -> Result<bool, Errno>,
    ) -> Result<(), Errno> {
        if position != self.position || position == 0 {
            self.rewind_to(position)?;
        }
        loop {
            while let Some(record) = self.records.get(self.next) {
                let start = self
                    .next
                    .checked_sub(1)
                    .map_or(0, |before| self.records[before].name_end);
                let (ino, kind, next_position) = (record.ino, record.kind, record.next_position);
                let name = &self.names[start..record.name_end];
                if !take(Listed {
                    name,
                    ino,
                    kind,
                    next_position,
                })? {
                    return Ok(());
                }
                self.position = next_position;
                self.next += 1;
            }
            if self.is_at_end {
                return Ok(());
            }
            self.fill()?;
        }
    }

    fn rewind_to(&mut self, position: u64) -> Result<(), Errno> {
        seek(&self.directory, SeekFrom::Start(position))?;
        self.clear();
        self.position = position;
        self.is_at_end = false;
        Ok(())
    }

    fn clear(&mut self) {
        self.names.clear();
        self.records.clear();
        self.next = 0;
    }

    fn fill(&mut self) -> Result<(), Errno> {
        self.clear();
        let mut buffer = vec![MaybeUninit::uninit(); BATCH_BYTES];
        let mut entries = RawDir::new(&self.directory, &mut buffer);
        // One batch: a second call of getdents64 would overwrite nothing, but give out more than is asked for.
        while let Some(entry) = entries.next() {
            let entry = entry?;
            self.names.extend_from_slice(entry.file_name().to_bytes());
            self.records.push(Record {
                name_end: self.names.len(),
                ino: entry.ino(),
                kind: entry.file_type(),
                next_position: entry.next_entry_cookie(),
            });
            if entries.is_buffer_empty() {
                break;
            }
        }
        self.is_at_end = self.records.is_empty();
        Ok(())
    }
}
