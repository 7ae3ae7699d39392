//! Goal: whatever `commit` acknowledged is there after a power loss. Method: a fresh ext4 on a loop device; a child process
//! commits and tells each acknowledged number; ext4's shutdown ioctl drops everything that is not on the device; remount,
//! reopen, look for every acknowledged record.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use store::{Batch, Store};
use tempfile::TempDir;

/// Set in the child: the directory of the store it writes to.
const WRITER_STORE: &str = "STORE_POWER_LOSS_WRITER";
const WRITERS: u64 = 4;
const IMAGE_MIB: u64 = 64;
/// Acknowledged commits after which the power goes.
const ACKNOWLEDGED_MIN: usize = 400;
/// Records kept per writer: older ones are removed in the batch that adds a new one, as a log that is purged.
const KEPT: u64 = 1000;

#[test]
fn acknowledged_commits_survive_power_loss() {
    if let Some(directory) = env::var_os(WRITER_STORE) {
        write_for_ever(Path::new(&directory));
    }
    let mut disk = match Disk::create() {
        Ok(disk) => disk,
        Err(reason) => {
            println_skipped(&reason);
            return;
        }
    };
    for round in 0..2 {
        let acknowledged = write_until_power_loss(&disk);
        disk.remount();
        let store = Store::open(&disk.store()).unwrap();
        let tree = store.tree("records");
        for (writer, number) in &acknowledged {
            let newest = acknowledged
                .iter()
                .filter(|(w, _)| w == writer)
                .map(|(_, n)| *n)
                .max()
                .unwrap();
            // One unacknowledged commit may have been applied, and it removes one more.
            if *number + KEPT <= newest + 1 {
                continue;
            }
            let value = tree.get(&key(*writer, *number)).unwrap();
            assert_eq!(
                value,
                Some(value_of(*number)),
                "round {round}: record {number} of writer {writer}"
            );
        }
        assert!(acknowledged.len() >= ACKNOWLEDGED_MIN);
    }
}

#[expect(clippy::print_stderr, reason = "a skipped test says why")]
fn println_skipped(reason: &str) {
    eprintln!("skipped: {reason}");
}

fn key(writer: u64, number: u64) -> Vec<u8> {
    [writer.to_be_bytes(), number.to_be_bytes()].concat()
}

fn value_of(number: u64) -> Vec<u8> {
    let length = usize::try_from(number * 37 % 4096).unwrap();
    number
        .to_le_bytes()
        .into_iter()
        .cycle()
        .take(length)
        .collect()
}

/// The child: commits from several threads and prints each acknowledged record, until it is killed.
fn write_for_ever(directory: &Path) -> ! {
    let store = Store::open(directory).unwrap();
    let tree = store.tree("records");
    let threads: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let (store, tree) = (store.clone(), tree.clone());
            std::thread::spawn(move || {
                let last = tree
                    .range(key(writer, 0).as_slice()..key(writer + 1, 0).as_slice())
                    .next_back();
                let next = last.map_or(0, |record| {
                    u64::from_be_bytes(record.unwrap().0[8..].try_into().unwrap()) + 1
                });
                for number in next.. {
                    let mut batch = Batch::new();
                    batch.put(&tree, &key(writer, number), &value_of(number));
                    if let Some(old) = number.checked_sub(KEPT) {
                        batch.delete(&tree, &key(writer, old));
                    }
                    if store.commit(batch).is_err() {
                        return;
                    }
                    // One write call per line, so that lines of two threads do not mix.
                    let line = format!("acknowledged {writer} {number}\n");
                    if std::io::stdout().write_all(line.as_bytes()).is_err() {
                        return;
                    }
                }
            })
        })
        .collect();
    threads
        .into_iter()
        .for_each(|thread| thread.join().unwrap());
    // The disk is gone: wait for the end without touching it again.
    loop {
        std::thread::park();
    }
}

/// Kills the child when the test ends early.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        // Both fail only when the child is gone already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn write_until_power_loss(disk: &Disk) -> Vec<(u64, u64)> {
    let child = Command::new(env::current_exe().unwrap())
        .args([
            "--exact",
            "acknowledged_commits_survive_power_loss",
            "--nocapture",
        ])
        .env(WRITER_STORE, disk.store())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut writer = Writer(child);
    let mut lines = BufReader::new(writer.0.stdout.take().unwrap())
        .lines()
        .map(Result::unwrap);
    let mut acknowledged: Vec<_> = lines
        .by_ref()
        .filter_map(parse)
        .take(ACKNOWLEDGED_MIN)
        .collect();
    disk.lose_power();
    drop(writer);
    // Acknowledged before the power went, still in the pipe. What was acknowledged after the shutdown cannot be: commits fail.
    acknowledged.extend(lines.filter_map(parse));
    acknowledged
}

fn parse(line: String) -> Option<(u64, u64)> {
    // The test harness prints its own text before the first line.
    let (_, numbers) = line.split_once("acknowledged ")?;
    let (writer, number) = numbers.split_once(' ')?;
    Some((writer.parse().ok()?, number.parse().ok()?))
}

/// An ext4 in a file, mounted through a loop device; undone when dropped.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
    is_mounted: bool,
    _directory: TempDir,
}

impl Disk {
    fn create() -> Result<Disk, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("mounting needs root".into());
        }
        let directory = tempfile::tempdir().map_err(|error| error.to_string())?;
        let (image, mount) = (
            directory.path().join("image"),
            directory.path().join("mount"),
        );
        File::create(&image)
            .and_then(|file| file.set_len(IMAGE_MIB << 20))
            .map_err(|error| error.to_string())?;
        std::fs::create_dir(&mount).map_err(|error| error.to_string())?;
        run(Command::new("mkfs.ext4").args(["-q", "-F"]).arg(&image))?;
        let mut disk = Disk {
            image,
            mount,
            is_mounted: false,
            _directory: directory,
        };
        disk.mount()?;
        Ok(disk)
    }

    fn store(&self) -> PathBuf {
        self.mount.join("store")
    }

    fn mount(&mut self) -> Result<(), String> {
        run(Command::new("mount")
            .args(["-o", "loop"])
            .arg(&self.image)
            .arg(&self.mount))?;
        self.is_mounted = true;
        Ok(())
    }

    /// `EXT4_IOC_SHUTDOWN` without flushing the log: what the device has is all there is.
    fn lose_power(&self) {
        const EXT4_IOC_SHUTDOWN: libc::Ioctl = 0x8004_587d_u32 as libc::Ioctl;
        const EXT4_GOING_FLAGS_NOLOGFLUSH: u32 = 2;
        let flags = EXT4_GOING_FLAGS_NOLOGFLUSH;
        let root = File::open(&self.mount).unwrap();
        #[expect(unsafe_code, reason = "no safe wrapper has this ioctl")]
        // SAFETY: the ioctl reads one u32 through the pointer, which outlives the call.
        let outcome = unsafe { libc::ioctl(root.as_raw_fd(), EXT4_IOC_SHUTDOWN, &raw const flags) };
        assert_eq!(outcome, 0, "shut down: {}", std::io::Error::last_os_error());
    }

    fn remount(&mut self) {
        run(Command::new("umount").arg(&self.mount)).unwrap();
        self.is_mounted = false;
        self.mount().unwrap();
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if self.is_mounted {
            // Lazily: a store that is still open must not keep the mount in the tree.
            let _ = run(Command::new("umount").arg("-l").arg(&self.mount));
        }
    }
}

fn run(command: &mut Command) -> Result<(), String> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        Ok(())
    } else {
        Err(format!(
            "{command:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        ))
    }
}
