//! Everything at once: the queue of what will happen, the members, the faults, and the one who checks.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use consensus::state::{AckMode, Command, MirrorRecord, Wanted};

use super::Options;
use super::clock::{Clock, DRIFT_PPM_MAX, MS, SECOND};
use super::faults::{DISK_USUAL_US, Deed, Plan, draw, draw_hearts};
use super::genesis::Genesis;
use super::member::Member;
use super::message::{Channel, Place};
use super::network::{Link, Network, PLACES_MAX};
use super::oracle::{Broken, Oracle};
use super::outcome::Outcome;
use super::outside::{Event, NAMES, Outside};
use super::place::{holds_copies, id};
use super::random::Random;
use super::trace::Trace;

const CHECK_EVERY: u64 = 100 * MS;
/// After the last fault everything must be well again within this time: a start script may take 4 s, a session that
/// stands still 5 s, and each is tried again.
const HEALED_WITHIN: u64 = 40 * SECOND;
/// A service that looks well acknowledges a write within this time.
const ANSWERED_WITHIN: u64 = 15 * SECOND;
/// And stay well for this time.
const WELL_FOR: u64 = 1500 * MS;

/// A run in progress.
pub(super) struct World {
    members: Vec<Member>,
    genesis: Genesis,
    out: Outside,
    plan: Plan,
    /// What people want: module, place, wish.
    wishes: Vec<(usize, Place, Wanted)>,
    healing_from: Option<u64>,
    well_since: Option<(u64, u64)>,
    /// A member that stays away in the healing phase.
    absent: Option<Place>,
    /// Only the link between the servers stays cut.
    pair_stays_cut: bool,
    events: u64,
}

impl World {
    pub(super) fn new(seed: u64, options: Options) -> anyhow::Result<Self> {
        let mut random = Random::new(seed);
        let modules = random.between(1, 2) as usize;
        let acks: Vec<AckMode> = (0..modules)
            .map(|_| random.pick(&[AckMode::Disk, AckMode::Disk, AckMode::Receipt]))
            .collect();
        let lease_ms = random.pick(&[1500, 1500, 1500, 3000]);
        // A part of the seeds has five voters, the others three.
        let places = if seed.is_multiple_of(4) { 5 } else { 3 };
        let genesis = Genesis::new(places, lease_ms, &acks)?;
        let lans = random.pick(&[1, 1, 2]);
        let safety = random.between(8, 16) * SECOND;
        let mut plan = draw(&mut random, safety, places, modules, lans);
        draw_hearts(seed, safety, modules, &mut plan);
        let members = (0..places)
            .map(|place| {
                let ppm = random.between(0, 2 * DRIFT_PPM_MAX) as i64 - DRIFT_PPM_MAX as i64;
                Member::new(place, Clock::new(ppm), &genesis, modules)
            })
            .collect();
        let absent = random
            .chance(30)
            .then(|| random.between(0, places as u64 - 1) as Place);
        let pair_stays_cut = absent.is_none() && random.chance(15);
        let log = genesis.durable.log.clone();
        let mut out = Outside {
            now: 0,
            queue: BinaryHeap::new(),
            order: 0,
            network: Network::new(places, lans),
            stream_last: [[0; PLACES_MAX]; PLACES_MAX],
            disks_us: [DISK_USUAL_US; PLACES_MAX],
            random,
            trace: Trace::new(options.keeps_trace),
            oracle: Oracle::new(genesis.state.clone(), log, modules),
            bug: options.bug,
            must_check: false,
            acknowledged: 0,
        };
        for (at, deed) in &plan.deeds {
            out.schedule(*at, Event::Deed(deed.clone()));
        }
        out.schedule(safety, Event::Heal);
        out.schedule(CHECK_EVERY, Event::Check);
        let wishes = (0..modules)
            .flat_map(|module| [(module, 0, Wanted::Started), (module, 1, Wanted::Started)])
            .collect();
        Ok(Self {
            members,
            genesis,
            out,
            plan,
            wishes,
            healing_from: None,
            well_since: None,
            absent,
            pair_stays_cut,
            events: 0,
        })
    }

    pub(super) fn run(mut self, seed: u64) -> Outcome {
        for member in &mut self.members {
            member.boot(&self.genesis, &mut self.out);
        }
        let mut is_over = false;
        while !is_over && self.out.oracle.broken.is_none() {
            let Some(Reverse(next)) = self.out.queue.pop() else {
                break;
            };
            self.out.now = next.at;
            self.events += 1;
            is_over = self.step(next.event);
            if std::mem::take(&mut self.out.must_check) {
                self.check();
            }
        }
        Outcome {
            seed,
            broken: self.out.oracle.broken.clone(),
            digest: self.out.trace.digest(),
            virtual_ns: self.out.now,
            events: self.events,
            acknowledged: self.out.acknowledged,
            failovers: self.out.oracle.failovers,
            role_changes: self.out.oracle.role_changes,
            faults: self
                .plan
                .kinds
                .iter()
                .map(|kind| format!("{kind:?}"))
                .collect(),
            trace: self.out.trace.into_lines(),
        }
    }

    /// True when the run is over.
    fn step(&mut self, event: Event) -> bool {
        let target = match &event {
            Event::Of { place, .. } => Some(*place),
            Event::Deliver { to, .. } => Some(*to),
            Event::Deed(_) | Event::Heal | Event::Check => None,
        };
        if let Some(member) = target.map(|place| &mut self.members[place])
            && member.is_frozen
        {
            member.backlog.push(event);
            return false;
        }
        match event {
            Event::Of { place, run, what } => {
                let member = &mut self.members[place];
                if member.run == run {
                    member.on_happening(what, &self.genesis, &mut self.out);
                }
            }
            Event::Deliver { from, to, message } => {
                self.out.trace.detail(
                    self.out.now,
                    format_args!("{} to {}: {message:?}", NAMES[from], NAMES[to]),
                );
                let member = &mut self.members[to];
                if member.is_up() {
                    member.on_message(from, message, &self.genesis, &mut self.out);
                }
            }
            Event::Deed(deed) => self.perform(deed),
            Event::Heal => self.heal(),
            Event::Check => return self.on_check(),
        }
        false
    }

    fn perform(&mut self, deed: Deed) {
        // What was to be done later is not done any more, or done by the healing.
        let is_late = self.healing_from.is_some();
        if is_late && !matches!(deed, Deed::Boot { place } if Some(place) != self.absent) {
            return;
        }
        let out = &mut self.out;
        if !matches!(deed, Deed::Cut { .. } | Deed::Mend { .. }) {
            out.trace.note(out.now, format_args!("FAULT {deed:?}"));
        }
        match deed {
            Deed::Cut { links, channels } => {
                let shown: Vec<String> = links
                    .iter()
                    .map(|link| format!("{}>{}/{}", NAMES[link.from], NAMES[link.to], link.lan))
                    .collect();
                let shown = shown.join(" ");
                out.trace
                    .note(out.now, format_args!("FAULT cut {shown} {channels:?}"));
                for (link, channel) in pairs(&links, &channels) {
                    out.network.cut(link, channel);
                }
            }
            Deed::Mend { links, channels } => {
                out.trace.note(out.now, format_args!("mended {channels:?}"));
                for (link, channel) in pairs(&links, &channels) {
                    out.network.mend(link, channel);
                }
            }
            Deed::Latency { microseconds } => out.network.latency_us = microseconds,
            Deed::Loss { percent } => out.network.loss_percent = percent,
            Deed::Duplicate { percent } => out.network.duplicate_percent = percent,
            Deed::Straggle { percent } => out.network.straggler_percent = percent,
            Deed::Freeze { place } => self.members[place].is_frozen = true,
            Deed::Thaw { place } => self.thaw(place),
            Deed::Crash { place, power } => self.members[place].crash(power, out),
            Deed::Boot { place } => self.members[place].boot(&self.genesis, out),
            Deed::Wipe { place } => self.wipe(place),
            Deed::Disk {
                place,
                microseconds,
            } => out.disks_us[place] = microseconds,
            Deed::DiskFails { place } => {
                self.members[place].each_agent(&self.genesis, out, super::agent::Agent::fail_disk);
            }
            Deed::WallClock { place, offset_ms } => {
                self.members[place].clock.wall_offset_ms = offset_ms;
            }
            Deed::Swap { module } => self.swap(module),
            Deed::Rest { module, place } => self.wish(module, place, Wanted::Stopped),
            Deed::Resume { module, place } => self.wish(module, place, Wanted::Started),
            Deed::Heart { module, ms } => self.reconfigure(module, ms),
        }
    }

    /// What waited is seen now, in its order.
    fn thaw(&mut self, place: Place) {
        let member = &mut self.members[place];
        if !member.is_frozen {
            return;
        }
        member.is_frozen = false;
        for event in std::mem::take(&mut member.backlog) {
            self.out.schedule(self.out.now, event);
        }
    }

    /// Only where another copy or another majority is left: nothing helps against the loss of everything.
    fn wipe(&mut self, place: Place) {
        let is_only_copy = self.out.oracle.truth.modules.values().any(|record| {
            let others = record.in_sync.iter().filter(|server| **server != id(place));
            others.count() == 0 || record.received_only.iter().any(|s| *s != id(place))
        });
        let is_first = self.members.iter().all(|member| !member.is_wiped);
        if is_first && !(is_only_copy && holds_copies(place)) {
            self.members[place].wipe(&mut self.out);
        }
    }

    /// A person asks the server that leads.
    fn swap(&mut self, module: usize) {
        let Some(name) = self.genesis.modules.get(module) else {
            return;
        };
        for member in &mut self.members {
            let me = id(member.place);
            let Some(daemon) = &mut member.daemon else {
                continue;
            };
            let Some(record) = daemon.state.modules.get(name) else {
                continue;
            };
            if record.primary == Some(me) && record.in_sync.len() > 1 {
                let epoch = record.epoch;
                if let Some(agent) = daemon.agents.get_mut(module) {
                    agent.swap_at = Some(epoch);
                }
            }
        }
    }

    /// A person asks whoever listens; what is lost on the way is not asked for again. When leases are shortened, writes are answered the
    /// other way from then on.
    fn reconfigure(&mut self, module: usize, heart_timeout_ms: Option<u32>) {
        let records = &self.out.oracle.truth.modules;
        let Some(record) = self
            .genesis
            .modules
            .get(module)
            .and_then(|name| records.get(name))
        else {
            return;
        };
        let command = Command::ReconfigureModule {
            name: record.name.clone(),
            package: record.package,
            ack: match (heart_timeout_ms, record.ack) {
                (None, ack) => ack,
                (Some(_), AckMode::Disk) => AckMode::Receipt,
                (Some(_), AckMode::Receipt) => AckMode::Disk,
            },
            directories: record.directories.clone(),
            addresses: record.addresses.clone(),
            heart_timeout_ms,
        };
        self.ask_anybody(command);
    }

    fn ask_anybody(&mut self, command: Command) {
        let listener = self
            .members
            .iter_mut()
            .find(|member| member.is_up() && !member.is_frozen);
        if let Some(member) = listener {
            member.ask(command, &self.out);
        }
    }

    fn wish(&mut self, module: usize, place: Place, wanted: Wanted) {
        for wish in &mut self.wishes {
            if (wish.0, wish.1) == (module, place) {
                wish.2 = wanted;
            }
        }
    }

    /// People repeat themselves until they get what they want.
    fn ask(&mut self) {
        for (module, place, wanted) in self.wishes.clone() {
            let Some(record) = self
                .genesis
                .modules
                .get(module)
                .and_then(|name| self.out.oracle.truth.modules.get(name))
            else {
                continue;
            };
            if record.wanted_on(id(place)) == wanted {
                continue;
            }
            let command = Command::SetWanted {
                module: record.name.clone(),
                server: id(place),
                wanted,
            };
            self.ask_anybody(command);
            return;
        }
    }

    /// The faults are over, save for what a run is to live with.
    fn heal(&mut self) {
        self.healing_from = Some(self.out.now);
        self.out.network.mend_all();
        self.out.disks_us = [DISK_USUAL_US; PLACES_MAX];
        self.wishes
            .iter_mut()
            .for_each(|wish| wish.2 = Wanted::Started);
        let wiped = self.members.iter().position(|member| member.is_wiped);
        self.absent = wiped.or(self.absent.filter(|place| self.can_spare(*place)));
        if self.pair_stays_cut && self.absent.is_none() && self.pair_can_be_cut() {
            for lan in 0..self.out.network.lans {
                for (from, to) in [(0, 1), (1, 0)] {
                    for channel in [Channel::Beats, Channel::Control, Channel::Mirror] {
                        self.out.network.cut(Link { from, to, lan }, channel);
                    }
                }
            }
        } else {
            self.pair_stays_cut = false;
        }
        let (absent, cut) = (self.absent, self.pair_stays_cut);
        self.out.trace.note(
            self.out.now,
            format_args!("HEALING, absent: {absent:?}, pair stays cut: {cut}"),
        );
        for place in 0..self.genesis.places {
            if Some(place) == self.absent {
                self.members[place].crash(true, &mut self.out);
                continue;
            }
            self.thaw(place);
            let has_bad_disk = self.members[place]
                .daemon
                .iter()
                .flat_map(|daemon| &daemon.agents)
                .any(super::agent::Agent::has_failed_disk);
            if has_bad_disk {
                // The disk was replaced or repaired, and the daemon started again.
                self.members[place].crash(false, &mut self.out);
            }
            if !self.members[place].is_up() {
                let wait = self.out.random.between(0, 1500) * MS;
                self.out
                    .schedule(self.out.now + wait, Event::Deed(Deed::Boot { place }));
            }
        }
    }

    /// Without `place` a majority is left, and a copy with everything.
    fn can_spare(&self, place: Place) -> bool {
        !holds_copies(place)
            || self.out.oracle.truth.modules.values().all(|record| {
                let other = id(1 - place);
                let is_live = self.members[1 - place].is_up();
                record.in_sync.contains(&other)
                    && (!record.received_only.contains(&other) || is_live)
                    && record.primary.is_some()
            })
    }

    /// Both modules have a copy that can lead without the other one.
    fn pair_can_be_cut(&self) -> bool {
        self.out
            .oracle
            .truth
            .modules
            .values()
            .all(|record| record.received_only.is_empty())
    }

    /// Regularly: people, and whether all is well. True when the run is over.
    fn on_check(&mut self) -> bool {
        self.ask();
        self.out.must_check = true;
        self.out.schedule(self.out.now + CHECK_EVERY, Event::Check);
        let Some(from) = self.healing_from else {
            return false;
        };
        let now = self.out.now;
        let is_mute = self.well_since.is_some_and(|(since, acknowledged)| {
            now - since > ANSWERED_WITHIN && self.out.acknowledged == acknowledged
        });
        let missing = match self.missing() {
            None if is_mute && self.can_serve() => Some("no write is acknowledged"),
            missing => missing,
        };
        match (missing, self.well_since) {
            (None, None) => {
                self.well_since = Some((now, self.out.acknowledged));
                false
            }
            (None, Some((since, acknowledged))) => {
                let is_served = self.out.acknowledged > acknowledged || !self.can_serve();
                now - since >= WELL_FOR && is_served
            }
            (Some(what), _) if is_mute => {
                self.report_not_served(what, now - from);
                true
            }
            (Some(what), _) => {
                self.well_since = None;
                if now - from > HEALED_WITHIN {
                    self.report_not_served(what, now - from);
                }
                false
            }
        }
    }

    /// A proposal under way may still have left the only whole copy with the one who stays away.
    fn is_lost(&self, record: &MirrorRecord) -> bool {
        let absent = self.absent.map(id);
        record.in_sync.iter().all(|server| Some(*server) == absent)
    }

    fn can_serve(&self) -> bool {
        let mut records = self.out.oracle.truth.modules.values();
        records.any(|record| !self.is_lost(record))
    }

    fn report_not_served(&mut self, what: &'static str, after_ns: u64) {
        let situation = self.situation();
        self.out.oracle.report(Broken::NotServed {
            what,
            seconds: after_ns / SECOND,
            situation,
        });
    }

    /// What is not as it should be when everything heals by itself (P5, P7).
    fn missing(&self) -> Option<&'static str> {
        for (module, name) in self.genesis.modules.iter().enumerate() {
            let record = self.out.oracle.truth.modules.get(name)?;
            if self.is_lost(record) {
                continue;
            }
            let serves = |member: &Member| {
                let now = member.now(&self.out);
                member
                    .daemon
                    .iter()
                    .any(|daemon| daemon.agents.get(module).is_some_and(|a| a.serves(now)))
            };
            if !self.members.iter().any(serves) {
                return Some("nobody serves");
            }
            let is_whole = !self.absent.is_some_and(holds_copies) && !self.pair_stays_cut;
            if is_whole {
                let follows = |member: &Member| {
                    let mut agents = member.daemon.iter().flat_map(|d| d.agents.get(module));
                    agents.any(super::agent::Agent::follows)
                };
                if record.in_sync.len() < 2 {
                    return Some("the secondary is not in sync");
                }
                if !self.members.iter().any(follows) {
                    return Some("nobody follows");
                }
            }
        }
        None
    }

    fn situation(&self) -> String {
        let records = self.out.oracle.truth.modules.values().map(|record| {
            format!(
                "{}: epoch {}, primary {:?}, in sync {:?}, wanted {:?}",
                record.name, record.epoch, record.primary, record.in_sync, record.wanted
            )
        });
        let members = self.members.iter().map(|member| {
            let raft = member
                .daemon
                .as_ref()
                .map(|daemon| format!("{:?} term {}", daemon.raft.role, daemon.raft.term));
            let raft = raft.unwrap_or_default();
            format!("{}: {} {raft}", NAMES[member.place], member.modules_shown())
        });
        records.chain(members).collect::<Vec<_>>().join(" | ")
    }

    /// P1, P2, and what was just committed, at this moment.
    fn check(&mut self) {
        self.out.oracle.check_quorum(&self.members);
        for module in 0..self.genesis.modules.len() {
            if let Some(broken) = self.broken_in(module) {
                self.out.oracle.report(broken);
            }
        }
    }

    fn broken_in(&self, module: usize) -> Option<Broken> {
        let name = &self.genesis.modules[module];
        let record = self.out.oracle.truth.modules.get(name)?;
        let acknowledged = &self.out.oracle.modules[module].acknowledged;
        let (mut granted, mut owners) = (0, 0);
        for member in self
            .members
            .iter()
            .filter(|member| !member.copies.is_empty())
        {
            let now = member.now(&self.out);
            let copy = &member.copies[module];
            let lost = |write, place: String| Broken::WriteLost {
                module: name.to_string(),
                write,
                place,
            };
            owners += usize::from(now < member.address_until[module]);
            let tenure = member
                .daemon
                .as_ref()
                .and_then(|daemon| daemon.agents.get(module))
                .and_then(super::agent::Agent::tenure);
            if tenure.is_some_and(|tenure| tenure.gate.is_open(now)) {
                granted += 1;
                if let Some(write) = acknowledged.first_missing_in(&copy.memory) {
                    return Some(lost(
                        write,
                        format!("on {}, which serves", NAMES[member.place]),
                    ));
                }
            }
            if !record.in_sync.contains(&id(member.place)) || member.is_wiped {
                continue;
            }
            // What was only received ends with the run; a new one may not lead before it is announced (R16).
            let is_received = record.received_only.contains(&id(member.place));
            let counts = !is_received
                || (member.is_up()
                    && self
                        .out
                        .oracle
                        .truth
                        .knows_run(id(member.place), member.incarnation));
            let holds = if is_received {
                &copy.memory
            } else {
                &copy.disk
            };
            if let Some(write) = acknowledged.first_missing_in(holds).filter(|_| counts) {
                let place = format!("on {}, which is in sync", NAMES[member.place]);
                return Some(lost(write, place));
            }
        }
        let two = |what| Broken::Two {
            what,
            module: name.to_string(),
        };
        if granted > 1 {
            return Some(two("the right to serve"));
        }
        (owners > 1).then(|| two("the virtual address"))
    }
}

fn pairs<'a>(
    links: &'a [Link],
    channels: &'a [Channel],
) -> impl Iterator<Item = (Link, Channel)> + 'a {
    links
        .iter()
        .flat_map(|link| channels.iter().map(|channel| (*link, *channel)))
}
