//! The faults of a chaos run, and what must come of each.

use crate::matrix::links::Cuts;
use rand::rngs::StdRng;
use rand::{Rng as _, seq::IteratorRandom as _};
use std::fmt;
use std::time::Duration;

/// Who is hit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Target {
    /// The server where the module is primary.
    Primary,
    /// The other server.
    Secondary,
    /// The witness.
    Witness,
    /// Whoever leads Raft.
    Leader,
}

impl Target {
    fn name(self) -> &'static str {
        match self {
            Target::Primary => "primary",
            Target::Secondary => "secondary",
            Target::Witness => "witness",
            Target::Leader => "leader",
        }
    }
}

/// One fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    /// Links down, then everything on the server dies; it returns.
    PowerCut(Target),
    /// SIGKILL to the daemon; it is started again.
    Kill(Target),
    /// SIGSTOP to the daemon, and SIGCONT later.
    Freeze(Target, Duration),
    /// No frame from or to a server passes.
    Isolate(Target, Duration),
    /// Some of the six directions between the voters.
    Links(Cuts, Duration),
    /// One LAN between the members loses everything.
    LanLost(usize, Duration),
    /// A planned switchover.
    Swap,
    /// SIGTERM to the daemon; it is started again.
    Restart(Target),
    /// Everything loses power at once and returns in any order.
    Blackout,
}

/// How often each kind comes, in parts of the sum.
const WEIGHTS: [(Kind, u32); 17] = [
    (Kind::PowerCut(Target::Primary), 20),
    (Kind::Kill(Target::Primary), 20),
    (Kind::Freeze(Target::Primary), 9),
    (Kind::Isolate(Target::Primary), 9),
    (Kind::Links, 12),
    (Kind::PowerCut(Target::Leader), 6),
    (Kind::Swap, 5),
    (Kind::Restart(Target::Primary), 3),
    (Kind::Restart(Target::Secondary), 2),
    (Kind::PowerCut(Target::Secondary), 3),
    (Kind::Kill(Target::Secondary), 3),
    (Kind::Freeze(Target::Secondary), 4),
    (Kind::Isolate(Target::Secondary), 3),
    (Kind::PowerCut(Target::Witness), 3),
    (Kind::Freeze(Target::Leader), 3),
    (Kind::LanLost, 5),
    (Kind::Blackout, 3),
];

/// A fault without its details.
#[derive(Debug, Clone, Copy)]
enum Kind {
    PowerCut(Target),
    Kill(Target),
    Freeze(Target),
    Isolate(Target),
    Links,
    LanLost,
    Swap,
    Restart(Target),
    Blackout,
}

/// Milliseconds that a daemon stays frozen.
const FROZEN_MS: std::ops::RangeInclusive<u64> = 1000..=20_000;
/// Milliseconds that a server stays cut off: longer than any takeover, so that both sides act.
const CUT_MS: std::ops::RangeInclusive<u64> = 4000..=8000;

impl Fault {
    /// The next one.
    pub(super) fn choose(random: &mut StdRng) -> Fault {
        let sum: u32 = WEIGHTS.iter().map(|(_, weight)| weight).sum();
        let mut left = random.random_range(0..sum);
        let kind = WEIGHTS.into_iter().find(|(_, weight)| {
            let is_here = left < *weight;
            left = left.saturating_sub(*weight);
            is_here
        });
        let (kind, _) = kind.expect("the number is below the sum of the weights");
        Fault::of(kind, random)
    }

    fn of(kind: Kind, random: &mut StdRng) -> Fault {
        let frozen = Duration::from_millis(random.random_range(FROZEN_MS));
        let cut = Duration::from_millis(random.random_range(CUT_MS));
        match kind {
            Kind::PowerCut(target) => Fault::PowerCut(target),
            Kind::Kill(target) => Fault::Kill(target),
            Kind::Freeze(target) => Fault::Freeze(target, frozen),
            Kind::Isolate(target) => Fault::Isolate(target, cut),
            Kind::Links => {
                let cuts = Cuts::all().choose(random);
                Fault::Links(cuts.expect("there are 63"), cut)
            }
            Kind::LanLost => Fault::LanLost(random.random_range(1..=2), cut),
            Kind::Swap => Fault::Swap,
            Kind::Restart(target) => Fault::Restart(target),
            Kind::Blackout => Fault::Blackout,
        }
    }

    /// Its kind in a few words, the same for all faults of the kind: the lines of the report.
    pub(super) fn kind(self) -> String {
        match self {
            Fault::PowerCut(target) => format!("power of the {} cut", target.name()),
            Fault::Kill(target) => format!("daemon of the {} killed", target.name()),
            Fault::Freeze(target, _) => format!("daemon of the {} frozen 1-20 s", target.name()),
            Fault::Isolate(target, _) => format!("{} isolated", target.name()),
            Fault::Links(..) => "some of the six directed links cut".to_owned(),
            Fault::LanLost(lan, _) => format!("LAN {lan} lost"),
            Fault::Swap => "switchover asked for".to_owned(),
            Fault::Restart(target) => format!("daemon of the {} restarted", target.name()),
            Fault::Blackout => "blackout, any order of return".to_owned(),
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Fault::Freeze(target, d) => {
                write!(
                    f,
                    "daemon of the {} frozen {} ms",
                    target.name(),
                    d.as_millis()
                )
            }
            Fault::Isolate(target, d) => {
                write!(f, "{} isolated {} ms", target.name(), d.as_millis())
            }
            Fault::Links(cuts, d) => write!(f, "links cut {cuts} for {} ms", d.as_millis()),
            Fault::LanLost(lan, d) => write!(f, "LAN {lan} lost {} ms", d.as_millis()),
            Fault::PowerCut(_)
            | Fault::Kill(_)
            | Fault::Swap
            | Fault::Restart(_)
            | Fault::Blackout => f.write_str(&self.kind()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rand::SeedableRng as _;
    use std::collections::BTreeSet;

    #[test]
    fn every_kind_comes_and_one_seed_is_one_run() {
        let draw = |seed| {
            let mut random = StdRng::seed_from_u64(seed);
            (0..2000)
                .map(|_| Fault::choose(&mut random))
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(5), draw(5));
        let kinds: BTreeSet<String> = draw(5).into_iter().map(Fault::kind).collect();
        assert_eq!(kinds.len(), WEIGHTS.len() + 1, "both LANs: {kinds:?}");
    }
}
