//! A process on a server that reads and writes a file of the replicated directory, whatever becomes of the server's role.
//!
//! It is no part of the module, so nobody ends it: it tells what the mount of a former primary still does for those who use it.

use crate::cluster::package::replicated_directory;
use crate::lab::Lab;
use crate::wait;
use anyhow::{Context, ensure};
use clap::Args;
use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::fs::{Advice, Mode, OFlags};
use std::io::{BufRead as _, BufReader, Read as _};
use std::num::NonZeroU64;
use std::path::PathBuf;
use std::process::{Child, ExitCode, Stdio};
use std::thread::JoinHandle;

/// Pause between two attempts.
const EVERY: Timespec = Timespec {
    tv_sec: 0,
    tv_nsec: 5_000_000,
};
/// The file, in the replicated directory.
const FILE: &str = "probe";

/// What `testbed __probe-mount` is asked to do.
#[derive(Debug, Args)]
pub struct Options {
    /// The file; made when it is not there.
    file: PathBuf,
}

/// The running process.
#[derive(Debug)]
pub struct MountProbe {
    process: Process,
    lines: JoinHandle<std::io::Result<String>>,
}

/// Ended when dropped.
#[derive(Debug)]
struct Process(Child);

/// One read or write that has ended.
#[derive(Debug, PartialEq, Eq)]
pub struct Attempt {
    /// `read` or `write`.
    pub operation: String,
    /// `CLOCK_BOOTTIME`, nanoseconds.
    pub ended_ns: u64,
    /// As in `errno(3)`; 0: it succeeded.
    pub errno: i32,
}

impl MountProbe {
    /// Starts it on `server`, which is the primary, and waits for its first write and read.
    ///
    /// # Errors
    /// The process cannot be started, or says why it cannot go on.
    pub fn start(lab: &Lab, server: &str) -> anyhow::Result<MountProbe> {
        let program = crate::lab::program("testbed")?;
        let file = replicated_directory(lab).join(FILE);
        let (program, file) = (program.to_string_lossy(), file.to_string_lossy());
        let mut child = lab
            .command(server, &[&program, "__probe-mount", &file])?
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .context("start the probe of the mount")?;
        let output = child.stdout.take().context("read from the probe")?;
        let process = Process(child);
        let mut output = BufReader::new(output);
        let mut text = String::new();
        for _ in 0..2 {
            output.read_line(&mut text)?;
        }
        let lines = std::thread::spawn(move || output.read_to_string(&mut text).map(|_| text));
        Ok(MountProbe { process, lines })
    }

    /// Ends it and gives what it has done.
    ///
    /// # Errors
    /// It said something else.
    pub fn finish(self) -> anyhow::Result<Vec<Attempt>> {
        drop(self.process);
        let lines = self.lines.join();
        let text = lines.map_err(|_| anyhow::anyhow!("reading the probe panicked"))??;
        // The last line may be cut short.
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        whole.lines().map(parse).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // What it hears as the sign to end: the process in the server is not ours to kill.
        drop(self.0.stdin.take());
        let _ = self.0.wait();
    }
}

/// Nothing was read or written through the mount of a former primary after `taken_over_ns`, and that was tried.
///
/// # Errors
/// It was, or was not tried.
pub fn verify_nothing_served(attempts: &[Attempt], taken_over_ns: u64) -> anyhow::Result<()> {
    let served = attempts
        .iter()
        .find(|attempt| attempt.errno == 0 && attempt.ended_ns > taken_over_ns);
    ensure!(
        served.is_none(),
        "the former primary served its mount after the takeover: {served:?}"
    );
    for operation in ["read", "write"] {
        let of_it = || attempts.iter().filter(|each| each.operation == operation);
        ensure!(
            of_it().any(|each| each.errno == 0),
            "no {operation} succeeded while the server was primary"
        );
        ensure!(
            of_it().any(|each| each.ended_ns > taken_over_ns),
            "no {operation} was tried after the takeover"
        );
    }
    Ok(())
}

/// Reads and writes until its input is closed.
///
/// # Errors
/// The file cannot be opened, or nobody listens.
pub fn run(options: &Options) -> anyhow::Result<ExitCode> {
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
    let file = rustix::fs::open(&options.file, flags, Mode::from_raw_mode(0o600))
        .with_context(|| format!("open {}", options.file.display()))?;
    let (stdin, mut out) = (std::io::stdin(), std::io::stdout().lock());
    for count in 0u64.. {
        let written = rustix::io::pwrite(&file, &count.to_le_bytes(), 0);
        report(&mut out, "write", written)?;
        // What the kernel has cached, the mount is not asked for. Fails on a dead mount, as what follows then does.
        let _ = rustix::fs::fadvise(&file, 0, NonZeroU64::new(4096), Advice::DontNeed);
        report(&mut out, "read", rustix::io::pread(&file, &mut [0; 8], 0))?;
        let mut input = [PollFd::new(&stdin, PollFlags::IN)];
        if rustix::event::poll(&mut input, Some(&EVERY))? > 0 {
            break;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn report(
    out: &mut impl std::io::Write,
    operation: &str,
    outcome: rustix::io::Result<usize>,
) -> std::io::Result<()> {
    let errno = outcome.map_or_else(rustix::io::Errno::raw_os_error, |_| 0);
    writeln!(out, "{operation} {} {errno}", wait::boot_ns())
}

fn parse(line: &str) -> anyhow::Result<Attempt> {
    let mut words = line.split(' ');
    let mut word = || words.next().with_context(|| format!("probe said {line:?}"));
    Ok(Attempt {
        operation: word()?.to_owned(),
        ended_ns: word()?.parse()?,
        errno: word()?.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts(ended: &[(&str, u64, i32)]) -> Vec<Attempt> {
        let attempt = |(operation, ended_ns, errno): &(&str, u64, i32)| Attempt {
            operation: (*operation).to_owned(),
            ended_ns: *ended_ns,
            errno: *errno,
        };
        ended.iter().map(attempt).collect()
    }

    #[test]
    fn a_served_mount_and_one_that_was_not_tried_are_told() {
        let before = [("write", 1, 0), ("read", 2, 0)];
        let verify = |after: &[(&str, u64, i32)]| {
            verify_nothing_served(&attempts(&[&before, after].concat()), 10)
        };
        assert!(verify(&[("write", 11, 5), ("read", 12, 107)]).is_ok());
        assert!(verify(&[("write", 11, 0), ("read", 12, 107)]).is_err());
        assert!(verify(&[("write", 11, 5), ("read", 12, 0)]).is_err());
        assert!(verify(&[("write", 11, 5)]).is_err());
        assert!(
            verify_nothing_served(&attempts(&[("write", 11, 5), ("read", 12, 5)]), 10).is_err()
        );
    }

    #[test]
    fn lines_are_read_as_they_are_written() {
        let mut line = Vec::new();
        report(&mut line, "read", Err(rustix::io::Errno::NOTCONN)).unwrap();
        let line = String::from_utf8(line).unwrap();
        let attempt = parse(line.trim_end()).unwrap();
        assert_eq!((attempt.operation.as_str(), attempt.errno), ("read", 107));
        assert!(parse("write 5").is_err());
    }
}
