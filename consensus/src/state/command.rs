//! What is proposed to the cluster: facts and wishes. What becomes of them, [`super::ClusterState::apply`] decides.

use std::fmt;
use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};

use super::ids::{Epoch, Incarnation, MemberName, ModuleName, PackageHash, ServerId};
use super::members::{ClusterInfo, NewMember, Round};
use super::mirror::{AckMode, Wanted};

/// Longest reason of a person, in characters.
pub const REASON_MAX: usize = 500;

/// An entry of the log: a command, who made it and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Proposal {
    /// What to do.
    pub command: Command,
    /// Who asks: a member, a person at a member.
    pub author: String,
    /// Why, as a sentence.
    pub evidence: String,
    /// The author's wall clock, for display and for the expiry of tokens: applying reads no clock.
    pub at_unix_ms: u64,
}

/// Why a primary steps down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum StepDownReason {
    /// It was stopped: the application has ended, everything is acknowledged and on both disks, the mount is gone.
    Stopped,
    /// The application failed too often here; the copy is whole, stopped as cleanly as with `Stopped`.
    ApplicationFailed,
    /// Its own disk failed: its copy is no longer whole (R11).
    DiskFailed,
}

impl fmt::Display for StepDownReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            StepDownReason::Stopped => "it was stopped",
            StepDownReason::ApplicationFailed => "the application failed there",
            StepDownReason::DiskFailed => "its disk failed",
        })
    }
}

/// What can be proposed. A command that changes roles names the epoch it was made for (R1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// The first entry of a cluster.
    InitCluster {
        /// The cluster's identity.
        info: ClusterInfo,
        /// The server that creates it; it becomes number 1.
        first: NewMember,
    },
    /// Let one new member in.
    CreateToken {
        /// SHA-256 of the secret.
        token: [u8; 32],
        /// For a witness; otherwise for a server.
        witness: bool,
        /// Not valid from this second on.
        expires_at_unix_s: u64,
    },
    /// A new member joins.
    AddMember {
        /// SHA-256 of the secret it showed.
        token: [u8; 32],
        /// How it introduces itself.
        member: NewMember,
    },
    /// A member has a new certificate.
    SetCertificate {
        /// Whose.
        server: ServerId,
        /// SHA-256 of its DER.
        certificate: [u8; 32],
    },
    /// A member leaves for good; its number is never used again.
    RemoveMember {
        /// Who leaves.
        server: ServerId,
    },
    /// Proposed by each member at the start of its daemon, before it does anything else: all its sessions are over,
    /// and nothing its former run proposed counts any more.
    ServerStarted {
        /// Who started.
        server: ServerId,
        /// The new run.
        incarnation: Incarnation,
    },
    /// A voter has not heard a member for longer than any lease it granted can last.
    Declare {
        /// The voter.
        voter: ServerId,
        /// The opinion this is.
        round: Round,
        /// Who is silent.
        server: ServerId,
        /// Which run of it.
        incarnation: Incarnation,
        /// What the voter saw.
        evidence: String,
    },
    /// A voter hears the member again.
    Withdraw {
        /// The voter.
        voter: ServerId,
        /// The newest opinion that ends.
        round: Round,
        /// Who is heard.
        server: ServerId,
    },
    /// A new mirror module on two servers.
    InstallModule {
        /// Its name.
        name: ModuleName,
        /// The two servers.
        servers: [ServerId; 2],
        /// Its package.
        package: PackageHash,
        /// When the secondary's answer counts.
        ack: AckMode,
        /// The replicated directories.
        directories: Vec<String>,
        /// The virtual addresses.
        addresses: Vec<IpAddr>,
        /// As [`super::MirrorRecord::heart_timeout_ms`].
        heart_timeout_ms: Option<u32>,
    },
    /// A new configuration for a module.
    ReconfigureModule {
        /// Its name.
        name: ModuleName,
        /// Its package.
        package: PackageHash,
        /// When the secondary's answer counts.
        ack: AckMode,
        /// The replicated directories; they can change only while the module is stopped.
        directories: Vec<String>,
        /// The virtual addresses.
        addresses: Vec<IpAddr>,
        /// As [`super::MirrorRecord::heart_timeout_ms`].
        heart_timeout_ms: Option<u32>,
    },
    /// Forget a module that is stopped everywhere. Its files stay where they are.
    UninstallModule {
        /// Its name.
        name: ModuleName,
    },
    /// What people want of a module on a server.
    SetWanted {
        /// The module.
        module: ModuleName,
        /// Where.
        server: ServerId,
        /// What.
        wanted: Wanted,
    },
    /// A person says whose copy leads: at the first start, or when nobody leads and the copy is whole.
    ClaimFirst {
        /// The module.
        module: ModuleName,
        /// The epoch seen.
        epoch: Epoch,
        /// Who shall lead.
        server: ServerId,
    },
    /// The primary goes on without the other copy (R4).
    DropSecondary {
        /// The module.
        module: ModuleName,
        /// The epoch of its tenure.
        epoch: Epoch,
        /// The primary, who proposes.
        primary: ServerId,
        /// Who is dropped.
        server: ServerId,
    },
    /// The primary has brought the other copy into lock-step (R10).
    AddSecondary {
        /// The module.
        module: ModuleName,
        /// The epoch of its tenure.
        epoch: Epoch,
        /// The primary, who proposes.
        primary: ServerId,
        /// Whose copy is whole.
        server: ServerId,
    },
    /// Planned change of roles: `from` has stopped its application, drained and unmounted.
    Switchover {
        /// The module.
        module: ModuleName,
        /// The epoch of its tenure.
        epoch: Epoch,
        /// The primary, who proposes.
        from: ServerId,
        /// Who leads from now on.
        to: ServerId,
    },
    /// The primary has stopped leading.
    StepDown {
        /// The module.
        module: ModuleName,
        /// The epoch of its tenure.
        epoch: Epoch,
        /// The primary, who proposes.
        server: ServerId,
        /// Why.
        reason: StepDownReason,
    },
    /// Nobody leads and this server's copy is whole: it offers itself.
    TakeOver {
        /// The module.
        module: ModuleName,
        /// The epoch seen.
        epoch: Epoch,
        /// Who offers itself.
        server: ServerId,
    },
    /// A person gives the module to a copy that lacks acknowledged writes (R6).
    Force {
        /// The module.
        module: ModuleName,
        /// The epoch the person saw and typed.
        epoch: Epoch,
        /// Who shall lead.
        server: ServerId,
        /// Why, in the person's words.
        reason: String,
    },
    /// A person gives up what was, or would be, set aside of a copy that a force left behind.
    DiscardDiverged {
        /// The module.
        module: ModuleName,
        /// Whose copy.
        server: ServerId,
        /// The epoch of the force that left it behind.
        since: Epoch,
    },
    /// The application runs on the primary: the end of what a change of roles cost.
    ApplicationStarted {
        /// The module.
        module: ModuleName,
        /// The epoch of the tenure when it began.
        epoch: Epoch,
        /// The primary, who proposes.
        server: ServerId,
        /// Milliseconds from the moment it learned of its role.
        after_ms: u64,
    },
    /// A member that is down is gone for good. Its number is never used again, and its copies are given up.
    ForgetMember {
        /// Who is gone.
        server: ServerId,
        /// Also where its copy is the only whole one: the writes that are nowhere else are lost.
        accept_loss: bool,
    },
    /// A new member takes the place of one that is down and gone for good, and gets its copies.
    ReplaceMember {
        /// SHA-256 of the secret it showed.
        token: [u8; 32],
        /// How it introduces itself; the name may be that of the one that is gone.
        member: NewMember,
        /// Who is gone.
        replaces: ServerId,
        /// As in `ForgetMember`.
        accept_loss: bool,
    },
    /// A server gets the copy of a module whose second place is vacant.
    PlaceCopy {
        /// The module.
        module: ModuleName,
        /// Where the copy shall be.
        server: ServerId,
    },
    /// A member has another name, or other addresses.
    ChangeMember {
        /// Whose.
        server: ServerId,
        /// Its name from now on.
        name: MemberName,
        /// Where it listens from now on.
        addresses: Vec<SocketAddr>,
    },
    /// No lease rests on a replaced set of voters any more: a majority of each has applied the replacement for longer
    /// than any lease lasts.
    SettleVoters {
        /// The newest replacement that was waited for.
        replaced_at: u64,
    },
}

/// What a command that was accepted did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Accepted {
    /// The state changed.
    Done,
    /// It was so already.
    Unchanged,
    /// A member was added under this number.
    MemberAdded(ServerId),
}
