//! A process that serves several clusters starts again for the one whose disk or address was not ready.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use consensus::{OpenError, StartError};

use super::{Daemon, End, is_set};
use crate::listener::ListenerError;

/// The pause before the second attempt.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
/// It doubles up to this: a disk is mended by a person, and a cluster should not wait long for its vote after that.
const PAUSE_MAX: Duration = Duration::from_secs(60);

impl Daemon {
    /// Serves as [`Daemon::run`] does. When others live in the same process and this one could not start, for a reason that can
    /// pass, it tries again until it is told to stop: alone, it would end, and whoever watches the process would start it again.
    ///
    /// # Errors
    /// Those of [`Daemon::run`] which do not pass by themselves.
    pub async fn run_patiently(self: Arc<Self>) -> anyhow::Result<End> {
        let mut attempts = 0;
        loop {
            let error = match Arc::clone(&self).run().await {
                Err(error) if self.may_try_again() && can_pass(&error) => error,
                ended => return ended,
            };
            let (root, pause) = (
                self.paths.root().display(),
                pause_after(attempts, rand::random()),
            );
            attempts += 1;
            tracing::error!(
                %root,
                error = format!("{error:#}"),
                "one of the clusters is not served: waits until that is mended, and tries again in {:.1} s",
                pause.as_secs_f64()
            );
            tokio::select! {
                () = tokio::time::sleep(pause) => {}
                () = is_set(self.stopping.subscribe()) => return Ok(End::Stopped),
            }
            tracing::info!(%root, attempts, "tries again to serve this cluster");
        }
    }

    /// Others live in the same process, and nobody has asked this one to stop.
    fn may_try_again(&self) -> bool {
        self.is_one_of_many.load(Ordering::SeqCst) && !*self.stopping.borrow()
    }
}

/// How long to wait after so many attempts before this one. `jitter`, of the whole range, takes up to a quarter off: clusters that
/// share a disk do not all try in the same moment.
fn pause_after(attempts: u32, jitter: u8) -> Duration {
    let longest = PAUSE_FIRST
        .saturating_mul(2_u32.saturating_pow(attempts))
        .min(PAUSE_MAX);
    longest - longest * u32::from(jitter) / (4 * u32::from(u8::MAX))
}

/// Whether the same start may succeed later. What makes a member unfit to vote never passes, nor does anything that is not listed
/// here; nor do failures after it has begun to listen, since it still does.
fn can_pass(error: &anyhow::Error) -> bool {
    if let Some(error) = error.downcast_ref::<StartError>() {
        return match error {
            StartError::Open(OpenError::Io { source, .. }) | StartError::Log(source) => {
                is_passing(source.kind())
            }
            // A store that cannot be written right after it was opened does not say why; whether it is fit is asked again.
            StartError::Open(OpenError::InUse(_) | OpenError::Store(_)) => true,
            StartError::Open(
                OpenError::Damaged { .. }
                | OpenError::DamagedInPlace { .. }
                | OpenError::FormatTooNew { .. },
            )
            | StartError::Bind(_)
            | StartError::Restored { .. }
            | StartError::Thread(_)
            | StartError::Raft(_) => false,
        };
    }
    if let Some(ListenerError::Bind { source, .. }) = error.downcast_ref() {
        return is_passing(source.kind());
    }
    error
        .downcast_ref::<std::io::Error>()
        .is_some_and(|error| is_passing(error.kind()))
}

/// A full or read-only disk, an address that is taken or not there yet.
fn is_passing(kind: ErrorKind) -> bool {
    matches!(
        kind,
        ErrorKind::StorageFull
            | ErrorKind::QuotaExceeded
            | ErrorKind::ReadOnlyFilesystem
            | ErrorKind::AddrInUse
            | ErrorKind::AddrNotAvailable
    )
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use anyhow::Context as _;
    use consensus::LogPosition;

    use super::super::StartError as DaemonError;
    use super::*;

    #[test]
    fn pauses_grow_up_to_a_bound() {
        let pauses: Vec<u64> = (0..8).map(|n| pause_after(n, 0).as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert_eq!(pause_after(u32::MAX, 0), PAUSE_MAX);
        assert_eq!(pause_after(u32::MAX, u8::MAX), PAUSE_MAX * 3 / 4);
    }

    fn opened(kind: ErrorKind) -> anyhow::Error {
        let directory = PathBuf::from("/var/lib/sidekick/raft");
        let source = kind.into();
        StartError::Open(OpenError::Io { directory, source }).into()
    }

    #[test]
    fn regression_what_a_person_mends_outside_is_tried_again() {
        assert!(can_pass(&opened(ErrorKind::StorageFull)));
        assert!(can_pass(&opened(ErrorKind::ReadOnlyFilesystem)));
        assert!(can_pass(
            &StartError::Open(OpenError::InUse(PathBuf::new())).into()
        ));
        let address = ([127, 0, 0, 1], 9453).into();
        let source = ErrorKind::AddrInUse.into();
        assert!(can_pass(&ListenerError::Bind { address, source }.into()));
        let noted: Result<(), std::io::Error> = Err(ErrorKind::StorageFull.into());
        assert!(can_pass(&noted.context("note this start").unwrap_err()));
    }

    #[test]
    fn what_is_unfit_stays_unfit() {
        let [found, remembered] = [3, 7].map(|index| LogPosition { term: 1, index });
        for error in [
            StartError::Restored { found, remembered }.into(),
            StartError::Open(OpenError::Damaged {
                directory: PathBuf::new(),
                quarantined: PathBuf::new(),
            })
            .into(),
            DaemonError::Removed.into(),
            DaemonError::LogFailed.into(),
            opened(ErrorKind::InvalidData),
            opened(ErrorKind::PermissionDenied),
        ] {
            assert!(!can_pass(&error), "{error:#}");
        }
    }
}
