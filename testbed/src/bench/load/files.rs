//! Loads on files.

use super::{FileOptions, Latencies, Measurement, measurement};
use anyhow::Context as _;
use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::{Duration, Instant};

/// The file that is overwritten and read. Small enough for every cache: what is measured is the path, not the disk.
const FILE_BYTES: u64 = 64 << 20;
/// O_DIRECT wants memory and offsets on such a boundary.
const ALIGNMENT: usize = 4096;
/// Files in one directory before a new one is begun.
const FILES_PER_DIRECTORY: usize = 1000;

/// Memory that O_DIRECT accepts.
struct Aligned {
    memory: Vec<u8>,
    start: usize,
    size: usize,
}

impl Aligned {
    fn new(size: usize, fill: u8) -> Aligned {
        let memory = vec![fill; size + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT);
        Aligned {
            memory,
            start,
            size,
        }
    }

    fn bytes(&self) -> &[u8] {
        &self.memory[self.start..self.start + self.size]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.memory[self.start..self.start + self.size]
    }
}

fn open(path: &Path, is_direct: bool) -> anyhow::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if is_direct {
        options.custom_flags(libc::O_DIRECT);
    }
    options
        .open(path)
        .with_context(|| format!("open {}", path.display()))
}

/// The file exists, every block of it written, synced.
fn prepare(options: &FileOptions) -> anyhow::Result<std::path::PathBuf> {
    let path = options.dir.join("load.data");
    if fs::metadata(&path).is_ok_and(|m| m.len() == FILE_BYTES) {
        return Ok(path);
    }
    let file = File::create(&path).with_context(|| format!("create {}", path.display()))?;
    let block = vec![0x5a; 1 << 20];
    for offset in (0..FILE_BYTES).step_by(block.len()) {
        file.write_all_at(&block, offset)?;
    }
    file.sync_all()?;
    Ok(path)
}

/// Where the next operation goes.
struct Offsets {
    random: SmallRng,
    blocks: u64,
    next: u64,
    is_sequential: bool,
}

impl Offsets {
    fn new(options: &FileOptions, thread: u32) -> Offsets {
        Offsets {
            random: SmallRng::seed_from_u64(u64::from(thread)),
            blocks: FILE_BYTES / options.size as u64,
            next: 0,
            is_sequential: options.sequential,
        }
    }

    fn next(&mut self, size: usize) -> u64 {
        let block = if self.is_sequential {
            self.next += 1;
            (self.next - 1) % self.blocks
        } else {
            self.random.random_range(0..self.blocks)
        };
        block * size as u64
    }
}

/// Repeats `operation` in every thread until the time is over.
fn threads(
    options: &FileOptions,
    operation: impl Fn(u32, Instant) -> anyhow::Result<Latencies> + Sync,
) -> anyhow::Result<Measurement> {
    let began = Instant::now();
    let end = began + options.duration();
    let all = std::thread::scope(|scope| -> anyhow::Result<Latencies> {
        let running: Vec<_> = (0..options.writers)
            .map(|thread| {
                let operation = &operation;
                scope.spawn(move || operation(thread, end))
            })
            .collect();
        let mut all = Latencies::new();
        for thread in running {
            let part = thread
                .join()
                .map_err(|_| anyhow::anyhow!("a load thread panicked"))??;
            all.extend(part);
        }
        Ok(all)
    })?;
    Ok(measurement(all, began.elapsed(), options.size))
}

fn timed(
    end: Instant,
    mut operation: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<Latencies> {
    let mut latencies = Latencies::new();
    loop {
        let began = Instant::now();
        if began >= end {
            return Ok(latencies);
        }
        operation()?;
        latencies.push(nanoseconds(began.elapsed()));
    }
}

fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

pub(super) fn write(options: &FileOptions) -> anyhow::Result<Measurement> {
    let path = prepare(options)?;
    threads(options, |thread, end| {
        let file = open(&path, options.direct)?;
        let block = Aligned::new(options.size, u8::try_from(thread).unwrap_or(0));
        let mut offsets = Offsets::new(options, thread);
        timed(end, || {
            Ok(file.write_all_at(block.bytes(), offsets.next(options.size))?)
        })
    })
}

pub(super) fn read(options: &FileOptions) -> anyhow::Result<Measurement> {
    let path = prepare(options)?;
    threads(options, |thread, end| {
        let file = open(&path, options.direct)?;
        let mut block = Aligned::new(options.size, 0);
        let mut offsets = Offsets::new(options, thread);
        timed(end, || {
            Ok(file.read_exact_at(block.bytes_mut(), offsets.next(options.size))?)
        })
    })
}

pub(super) fn create(options: &FileOptions) -> anyhow::Result<Measurement> {
    let top = options.dir.join("created");
    let result = threads(options, |thread, end| {
        let block = vec![0x5a; options.size];
        let (mut directory, mut count) = (top.clone(), 0);
        timed(end, || {
            if count % FILES_PER_DIRECTORY == 0 {
                directory = top.join(format!("{thread}-{count}"));
                fs::create_dir_all(&directory)?;
            }
            count += 1;
            let file = File::create_new(directory.join(count.to_string()))?;
            file.write_all_at(&block, 0)?;
            Ok(())
        })
    });
    fs::remove_dir_all(&top).with_context(|| format!("remove {}", top.display()))?;
    result
}
