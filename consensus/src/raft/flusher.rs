//! The thread that makes Raft's records durable.
//!
//! openraft must hear of every flush: a completion that is lost, because its task was cancelled, stops the node. A thread of
//! our own is never cancelled, and what waits in its queue shares one sync.

use std::io;
use std::sync::mpsc;
use std::thread;

use store::Pending;
use tokio::sync::oneshot;

type Completion = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Handle of the thread; it ends when the last handle is gone.
#[derive(Clone)]
pub(crate) struct Flusher {
    queue: mpsc::Sender<(Pending, Completion)>,
}

impl Flusher {
    pub(crate) fn start() -> io::Result<Flusher> {
        let (queue, waiting) = mpsc::channel::<(Pending, Completion)>();
        thread::Builder::new()
            .name("raft-log".into())
            .spawn(move || {
                for (pending, completion) in waiting {
                    // Syncing for one covers all that were applied by then, so the next ones in the queue return at once.
                    completion(pending.wait().map_err(io::Error::other));
                }
            })?;
        Ok(Flusher { queue })
    }

    /// Calls `completion` once `pending` is durable or has failed.
    pub(crate) fn submit(
        &self,
        pending: Pending,
        completion: impl FnOnce(io::Result<()>) + Send + 'static,
    ) {
        if let Err(mpsc::SendError((_, completion))) =
            self.queue.send((pending, Box::new(completion)))
        {
            completion(Err(io::Error::other("raft log thread has ended")));
        }
    }

    /// Returns once `pending` is durable. Cancelling the wait does not cancel the flush.
    pub(crate) async fn flush(&self, pending: Pending) -> io::Result<()> {
        let (sender, receiver) = oneshot::channel();
        // The receiver is gone when the caller no longer waits.
        self.submit(pending, move |outcome| drop(sender.send(outcome)));
        receiver.await.map_err(io::Error::other)?
    }
}
