//! A voter's opinion on who is alive.

use std::collections::BTreeMap;
use std::fmt;

use crate::state::{ClusterState, Command, Incarnation, MemberName, Round, ServerId};

use super::heartbeat::{Heartbeat, NoGrant, Verdict};
use super::settling::Settling;
use super::time::{BootTime, Timing};

/// Shortest time between two proposals of one opinion about one member. A proposal may be lost or wait for a leader,
/// so it is repeated; applying it twice is harmless.
pub const REPROPOSE_NS: u64 = 200_000_000;

/// What the voter wants to say to the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A member is silent.
    ProposeDeclare {
        /// Who.
        server: ServerId,
        /// Which run.
        incarnation: Incarnation,
        /// The opinion this is.
        round: Round,
        /// What was seen.
        evidence: String,
    },
    /// A member is heard again.
    ProposeWithdraw {
        /// Who.
        server: ServerId,
        /// The opinion that ends.
        round: Round,
        /// What was seen.
        evidence: String,
    },
    /// Replaced voters need no say any more.
    ProposeSettle {
        /// The newest replacement that was waited for.
        replaced_at: u64,
        /// What was seen.
        evidence: String,
    },
}

impl Action {
    /// The command to propose, and the evidence for it.
    #[must_use]
    pub fn into_command(self, voter: ServerId) -> (Command, String) {
        match self {
            Self::ProposeDeclare {
                server,
                incarnation,
                round,
                evidence,
            } => (
                Command::Declare {
                    voter,
                    round,
                    server,
                    incarnation,
                    evidence: evidence.clone(),
                },
                evidence,
            ),
            Self::ProposeWithdraw {
                server,
                round,
                evidence,
            } => (
                Command::Withdraw {
                    voter,
                    round,
                    server,
                },
                evidence,
            ),
            Self::ProposeSettle {
                replaced_at,
                evidence,
            } => (Command::SettleVoters { replaced_at }, evidence),
        }
    }
}

/// What one voter knows of the others' being alive.
///
/// After it has *proposed* a declaration it grants that member nothing until it has applied its withdrawal: the
/// proposal may be committed at any time. A restarted voter finds its declarations in the applied state.
///
/// How long a lease it grants to a member follows from what it has applied ([`Timing::of_server`]), and the answer says it.
/// Two voters, or one voter at two times, may grant different lengths to one member. That is safe because **each promise
/// stands on its own**: a voter remembers for each member the latest end of everything it granted, each as `L` * 1.01 + 0.3 s
/// after the receipt, and declares nobody before that. A lease rests on a majority, and "down" on a majority; they have a
/// voter in common; what that voter granted has run out on the member's own clock before that voter declared. So a change of
/// the length needs no agreement and no order: lowered, the longer promises before it are still waited for; raised, the first
/// longer grant is a longer promise. A voter that just started does not know what its earlier self promised. It takes the
/// longest there is: the lease of the profile, which modules only lower.
#[derive(Debug, Clone)]
pub struct Watcher {
    /// The lengths of the cluster's profile.
    profile: Timing,
    me: ServerId,
    incarnation: Incarnation,
    /// The cluster has applied the start of this very run.
    is_known: bool,
    is_voter: bool,
    my_name: Option<MemberName>,
    last_look: BootTime,
    settling: Settling,
    watched: BTreeMap<ServerId, Watched>,
}

/// One member, as this voter sees it.
#[derive(Debug, Clone)]
struct Watched {
    name: MemberName,
    /// The lengths for its lease, as applied here.
    timing: Timing,
    /// No lease that this voter granted to it, in this run or an earlier one, lasts beyond this time.
    promised_until: BootTime,
    /// Its run and its last role change, as applied here.
    run: Incarnation,
    role_change_index: u64,
    /// From when on its silence counts.
    since: BootTime,
    /// The newest heartbeat.
    newest: Option<Newest>,
    /// The highest log index that its present run says it has applied.
    applied: u64,
    /// Per LAN the time of the last one, for evidence.
    lans: BTreeMap<usize, BootTime>,
    /// A newer run is heard, and since when.
    unannounced: Option<(Incarnation, BootTime)>,
    opinion: Opinion,
    /// The highest round used so far.
    round: Round,
    proposed: Option<BootTime>,
    /// The applied state has this voter's declaration: there is nothing to propose while the member stays silent.
    is_on_record: bool,
}

#[derive(Debug, Clone, Copy)]
struct Newest {
    incarnation: Incarnation,
    sent: BootTime,
    received: BootTime,
}

/// ```text
///            silent for longer than a lease
///   Alive ------------------------------------> Declared(round)
///     ^      (or: found declared after a start)      |
///     +----------------------------------------------+
///       withdrawal applied, or a newer run applied
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opinion {
    Alive,
    Declared(Round),
}

impl Watcher {
    /// A voter that just started: everyone counts as heard now.
    #[must_use]
    pub fn new(profile: Timing, me: ServerId, incarnation: Incarnation, now: BootTime) -> Self {
        Self {
            profile,
            me,
            incarnation,
            is_known: false,
            is_voter: false,
            my_name: None,
            last_look: now,
            settling: Settling::default(),
            watched: BTreeMap::new(),
        }
    }

    /// Takes over what was applied. To be called after every entry that was applied, before the next heartbeat is
    /// answered or the next look is taken.
    pub fn on_applied(&mut self, state: &ClusterState, now: BootTime) {
        self.is_known = state.knows_run(self.me, self.incarnation);
        let was_voter =
            std::mem::replace(&mut self.is_voter, state.all_voters().contains(&self.me));
        if self.is_voter && !was_voter {
            // Nobody had to be heard by it so far: count everyone as heard, as after a start.
            self.count_as_heard(now);
        }
        self.settling.on_applied(&state.former_voters);
        self.my_name = state.members.get(&self.me).map(|m| m.name.clone());
        self.watched
            .retain(|server, _| state.members.contains_key(server));
        let first_round = Round {
            incarnation: self.incarnation,
            number: 0,
        };
        for (server, member) in state
            .members
            .iter()
            .filter(|(server, _)| **server != self.me)
        {
            let watched = self.watched.entry(*server).or_insert_with(|| Watched {
                name: member.name.clone(),
                timing: self.profile,
                promised_until: now.plus_ns(self.profile.declare_after_ns()),
                run: member.incarnation,
                role_change_index: 0,
                since: now,
                newest: None,
                applied: 0,
                lans: BTreeMap::new(),
                unannounced: None,
                opinion: Opinion::Alive,
                round: first_round,
                proposed: None,
                is_on_record: false,
            });
            watched.name = member.name.clone();
            watched.timing = self.profile.of_server(state, *server);
            watched.role_change_index = state.role_change_index.get(server).copied().unwrap_or(0);
            watched.on_run_applied(member.incarnation, now);
            let of_me = |by_voter: &BTreeMap<ServerId, Round>| by_voter.get(&self.me).copied();
            let withdrawn = state.withdrawals.get(server).and_then(of_me);
            let declared = state
                .declarations
                .get(server)
                .and_then(|by_voter| by_voter.get(&self.me));
            watched.on_opinion_applied(declared.map(|d| (d.incarnation, d.round)), withdrawn);
        }
    }

    /// A heartbeat arrived. The answer must echo `sent`.
    pub fn on_heartbeat(&mut self, heartbeat: &Heartbeat, now: BootTime) -> Verdict {
        let Some(watched) = self.watched.get_mut(&heartbeat.from) else {
            return Verdict::NoGrant(NoGrant::NotMember);
        };
        if let Err(refused) = watched.on_heartbeat(heartbeat, now) {
            return Verdict::NoGrant(refused);
        }
        if !self.is_known {
            return Verdict::NoGrant(NoGrant::OwnStartNotApplied);
        }
        watched.answer(heartbeat, now)
    }

    /// Looks at who is silent. To be called at least every heartbeat.
    pub fn on_tick(&mut self, now: BootTime) -> Vec<Action> {
        self.notice_freeze(now);
        // What an unknown run says would be refused anyway.
        let (true, Some(my_name)) = (self.is_known, &self.my_name) else {
            return Vec::new();
        };
        let look = Look {
            my_name,
            announce_after_ns: self.profile.announce_after_ns(),
            may_declare: self.is_voter,
            now,
        };
        let opinions = self
            .watched
            .iter_mut()
            .filter_map(|(server, watched)| watched.look(*server, look));
        let mut actions: Vec<Action> = opinions.collect();
        if self.is_voter {
            let has_applied = |voter: ServerId, index: u64| {
                voter == self.me || self.watched.get(&voter).is_some_and(|w| w.applied >= index)
            };
            actions.extend(self.settling.look(self.profile, has_applied, now));
        }
        actions
    }

    /// The longest time between two looks: short against what is looked for.
    #[must_use]
    pub fn look_ns(&self) -> u64 {
        let of_members = self
            .watched
            .values()
            .map(|watched| watched.timing.look_ns());
        of_members.fold(self.profile.look_ns(), u64::min)
    }

    /// What arrived while this daemon slept is still unread: whom that could make look silent counts as heard, as after a
    /// start.
    fn notice_freeze(&mut self, now: BootTime) {
        let pause_ns = now.ns_since(self.last_look);
        self.last_look = now;
        for watched in self.watched.values_mut() {
            if pause_ns > watched.timing.frozen_after_ns() {
                watched.since = now;
            }
        }
    }

    fn count_as_heard(&mut self, now: BootTime) {
        for watched in self.watched.values_mut() {
            watched.since = now;
        }
    }

    /// When `server` was heard last, on each LAN it was heard on.
    pub fn heard(&self, server: ServerId) -> impl Iterator<Item = (usize, BootTime)> + '_ {
        self.watched
            .get(&server)
            .into_iter()
            .flat_map(|w| w.lans.iter().map(|(lan, at)| (*lan, *at)))
    }
}

impl Watched {
    fn on_run_applied(&mut self, run: Incarnation, now: BootTime) {
        if run == self.run {
            return;
        }
        self.run = run;
        self.since = now;
        self.unannounced = None;
        // The start of a new run ends every declaration of the old one, also those on their way.
        self.opinion = Opinion::Alive;
        self.proposed = None;
    }

    fn on_opinion_applied(
        &mut self,
        declared: Option<(Incarnation, Round)>,
        withdrawn: Option<Round>,
    ) {
        if let Some(withdrawn) = withdrawn {
            self.round = self.round.max(withdrawn);
            if matches!(self.opinion, Opinion::Declared(round) if round <= withdrawn) {
                self.opinion = Opinion::Alive;
                self.proposed = None;
            }
        }
        let declared = declared.filter(|(run, _)| *run == self.run);
        self.is_on_record = declared.is_some();
        if let Some((_, round)) = declared {
            self.round = self.round.max(round);
            if self.opinion == Opinion::Alive {
                self.opinion = Opinion::Declared(self.round);
                self.proposed = None;
            }
        }
    }

    fn on_heartbeat(&mut self, heartbeat: &Heartbeat, now: BootTime) -> Result<(), NoGrant> {
        let order = (heartbeat.incarnation, heartbeat.sent);
        if heartbeat.incarnation < self.run {
            return Err(NoGrant::RunOver);
        }
        if self
            .newest
            .is_some_and(|newest| order < (newest.incarnation, newest.sent))
        {
            return Err(NoGrant::Old);
        }
        if self
            .newest
            .is_some_and(|newest| newest.incarnation < heartbeat.incarnation)
        {
            self.applied = 0;
        }
        self.applied = self.applied.max(heartbeat.applied);
        self.newest = Some(Newest {
            incarnation: heartbeat.incarnation,
            sent: heartbeat.sent,
            received: now,
        });
        self.lans.insert(heartbeat.lan, now);
        if heartbeat.incarnation > self.run
            && self
                .unannounced
                .is_none_or(|(run, _)| run != heartbeat.incarnation)
        {
            self.unannounced = Some((heartbeat.incarnation, now));
        }
        Ok(())
    }

    /// A grant is a promise: it is remembered before it is given.
    fn answer(&mut self, heartbeat: &Heartbeat, now: BootTime) -> Verdict {
        let verdict = self.verdict(heartbeat);
        if verdict.lease_ns().is_some() {
            let until = now.plus_ns(self.timing.declare_after_ns());
            self.promised_until = until.max(self.promised_until);
        }
        verdict
    }

    fn verdict(&self, heartbeat: &Heartbeat) -> Verdict {
        if heartbeat.incarnation > self.run {
            Verdict::NoGrant(NoGrant::RunNotKnown)
        } else if self.opinion != Opinion::Alive {
            Verdict::NoGrant(NoGrant::Declared)
        } else if heartbeat.applied < self.role_change_index {
            Verdict::NoGrant(NoGrant::Behind)
        } else {
            Verdict::Grant {
                lease_ns: self.timing.lease_ns,
            }
        }
    }

    /// What its silence, or its voice, amounts to now.
    fn sign(&self, announce_after_ns: u64, now: BootTime) -> Sign {
        let is_over = |first: BootTime| now.ns_since(first) > announce_after_ns;
        let declare_after_ns = self.timing.declare_after_ns();
        let unannounced = self
            .unannounced
            .map(|(_, first)| first)
            .filter(|first| is_over(*first));
        let heard = self.newest.map(|newest| newest.received);
        let last = unannounced.or(heard).unwrap_or(self.since).max(self.since);
        let silent_ns = now.ns_since(last);
        let is_recent = |at: BootTime| now.ns_since(at) <= declare_after_ns;
        if silent_ns > declare_after_ns && now > self.promised_until {
            Sign::Silent { silent_ns }
        } else if unannounced.is_none() && heard.is_some_and(is_recent) {
            Sign::Heard
        } else {
            Sign::Unsure
        }
    }

    fn look(&mut self, server: ServerId, look: Look<'_>) -> Option<Action> {
        let sign = self.sign(look.announce_after_ns, look.now);
        let is_silent = match sign {
            Sign::Silent { .. } if !look.may_declare => return None,
            Sign::Silent { .. } => true,
            Sign::Heard => false,
            Sign::Unsure => return None,
        };
        if is_silent && self.opinion == Opinion::Alive {
            self.round.number = self.round.number.saturating_add(1);
            self.opinion = Opinion::Declared(self.round);
            self.proposed = None;
        }
        let Opinion::Declared(round) = self.opinion else {
            return None;
        };
        if is_silent && self.is_on_record {
            return None;
        }
        let proposed_ns = self.proposed.map(|proposed| look.now.ns_since(proposed));
        if proposed_ns.is_some_and(|ns| ns < REPROPOSE_NS) {
            return None;
        }
        self.proposed = Some(look.now);
        let evidence = Evidence {
            watched: self,
            sign,
            look,
        }
        .to_string();
        Some(if is_silent {
            Action::ProposeDeclare {
                server,
                incarnation: self.run,
                round,
                evidence,
            }
        } else {
            Action::ProposeWithdraw {
                server,
                round,
                evidence,
            }
        })
    }
}

/// What a member's silence amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sign {
    /// For longer than any lease it was granted lasts.
    Silent { silent_ns: u64 },
    /// It was heard a short time ago.
    Heard,
    /// It was not heard, but this voter has not listened for long enough: no reason to say anything.
    Unsure,
}

/// One look at the others.
#[derive(Clone, Copy)]
struct Look<'a> {
    my_name: &'a MemberName,
    /// [`Timing::announce_after_ns`] of the profile: what commits a start keeps to the profile.
    announce_after_ns: u64,
    /// It has a vote. Without one it only takes back what it said when it had one.
    may_declare: bool,
    now: BootTime,
}

/// What a voter saw, as a sentence.
struct Evidence<'a> {
    watched: &'a Watched,
    sign: Sign,
    look: Look<'a>,
}

impl fmt::Display for Evidence<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |ns: u64| ns as f64 / 1e9;
        let (server, voter, now) = (&self.watched.name, self.look.my_name, self.look.now);
        let silent_ns = match self.sign {
            Sign::Silent { silent_ns } => silent_ns,
            Sign::Heard | Sign::Unsure => {
                let lan = self
                    .watched
                    .lans
                    .iter()
                    .max_by_key(|(_, at)| **at)
                    .map_or(0, |(lan, _)| *lan);
                return write!(f, "{server} heard again by {voter} on LAN {}", lan + 1);
            }
        };
        if let Some((run, first)) = self.watched.unannounced {
            let since = seconds(now.ns_since(first));
            return write!(
                f,
                "{voter} hears run {run} of {server} for {since:.1} s, but its start is not committed"
            );
        }
        write!(
            f,
            "{server} not heard by {voter} for {:.1} s on any LAN",
            seconds(silent_ns)
        )?;
        if self.watched.lans.is_empty() {
            return write!(f, "; never heard since {voter} watches it");
        }
        for (lan, at) in &self.watched.lans {
            write!(
                f,
                "; last on LAN {} {:.1} s ago",
                lan + 1,
                seconds(now.ns_since(*at))
            )?;
        }
        Ok(())
    }
}
