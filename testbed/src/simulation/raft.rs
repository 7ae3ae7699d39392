//! A small Raft: pre-vote, elections, replication, leadership transfer, and a disk that forgets what was not synced.
//!
//! It stands in for openraft, which has its own tests: here the log has to be *a* correct log whose entries commit late,
//! unseen by their author, or never. Members are fixed and the log is kept whole.

use std::sync::Arc;

use consensus::liveness::BootTime;
use consensus::state::Proposal;

use super::clock::MS;
use super::message::Place;
use super::network::PLACES_MAX;
use super::random::Random;
use crate::planted::Bug;

const BEAT_NS: u64 = 100 * MS;
const ELECTION_MS: (u64, u64) = (400, 800);
/// A member that heard its leader within this time lets nobody else be elected (pre-vote).
const LEADER_FRESH_NS: u64 = ELECTION_MS.0 * MS;
/// Entries in one message.
const BATCH_MAX: usize = 32;

/// So many of `places` members decide.
pub(super) fn majority(places: usize) -> usize {
    places / 2 + 1
}

#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) term: u64,
    /// None: the blank entry of a new leader.
    pub(super) proposal: Option<Arc<Proposal>>,
}

impl Entry {
    pub(super) fn is_same(&self, other: &Entry) -> bool {
        let same_proposal = match (&self.proposal, &other.proposal) {
            (None, None) => true,
            (Some(mine), Some(theirs)) => Arc::ptr_eq(mine, theirs),
            (None, Some(_)) | (Some(_), None) => false,
        };
        self.term == other.term && same_proposal
    }
}

/// Index and term of an entry; the first entry has index 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct At {
    pub(super) index: usize,
    pub(super) term: u64,
}

#[derive(Debug, Clone)]
pub(super) enum Message {
    PreVote {
        term: u64,
        last: At,
    },
    PreVoteAnswer {
        term: u64,
        is_granted: bool,
    },
    Vote {
        term: u64,
        last: At,
    },
    VoteAnswer {
        term: u64,
        is_granted: bool,
    },
    Append {
        term: u64,
        before: At,
        entries: Vec<Entry>,
        commit: usize,
    },
    AppendAnswer {
        term: u64,
        is_accepted: bool,
        /// Accepted: everything up to here is on the disk of the follower. Refused: try from here.
        index: usize,
    },
    ElectNow {
        term: u64,
    },
}

/// What outlives a crash.
#[derive(Debug, Clone, Default)]
pub(super) struct Durable {
    pub(super) term: u64,
    pub(super) voted: Option<Place>,
    pub(super) log: Vec<Entry>,
    pub(super) commit: usize,
}

impl Durable {
    /// The entry is on this disk.
    pub(super) fn holds(&self, index: usize, entry: &Entry) -> bool {
        let mine = self.log.get(index - 1);
        mine.is_some_and(|mine| mine.is_same(entry))
    }
}

/// One write to the disk, and what may be said once it is there.
#[derive(Debug)]
pub(super) struct Sync {
    term: u64,
    voted: Option<Place>,
    keep: usize,
    append: Vec<Entry>,
    commit: usize,
    then: Vec<(Place, Message)>,
}

impl Sync {
    /// Nothing to write: it only has to wait for the writes before it.
    pub(super) fn is_empty(&self, before: Option<&Sync>, durable: &Durable) -> bool {
        let vote = before.map_or((durable.term, durable.voted), |before| {
            (before.term, before.voted)
        });
        self.append.is_empty() && (self.term, self.voted) == vote
    }

    /// It is on the disk.
    pub(super) fn finish(self, durable: &mut Durable) -> Vec<(Place, Message)> {
        durable.term = self.term;
        durable.voted = self.voted;
        durable.log.truncate(self.keep);
        durable.log.extend(self.append);
        durable.commit = self.commit.min(durable.log.len());
        self.then
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    Follower,
    /// With the places that would vote for it.
    PreCandidate(u8),
    Candidate(u8),
    Leader,
}

/// What the caller has to do, in this order.
#[derive(Debug, Default)]
pub(super) struct Todo {
    pub(super) sends: Vec<(Place, Message)>,
    pub(super) syncs: Vec<Sync>,
}

#[derive(Debug)]
pub(super) struct Raft {
    me: Place,
    /// Members of the cluster.
    pub(super) places: usize,
    pub(super) term: u64,
    voted: Option<Place>,
    pub(super) log: Vec<Entry>,
    pub(super) commit: usize,
    pub(super) role: Role,
    pub(super) leader: Option<Place>,
    leader_heard: Option<BootTime>,
    election_due: BootTime,
    beat_due: BootTime,
    /// Per follower: the entry to send next, the last one sent, the last one known to be on its disk.
    next: [usize; PLACES_MAX],
    sent: [usize; PLACES_MAX],
    matched: [usize; PLACES_MAX],
    bug: Option<Bug>,
}

impl Raft {
    pub(super) fn new(
        me: Place,
        places: usize,
        durable: &Durable,
        now: BootTime,
        random: &mut Random,
        bug: Option<Bug>,
    ) -> Self {
        let mut raft = Self {
            me,
            places,
            term: durable.term,
            voted: durable.voted,
            log: durable.log.clone(),
            commit: durable.commit,
            role: Role::Follower,
            leader: None,
            leader_heard: None,
            election_due: now,
            beat_due: now,
            next: [1; PLACES_MAX],
            sent: [0; PLACES_MAX],
            matched: [0; PLACES_MAX],
            bug,
        };
        raft.wait_for_leader(now, random);
        raft
    }

    fn last(&self) -> At {
        At {
            index: self.log.len(),
            term: self.log.last().map_or(0, |entry| entry.term),
        }
    }

    fn term_at(&self, index: usize) -> u64 {
        match index {
            0 => 0,
            _ => self.log.get(index - 1).map_or(0, |entry| entry.term),
        }
    }

    fn wait_for_leader(&mut self, now: BootTime, random: &mut Random) {
        let (low, high) = ELECTION_MS;
        self.election_due = now.plus_ns(random.between(low, high) * MS);
    }

    fn others(&self) -> impl Iterator<Item = Place> + use<> {
        let me = self.me;
        (0..self.places).filter(move |place| *place != me)
    }

    fn persist(
        &self,
        keep: usize,
        append: Vec<Entry>,
        then: Vec<(Place, Message)>,
        todo: &mut Todo,
    ) {
        todo.syncs.push(Sync {
            term: self.term,
            voted: self.voted,
            keep,
            append,
            commit: self.commit,
            then,
        });
    }

    /// To be called often.
    pub(super) fn on_tick(&mut self, now: BootTime, random: &mut Random, todo: &mut Todo) {
        match self.role {
            Role::Leader if now >= self.beat_due => self.replicate(now, todo),
            Role::Leader => {}
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_)
                if now >= self.election_due =>
            {
                self.role = Role::PreCandidate(1 << self.me);
                self.leader = None;
                self.wait_for_leader(now, random);
                let (term, last) = (self.term + 1, self.last());
                let ask = |to| (to, Message::PreVote { term, last });
                todo.sends.extend(self.others().map(ask));
            }
            Role::Follower | Role::PreCandidate(_) | Role::Candidate(_) => {}
        }
    }

    fn campaign(&mut self, now: BootTime, random: &mut Random, todo: &mut Todo) {
        self.term += 1;
        self.voted = Some(self.me);
        self.leader = None;
        // Its own vote counts once it is on the disk: it tells itself with the requests.
        self.role = Role::Candidate(0);
        self.wait_for_leader(now, random);
        let (term, last) = (self.term, self.last());
        let mut then: Vec<_> = self
            .others()
            .map(|to| (to, Message::Vote { term, last }))
            .collect();
        then.push((
            self.me,
            Message::VoteAnswer {
                term,
                is_granted: true,
            },
        ));
        self.persist(self.log.len(), Vec::new(), then, todo);
    }

    fn lead(&mut self, now: BootTime, todo: &mut Todo) {
        self.role = Role::Leader;
        self.leader = Some(self.me);
        self.next = [self.log.len() + 1; PLACES_MAX];
        self.sent = [self.log.len(); PLACES_MAX];
        self.matched = [0; PLACES_MAX];
        self.append(None, now, todo);
    }

    /// The leader takes an entry; returns its index.
    pub(super) fn append(
        &mut self,
        proposal: Option<Arc<Proposal>>,
        now: BootTime,
        todo: &mut Todo,
    ) -> usize {
        let keep = self.log.len();
        let entry = Entry {
            term: self.term,
            proposal,
        };
        self.log.push(entry.clone());
        let index = self.log.len();
        let stored = Message::AppendAnswer {
            term: self.term,
            is_accepted: true,
            index,
        };
        self.persist(keep, vec![entry], vec![(self.me, stored)], todo);
        self.replicate(now, todo);
        index
    }

    fn replicate(&mut self, now: BootTime, todo: &mut Todo) {
        self.beat_due = now.plus_ns(BEAT_NS);
        for to in self.others() {
            self.send_entries(to, todo);
        }
    }

    fn send_entries(&mut self, to: Place, todo: &mut Todo) {
        let from = self.next[to].min(self.log.len() + 1);
        let until = self.log.len().min(from - 1 + BATCH_MAX);
        let before = At {
            index: from - 1,
            term: self.term_at(from - 1),
        };
        let entries = self.log[from - 1..until].to_vec();
        self.sent[to] = self.sent[to].max(until);
        let append = Message::Append {
            term: self.term,
            before,
            entries,
            commit: self.commit,
        };
        todo.sends.push((to, append));
    }

    /// Gives leadership to `to`.
    pub(super) fn hand_over(&self, to: Place, todo: &mut Todo) {
        if self.role == Role::Leader && self.matched[to] == self.log.len() {
            todo.sends.push((to, Message::ElectNow { term: self.term }));
        }
    }

    pub(super) fn on_message(
        &mut self,
        from: Place,
        message: Message,
        now: BootTime,
        random: &mut Random,
        todo: &mut Todo,
    ) {
        match message {
            Message::PreVote { term, last } => self.on_pre_vote(from, term, last, now, todo),
            Message::PreVoteAnswer { term, is_granted } => {
                if let Role::PreCandidate(votes) = self.role
                    && is_granted
                    && term == self.term + 1
                {
                    let votes = votes | 1 << from;
                    self.role = Role::PreCandidate(votes);
                    if votes.count_ones() as usize >= majority(self.places) {
                        self.campaign(now, random, todo);
                    }
                } else if !is_granted {
                    self.see_term(term, todo);
                }
            }
            Message::Vote { term, last } => self.on_vote(from, term, last, now, random, todo),
            Message::VoteAnswer { term, is_granted } => {
                self.see_term(term, todo);
                if let Role::Candidate(votes) = self.role
                    && is_granted
                    && term == self.term
                {
                    let votes = votes | 1 << from;
                    self.role = Role::Candidate(votes);
                    let is_elected = votes.count_ones() as usize >= majority(self.places);
                    if is_elected || self.bug == Some(Bug::VoteWithoutQuorum) {
                        self.lead(now, todo);
                    }
                }
            }
            Message::Append {
                term,
                before,
                entries,
                commit,
            } => {
                self.see_term(term, todo);
                if term == self.term {
                    self.role = Role::Follower;
                    self.leader = Some(from);
                    self.leader_heard = Some(now);
                    self.wait_for_leader(now, random);
                }
                self.on_append(from, term, before, entries, commit, todo);
            }
            Message::AppendAnswer {
                term,
                is_accepted,
                index,
            } => {
                self.see_term(term, todo);
                if self.role == Role::Leader && term == self.term {
                    self.on_append_answer(from, is_accepted, index, todo);
                }
            }
            Message::ElectNow { term } => {
                if term == self.term && self.role == Role::Follower {
                    self.campaign(now, random, todo);
                }
            }
        }
    }

    fn see_term(&mut self, term: u64, todo: &mut Todo) {
        if term > self.term {
            self.term = term;
            self.voted = None;
            self.role = Role::Follower;
            self.leader = None;
            self.persist(self.log.len(), Vec::new(), Vec::new(), todo);
        }
    }

    /// A log that ends like this has everything this one has.
    fn is_whole(&self, last: At) -> bool {
        let mine = self.last();
        (last.term, last.index) >= (mine.term, mine.index)
    }

    fn on_pre_vote(&self, from: Place, term: u64, last: At, now: BootTime, todo: &mut Todo) {
        let has_leader = self.role == Role::Leader
            || self
                .leader_heard
                .is_some_and(|heard| now.ns_since(heard) < LEADER_FRESH_NS);
        let is_granted = term > self.term && self.is_whole(last) && !has_leader;
        // Who is refused learns the term it has missed; nobody's term grows by a request.
        let term = if is_granted { term } else { self.term };
        todo.sends
            .push((from, Message::PreVoteAnswer { term, is_granted }));
    }

    fn on_vote(
        &mut self,
        from: Place,
        term: u64,
        last: At,
        now: BootTime,
        random: &mut Random,
        todo: &mut Todo,
    ) {
        self.see_term(term, todo);
        let is_free = self.voted.is_none() || self.voted == Some(from);
        let is_granted = term == self.term && is_free && self.is_whole(last);
        if is_granted {
            self.voted = Some(from);
            self.wait_for_leader(now, random);
        }
        let term = self.term;
        let answer = (from, Message::VoteAnswer { term, is_granted });
        self.persist(self.log.len(), Vec::new(), vec![answer], todo);
    }

    fn on_append(
        &mut self,
        from: Place,
        term: u64,
        before: At,
        entries: Vec<Entry>,
        commit: usize,
        todo: &mut Todo,
    ) {
        let is_known = before.index <= self.log.len() && self.term_at(before.index) == before.term;
        if term < self.term || !is_known {
            let index = before.index.saturating_sub(1).min(self.log.len()) + 1;
            let (term, is_accepted) = (self.term, false);
            let answer = Message::AppendAnswer {
                term,
                is_accepted,
                index,
            };
            todo.sends.push((from, answer));
            return;
        }
        let index = before.index + entries.len();
        let mut keep = self.log.len();
        let mut append = Vec::new();
        for (position, entry) in (before.index..).zip(entries) {
            let is_there = self
                .log
                .get(position)
                .is_some_and(|mine| mine.term == entry.term);
            if !is_there {
                self.log.truncate(position);
                keep = keep.min(position);
                self.log.push(entry.clone());
                append.push(entry);
            }
        }
        self.commit = self.commit.max(commit.min(index));
        let is_accepted = true;
        let answer = Message::AppendAnswer {
            term,
            is_accepted,
            index,
        };
        self.persist(keep, append, vec![(from, answer)], todo);
    }

    fn on_append_answer(&mut self, from: Place, is_accepted: bool, index: usize, todo: &mut Todo) {
        if !is_accepted {
            // The same refusal again, or one from before: the next beat will do.
            if index < self.next[from] && index > self.matched[from] {
                self.next[from] = index;
                self.send_entries(from, todo);
            }
            return;
        }
        self.matched[from] = self.matched[from].max(index);
        self.next[from] = self.next[from].max(index + 1);
        let mut matched = self.matched;
        let matched = &mut matched[..self.places];
        matched.sort_unstable();
        let on_majority = match self.bug {
            Some(Bug::CommitWithoutQuorum) => self.matched[self.me],
            _ => matched[self.places - majority(self.places)],
        };
        if on_majority > self.commit && self.term_at(on_majority) == self.term {
            self.commit = on_majority;
            // Followers learn it at once, so that they can apply.
            for to in self.others() {
                self.send_entries(to, todo);
            }
        }
        if from != self.me && self.sent[from] < self.log.len() {
            self.send_entries(from, todo);
        }
    }
}
