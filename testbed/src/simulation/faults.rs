//! What goes wrong in a run, drawn from its seed: a few kinds of fault per run, so that each run looks different.

use super::clock::{MS, SECOND};
use super::message::{Channel, Place};
use super::network::Link;
use super::place::holds_copies;
use super::random::Random;

/// The kinds of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    IsolateOne,
    CutPair,
    CutOneWay,
    CutSeveralOneWay,
    CutMirror,
    CutControl,
    CutBeats,
    LoseLan,
    Flap,
    Slow,
    Lossy,
    Duplicates,
    Stragglers,
    Freeze,
    FreezeAll,
    Kill,
    PowerCut,
    RestartLoop,
    Blackout,
    Wipe,
    SlowDisk,
    DiskFails,
    WallClockJumps,
    Swap,
    Rest,
}

pub(super) const KINDS: [Kind; 25] = [
    Kind::IsolateOne,
    Kind::CutPair,
    Kind::CutOneWay,
    Kind::CutSeveralOneWay,
    Kind::CutMirror,
    Kind::CutControl,
    Kind::CutBeats,
    Kind::LoseLan,
    Kind::Flap,
    Kind::Slow,
    Kind::Lossy,
    Kind::Duplicates,
    Kind::Stragglers,
    Kind::Freeze,
    Kind::FreezeAll,
    Kind::Kill,
    Kind::PowerCut,
    Kind::RestartLoop,
    Kind::Blackout,
    Kind::Wipe,
    Kind::SlowDisk,
    Kind::DiskFails,
    Kind::WallClockJumps,
    Kind::Swap,
    Kind::Rest,
];

/// One thing done to the cluster, or undone.
#[derive(Debug, Clone)]
pub(super) enum Deed {
    Cut {
        links: Vec<Link>,
        channels: Vec<Channel>,
    },
    Mend {
        links: Vec<Link>,
        channels: Vec<Channel>,
    },
    Latency {
        microseconds: (u64, u64),
    },
    Loss {
        percent: u64,
    },
    Duplicate {
        percent: u64,
    },
    Straggle {
        percent: u64,
    },
    Freeze {
        place: Place,
    },
    Thaw {
        place: Place,
    },
    Crash {
        place: Place,
        power: bool,
    },
    Boot {
        place: Place,
    },
    Wipe {
        place: Place,
    },
    Disk {
        place: Place,
        microseconds: (u64, u64),
    },
    DiskFails {
        place: Place,
    },
    WallClock {
        place: Place,
        offset_ms: u64,
    },
    Swap {
        module: usize,
    },
    Rest {
        module: usize,
        place: Place,
    },
    Resume {
        module: usize,
        place: Place,
    },
    /// A person changes how soon the module asks its servers to count as lost.
    Heart {
        module: usize,
        ms: Option<u32>,
    },
}

/// What is done when; in order of time.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) deeds: Vec<(u64, Deed)>,
    pub(super) kinds: Vec<Kind>,
}

const EVERY_CHANNEL: [Channel; 3] = [Channel::Beats, Channel::Control, Channel::Mirror];
pub(super) const DISK_USUAL_US: (u64, u64) = (150, 900);
pub(super) const LATENCY_USUAL_US: (u64, u64) = (80, 400);
/// How many kinds one run draws from.
const KINDS_MAX: u64 = 4;

/// Draws the faults of a run that lasts until `end`.
pub(super) fn draw(
    random: &mut Random,
    end: u64,
    places: usize,
    modules: usize,
    lans: usize,
) -> Plan {
    let mut plan = Plan::default();
    let kinds: Vec<Kind> = (0..random.between(1, KINDS_MAX))
        .map(|_| random.pick(&KINDS))
        .collect();
    let count = random.between(1, 9);
    // Some runs leave time to recover between faults, others do not.
    let begin = random.pick(&[200 * MS, 2 * SECOND, 3 * SECOND]);
    for _ in 0..count {
        let kind = random.pick(&kinds);
        let at = random.between(begin, end - SECOND);
        let longest = (end - at).min(6 * SECOND);
        let length = random.pick(&[30, 200, 600, 1200, 1700, 2200, 3000, 6000]) * MS;
        let draft = Draft {
            at,
            until: at + length.min(longest),
            places,
            modules,
            lans,
        };
        draft.add(kind, random, &mut plan);
        plan.kinds.push(kind);
    }
    plan.deeds.sort_by_key(|(at, _)| *at);
    plan
}

/// Draws when modules ask for other leases, in a third of the runs. The source of chance is another one than that of
/// the faults: all other runs are as they were before modules could ask.
pub(super) fn draw_hearts(seed: u64, end: u64, modules: usize, plan: &mut Plan) {
    let mut random = Random::new(!seed);
    if !random.chance(33) {
        return;
    }
    for _ in 0..random.between(1, 6) {
        let at = random.between(0, end - SECOND);
        let module = random.between(0, modules as u64 - 1) as usize;
        let ms = random.pick(&[None, Some(500), Some(500), Some(800), Some(2000)]);
        plan.deeds.push((at, Deed::Heart { module, ms }));
    }
    plan.deeds.sort_by_key(|(at, _)| *at);
}

/// One fault on its way into the plan.
#[derive(Clone, Copy)]
struct Draft {
    at: u64,
    until: u64,
    places: usize,
    modules: usize,
    lans: usize,
}

impl Draft {
    fn add(self, kind: Kind, random: &mut Random, plan: &mut Plan) {
        let place = random.between(0, self.places as u64 - 1) as Place;
        let server = random.between(0, 1) as Place;
        let module = random.between(0, self.modules as u64 - 1) as usize;
        match kind {
            Kind::IsolateOne => self.cut(self.links(|a, b| a == place || b == place), plan),
            Kind::CutPair => self.cut(self.links(|a, b| holds_copies(a) && holds_copies(b)), plan),
            Kind::CutOneWay => {
                let (from, to) = self.one_way(random);
                self.cut(self.links(|a, b| (a, b) == (from, to)), plan);
            }
            Kind::CutSeveralOneWay => {
                let directions = self.places * (self.places - 1);
                let mask = random.between(1, (1 << directions) - 1);
                let links = self.links(|a, b| mask & (1 << self.bit(a, b)) != 0);
                self.cut(links, plan);
            }
            Kind::CutMirror => self.cut_channel(Channel::Mirror, |_, _| true, plan),
            Kind::CutControl => {
                let far = |a: Place, b: Place| a == place || b == place;
                self.cut_channel(Channel::Control, far, plan);
            }
            Kind::CutBeats => {
                let (from, to) = self.one_way(random);
                self.cut_channel(Channel::Beats, move |a, b| (a, b) == (from, to), plan);
            }
            Kind::LoseLan => {
                let lan = random.between(0, self.lans as u64 - 1) as usize;
                let links = self.links(|_, _| true);
                let links = links.into_iter().filter(|link| link.lan == lan).collect();
                self.cut(links, plan);
            }
            Kind::Flap => self.flap(random, plan),
            Kind::Slow => self.between(
                Deed::Latency {
                    microseconds: random.pick(&[(2000, 20_000), (20_000, 120_000)]),
                },
                Deed::Latency {
                    microseconds: LATENCY_USUAL_US,
                },
                plan,
            ),
            Kind::Lossy => self.between(
                Deed::Loss {
                    percent: random.pick(&[2, 10, 40]),
                },
                Deed::Loss { percent: 0 },
                plan,
            ),
            Kind::Duplicates => self.between(
                Deed::Duplicate { percent: 20 },
                Deed::Duplicate { percent: 0 },
                plan,
            ),
            Kind::Stragglers => self.between(
                Deed::Straggle {
                    percent: random.pick(&[3, 15]),
                },
                Deed::Straggle { percent: 0 },
                plan,
            ),
            Kind::Freeze => self.between(Deed::Freeze { place }, Deed::Thaw { place }, plan),
            Kind::FreezeAll => {
                for place in 0..self.places {
                    self.between(Deed::Freeze { place }, Deed::Thaw { place }, plan);
                }
            }
            Kind::Kill => {
                let power = false;
                self.between(Deed::Crash { place, power }, Deed::Boot { place }, plan);
            }
            Kind::PowerCut => {
                let power = true;
                self.between(Deed::Crash { place, power }, Deed::Boot { place }, plan);
            }
            Kind::RestartLoop => self.restart_loop(place, random, plan),
            Kind::Blackout => {
                for place in 0..self.places {
                    let power = true;
                    let late = random.between(0, 3000) * MS;
                    plan.deeds.push((self.at, Deed::Crash { place, power }));
                    plan.deeds.push((self.until + late, Deed::Boot { place }));
                }
            }
            Kind::Wipe => {
                plan.deeds.push((self.at, Deed::Wipe { place }));
                plan.deeds.push((self.until, Deed::Boot { place }));
                if random.between(0, 1) == 1 {
                    self.leave_only_wiped_and_lagging(place, random, plan);
                }
            }
            Kind::SlowDisk => self.between(
                Deed::Disk {
                    place,
                    microseconds: random.pick(&[(10_000, 60_000), (200_000, 900_000)]),
                },
                Deed::Disk {
                    place,
                    microseconds: DISK_USUAL_US,
                },
                plan,
            ),
            Kind::DiskFails => plan
                .deeds
                .push((self.at, Deed::DiskFails { place: server })),
            Kind::WallClockJumps => {
                let offset_ms = random.pick(&[0, 3_600_000, 86_400_000]);
                plan.deeds
                    .push((self.at, Deed::WallClock { place, offset_ms }));
            }
            Kind::Swap => plan.deeds.push((self.at, Deed::Swap { module })),
            Kind::Rest => self.between(
                Deed::Rest {
                    module,
                    place: server,
                },
                Deed::Resume {
                    module,
                    place: server,
                },
                plan,
            ),
        }
    }

    fn between(self, begin: Deed, end: Deed, plan: &mut Plan) {
        plan.deeds.push((self.at, begin));
        plan.deeds.push((self.until, end));
    }

    fn links(self, is_hit: impl Fn(Place, Place) -> bool) -> Vec<Link> {
        let mut links = Vec::new();
        for lan in 0..self.lans {
            for from in 0..self.places {
                for to in (0..self.places).filter(|to| *to != from && is_hit(from, *to)) {
                    links.push(Link { from, to, lan });
                }
            }
        }
        links
    }

    fn cut(self, links: Vec<Link>, plan: &mut Plan) {
        let channels = EVERY_CHANNEL.to_vec();
        let mend = Deed::Mend {
            links: links.clone(),
            channels: channels.clone(),
        };
        self.between(Deed::Cut { links, channels }, mend, plan);
    }

    fn cut_channel(self, channel: Channel, is_hit: impl Fn(Place, Place) -> bool, plan: &mut Plan) {
        let (links, channels) = (self.links(is_hit), vec![channel]);
        let mend = Deed::Mend {
            links: links.clone(),
            channels: channels.clone(),
        };
        self.between(Deed::Cut { links, channels }, mend, plan);
    }

    fn flap(self, random: &mut Random, plan: &mut Plan) {
        let (from, to) = self.one_way(random);
        let links = self.links(|a, b| (a, b) == (from, to) || (b, a) == (from, to));
        let mut at = self.at;
        while at + 400 * MS < self.until {
            let down = random.between(50, 1200) * MS;
            let until = (at + down).min(self.until);
            let turn = Draft { at, until, ..self };
            turn.cut(links.clone(), plan);
            at = until + random.between(50, 1200) * MS;
        }
    }

    /// What was committed before the wipe is known to the wiped member and to those that now lose power; the others heard
    /// nothing of it. If the wiped one voted again, it and they could elect a leader that lacks it (R12).
    fn leave_only_wiped_and_lagging(self, wiped: Place, random: &mut Random, plan: &mut Plan) {
        let mut others: Vec<Place> = (1..self.places)
            .map(|step| (wiped + step) % self.places)
            .collect();
        if random.between(0, 1) == 1 {
            others.reverse();
        }
        let (lagging, gone) = others.split_at(self.places / 2);
        let before = Draft {
            at: self.at.saturating_sub(3 * SECOND),
            until: self.at,
            ..self
        };
        let is_far = |a: Place, b: Place| lagging.contains(&a) != lagging.contains(&b);
        before.cut(self.links(is_far), plan);
        let power = true;
        for &place in gone {
            plan.deeds.push((self.at, Deed::Crash { place, power }));
            plan.deeds
                .push((self.until + 4 * SECOND, Deed::Boot { place }));
        }
    }

    fn restart_loop(self, place: Place, random: &mut Random, plan: &mut Plan) {
        let mut at = self.at;
        for _ in 0..random.between(2, 5) {
            plan.deeds.push((
                at,
                Deed::Crash {
                    place,
                    power: false,
                },
            ));
            at += random.between(20, 900) * MS;
            plan.deeds.push((at, Deed::Boot { place }));
            at += random.between(20, 900) * MS;
        }
    }

    fn one_way(self, random: &mut Random) -> (Place, Place) {
        let last = self.places as u64 - 1;
        let from = random.between(0, last) as Place;
        let to = (from + random.between(1, last) as Place) % self.places;
        (from, to)
    }

    /// Number of a directed link.
    fn bit(self, from: Place, to: Place) -> usize {
        from * (self.places - 1) + if to < from { to } else { to - 1 }
    }
}
