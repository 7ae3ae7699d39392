//! The history of the cluster: what happened, said as facts, with who caused it and what was seen.

use std::fmt;
use std::net::SocketAddr;

use serde::{Deserialize, Serialize};

use super::command::StepDownReason;
use super::ids::{Epoch, EventId, Incarnation, MemberName, ModuleName, Who, listed};
use super::members::MemberKind;
use super::mirror::Wanted;

/// Events kept; the oldest goes when one more comes.
pub const EVENTS_MAX: usize = 1000;
/// Longest evidence or author kept, in characters; the rest is cut.
pub const EVIDENCE_MAX: usize = 1000;

/// One thing that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// Its number.
    pub id: EventId,
    /// The entry of the log it comes from.
    pub entry: u64,
    /// The author's wall clock.
    pub at_unix_ms: u64,
    /// The module it concerns.
    pub module: Option<ModuleName>,
    /// The module's epoch from this event on.
    pub epoch: Option<Epoch>,
    /// What happened.
    pub kind: EventKind,
    /// Who proposed the command it came from.
    pub author: String,
    /// What the author saw.
    pub evidence: String,
    /// The event that led to it.
    pub cause: Option<EventId>,
}

impl fmt::Display for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.module, self.epoch) {
            (Some(module), Some(epoch)) => write!(f, "{module}: {} (epoch {epoch})", self.kind),
            (Some(module), None) => write!(f, "{module}: {}", self.kind),
            (None, _) => write!(f, "{}", self.kind),
        }
    }
}

/// What happened, as facts. `Display` gives the sentence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum EventKind {
    /// The cluster exists.
    ClusterCreated {
        /// Its name.
        name: MemberName,
    },
    /// A join token was made.
    TokenCreated {
        /// What it lets in.
        kind: MemberKind,
    },
    /// A member joined.
    MemberAdded {
        /// Who.
        member: Who,
        /// Server or witness.
        kind: MemberKind,
    },
    /// A member left for good.
    MemberRemoved {
        /// Who.
        member: Who,
    },
    /// A member has a new certificate.
    CertificateChanged {
        /// Whose.
        member: Who,
    },
    /// A member is called otherwise, or found elsewhere.
    MemberChanged {
        /// Who it was.
        before: Who,
        /// Who it is.
        now: Who,
        /// Where it listens.
        addresses: Vec<SocketAddr>,
    },
    /// A copy was given up: its server is gone for good.
    CopyGivenUp {
        /// Whose copy.
        server: Who,
        /// Whose copies are whole.
        holders: Vec<Who>,
        /// It was the only whole one, and somebody took that upon himself.
        was_only_whole: bool,
    },
    /// A server shall have a copy.
    CopyPlaced {
        /// Where.
        server: Who,
    },
    /// A member's daemon started.
    ServerStarted {
        /// Who.
        server: Who,
        /// The new run.
        incarnation: Incarnation,
    },
    /// One voter no longer hears a member.
    Declared {
        /// The voter.
        voter: Who,
        /// Who is silent.
        server: Who,
    },
    /// One voter hears a member again.
    Withdrawn {
        /// The voter.
        voter: Who,
        /// Who is heard.
        server: Who,
    },
    /// A majority of the voters no longer hears a member: it counts as down.
    ServerDown {
        /// Who.
        server: Who,
        /// Who declared it.
        declared_by: Vec<Who>,
        /// How many vote.
        voters: usize,
    },
    /// No majority declares the member any more.
    ServerUp {
        /// Who.
        server: Who,
    },
    /// A module was installed.
    ModuleInstalled {
        /// Where.
        servers: [Who; 2],
    },
    /// A module has a new configuration.
    ModuleReconfigured {
        /// Both copies were whole, of directories that are not the replicated ones any more: the next start is a
        /// first start.
        first_start_again: bool,
    },
    /// A module was forgotten.
    ModuleUninstalled,
    /// People want something else of a module on a server.
    WantedChanged {
        /// Where.
        server: Who,
        /// What.
        wanted: Wanted,
    },
    /// A person said whose copy leads.
    PrimaryClaimed {
        /// Who leads.
        server: Who,
    },
    /// The primary goes on without the other copy.
    SecondaryDropped {
        /// Who leads.
        primary: Who,
        /// Whose copy is no longer counted on.
        server: Who,
    },
    /// The primary ends a resynchronisation that broke off, and with it every addition that it may have proposed.
    AdditionEnded {
        /// Who leads.
        primary: Who,
        /// Whose copy stays out of date.
        server: Who,
    },
    /// The secondary was stopped, so its copy will fall behind.
    SecondaryStopped {
        /// Who leads.
        primary: Who,
        /// Who was stopped.
        server: Who,
    },
    /// The secondary started anew and had received writes that were not on its disk (R16).
    SecondaryForgot {
        /// Whose copy is no longer counted on.
        server: Who,
        /// Whose copy is.
        holder: Who,
    },
    /// Both copies are whole again.
    SecondaryAdded {
        /// Who leads.
        primary: Who,
        /// Whose copy is whole again.
        server: Who,
    },
    /// The roles were exchanged as planned.
    SwitchedOver {
        /// Who led.
        from: Who,
        /// Who leads.
        to: Who,
    },
    /// The primary stepped down.
    SteppedDown {
        /// Who led.
        server: Who,
        /// Why.
        reason: StepDownReason,
        /// Who leads now.
        next: Option<Who>,
    },
    /// The primary is down; the other took over.
    FailedOver {
        /// Who led.
        from: Who,
        /// Who leads.
        to: Who,
    },
    /// The primary started anew; the other, which has everything, took over.
    HandedOver {
        /// Who led, before its daemon ended.
        from: Who,
        /// Who leads.
        to: Who,
    },
    /// The primary is down and nobody may take over.
    NoSuccessor {
        /// Who led.
        primary: Who,
        /// Whose copies are whole: for these the module waits.
        holders: Vec<Who>,
        /// Those of them where the module is stopped: to start it there brings it back.
        resting: Vec<Who>,
    },
    /// The primary started anew and leads on: no other copy may.
    PrimaryResumed {
        /// Who leads.
        server: Who,
    },
    /// Nobody led; a server whose copy is whole took over.
    TookOver {
        /// Who leads.
        server: Who,
    },
    /// A person gave the module to a copy that lacks acknowledged writes.
    PrimaryForced {
        /// Who leads.
        server: Who,
        /// Who led.
        from: Option<Who>,
        /// Whose acknowledged writes are given up.
        given_up: Vec<Who>,
        /// Why, in the person's words.
        reason: String,
    },
    /// A person gave up what was set aside of a copy.
    DivergedDiscarded {
        /// Whose copy.
        server: Who,
        /// The epoch of the force that left it behind.
        since: Epoch,
    },
    /// The application runs on the new primary.
    ApplicationStarted {
        /// Where.
        server: Who,
        /// Milliseconds from the moment it learned of its role.
        after_ms: u64,
    },
}

impl EventKind {
    /// Whose copy lacks acknowledged writes from this event on, when there is one.
    #[must_use]
    pub fn outdates(&self) -> Option<&Who> {
        match self {
            Self::SecondaryDropped { server, .. }
            | Self::SecondaryStopped { server, .. }
            | Self::SecondaryForgot { server, .. }
            | Self::FailedOver { from: server, .. } => Some(server),
            Self::PrimaryForced { from, .. } => from.as_ref(),
            Self::ClusterCreated { .. }
            | Self::TokenCreated { .. }
            | Self::MemberAdded { .. }
            | Self::MemberRemoved { .. }
            | Self::CertificateChanged { .. }
            | Self::ServerStarted { .. }
            | Self::Declared { .. }
            | Self::Withdrawn { .. }
            | Self::ServerDown { .. }
            | Self::ServerUp { .. }
            | Self::ModuleInstalled { .. }
            | Self::ModuleReconfigured { .. }
            | Self::ModuleUninstalled
            | Self::WantedChanged { .. }
            | Self::PrimaryClaimed { .. }
            | Self::AdditionEnded { .. }
            | Self::SecondaryAdded { .. }
            | Self::SwitchedOver { .. }
            | Self::SteppedDown { .. }
            | Self::HandedOver { .. }
            | Self::NoSuccessor { .. }
            | Self::PrimaryResumed { .. }
            | Self::TookOver { .. }
            | Self::MemberChanged { .. }
            | Self::CopyGivenUp { .. }
            | Self::CopyPlaced { .. }
            | Self::DivergedDiscarded { .. }
            | Self::ApplicationStarted { .. } => None,
        }
    }

    /// Whether somebody else leads since this event, or may.
    #[must_use]
    pub fn moves_primary(&self) -> bool {
        match self {
            Self::PrimaryClaimed { .. }
            | Self::SwitchedOver { .. }
            | Self::SteppedDown { .. }
            | Self::FailedOver { .. }
            | Self::HandedOver { .. }
            | Self::PrimaryResumed { .. }
            | Self::TookOver { .. }
            | Self::PrimaryForced { .. } => true,
            Self::ClusterCreated { .. }
            | Self::TokenCreated { .. }
            | Self::MemberAdded { .. }
            | Self::MemberRemoved { .. }
            | Self::CertificateChanged { .. }
            | Self::ServerStarted { .. }
            | Self::Declared { .. }
            | Self::Withdrawn { .. }
            | Self::ServerDown { .. }
            | Self::ServerUp { .. }
            | Self::ModuleInstalled { .. }
            | Self::ModuleReconfigured { .. }
            | Self::ModuleUninstalled
            | Self::WantedChanged { .. }
            | Self::SecondaryDropped { .. }
            | Self::AdditionEnded { .. }
            | Self::SecondaryStopped { .. }
            | Self::SecondaryForgot { .. }
            | Self::SecondaryAdded { .. }
            | Self::NoSuccessor { .. }
            | Self::MemberChanged { .. }
            | Self::CopyGivenUp { .. }
            | Self::CopyPlaced { .. }
            | Self::DivergedDiscarded { .. }
            | Self::ApplicationStarted { .. } => false,
        }
    }
}

impl fmt::Display for EventKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ClusterCreated { name } => write!(f, "cluster {name} created"),
            Self::TokenCreated { kind } => write!(f, "token created for one {kind}"),
            Self::MemberAdded { member, kind } => write!(f, "{kind} {member} joined the cluster"),
            Self::MemberRemoved { member } => write!(f, "{member} left the cluster for good"),
            Self::CertificateChanged { member } => write!(f, "{member} has a new certificate"),
            Self::MemberChanged {
                before,
                now,
                addresses,
            } => {
                let addresses: Vec<String> = addresses.iter().map(ToString::to_string).collect();
                let addresses = addresses.join(", ");
                if before.name == now.name {
                    write!(f, "{now} is found at {addresses} from now on")
                } else {
                    write!(f, "{before} is called {now} from now on, at {addresses}")
                }
            }
            Self::CopyGivenUp {
                server,
                holders: _,
                was_only_whole: true,
            } => write!(
                f,
                "the copy on {server} is given up, which was the only whole one: writes that are nowhere else are lost; the next start needs `prim`, as the first one did"
            ),
            Self::CopyGivenUp {
                server,
                holders,
                was_only_whole: false,
            } if holders.is_empty() => write!(f, "the copy on {server} is given up"),
            Self::CopyGivenUp {
                server,
                holders,
                was_only_whole: false,
            } => write!(
                f,
                "the copy on {server} is given up: every acknowledged write is on {}",
                listed(holders)
            ),
            Self::CopyPlaced { server } => {
                write!(
                    f,
                    "{server} shall have a copy, which is brought up to date from the primary"
                )
            }
            Self::ServerStarted {
                server,
                incarnation,
            } => write!(f, "daemon of {server} started (run {incarnation})"),
            Self::Declared { voter, server } => write!(f, "{voter} no longer hears {server}"),
            Self::Withdrawn { voter, server } => write!(f, "{voter} hears {server} again"),
            Self::ServerDown {
                server,
                declared_by,
                voters,
            } => write!(
                f,
                "{server} counts as down: declared by {}, {} of {voters} votes",
                listed(declared_by),
                declared_by.len()
            ),
            Self::ServerUp { server } => write!(f, "{server} counts as up again"),
            Self::ModuleInstalled { servers: [a, b] } => write!(f, "installed on {a} and {b}"),
            Self::ModuleReconfigured {
                first_start_again: false,
            } => write!(f, "configuration changed"),
            Self::ModuleReconfigured {
                first_start_again: true,
            } => {
                write!(
                    f,
                    "configuration and directories changed; the next start needs `prim`, as the first one did"
                )
            }
            Self::ModuleUninstalled => write!(f, "uninstalled; its files are untouched"),
            Self::WantedChanged { server, wanted } => write!(f, "shall be {wanted} on {server}"),
            Self::PrimaryClaimed { server } => {
                write!(f, "{server} is primary by an operator's word")
            }
            Self::SecondaryDropped { primary, server } => {
                write!(
                    f,
                    "{primary} goes on alone: the copy on {server} is out of date from now on"
                )
            }
            Self::AdditionEnded { primary, server } => {
                write!(
                    f,
                    "{server} is not up to date yet: bringing it up to date broke off, {primary} goes on alone"
                )
            }
            Self::SecondaryStopped { primary, server } => {
                write!(
                    f,
                    "stopped on {server}: {primary} goes on alone, the copy on {server} is out of date from now on"
                )
            }
            Self::SecondaryForgot { server, holder } => write!(
                f,
                "{server} started anew and may have lost writes it had only received: only the copy on {holder} is whole"
            ),
            Self::SecondaryAdded { primary, server } => {
                write!(
                    f,
                    "{server} is up to date: every write is now on {primary} and {server}"
                )
            }
            Self::SwitchedOver { from, to } => {
                write!(f, "planned switchover: {to} is primary, {from} secondary")
            }
            Self::SteppedDown {
                server,
                reason,
                next: Some(next),
            } => {
                write!(
                    f,
                    "{next} is primary: {server} stepped down because {reason}"
                )
            }
            Self::SteppedDown {
                server,
                reason,
                next: None,
            } => {
                write!(f, "no primary: {server} stepped down because {reason}")
            }
            Self::FailedOver { from, to } => write!(
                f,
                "{to} took over: {from}, which was primary, counts as down"
            ),
            Self::HandedOver { from, to } => write!(
                f,
                "{to} took over: the daemon of {from}, which was primary, had ended"
            ),
            Self::NoSuccessor {
                primary,
                holders,
                resting,
            } if resting.is_empty() => write!(
                f,
                "nobody may take over from {primary}: every acknowledged write is on {} only",
                listed(holders)
            ),
            Self::NoSuccessor {
                primary,
                holders: _,
                resting,
            } => {
                let resting = listed(resting);
                write!(
                    f,
                    "nobody takes over from {primary}: the copy on {resting} is whole, but stopped; start it there"
                )
            }
            Self::PrimaryResumed { server } => {
                write!(
                    f,
                    "{server} stays primary after a new start: no other server may lead"
                )
            }
            Self::TookOver { server } => {
                write!(f, "{server} is primary: nobody led and its copy is whole")
            }
            Self::PrimaryForced {
                server,
                from,
                given_up,
                reason,
            } => {
                write!(f, "{server} is primary by force")?;
                if let Some(from) = from {
                    write!(f, " instead of {from}")?;
                }
                write!(
                    f,
                    ": acknowledged writes that are only on {} are given up ({reason})",
                    listed(given_up)
                )
            }
            Self::DivergedDiscarded { server, since } => write!(
                f,
                "what only {server} had before the force of epoch {since} is discarded"
            ),
            Self::ApplicationStarted { server, after_ms } => write!(
                f,
                "the application runs on {server}, {:.1} s after it learned of its role",
                *after_ms as f64 / 1000.0
            ),
        }
    }
}
