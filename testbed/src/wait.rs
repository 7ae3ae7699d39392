//! Waiting for conditions with a deadline. Nothing in the testbed waits without one.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// Time between two looks at a condition.
const POLL_INTERVAL: Duration = Duration::from_millis(10);
/// Time between two looks at what must stay.
const STAYS_INTERVAL: Duration = Duration::from_millis(50);

/// Whoever lives answers within this time, however busy.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);

/// A condition did not become true in time.
#[derive(Debug, thiserror::Error)]
#[error("{what} did not happen within {} ms{}", .deadline.as_millis(), last_text(.last))]
pub struct TimedOut {
    /// What was waited for.
    pub what: String,
    /// How long.
    pub deadline: Duration,
    /// What the last look saw.
    pub last: String,
}

fn last_text(last: &str) -> String {
    if last.is_empty() {
        String::new()
    } else {
        format!(" (last seen: {last})")
    }
}

/// Looks until `look` answers with a value; its `Err` text says what was seen instead.
///
/// # Errors
/// `TimedOut` with the last thing seen.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<T, String>,
) -> Result<T, TimedOut> {
    let end = Instant::now() + deadline;
    loop {
        match look() {
            Ok(value) => return Ok(value),
            Err(last) if Instant::now() >= end => {
                return Err(TimedOut {
                    what: what.to_owned(),
                    deadline,
                    last,
                });
            }
            Err(_) => std::thread::sleep(POLL_INTERVAL),
        }
    }
}

/// Asks until there is an answer, whatever it says: one question may go unanswered while a peer is dead or the machine is busy.
///
/// # Errors
/// `TimedOut` with what the last question came to.
pub fn answer<T>(what: &str, mut ask: impl FnMut() -> anyhow::Result<T>) -> Result<T, TimedOut> {
    until(what, ANSWER_DEADLINE, || {
        ask().map_err(|error| format!("{error:#}"))
    })
}

/// Asks for so long, and once more after that: every answer must be right, and no answer is none.
///
/// # Errors
/// The first answer that `verify` refuses, or there is none in the end.
pub fn stays<T>(
    what: &str,
    duration: Duration,
    mut ask: impl FnMut() -> anyhow::Result<T>,
    verify: impl Fn(T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let end = Instant::now() + duration;
    while Instant::now() < end {
        ask().ok().map_or(Ok(()), &verify)?;
        std::thread::sleep(STAYS_INTERVAL);
    }
    verify(answer(what, ask)?)
}

/// What a command that was given a deadline left behind.
#[derive(Debug)]
pub struct Finished {
    /// Exit status; `None` when the deadline passed and it was killed.
    pub status: Option<ExitStatus>,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

impl Finished {
    /// It ended by itself with status 0.
    pub fn is_success(&self) -> bool {
        self.status.is_some_and(|s| s.success())
    }

    /// One line for people: how it ended and what it said.
    pub fn summary(&self) -> String {
        let how = match self.status {
            Some(status) => status.to_string(),
            None => "killed at its deadline".to_owned(),
        };
        format!("{how}: {} {}", self.stderr.trim(), self.stdout.trim())
    }
}

/// Runs `command` to its end, or kills it when `deadline` has passed.
///
/// # Errors
/// The program could not be started.
pub fn run(command: &mut Command, deadline: Duration) -> std::io::Result<Finished> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    let status = end_of(&mut child, deadline)?;
    Ok(Finished {
        status,
        stdout: stdout.collect(),
        stderr: stderr.collect(),
    })
}

/// Waits for a child; at the deadline it is killed and `None` is returned.
///
/// # Errors
/// The child could not be waited for.
pub fn end_of(child: &mut Child, deadline: Duration) -> std::io::Result<Option<ExitStatus>> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if Instant::now() >= end {
            child.kill()?;
            child.wait()?;
            return Ok(None);
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Collects one output of a child beside it, so that a full pipe never blocks the child.
struct Drained(std::sync::mpsc::Receiver<Vec<u8>>);

/// A grandchild that keeps the pipe open must not keep us.
const DRAIN_GRACE: Duration = Duration::from_millis(500);

impl Drained {
    fn collect(self) -> String {
        let mut all = Vec::new();
        while let Ok(part) = self.0.recv_timeout(DRAIN_GRACE) {
            all.extend(part);
        }
        String::from_utf8_lossy(&all).into_owned()
    }
}

fn drain(source: Option<impl std::io::Read + Send + 'static>) -> Drained {
    let (sender, receiver) = std::sync::mpsc::channel();
    if let Some(mut source) = source {
        std::thread::spawn(move || {
            let mut buffer = [0_u8; 16 * 1024];
            while let Ok(count @ 1..) = source.read(&mut buffer) {
                if sender.send(buffer[..count].to_vec()).is_err() {
                    break;
                }
            }
        });
    }
    Drained(receiver)
}

/// Milliseconds of the wall clock, to compare with the product's events. All servers of a lab share one clock.
pub fn unix_ms() -> u64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |d| u64::try_from(d.as_millis()).unwrap_or(u64::MAX))
}

/// Boot time, the clock of every figure the oracles give. Nanoseconds.
pub fn boot_ns() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1_000_000_000 + u64::try_from(now.tv_nsec).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::{bail, ensure};

    #[test]
    fn only_another_answer_ends_what_stays() {
        let look = |wrong_at: u32| {
            let mut asked = 0;
            let ask = || {
                asked += 1;
                if asked % 2 == 1 {
                    bail!("no answer");
                }
                Ok(asked)
            };
            stays("it", STAYS_INTERVAL * 4, ask, |answer| {
                ensure!(answer < wrong_at, "answered {answer}");
                Ok(())
            })
        };
        look(u32::MAX).expect("nothing else was answered");
        let error = look(2).expect_err("the first answer is wrong");
        assert_eq!(error.to_string(), "answered 2");
    }
}
