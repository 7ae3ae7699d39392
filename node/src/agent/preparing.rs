//! A module that cannot run on this server yet: tried again until it can, while others ask for things all the same.

use std::pin::pin;

use fs_mirror::RefusalReason;
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;

use super::STEP_RETRY;
use super::requests::{Request, RestartRefused, SwapRefused, answer};

/// The daemon stops.
struct Leaving {
    done: oneshot::Sender<()>,
    is_overdue: bool,
}

/// What `attempt` gives once it succeeds; `None` when nothing is to run here any more. Its failures are told to `on_failure`.
pub(super) async fn until_ready<T, E, F>(
    requests: &mut mpsc::Receiver<Request>,
    mut attempt: impl FnMut() -> F,
    mut on_failure: impl FnMut(E),
) -> Option<T>
where
    F: Future<Output = Result<Option<T>, E>>,
{
    loop {
        let mut leaving = None;
        let mut attempt = pin!(attempt());
        let outcome = loop {
            tokio::select! {
                outcome = &mut attempt => break outcome,
                request = requests.recv() => match refuse(request?) {
                    Some(told) if told.is_overdue => {
                        answer(told.done, ());
                        return None;
                    }
                    // What an earlier daemon left here is ended first.
                    Some(told) => leaving = Some(told.done),
                    None => {}
                },
            }
        };
        if let Some(done) = leaving {
            answer(done, ());
            return None;
        }
        match outcome {
            Ok(ready) => return ready,
            Err(error) => on_failure(error),
        }
        let mut pause = pin!(sleep(STEP_RETRY));
        loop {
            tokio::select! {
                () = &mut pause => break,
                request = requests.recv() => if let Some(told) = refuse(request?) {
                    answer(told.done, ());
                    return None;
                },
            }
        }
    }
}

/// Nothing of the module runs here: only leaving can be done.
fn refuse(request: Request) -> Option<Leaving> {
    match request {
        Request::Leave { done } => Some(Leaving {
            done,
            is_overdue: false,
        }),
        Request::LeaveAtOnce { done } => Some(Leaving {
            done,
            is_overdue: true,
        }),
        Request::Swap { done } => {
            answer(done, Err(SwapRefused::NotPrimary));
            None
        }
        Request::Restart { done } => {
            answer(done, Err(RestartRefused::NotServing));
            None
        }
        Request::Session { link, .. } => {
            let refused = tokio::task::block_in_place(|| link.refuse(RefusalReason::NotSecondary));
            if let Err(error) = refused {
                tracing::debug!(%error, "the primary went away");
            }
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::timeout;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    /// Goal: a daemon that is stopped does not wait for a module that cannot run on it.
    #[tokio::test]
    async fn regression_who_has_nothing_leaves_when_told() {
        let (asking, mut requests) = mpsc::channel(4);
        let (failed, mut failure) = mpsc::unbounded_channel();
        let agent = tokio::spawn(async move {
            let attempt = || async { Err::<Option<()>, _>("the directory is missing") };
            let on_failure = |why: &str| failed.send(why.to_owned()).unwrap();
            until_ready(&mut requests, attempt, on_failure).await
        });
        assert_eq!(
            failure.recv().await.as_deref(),
            Some("the directory is missing")
        );
        let (done, swapped) = oneshot::channel();
        asking.send(Request::Swap { done }).await.unwrap();
        let swapped = timeout(SOON, swapped).await.unwrap().unwrap();
        assert!(matches!(swapped, Err(SwapRefused::NotPrimary)));
        let (done, left) = oneshot::channel();
        asking.send(Request::Leave { done }).await.unwrap();
        timeout(SOON, left).await.unwrap().unwrap();
        assert_eq!(timeout(SOON, agent).await.unwrap().unwrap(), None);
    }

    /// Goal: an attempt that hangs ends with the second word, not before: it may be ending what an earlier daemon left.
    #[tokio::test]
    async fn regression_an_attempt_that_hangs_is_left_at_once() {
        let (asking, mut requests) = mpsc::channel(4);
        let agent = tokio::spawn(async move {
            let attempt = std::future::pending::<Result<Option<()>, &str>>;
            until_ready(&mut requests, attempt, |_| {}).await
        });
        let (done, mut left) = oneshot::channel();
        asking.send(Request::Leave { done }).await.unwrap();
        assert!(
            timeout(Duration::from_millis(100), &mut left)
                .await
                .is_err()
        );
        let (done, left) = oneshot::channel();
        asking.send(Request::LeaveAtOnce { done }).await.unwrap();
        timeout(SOON, left).await.unwrap().unwrap();
        assert_eq!(timeout(SOON, agent).await.unwrap().unwrap(), None);
    }
}
