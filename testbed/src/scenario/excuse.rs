//! What a machine that stands still may be blamed for.
//!
//! A thread that waits for longer than a lease makes a living server look dead: a role may move then, or a client wait, without
//! a fault of ours. Only limits of time and roles that should have stayed can be excused, and only when the machine was seen to
//! stand still. Lost rows, two primaries and wrong records never are: an audit follows an excused round as any other.

use super::Arena;
use super::figures::{Bound, Figures, Rounds};
use crate::oracle::starvation::STOOD_STILL;
use parking_lot::Mutex;
use std::io::Write as _;
use std::time::Duration;

/// Rounds in a hundred that may be excused; one in a shorter run. `chaos` allows as many steps.
const EXCUSED_PERCENT_MAX: u32 = 1;

/// A limit of time was not kept, or something moved that had no reason to.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct Excusable(String);

/// As `ensure!`, for what a machine that stood still excuses.
///
/// # Errors
/// `Excusable` with what `said` says.
pub(crate) fn ensure(is_kept: bool, said: impl FnOnce() -> String) -> Result<(), Excusable> {
    if is_kept {
        Ok(())
    } else {
        Err(Excusable(said()))
    }
}

/// Puts off what may be excused until all is well again; the outer result is what cannot be.
///
/// # Errors
/// What cannot be excused.
pub(crate) fn later(judged: anyhow::Result<()>) -> anyhow::Result<anyhow::Result<()>> {
    match judged {
        Err(error) if !error.is::<Excusable>() => Err(error),
        judged => Ok(judged),
    }
}

/// The excuses of a run.
#[derive(Debug)]
pub(crate) struct Excuses {
    left: u32,
}

impl Excuses {
    /// For so many rounds.
    pub(crate) fn of(rounds: u32) -> Excuses {
        Excuses {
            left: (rounds * EXCUSED_PERCENT_MAX / 100).max(1),
        }
    }

    /// Says why a round that failed this way is not judged, when it is not; that round is to be played again.
    pub(crate) fn take(&mut self, error: &anyhow::Error, stood_still: Duration) -> Option<String> {
        let is_excused = error.is::<Excusable>() && stood_still >= STOOD_STILL;
        self.left = self.left.checked_sub(u32::from(is_excused))?;
        is_excused.then(|| {
            let ms = stood_still.as_millis();
            format!("not judged: the machine stood still for {ms} ms ({error:#})")
        })
    }
}

/// Plays a round and audits it. One that failed, or exceeds a limit, for which the machine is to blame is played again.
///
/// # Errors
/// The first promise that was broken and that nothing excuses.
pub(crate) fn play(
    arena: &mut Arena,
    excuses: &Mutex<Excuses>,
    bounds: &[Bound],
    round: impl Fn(&mut Arena) -> anyhow::Result<Figures>,
    mut audit: impl FnMut(&mut Arena) -> anyhow::Result<()>,
) -> anyhow::Result<Figures> {
    loop {
        arena.stood_still();
        let played = round(arena);
        // What the audit itself costs the machine is no excuse.
        let stood_still = arena.stood_still();
        let excused = match &played {
            Ok(figures) => {
                let exceeded = Rounds::of(figures).violations(bounds).join("; ");
                let late = ensure(exceeded.is_empty(), || exceeded).err();
                late.and_then(|late| excuses.lock().take(&late.into(), stood_still))
            }
            Err(error) => excuses.lock().take(error, stood_still),
        };
        let Some(said) = excused else {
            let figures = played?;
            audit(arena)?;
            return Ok(figures);
        };
        writeln!(std::io::stdout(), "{said}")?;
        arena.mend()?;
        arena.ready()?;
        audit(arena)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context as _;

    #[test]
    fn only_time_is_excused_and_only_by_a_machine_that_stood_still() {
        let late = || {
            let late = ensure(false, || "too late".to_owned()).context("round 1");
            late.expect_err("not kept")
        };
        let lost = anyhow::anyhow!("1 row is lost").context("audit");
        let still = Duration::from_millis(700);
        let mut excuses = Excuses::of(1);
        assert_eq!(excuses.take(&lost, still), None);
        assert_eq!(excuses.take(&late(), Duration::from_millis(699)), None);
        let said = excuses.take(&late(), still).expect("excused");
        assert!(said.contains("stood still for 700 ms"), "{said}");
        assert_eq!(excuses.take(&late(), still), None, "once");
        let mut many = Excuses::of(200);
        assert!((0..2).all(|_| many.take(&late(), still).is_some()));
        assert_eq!(many.take(&late(), still), None);
    }

    #[test]
    fn what_cannot_be_excused_is_not_put_off() {
        let late = ensure(false, String::new).context("after healing");
        assert!(later(late).expect("put off").is_err());
        assert!(later(Err(anyhow::anyhow!("lost"))).is_err());
        assert!(later(Ok(())).expect("nothing").is_ok());
    }
}
