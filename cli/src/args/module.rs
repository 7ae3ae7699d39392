//! `skcli module ...`

use super::{member_name, module_name, seconds};
use clap::{Args, Subcommand};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(crate) enum ModuleVerb {
    /// Install a package, or a directory that is packed first, on two servers
    Install {
        /// FILE.safe, or a directory with conf/ and bin/
        file: PathBuf,
        /// Name of the module [default: the name of the file]
        #[arg(short = 'm', long = "module", value_name = "NAME", value_parser = module_name)]
        module: Option<String>,
        /// The two servers [default: those of the cluster, when they are two]
        #[arg(long, value_name = "A,B", value_delimiter = ',', value_parser = member_name)]
        servers: Vec<String>,
        /// Say what would be done, do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Remove a stopped module from all its servers; its files stay
    Uninstall(Change),
    /// All modules at a glance
    List,
    /// Want the module to run, here or on the named servers
    Start(Placed),
    /// Want the module to stop, here or on the named servers
    Stop(Placed),
    /// Stop and start the application where it runs, without failover
    Restart(Waited),
    /// Exchange primary and secondary
    Swap(Waited),
    /// First start: the files of this server become the reference. With --force: lead with a copy that lacks
    /// acknowledged writes
    Prim(Prim),
    /// First start: the files of this server are brought up to date from the primary
    Second(Placed),
    /// Make a second copy, on a server, for a module that lost one for good
    Place(Placed),
    /// States of one module, or of all
    State {
        #[command(flatten)]
        name: MaybeNamed,
        /// Print one state word and exit with its number (see skcli --help)
        #[arg(short = 'q', long)]
        quiet: bool,
        /// With -q: of this server [default: the one that answers]
        #[arg(long, value_name = "NAME", value_parser = member_name, requires = "quiet")]
        server: Option<String>,
    },
    /// State changes and script output on this server, newest last
    Log {
        #[command(flatten)]
        name: Named,
        /// How many of the newest lines
        #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 100)]
        newest: u64,
        /// Go on with new lines
        #[arg(short = 'f', long)]
        follow: bool,
    },
    /// Why the roles are as they are: each change, what led to it, what it cost
    Explain(Named),
    /// Files set aside of a copy that `prim --force` left behind, on both servers
    Diverged {
        #[command(flatten)]
        name: Named,
        /// Remove the set with this number, for good; what is not set aside yet will not be
        #[arg(long, value_name = "ID")]
        discard: Option<u64>,
        /// Of this server [default: the one that answers]
        #[arg(long, value_name = "NAME", value_parser = member_name, requires = "discard")]
        server: Option<String>,
        /// Say what would be done and what it risks, do nothing
        #[arg(long, requires = "discard")]
        dry_run: bool,
    },
    /// Check a userconfig.xml, a package or a directory; needs no cluster
    Check {
        /// userconfig.xml, FILE.safe or a directory
        file: PathBuf,
    },
    /// Make FILE.safe of a directory; needs no cluster
    Pack {
        /// The directory with conf/ and bin/
        directory: PathBuf,
        /// Where to write [default: NAME-OF-DIRECTORY.safe here]
        #[arg(short = 'o', long, value_name = "FILE")]
        output: Option<PathBuf>,
        /// Say what would be written and what it replaces, do nothing
        #[arg(long)]
        dry_run: bool,
    },
}

/// A module, as `-m NAME` or just NAME.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub(crate) struct Named {
    /// Name of the module
    #[arg(short = 'm', long = "module", value_name = "MODULE", value_parser = module_name)]
    flag: Option<String>,
    /// Name of the module
    #[arg(value_name = "NAME", value_parser = module_name)]
    positional: Option<String>,
}

impl Named {
    /// The name; the group makes sure that there is one.
    pub(crate) fn get(&self) -> String {
        self.flag
            .clone()
            .or_else(|| self.positional.clone())
            .unwrap_or_default()
    }
}

/// As `Named`, but may be left out.
#[derive(Debug, Args)]
#[group(required = false, multiple = false)]
pub(crate) struct MaybeNamed {
    /// Name of the module
    #[arg(short = 'm', long = "module", value_name = "MODULE", value_parser = module_name)]
    flag: Option<String>,
    /// Name of the module [default: all]
    #[arg(value_name = "NAME", value_parser = module_name)]
    positional: Option<String>,
}

impl MaybeNamed {
    pub(crate) fn get(&self) -> Option<String> {
        self.flag.clone().or_else(|| self.positional.clone())
    }
}

/// A change of a module.
#[derive(Debug, Args)]
pub(crate) struct Change {
    #[command(flatten)]
    pub(crate) name: Named,
    /// Say what would be done and what it risks, do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// A change that takes its time.
#[derive(Debug, Args)]
pub(crate) struct Waited {
    #[command(flatten)]
    pub(crate) change: Change,
    /// Wait until it is done, at most so many seconds
    #[arg(long, value_name = "SECONDS", value_parser = seconds, default_value = "0", hide_default_value = true)]
    pub(crate) wait: u64,
}

/// A change on some servers.
#[derive(Debug, Args)]
pub(crate) struct Placed {
    #[command(flatten)]
    pub(crate) waited: Waited,
    /// On this server [default: the one that answers]
    #[arg(long, value_name = "NAME", value_parser = member_name, conflicts_with = "all")]
    pub(crate) server: Option<String>,
    /// On all servers of the module
    #[arg(long)]
    pub(crate) all: bool,
}

/// Who leads, by a person's word.
#[derive(Debug, Args)]
pub(crate) struct Prim {
    #[command(flatten)]
    pub(crate) placed: Placed,
    /// Give up every acknowledged write that this copy lacks. Without --epoch and --reason: only show what that means
    #[arg(long)]
    pub(crate) force: bool,
    /// With --force: the epoch as `module state` shows it now
    #[arg(long, value_name = "N", requires = "force")]
    pub(crate) epoch: Option<u64>,
    /// With --force: why; it is recorded with your name
    #[arg(long, value_name = "TEXT", requires = "force")]
    pub(crate) reason: Option<String>,
}
