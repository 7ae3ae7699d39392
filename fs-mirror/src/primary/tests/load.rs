//! Threads that change a tree at random, all in the same few directories so that they meet.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::{FileExt, OpenOptionsExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::{self, JoinHandle};

/// Runs until it is stopped.
pub(super) struct Load {
    is_stopped: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
    threads: Vec<JoinHandle<()>>,
}

impl Load {
    pub(super) fn start(directory: &Path, threads: u64, seed: u64) -> Load {
        let is_stopped = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicU64::new(0));
        let spawn = |n| {
            let (is_stopped, done, root) = (is_stopped.clone(), done.clone(), directory.to_owned());
            thread::spawn(move || {
                let mut worker = Worker {
                    root,
                    dice: Dice(seed * 1000 + n + 1),
                    open: None,
                };
                while !is_stopped.load(Ordering::Relaxed) {
                    worker.step();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        };
        let threads = (0..threads).map(spawn).collect();
        Load {
            is_stopped,
            done,
            threads,
        }
    }

    /// How many operations were tried.
    pub(super) fn count(&self) -> u64 {
        self.done.load(Ordering::Relaxed)
    }

    pub(super) fn stop(self) -> u64 {
        self.is_stopped.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().unwrap();
        }
        self.done.load(Ordering::Relaxed)
    }
}

/// xorshift64*: the same seed, the same numbers.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 33) % sides
    }
}

struct Worker {
    root: PathBuf,
    dice: Dice,
    /// A file that stays open across operations, whatever happens to its names.
    open: Option<fs::File>,
}

impl Worker {
    fn directory(&mut self) -> PathBuf {
        let mut path = self.root.clone();
        for _ in 0..self.dice.roll(4) {
            path.push(format!("d{}", self.dice.roll(4)));
        }
        path
    }

    fn name(&mut self) -> PathBuf {
        let directory = self.directory();
        directory.join(format!("f{}", self.dice.roll(12)))
    }

    /// One operation; many fail since others were faster, which is fine.
    fn step(&mut self) {
        let (one, two) = (self.name(), self.name());
        let _ = match self.dice.roll(16) {
            0 | 1 => fs::write(
                &one,
                vec![self.dice.roll(256) as u8; self.dice.roll(300_000) as usize],
            ),
            2..=4 => self.write_at(&one),
            5 => self.write_open(),
            6 => fs::rename(&one, &two),
            7 => {
                let (from, to) = (self.directory(), self.directory());
                fs::rename(from, to.join(format!("d{}", self.dice.roll(4))))
            }
            8 => fs::hard_link(&one, &two),
            9 => fs::remove_file(&one),
            10 => fs::create_dir(self.directory()),
            11 => fs::remove_dir(self.directory()),
            12 => symlink("somewhere", &one),
            13 => fs::set_permissions(
                &one,
                fs::Permissions::from_mode(self.dice.roll(0o1000) as u32),
            ),
            14 => self.truncate(&one),
            _ => rustix::fs::setxattr(
                &one,
                "user.x",
                &[self.dice.roll(256) as u8],
                rustix::fs::XattrFlags::empty(),
            )
            .map_err(Into::into),
        };
    }

    fn write_at(&mut self, path: &Path) -> std::io::Result<()> {
        // Never waits for the other end of a pipe, and makes no file.
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        self.write_to(&file)?;
        self.open = Some(file);
        Ok(())
    }

    fn write_open(&mut self) -> std::io::Result<()> {
        let Some(file) = self.open.take() else {
            return Ok(());
        };
        self.write_to(&file)?;
        self.open = Some(file);
        Ok(())
    }

    fn write_to(&mut self, file: &fs::File) -> std::io::Result<()> {
        let data = vec![self.dice.roll(256) as u8; 1 + self.dice.roll(9000) as usize];
        file.write_all_at(&data, self.dice.roll(400_000))
    }

    fn truncate(&mut self, path: &Path) -> std::io::Result<()> {
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NOFOLLOW)
            .open(path)?;
        file.set_len(self.dice.roll(500_000))
    }
}
