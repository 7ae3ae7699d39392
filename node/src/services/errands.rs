//! Errands: what operators ask for from other members, each done once however often it is asked for.
//!
//! The connection over which somebody asks may be lost before the answer. He asks again, perhaps over another member, under
//! the same number, and gets the answer of the first time.

use std::collections::VecDeque;

use api::v1::ChangeReply;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::sync::watch;

use super::refusal::Refusal;

/// Errands remembered. People type them.
const ERRANDS_MAX: usize = 64;

type Outcome = Result<ChangeReply, Refusal>;

/// The errands of one daemon, newest last.
#[derive(Default)]
pub(super) struct Errands {
    known: Mutex<VecDeque<(Bytes, watch::Receiver<Option<Outcome>>)>>,
}

impl Errands {
    /// Does `work` unless `errand` was asked for before; answers what came of it. It goes on when the caller gives up. Without
    /// a number it is done in any case.
    ///
    /// # Errors
    /// Those of the work.
    pub(super) async fn once(
        &self,
        errand: Bytes,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> Outcome {
        if errand.is_empty() {
            return work.await;
        }
        let mut outcome = self.begin(errand, work);
        let ended = outcome.wait_for(Option::is_some).await;
        ended
            .ok()
            .and_then(|outcome| outcome.clone())
            .unwrap_or_else(|| {
                let why = "the work ended without an outcome";
                Err(Refusal::failed("it is not known what was done", why))
            })
    }

    fn begin(
        &self,
        errand: Bytes,
        work: impl Future<Output = Outcome> + Send + 'static,
    ) -> watch::Receiver<Option<Outcome>> {
        let mut known = self.known.lock();
        if let Some((_, outcome)) = known.iter().find(|(known, _)| *known == errand) {
            return outcome.clone();
        }
        if known.len() == ERRANDS_MAX {
            known.pop_front();
        }
        let (done, outcome) = watch::channel(None);
        known.push_back((errand, outcome.clone()));
        tokio::spawn(async move {
            let outcome = work.await;
            done.send_replace(Some(outcome));
        });
        outcome
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    use tokio::sync::Notify;

    #[tokio::test]
    async fn an_errand_is_done_once_and_answers_everybody_who_asks() {
        let (errands, times, go) = (
            Arc::new(Errands::default()),
            Arc::new(AtomicU64::new(0)),
            Arc::new(Notify::new()),
        );
        let work = || {
            let (times, go) = (Arc::clone(&times), Arc::clone(&go));
            async move {
                go.notified().await;
                let epoch = times.fetch_add(1, Ordering::SeqCst) + 1;
                Ok(ChangeReply {
                    lines: Vec::new(),
                    epoch,
                })
            }
        };
        let first = Bytes::from_static(b"first");
        // Whoever asked gave up: the connection was lost.
        let asked = {
            let (errands, first, work) = (Arc::clone(&errands), first.clone(), work());
            tokio::spawn(async move { errands.once(first, work).await })
        };
        while errands.known.lock().is_empty() {
            tokio::task::yield_now().await;
        }
        asked.abort();
        go.notify_one();
        assert_eq!(errands.once(first.clone(), work()).await.unwrap().epoch, 1);
        assert_eq!(errands.once(first, work()).await.unwrap().epoch, 1);
        go.notify_one();
        let second = Bytes::from_static(b"second");
        assert_eq!(errands.once(second, work()).await.unwrap().epoch, 2);
    }
}
