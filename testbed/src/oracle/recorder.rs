//! The recorder of acknowledged writes (P1, P12): a client that commits one row at a time through the virtual address and
//! notes each acknowledgement the moment it comes, with boot time. A write whose answer never came is *unknown*, never lost
//! and never there: both are allowed. An acknowledged row that cannot be read back is lost.

use super::target::{self, Session, Target};
use crate::lab::namespaces::NetworkHandle;
use crate::wait::boot_ns;
use anyhow::Context as _;
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

/// Between two attempts to connect.
const RECONNECT_PAUSE: Duration = Duration::from_millis(20);

/// Between two looks whether a pause is over.
const PAUSE_LOOK: Duration = Duration::from_millis(5);

/// How hard the client writes.
#[derive(Debug, Clone, Copy)]
pub struct Load {
    /// Writers at the same time, each with one row in the air.
    pub writers: usize,
    /// Rest of each writer between two rows: long runs do not measure speed, and what they write has to be read back.
    pub rest: Duration,
}

/// One acknowledgement.
#[derive(Debug, Clone, Copy)]
struct Acknowledged {
    number: u64,
    asked_ns: u64,
    answered_ns: u64,
}

#[derive(Debug, Default)]
struct Record {
    acknowledged: Vec<Acknowledged>,
    unknown: u64,
    file: Option<BufWriter<File>>,
    last_error: String,
}

#[derive(Debug)]
struct Shared {
    target: Target,
    record: Mutex<Record>,
    next: AtomicU64,
    rest: Duration,
    is_paused: AtomicBool,
    must_stop: AtomicBool,
    started_ns: u64,
}

/// A running recorder.
#[derive(Debug)]
pub struct Recorder {
    shared: Arc<Shared>,
    network: NetworkHandle,
    thread: Option<JoinHandle<anyhow::Result<()>>>,
}

/// What a recorder found.
#[derive(Debug, Clone, serde::Serialize)]
pub struct Report {
    /// Rows the application promised.
    pub acknowledged: u64,
    /// Rows whose answer never came.
    pub unknown: u64,
    /// Promised rows that are not there: must be empty.
    pub lost: Vec<u64>,
    /// Longest time without any acknowledgement, in milliseconds.
    pub longest_gap_ms: f64,
    /// Acknowledgements per second over the run.
    pub rate: f64,
}

impl Recorder {
    /// Starts the writers in a network namespace; each acknowledgement is also appended to `log`.
    ///
    /// # Errors
    /// The application does not answer at all, or the log cannot be made.
    pub fn start(
        network: NetworkHandle,
        target: Target,
        load: Load,
        log: PathBuf,
    ) -> anyhow::Result<Recorder> {
        network.within(|| runtime()?.block_on(target::prepare(target)))?;
        let existing = network.within(|| runtime()?.block_on(target::rows(target, 0)))?;
        let first = existing.last().map_or(1, |last| last + 1);
        let file = File::create(&log).with_context(|| format!("make {}", log.display()))?;
        let shared = Arc::new(Shared {
            target,
            record: Mutex::new(Record {
                file: Some(BufWriter::new(file)),
                ..Record::default()
            }),
            next: AtomicU64::new(first),
            rest: load.rest,
            is_paused: AtomicBool::new(false),
            must_stop: AtomicBool::new(false),
            started_ns: boot_ns(),
        });
        let (inside, work) = (network.try_clone()?, Arc::clone(&shared));
        let thread = std::thread::spawn(move || {
            inside.enter()?;
            runtime()?.block_on(async {
                let tasks: Vec<_> = (0..load.writers)
                    .map(|_| tokio::spawn(write_for_ever(Arc::clone(&work))))
                    .collect();
                for task in tasks {
                    task.await?;
                }
                anyhow::Ok(())
            })
        });
        Ok(Recorder {
            shared,
            network,
            thread: Some(thread),
        })
    }

    /// No writer asks for a new row until `resume`; rows in the air are still answered.
    pub fn pause(&self) {
        self.shared.is_paused.store(true, Ordering::Relaxed);
    }

    /// Ends a `pause`.
    pub fn resume(&self) {
        self.shared.is_paused.store(false, Ordering::Relaxed);
    }

    /// Boot time of the start.
    pub fn start_ns(&self) -> u64 {
        self.shared.started_ns
    }

    /// Acknowledgements so far.
    pub fn acknowledged(&self) -> u64 {
        self.shared.record.lock().acknowledged.len() as u64
    }

    /// Boot time of the newest acknowledgement, in nanoseconds.
    pub fn newest_ns(&self) -> Option<u64> {
        let record = self.shared.record.lock();
        record.acknowledged.last().map(|a| a.answered_ns)
    }

    /// Boot time of the first acknowledgement of a row that was asked for after `after_ns`.
    pub fn first_after(&self, after_ns: u64) -> Option<u64> {
        let record = self.shared.record.lock();
        record
            .answered_since(after_ns)
            .iter()
            .find(|a| a.asked_ns >= after_ns)
            .map(|a| a.answered_ns)
    }

    /// Boot time of the first acknowledgement that came at or after `after_ns`.
    pub fn first_answered_after(&self, after_ns: u64) -> Option<u64> {
        let record = self.shared.record.lock();
        record
            .answered_since(after_ns)
            .first()
            .map(|a| a.answered_ns)
    }

    /// What the client saw go wrong last.
    pub fn last_error(&self) -> String {
        self.shared.record.lock().last_error.clone()
    }

    /// Waits until a row asked for after `after_ns` is acknowledged; answers the boot time of that.
    ///
    /// # Errors
    /// Not within the deadline; the text says what the client saw last.
    pub fn wait_served(&self, after_ns: u64, deadline: Duration) -> anyhow::Result<u64> {
        Ok(crate::wait::until(
            "an acknowledged write",
            deadline,
            || {
                self.first_after(after_ns)
                    .ok_or_else(|| self.shared.record.lock().last_error.clone())
            },
        )?)
    }

    /// Waits for `count` more acknowledgements, the minimum load of a run (P12).
    ///
    /// # Errors
    /// Not within the deadline.
    pub fn wait_load(&self, count: u64, deadline: Duration) -> anyhow::Result<()> {
        let goal = self.acknowledged() + count;
        crate::wait::until("the minimum load", deadline, || {
            let now = self.acknowledged();
            if now >= goal {
                Ok(())
            } else {
                Err(format!("{now} of {goal} rows"))
            }
        })?;
        Ok(())
    }

    /// Longest time without any acknowledgement between two boot times, in milliseconds. The ends count as acknowledgements.
    pub fn longest_gap_ms(&self, from_ns: u64, to_ns: u64) -> f64 {
        let record = self.shared.record.lock();
        let times = record.answered_since(from_ns).iter();
        longest_gap_ms(times.map(|a| a.answered_ns), from_ns, to_ns)
    }

    /// Acknowledgements that came between two boot times.
    pub fn acknowledged_between(&self, from_ns: u64, to_ns: u64) -> u64 {
        let record = self.shared.record.lock();
        let later = record.answered_since(from_ns).iter();
        later.take_while(|a| a.answered_ns <= to_ns).count() as u64
    }

    /// Stops the writers, reads everything back and compares.
    ///
    /// # Errors
    /// The rows cannot be read back.
    pub fn finish(mut self) -> anyhow::Result<Report> {
        self.stop_writers()?;
        let stopped_ns = boot_ns();
        let there = self.read_back(0)?;
        let record = self.shared.record.lock();
        Ok(report(&record, &there, self.shared.started_ns, stopped_ns))
    }

    /// Compares what is there now with what was acknowledged before now, while the writers go on.
    ///
    /// # Errors
    /// The rows cannot be read back.
    pub fn audit(&self) -> anyhow::Result<Report> {
        self.audit_since(0)
    }

    /// As `audit`, for what was acknowledged since a boot time: a long run looks at its last minutes after each step and at
    /// everything at its end.
    ///
    /// # Errors
    /// The rows cannot be read back.
    pub fn audit_since(&self, since_ns: u64) -> anyhow::Result<Report> {
        let (known, asked_ns) = {
            let record = self.shared.record.lock();
            (record.answered_since(since_ns).to_vec(), boot_ns())
        };
        let first = known.iter().map(|a| a.number).min().unwrap_or(0);
        let there = self.read_back(first)?;
        let record = Record {
            acknowledged: known,
            unknown: self.shared.record.lock().unknown,
            ..Record::default()
        };
        let from_ns = since_ns.max(self.shared.started_ns);
        Ok(report(&record, &there, from_ns, asked_ns))
    }

    fn read_back(&self, from: u64) -> anyhow::Result<BTreeSet<u64>> {
        let target = self.shared.target;
        self.network
            .within(|| runtime()?.block_on(target::rows(target, from)))
            .context("read the rows back")
    }

    fn stop_writers(&mut self) -> anyhow::Result<()> {
        self.shared.must_stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // Every call of a writer has a timeout, so this ends.
            thread
                .join()
                .map_err(|_| anyhow::anyhow!("the recorder panicked"))??;
        }
        Ok(())
    }
}

impl Drop for Recorder {
    fn drop(&mut self) {
        if let Err(error) = self.stop_writers() {
            tracing::warn!(%error, "recorder");
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // One thread: sockets of other threads would be born in another namespace.
    Ok(tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?)
}

async fn write_for_ever(shared: Arc<Shared>) {
    let mut session = None;
    while !shared.must_stop.load(Ordering::Relaxed) {
        if shared.is_paused.load(Ordering::Relaxed) {
            tokio::time::sleep(PAUSE_LOOK).await;
            continue;
        }
        let Some(open) = &mut session else {
            match Session::open(shared.target).await {
                Ok(new) => session = Some(new),
                Err(error) => {
                    shared.record.lock().last_error = format!("{error:#}");
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
            }
            continue;
        };
        let number = shared.next.fetch_add(1, Ordering::Relaxed);
        let asked_ns = boot_ns();
        match open.write(number).await {
            Ok(()) => {
                shared.record.lock().acknowledge(number, asked_ns);
                if !shared.rest.is_zero() {
                    tokio::time::sleep(shared.rest).await;
                }
            }
            Err(error) => {
                session = None;
                let mut record = shared.record.lock();
                record.unknown += 1;
                record.last_error = format!("{error:#}");
            }
        }
    }
}

impl Record {
    /// Answers that came at or after a boot time, in their order.
    fn answered_since(&self, since_ns: u64) -> &[Acknowledged] {
        let first = self
            .acknowledged
            .partition_point(|a| a.answered_ns < since_ns);
        &self.acknowledged[first..]
    }

    /// The clock is read under the lock, so that the list is in the order of the answers.
    fn acknowledge(&mut self, number: u64, asked_ns: u64) {
        let new = Acknowledged {
            number,
            asked_ns,
            answered_ns: boot_ns(),
        };
        self.acknowledged.push(new);
        if let Some(file) = &mut self.file {
            // The file is for people who look into a failed run; the verdict is made from memory.
            let _disk_full = writeln!(file, "{} {} {}", new.number, new.asked_ns, new.answered_ns);
        }
    }
}

fn report(record: &Record, there: &BTreeSet<u64>, from_ns: u64, to_ns: u64) -> Report {
    let lost = record
        .acknowledged
        .iter()
        .map(|a| a.number)
        .filter(|number| !there.contains(number))
        .collect();
    let seconds = (to_ns.saturating_sub(from_ns)) as f64 / 1e9;
    let acknowledged = record.acknowledged.len() as u64;
    let times = record.acknowledged.iter().map(|a| a.answered_ns);
    Report {
        acknowledged,
        unknown: record.unknown,
        lost,
        longest_gap_ms: longest_gap_ms(times, from_ns, to_ns),
        rate: acknowledged as f64 / seconds.max(0.001),
    }
}

fn longest_gap_ms(times: impl Iterator<Item = u64>, from_ns: u64, to_ns: u64) -> f64 {
    let mut inside: Vec<u64> = times.filter(|t| (from_ns..=to_ns).contains(t)).collect();
    inside.extend([from_ns, to_ns]);
    inside.sort_unstable();
    let longest = inside.windows(2).map(|pair| pair[1] - pair[0]).max();
    longest.unwrap_or(0) as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acknowledged(number: u64, at: u64) -> Acknowledged {
        Acknowledged {
            number,
            asked_ns: at,
            answered_ns: at,
        }
    }

    /// The oracle itself: a promised row that is missing is lost, an unknown one is not.
    #[test]
    fn missing_promised_row_is_lost() {
        let record = Record {
            acknowledged: vec![acknowledged(1, 10), acknowledged(3, 20)],
            unknown: 1,
            ..Record::default()
        };
        let there = BTreeSet::from([1, 2]);
        let report = report(&record, &there, 0, 2_000_000_000);
        assert_eq!(report.lost, vec![3]);
        assert_eq!((report.acknowledged, report.unknown), (2, 1));
    }

    #[test]
    fn longest_gap_counts_the_ends() {
        let ms = 1_000_000;
        let times = [10 * ms, 20 * ms, 90 * ms];
        let gap = |from, to| longest_gap_ms(times.into_iter(), from * ms, to * ms);
        assert!((gap(0, 100) - 70.0).abs() < 1e-6);
        assert!((gap(0, 300) - 210.0).abs() < 1e-6);
        assert!((gap(15, 20) - 5.0).abs() < 1e-6);
    }
}
