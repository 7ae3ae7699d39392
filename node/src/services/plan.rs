//! A change of the cluster's state, made or only shown: the one way of every verb that changes something.
//!
//! With `--dry-run` the commands go to a private copy of the applied state, through the very `apply` that would decide about
//! them, and on through what the servers do by themselves next. What would be recorded, and what is at risk, is read off that
//! copy. Nothing is proposed.

use std::collections::BTreeSet;
use std::sync::Arc;

use consensus::state::{
    ClusterState, Command, MemberKind, MirrorRecord, ModuleName, Proposal, Rejection, ServerId,
    StepDownReason, Wanted,
};
use consensus::{Applied, ProposeError};

use super::change::{APPLIED_HERE_MAX, CHANGE_DEADLINE};
use super::refusal::{NO_MAJORITY, Refusal, not_proposed};
use crate::member::{Member, unix_ms};

/// What is said when nothing is at risk.
pub(super) const NO_RISK: &str = "risk: none seen";
/// What the servers would do by themselves is followed so far.
const FOLLOWED_MAX: usize = 4;

/// What a verb does to the cluster's state.
pub(super) struct Change<'a> {
    member: &'a Arc<Member>,
    /// What is true when it is refused.
    what: &'a str,
    author: &'a str,
    evidence: &'a str,
    /// What was known here when it was asked for.
    before: Arc<ClusterState>,
    /// What it would lead to, when it is only shown.
    shown: Option<Shown>,
    /// Each command is waited for until it is applied here too.
    awaits: bool,
    /// A state with everything in it that was made; `None`: not waited for, or not here yet.
    applied: Option<Arc<ClusterState>>,
    risks: Vec<String>,
}

/// What a change would lead to from one state: whatever is applied meanwhile, only that state is compared with.
struct Shown {
    before: Arc<ClusterState>,
    after: ClusterState,
    /// The entry it would be.
    index: u64,
}

impl Shown {
    fn on(applied: &Applied) -> Self {
        Self {
            before: Arc::clone(&applied.state),
            after: ClusterState::clone(&applied.state),
            index: applied.position.index + 1,
        }
    }

    fn apply(&mut self, proposal: &Proposal) -> Result<(), Rejection> {
        self.after.apply(self.index, proposal)?;
        follow(&mut self.after, self.index);
        Ok(())
    }

    /// What would be recorded and what is at risk; `risks` are those that the state does not show.
    fn lines(&self, risks_besides: &[String]) -> Vec<String> {
        let Self { before, after, .. } = self;
        let mut lines: Vec<String> = after
            .events
            .iter()
            .filter(|event| event.id > before.last_event)
            .map(|event| format!("would be: {event}"))
            .collect();
        lines.extend(new_votes(before, after));
        if lines.is_empty() {
            lines.push("nothing would change: it is so already".to_owned());
        }
        let risks: Vec<String> = [risks_besides, &risks(before, after)[..]].concat();
        if risks.is_empty() {
            lines.push(NO_RISK.to_owned());
        }
        lines.extend(risks.into_iter().map(|risk| format!("risk: {risk}")));
        lines
    }
}

impl<'a> Change<'a> {
    /// A change by `author`; `what` is true when it is refused.
    pub(super) fn new(
        member: &'a Arc<Member>,
        what: &'a str,
        author: &'a str,
        is_dry_run: bool,
    ) -> Self {
        let applied = member.consensus.watch().borrow().clone();
        Self {
            member,
            what,
            author: if author.is_empty() { "unknown" } else { author },
            evidence: "command",
            shown: is_dry_run.then(|| Shown::on(&applied)),
            before: applied.state,
            awaits: false,
            applied: None,
            risks: Vec::new(),
        }
    }

    /// What is committed is waited for until it is applied here too, for a moment: what is told afterwards, the epoch above all, is
    /// of a state with the change in it.
    pub(super) fn awaited(self) -> Self {
        Self {
            awaits: true,
            ..self
        }
    }

    /// What is recorded as the reason.
    pub(super) fn because(self, evidence: &'a str) -> Self {
        Self { evidence, ..self }
    }

    /// Only shown: nothing may be done beside the state either.
    pub(super) fn is_dry_run(&self) -> bool {
        self.shown.is_some()
    }

    /// Commits `command`, or shows it.
    ///
    /// # Errors
    /// It was refused, or would be.
    pub(super) async fn make(&mut self, command: Command) -> Result<(), Refusal> {
        self.risks
            .extend(risk_of(&command, |server| self.before.name_of(server)));
        let proposal = self.member.proposal_by(command, self.author, self.evidence);
        match &mut self.shown {
            None => self.propose(proposal).await,
            Some(shown) => shown
                .apply(&proposal)
                .map_err(|rejection| Refusal::not_now(self.what, rejection.to_string())),
        }
    }

    async fn propose(&mut self, proposal: Proposal) -> Result<(), Refusal> {
        let consensus = &self.member.consensus;
        let outcome = if self.awaits {
            let done = consensus.propose_and_apply(proposal, CHANGE_DEADLINE, APPLIED_HERE_MAX);
            done.await.map(|(_, applied)| applied)
        } else {
            let done = consensus.propose(proposal, CHANGE_DEADLINE);
            done.await.map(|_| None)
        };
        match outcome {
            Ok(applied) => {
                self.applied = applied;
                Ok(())
            }
            Err(error @ (ProposeError::Rejected(_) | ProposeError::Removed { .. })) => {
                Err(not_proposed(self.what, &error))
            }
            Err(error) if self.member.lease_remaining().is_some() => {
                Err(not_proposed(self.what, &error))
            }
            Err(error) => Err(not_proposed(self.what, &error).also(NO_MAJORITY)),
        }
    }

    /// The epoch of the module with everything in it that was made, or, when it is only shown, the one that it has; 0: not known
    /// here yet, or the module is gone.
    pub(super) fn epoch_of(&self, module: &ModuleName) -> u64 {
        let state = match &self.shown {
            Some(_) => Some(&self.before),
            None => self.applied.as_ref(),
        };
        let record = state.and_then(|state| state.modules.get(module));
        record.map_or(0, |record| record.epoch.0)
    }

    /// What would be done and what it risks; `done`, when it was done.
    pub(super) fn lines_or(&self, done: Vec<String>) -> Vec<String> {
        if self.is_dry_run() {
            self.lines()
        } else {
            done
        }
    }

    /// For people: what would be recorded and what is at risk; nothing when it was done.
    pub(super) fn lines(&self) -> Vec<String> {
        match &self.shown {
            None => Vec::new(),
            Some(shown) => shown.lines(&self.risks),
        }
    }
}

/// Whether members that are new have a vote.
fn new_votes(before: &ClusterState, after: &ClusterState) -> Vec<String> {
    let voters = after.voters();
    let new = after
        .members
        .values()
        .filter(|each| !before.members.contains_key(&each.id));
    new.map(|each| {
        if voters.contains(&each.id) {
            format!("would be: {} votes", each.name)
        } else {
            format!(
                "would be: {} has no vote: it learns what the voters decide",
                each.name
            )
        }
    })
    .collect()
}

/// What servers do by themselves when people want something else of them.
pub(super) fn follow(state: &mut ClusterState, index: u64) {
    for _ in 0..FOLLOWED_MAX {
        let Some(command) = state
            .modules
            .values()
            .find_map(|record| next(state, record))
        else {
            return;
        };
        let proposal = Proposal {
            command,
            author: "the servers".to_owned(),
            evidence: String::new(),
            at_unix_ms: unix_ms(),
        };
        if state.apply(index, &proposal).is_err() {
            return;
        }
    }
}

fn next(state: &ClusterState, record: &MirrorRecord) -> Option<Command> {
    let is_up = |server: ServerId| state.members.get(&server).is_some_and(|m| !m.is_down);
    match record.primary {
        Some(primary) if record.wanted_on(primary) == Wanted::Stopped && is_up(primary) => {
            Some(Command::StepDown {
                module: record.name.clone(),
                epoch: record.epoch,
                server: primary,
                reason: StepDownReason::Stopped,
            })
        }
        Some(_) => None,
        None => {
            let may_lead =
                |server: &ServerId| record.wanted_on(*server) == Wanted::Started && is_up(*server);
            let server = record.in_sync.iter().copied().find(may_lead)?;
            Some(Command::TakeOver {
                module: record.name.clone(),
                epoch: record.epoch,
                server,
            })
        }
    }
}

/// Risks that the state does not show.
fn risk_of(command: &Command, name: impl Fn(ServerId) -> String) -> Option<String> {
    match command {
        Command::DiscardDiverged { server, since, .. } => Some(format!(
            "what was set aside on {} since epoch {since} is removed for good",
            name(*server)
        )),
        Command::ReconfigureModule { .. } => {
            Some("the new configuration counts from the next start of the module".to_owned())
        }
        Command::CreateToken { witness, .. } => {
            let kind = if *witness { "witness" } else { "server" };
            Some(format!(
                "whoever gets hold of the token can join once, as a {kind}, until it is used or has run out"
            ))
        }
        Command::AddMember { member, .. } | Command::ReplaceMember { member, .. } => {
            match member.kind {
                MemberKind::Server => Some(format!(
                    "{} gets the key of the cluster's authority: whoever has its disk can let others in",
                    member.name
                )),
                MemberKind::Witness => None,
            }
        }
        Command::InitCluster { .. }
        | Command::SetCertificate { .. }
        | Command::RemoveMember { .. }
        | Command::ServerStarted { .. }
        | Command::Declare { .. }
        | Command::Withdraw { .. }
        | Command::InstallModule { .. }
        | Command::UninstallModule { .. }
        | Command::SetWanted { .. }
        | Command::ClaimFirst { .. }
        | Command::DropSecondary { .. }
        | Command::AddSecondary { .. }
        | Command::Switchover { .. }
        | Command::StepDown { .. }
        | Command::TakeOver { .. }
        | Command::Force { .. }
        | Command::ForgetMember { .. }
        | Command::PlaceCopy { .. }
        | Command::ChangeMember { .. }
        | Command::SettleVoters { .. }
        | Command::ApplicationStarted { .. } => None,
    }
}

/// What the change from `before` to `after` puts at risk, as sentences.
fn risks(before: &ClusterState, after: &ClusterState) -> Vec<String> {
    let mut risks = Vec::new();
    let (voters, fewer) = (before.voters(), after.voters());
    if !fewer.is_superset(&voters) {
        let majority = fewer.len() / 2 + 1;
        risks.push(format!(
            "{} voters are left; {majority} of them must be in touch for anything to be decided",
            fewer.len()
        ));
    }
    for (name, earlier) in &before.modules {
        match after.modules.get(name) {
            Some(later) => module_risks(before, earlier, later, &mut risks),
            None => risks.push(format!(
                "the copies of {name} are not kept equal any more; their files stay"
            )),
        }
    }
    for (name, _) in after
        .modules
        .iter()
        .filter(|(name, _)| !before.modules.contains_key(*name))
    {
        risks.push(format!(
            "at the first start of {name} the files of one server replace those of the other: say whose with `skcli module prim`"
        ));
    }
    risks
}

fn module_risks(
    state: &ClusterState,
    earlier: &MirrorRecord,
    later: &MirrorRecord,
    risks: &mut Vec<String>,
) {
    let name = &earlier.name;
    let named = |servers: &BTreeSet<ServerId>| {
        let names = servers.iter().map(|server| state.name_of(*server));
        names.collect::<Vec<_>>().join(" and ")
    };
    let one = |server: ServerId| named(&BTreeSet::from([server]));
    match (earlier.primary, later.primary) {
        (Some(from), Some(to)) if from != to => risks.push(format!(
            "{name} stops on {} and starts on {}: clients wait as long as that takes",
            one(from),
            one(to)
        )),
        (Some(from), None) => risks.push(format!(
            "{name} stops on {} and runs nowhere until it is started again",
            one(from)
        )),
        (Some(_) | None, Some(_)) | (None, None) => {}
    }
    if earlier.in_sync.len() > 1 && later.in_sync.len() == 1 {
        risks.push(format!(
            "only the copy of {name} on {holder} gets new writes: while it is lost, {name} waits for it",
            holder = named(&later.in_sync)
        ));
    }
    let given_up: BTreeSet<ServerId> = later
        .diverged
        .iter()
        .filter(|(server, since)| earlier.diverged.get(*server) != Some(*since))
        .map(|(server, _)| *server)
        .collect();
    if !given_up.is_empty() {
        let last_whole = later
            .in_sync
            .iter()
            .find_map(|leader| last_whole(state, earlier, *leader));
        risks.push(format!(
            "every write that {name} acknowledged on {} {} is given up; what differs there is set aside before it is brought up to date (skcli module diverged {name})",
            named(&given_up),
            last_whole.unwrap_or_else(|| "since a time that is not known any more".to_owned()),
        ));
        let is_alive = earlier
            .primary
            .filter(|p| state.members.get(p).is_some_and(|m| !m.is_down));
        if let Some(primary) = is_alive {
            risks.push(format!(
                "{} counts as up and serves {name} at this moment: once the other copy is up to date, `skcli module swap {name}` loses nothing",
                one(primary)
            ));
        } else {
            risks.push(format!(
                "{} may be serving {name} unseen, as the only whole copy it needs no majority: make sure that it is off, or both own the virtual address until it hears of this",
                named(&given_up)
            ));
        }
    }
}

/// Since when the copy of `server` lacks writes.
fn last_whole(state: &ClusterState, record: &MirrorRecord, server: ServerId) -> Option<String> {
    let left = state.events.iter().rev().find(|event| {
        event.module.as_ref() == Some(&record.name)
            && event.kind.outdates().is_some_and(|who| who.id == server)
    })?;
    let minutes = unix_ms().saturating_sub(left.at_unix_ms) / 60_000;
    Some(format!(
        "since event #{}, {minutes} min ago, epoch {}",
        left.id,
        left.epoch.map_or(0, |epoch| epoch.0)
    ))
}

#[cfg(test)]
mod tests;
