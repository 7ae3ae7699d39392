//! Why a command was refused: what is true, why it matters, and the next command where there is one.

use std::net::{IpAddr, SocketAddr};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use super::command::REASON_MAX;
use super::ids::{Epoch, Incarnation, MemberName, ModuleName, ServerId, Who, listed};
use super::members::{LANS_MAX, MEMBERS_MAX, MemberKind, TOKENS_MAX};
use super::mirror::{ADDRESSES_MAX, DIRECTORIES_MAX, MODULES_MAX};

/// A command changed nothing, and this is why.
#[derive(Debug, Clone, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum Rejection {
    /// Nothing can be done before the cluster exists.
    #[error(
        "there is no cluster here yet; create one with `skcli cluster init` or join one with `skcli cluster join`"
    )]
    NoCluster,
    /// The cluster exists already.
    #[error(
        "this server already belongs to the cluster {name}; leave it first with `skcli cluster leave`"
    )]
    ClusterExists {
        /// Its name.
        name: MemberName,
    },
    /// The first member cannot be a witness.
    #[error(
        "a witness cannot create a cluster: it holds no files; run `skcli cluster init` on a server"
    )]
    WitnessFirst,

    /// No such token.
    #[error(
        "this token is not known to the cluster; make a new one with `skcli cluster token` on a member"
    )]
    TokenUnknown,
    /// Each token lets one member in.
    #[error(
        "this token was used by {by}; each token lets one member in, make another with `skcli cluster token`"
    )]
    TokenUsed {
        /// The member that joined with it.
        by: String,
    },
    /// Too late.
    #[error("this token has expired; make a new one with `skcli cluster token` on a member")]
    TokenExpired {
        /// Not valid from this second on.
        expires_at_unix_s: u64,
    },
    /// A witness's token shown by a server.
    #[error("this token lets in a witness, not a server; make one with `skcli cluster token`")]
    TokenForWitness,
    /// A server's token shown by a witness.
    #[error(
        "this token lets in a server, not a witness; make one with `skcli cluster token --witness`"
    )]
    TokenForServer,
    /// The same token again.
    #[error("this token exists already; tokens are random, so make another one")]
    TokenExists,
    /// No room for a token.
    #[error("{TOKENS_MAX} tokens are open or spent and not yet expired; wait until one expires")]
    TokensFull,

    /// Two members of one name.
    #[error(
        "the name {name} is taken by another member; choose another name, or join with --replaces {name} if that member is gone for good"
    )]
    NameTaken {
        /// The name.
        name: MemberName,
    },
    /// A member listens nowhere.
    #[error("a member has at least one address and at most {LANS_MAX}, one per LAN")]
    AddressCount {
        /// How many were given.
        given: usize,
    },
    /// Two members at one address.
    #[error("the address {address} belongs to {by}; two members cannot listen at one address")]
    AddressInUse {
        /// The address.
        address: SocketAddr,
        /// Whose it is.
        by: MemberName,
    },
    /// Two members with one key.
    #[error("this certificate belongs to {by}; each member has its own key")]
    CertificateInUse {
        /// Whose it is.
        by: MemberName,
    },
    /// One witness is enough.
    #[error("{name} is the witness of this cluster already; a second one would add no safety")]
    WitnessExists {
        /// The witness.
        name: MemberName,
    },
    /// The cluster is full.
    #[error("the cluster has {MEMBERS_MAX} members, the most it can have")]
    MembersFull,
    /// Too many changes at once.
    #[error(
        "the voters have changed several times within seconds; wait a moment until the last changes have settled, then repeat"
    )]
    VotersChanging,
    /// No such member.
    #[error("there is no member number {server} in this cluster")]
    UnknownServer {
        /// The number.
        server: ServerId,
    },
    /// The number belonged to a member that left.
    #[error(
        "number {server} belonged to a member that left for good; numbers are never reused, join again with a new token"
    )]
    RemovedServer {
        /// The number.
        server: ServerId,
    },
    /// A cluster has a server.
    #[error(
        "{server} is the last server of the cluster; to end the cluster type `skcli cluster leave --alone` on it"
    )]
    LastServer {
        /// The server.
        server: Who,
    },
    /// It is not gone.
    #[error(
        "{member} is alive: a majority hears it; type `skcli cluster leave` on it, or switch it off and wait until it counts as down"
    )]
    StillAlive {
        /// The member.
        member: Who,
    },
    /// The only copy would go.
    #[error(
        "{server} has the only copy of {module}; place a second one first with `skcli module place`, or uninstall the module"
    )]
    LastCopy {
        /// The server.
        server: Who,
        /// The module.
        module: ModuleName,
    },
    /// The only whole copy would go.
    #[error(
        "the copy of {module} on {server} is the only whole one: without it the writes that are nowhere else are lost; bring {server} back, or say that you accept the loss with --accept-loss"
    )]
    LastHolder {
        /// The server.
        server: Who,
        /// The module.
        module: ModuleName,
    },
    /// A server cannot replace a witness, nor the other way round.
    #[error("{member} is a {kind}, so only a {kind} can replace it")]
    OtherKind {
        /// The member that is gone.
        member: Who,
        /// What it is.
        kind: MemberKind,
    },
    /// There is no place for a copy.
    #[error("{module} has its two copies already, on {}", listed(.servers))]
    NoVacancy {
        /// The module.
        module: ModuleName,
        /// Where it lives.
        servers: Vec<Who>,
    },
    /// The server has something in the way.
    #[error("{server} cannot hold a copy of {module}: {why}")]
    CannotHost {
        /// The module.
        module: ModuleName,
        /// The server.
        server: Who,
        /// What is in the way.
        why: Box<Rejection>,
    },
    /// Modules would lose a copy.
    #[error("{server} is primary of {}, or has the only whole copy; exchange the roles with `skcli module swap`, place a copy elsewhere, or uninstall", listed(.modules))]
    ServerHasModules {
        /// The server.
        server: Who,
        /// Its modules.
        modules: Vec<ModuleName>,
    },
    /// A run of the daemon that is over.
    #[error(
        "run {given} of {server} is over, run {current} is known by now; if {server} has just been started, its state directory was restored from an old copy: type `skcli cluster leave --alone` on it and let it join again with --replaces {server}"
    )]
    OldIncarnation {
        /// The member.
        server: Who,
        /// The run the command speaks of.
        given: Incarnation,
        /// The newest run known.
        current: Incarnation,
    },
    /// A run of the daemon the cluster has not heard of.
    #[error("run {given} of {server} has not been announced, run {current} is the newest known")]
    UnknownIncarnation {
        /// The member.
        server: Who,
        /// The run the command speaks of.
        given: Incarnation,
        /// The newest run known.
        current: Incarnation,
    },
    /// An opinion of someone without a vote.
    #[error("{voter} has no vote in this cluster, so its opinion on who is alive does not count")]
    NotVoter {
        /// The member.
        voter: Who,
    },
    /// A member about itself.
    #[error("{server} cannot declare itself down")]
    DeclaresItself {
        /// The member.
        server: Who,
    },
    /// An opinion that was taken back before it arrived.
    #[error("{voter} took this declaration of {server} back before it arrived")]
    StaleRound {
        /// The voter.
        voter: Who,
        /// The member.
        server: Who,
    },

    /// No such module.
    #[error("there is no module {module}; `skcli module list` shows those installed")]
    UnknownModule {
        /// The name.
        module: ModuleName,
    },
    /// Two modules of one name.
    #[error(
        "a module {module} is installed already; change it with `skcli module config`, or uninstall it first"
    )]
    ModuleExists {
        /// The name.
        module: ModuleName,
    },
    /// No room for a module.
    #[error("the cluster has {MODULES_MAX} modules, the most it can have")]
    ModulesFull,
    /// A module needs two servers.
    #[error("a mirror needs two different servers, {server} was given twice")]
    SameServerTwice {
        /// The server.
        server: Who,
    },
    /// Witnesses hold no copies.
    #[error("{member} is a witness: it votes and holds no files, so a module cannot run on it")]
    NotAServer {
        /// The witness.
        member: Who,
    },
    /// The server has no copy of the module.
    #[error("{module} has no copy on {server}; it lives on {}", listed(.servers))]
    NotOfModule {
        /// The module.
        module: ModuleName,
        /// The server.
        server: Who,
        /// Where it lives.
        servers: Vec<Who>,
    },
    /// How many directories.
    #[error(
        "a mirror replicates at least one directory and at most {DIRECTORIES_MAX}, {given} were given"
    )]
    DirectoryCount {
        /// How many were given.
        given: usize,
    },
    /// Not a directory that can be replicated.
    #[error("the directory {directory:?} cannot be replicated: {problem}")]
    DirectoryInvalid {
        /// The directory.
        directory: String,
        /// What is wrong with it.
        problem: DirectoryProblem,
    },
    /// Two directories of one server, one in the other.
    #[error(
        "the directory {directory:?} overlaps {other_directory:?} of {}: a file must not be replicated twice",
        .other.as_ref().map_or_else(|| "the same module".to_owned(), |other| format!("module {other}"))
    )]
    DirectoryOverlaps {
        /// The directory that was given.
        directory: String,
        /// The module that has the other one; none: both were given.
        other: Option<ModuleName>,
        /// The other one.
        other_directory: String,
    },
    /// How many addresses.
    #[error("a module has at most {ADDRESSES_MAX} virtual addresses, {given} were given")]
    AddressesMany {
        /// How many were given.
        given: usize,
    },
    /// An address given twice, or of another module or member.
    #[error("the virtual address {address} is taken by {by}; each address has one owner")]
    AddressTaken {
        /// The address.
        address: IpAddr,
        /// Whose it is.
        by: String,
    },
    /// Not while the module runs.
    #[error(
        "{module} is not stopped everywhere, and {why}; stop it first with `skcli module stop {module}`"
    )]
    ModuleRunning {
        /// The module.
        module: ModuleName,
        /// What must wait for the stop.
        why: RunningConflict,
    },

    /// Roles changed since the command was made.
    #[error(
        "{module} is at epoch {current} now, this was meant for epoch {given}: its roles changed in between; see `skcli module state {module}`"
    )]
    StaleEpoch {
        /// The module.
        module: ModuleName,
        /// The epoch the command was made for.
        given: Epoch,
        /// The epoch in force.
        current: Epoch,
    },
    /// Only the primary can do it.
    #[error("{server} is not the primary of {module}, {}", .primary.as_ref().map_or_else(|| "nobody is".to_owned(), |p| format!("{p} is")))]
    NotPrimary {
        /// The module.
        module: ModuleName,
        /// Who asked.
        server: Who,
        /// Who is primary.
        primary: Option<Who>,
    },
    /// The primary would be its own secondary.
    #[error("{server} is the primary of {module}, not its other copy")]
    IsPrimary {
        /// The module.
        module: ModuleName,
        /// The server.
        server: Who,
    },
    /// There is a primary already.
    #[error(
        "{primary} is the primary of {module}; to change roles use `skcli module swap {module}`"
    )]
    PrimaryExists {
        /// The module.
        module: ModuleName,
        /// Who is primary.
        primary: Who,
    },
    /// The primary is down, and the copy is not whole.
    #[error("the copy of {module} on {server} lacks acknowledged writes: they are on {} only, so it waits for that copy", listed(.holders))]
    NotInSync {
        /// The module.
        module: ModuleName,
        /// Whose copy is not whole.
        server: Who,
        /// Whose copies are.
        holders: Vec<Who>,
    },
    /// The place is new, and its data is elsewhere.
    #[error(
        "{server} was given its place in {module} later and has never been brought up to date, while {other} has a copy, however old, which would be replaced by whatever is on {server}; type `skcli module prim -m {module} --server {other}`, and {server} is brought up to date from it"
    )]
    NoCopyYet {
        /// The module.
        module: ModuleName,
        /// Who has nothing of it yet.
        server: Who,
        /// Whose copy is the only one.
        other: Who,
    },
    /// A server that counts as down gets no role.
    #[error(
        "{server} counts as down, so it gets no role in {module}; it counts as up again when a majority hears it"
    )]
    CountsAsDown {
        /// The module.
        module: ModuleName,
        /// The server.
        server: Who,
    },
    /// The module is stopped there.
    #[error("{module} is stopped on {server}; start it first with `skcli module start {module}`")]
    StoppedThere {
        /// The module.
        module: ModuleName,
        /// The server.
        server: Who,
    },
    /// A force is explained.
    #[error(
        "a force gives up acknowledged writes, so it is recorded with a reason; give one of at most {REASON_MAX} characters"
    )]
    ForceReason,
    /// The copy is whole.
    #[error("the copy of {module} on {server} holds every acknowledged write, so nothing needs to be forced; {}", match .leads {
        true => "it is the primary".to_owned(),
        false => format!("use `skcli module swap {module}`, or `skcli module start {module}` there"),
    })]
    ForceNotNeeded {
        /// The module.
        module: ModuleName,
        /// The server.
        server: Who,
        /// It is the primary.
        leads: bool,
    },
    /// The first start needs a word.
    #[error(
        "{module} has never been started, so nobody knows whose copy is the good one; say it with `skcli module prim {module}` on that server"
    )]
    FirstStart {
        /// The module.
        module: ModuleName,
    },
    /// A force is for a copy that lacks something; there is none.
    #[error(
        "{server} has no copy of {module}: its directory was never brought up to date, and a force would replace the copy on {} by whatever is there",
        listed(.holders)
    )]
    ForceWithoutCopy {
        /// The module.
        module: ModuleName,
        /// Who has nothing of it yet.
        server: Who,
        /// Whose copies are whole.
        holders: Vec<Who>,
    },
}

/// What is wrong with a directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum DirectoryProblem {
    /// It does not begin with `/`.
    #[error("it does not begin with /")]
    NotAbsolute,
    /// It is `/`.
    #[error("the whole system cannot be a replicated directory")]
    Root,
    /// `.`, `..` or `//`.
    #[error("it contains an empty part, . or ..; write the path as it is")]
    NotPlain,
    /// A NUL byte.
    #[error("it contains a NUL byte")]
    Nul,
    /// Longer than the system takes.
    #[error("it is longer than 4095 bytes")]
    TooLong,
}

/// What cannot be done while a module runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error, Serialize, Deserialize)]
pub enum RunningConflict {
    /// Its files are in use.
    #[error("uninstalling it would take the files away under the application")]
    Uninstall,
    /// Its directories are mounted.
    #[error("its directories cannot change under the application")]
    Directories,
}
