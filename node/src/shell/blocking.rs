//! Work that may block, on a thread of its own.

use std::future::pending;
use std::panic::resume_unwind;

/// What `work` returned; a panic in it goes on here. While the runtime ends the work may never be begun: whoever waits for it then
/// waits until it is dropped, which is at once.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => resume_unwind(panic),
            Err(_cancelled) => pending().await,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    /// Goal: a runtime that ends is no panic of whoever begins work just then; a daemon would abort. Method: the task holds its
    /// thread until the runtime has been told to end.
    #[test]
    fn regression_work_begun_while_the_runtime_ends_is_no_panic() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .build()
            .unwrap();
        let (begun, has_begun) = channel();
        let (end, must_end) = channel::<()>();
        let waiting = runtime.spawn(async move {
            begun.send(()).unwrap();
            must_end.recv().unwrap();
            blocking(|| ()).await;
        });
        has_begun.recv().unwrap();
        runtime.shutdown_background();
        end.send(()).unwrap();
        let other = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let error = other.block_on(waiting).unwrap_err();
        assert!(error.is_cancelled(), "{error}");
    }
}
