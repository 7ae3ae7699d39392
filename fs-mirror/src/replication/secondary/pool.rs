//! Workers that apply changes of files: each file's in its own order, different files at the same time.

use std::collections::{HashMap, VecDeque};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use bytes::Bytes;
use parking_lot::{Condvar, Mutex, MutexGuard};

use super::object::Object;
use crate::replication::change::FileId;

/// Bytes that wait for a worker; when it is full the receiving thread waits, and TCP makes the primary wait. So much, and one frame, may
/// be acknowledged on receipt and not applied.
pub(crate) const QUEUED_BYTES_MAX: usize = 32 << 20;
/// Changes that wait for a worker.
pub(crate) const QUEUED_JOBS_MAX: usize = 16 << 10;

/// One change, as the whole frame it came in.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) owed: Owed,
    pub(crate) frame: Bytes,
}

/// What the primary is owed once a change is applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Owed {
    /// Its acknowledgement.
    Acknowledgement {
        /// Number of the change.
        seq: u64,
    },
    /// Nothing: it was acknowledged on receipt.
    Nothing {
        /// Number of the change.
        seq: u64,
    },
}

impl Owed {
    /// Number of the change.
    pub(crate) fn seq(self) -> u64 {
        match self {
            Owed::Acknowledgement { seq } | Owed::Nothing { seq } => seq,
        }
    }
}

/// Applies jobs.
pub(crate) trait Work: Send + Sync + 'static {
    /// Applies the job and acknowledges it unless that was done, or notes the failure.
    fn perform(&self, object: &Arc<Object>, job: Job);

    /// The worker has nothing more to do for this object just now.
    fn flush(&self);
}

/// The workers. Jobs come from one thread alone.
#[derive(Debug)]
pub(crate) struct Pool {
    shared: Arc<Shared>,
    workers: Vec<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    /// There is an object with jobs, or the end has come.
    work: Condvar,
    /// An object has become idle, or there is room again.
    idle: Condvar,
    /// Objects in `State::queues`; read without the lock by the submitting thread.
    busy: AtomicUsize,
}

#[derive(Debug, Default)]
struct State {
    /// Objects with jobs that wait or run. An empty queue: its last job is running.
    queues: HashMap<FileId, VecDeque<Job>>,
    /// Objects whose jobs no worker has taken.
    ready: VecDeque<Arc<Object>>,
    queued_bytes: usize,
    queued_jobs: usize,
    is_stopping: bool,
}

impl Pool {
    /// # Errors
    /// The system gives no thread.
    pub(crate) fn start(workers: usize, work: Arc<impl Work>) -> io::Result<Pool> {
        let mut pool = Pool {
            shared: Arc::default(),
            workers: Vec::new(),
        };
        for _ in 0..workers {
            let (shared, work) = (pool.shared.clone(), work.clone());
            let worker = std::thread::Builder::new()
                .name("mirror-apply".into())
                .spawn(move || shared.run(&*work))?;
            pool.workers.push(worker);
        }
        Ok(pool)
    }

    /// Whether jobs of this object wait or run.
    pub(crate) fn is_busy(&self, file: FileId) -> bool {
        // Only the caller adds jobs, so zero stays zero until he does.
        self.shared.busy.load(Ordering::Acquire) > 0
            && self.shared.state.lock().queues.contains_key(&file)
    }

    /// Adds a job behind those of the same object. Waits while too much is queued.
    pub(crate) fn submit(&self, object: &Arc<Object>, job: Job) {
        let mut state = self.shared.state.lock();
        while state.queued_jobs > 0
            && (state.queued_jobs >= QUEUED_JOBS_MAX
                || state.queued_bytes + job.frame.len() > QUEUED_BYTES_MAX)
        {
            self.shared.idle.wait(&mut state);
        }
        state.queued_bytes += job.frame.len();
        state.queued_jobs += 1;
        if let Some(queue) = state.queues.get_mut(&object.id) {
            queue.push_back(job);
            return;
        }
        state.queues.insert(object.id, VecDeque::from([job]));
        self.shared
            .busy
            .store(state.queues.len(), Ordering::Release);
        state.ready.push_back(object.clone());
        drop(state);
        self.shared.work.notify_one();
    }

    /// Waits until no job of this object waits or runs.
    pub(crate) fn wait_idle(&self, file: FileId) {
        self.wait(|state| !state.queues.contains_key(&file));
    }

    /// Waits until no job waits or runs.
    pub(crate) fn wait_all(&self) {
        self.wait(|state| state.queues.is_empty());
    }

    fn wait(&self, is_done: impl Fn(&State) -> bool) {
        let mut state = self.shared.state.lock();
        while !is_done(&state) {
            self.shared.idle.wait(&mut state);
        }
    }
}

impl Drop for Pool {
    /// Every job is performed, then the workers end.
    fn drop(&mut self) {
        self.shared.state.lock().is_stopping = true;
        self.shared.work.notify_all();
        for worker in self.workers.drain(..) {
            // One that panicked has left its message.
            let _ = worker.join();
        }
    }
}

impl Shared {
    fn run(&self, work: &impl Work) {
        let mut state = self.state.lock();
        loop {
            let Some(object) = state.ready.pop_front() else {
                if state.is_stopping {
                    return;
                }
                self.work.wait(&mut state);
                continue;
            };
            let jobs = state
                .queues
                .get_mut(&object.id)
                .map(std::mem::take)
                .unwrap_or_default();
            let bytes: usize = jobs.iter().map(|job| job.frame.len()).sum();
            let count = jobs.len();
            MutexGuard::unlocked(&mut state, || {
                for job in jobs {
                    work.perform(&object, job);
                }
                work.flush();
            });
            state.queued_bytes -= bytes;
            state.queued_jobs -= count;
            self.finish(&mut state, object);
        }
    }

    /// Others may have added jobs of the object meanwhile: they take their turn behind other objects.
    fn finish(&self, state: &mut State, object: Arc<Object>) {
        match state.queues.get(&object.id) {
            Some(queue) if !queue.is_empty() => state.ready.push_back(object),
            Some(_) | None => {
                state.queues.remove(&object.id);
                self.busy.store(state.queues.len(), Ordering::Release);
            }
        }
        self.idle.notify_all();
    }
}
