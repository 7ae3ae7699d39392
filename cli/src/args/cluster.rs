//! `skcli cluster ...`

use super::{member_name, module_name, seconds};
use clap::{Args, Subcommand, ValueEnum};

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterVerb {
    /// Make this server the first member of a new cluster
    Init {
        /// Name of the cluster
        #[arg(value_parser = member_name)]
        name: String,
        #[command(flatten)]
        me: Me,
        /// How fast a lost server is noticed: fast 0.5 s, default 1.5 s, wide 10 s
        #[arg(long, visible_alias = "profile", value_enum, default_value = "default")]
        lease: Lease,
        /// Say what would be done, do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Print a one-time token with which one server or witness may join
    Token {
        /// The token is for a witness: a voter without modules
        #[arg(long)]
        witness: bool,
        /// How long it is good for, such as 15m
        #[arg(long, value_name = "TIME", value_parser = seconds, default_value = "15m")]
        valid: u64,
        /// Say what would be done, do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Let this fresh server join the cluster that ADDRESS belongs to
    Join {
        /// HOST:PORT of any member
        address: String,
        /// From `skcli cluster token` on a member
        token: String,
        #[command(flatten)]
        me: Me,
        /// Take the place of this member, which is gone for good: its copies are made anew here
        #[arg(long, value_name = "NAME", value_parser = member_name)]
        replaces: Option<String>,
        /// Also where the copy of that member was the only whole one
        #[arg(long, requires = "replaces")]
        accept_loss: bool,
        /// Say what would be done, do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Make this server leave its cluster for good; replicated files stay
    Leave {
        /// Do not ask the cluster: it no longer knows this server, or has no majority
        #[arg(long)]
        alone: bool,
        #[command(flatten)]
        sure: Sure,
    },
    /// Remove a member that is down and gone for good
    Remove {
        /// Its name
        #[arg(value_parser = member_name)]
        member: String,
        /// Also where its copy is the only whole one
        #[arg(long)]
        accept_loss: bool,
        #[command(flatten)]
        sure: Sure,
    },
    /// Give this member a new certificate now; it is renewed by itself when two thirds of its life are over
    Renew {
        /// Say what would be done, do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Give a member another name or other addresses; it listens at the former ones until it starts again
    #[command(group(clap::ArgGroup::new("what").required(true).multiple(true)))]
    Set {
        /// Its name
        #[arg(value_parser = member_name)]
        member: String,
        /// Its name from now on
        #[arg(long, value_name = "NAME", value_parser = member_name, group = "what")]
        name: Option<String>,
        /// HOST:PORT from now on, once per LAN, in the same order on all servers
        #[arg(
            long = "address",
            value_name = "HOST:PORT",
            value_delimiter = ',',
            group = "what"
        )]
        addresses: Vec<String>,
        /// Say what would be done, do nothing
        #[arg(long)]
        dry_run: bool,
    },
    /// Members, who leads, who hears whom
    State,
    /// What happened, newest last
    Events {
        /// Only those of one module
        #[arg(short = 'm', long, value_name = "NAME", value_parser = module_name)]
        module: Option<String>,
        /// How many of the newest
        #[arg(short = 'n', long, value_name = "COUNT", default_value_t = 50)]
        newest: u64,
        /// Go on with what happens from now on
        #[arg(short = 'f', long)]
        follow: bool,
    },
}

/// Name and addresses of the server that the command is typed on.
#[derive(Debug, Args)]
pub(crate) struct Me {
    /// Name of this server [default: its host name]
    #[arg(long, value_name = "NAME", value_parser = member_name)]
    pub(crate) server: Option<String>,
    /// HOST:PORT of this server, once per LAN, in the same order on all servers
    #[arg(
        long = "address",
        value_name = "HOST:PORT",
        required = true,
        value_delimiter = ','
    )]
    pub(crate) addresses: Vec<String>,
}

/// A change that cannot be undone.
#[derive(Debug, Args)]
pub(crate) struct Sure {
    /// Do not ask whether it is meant
    #[arg(short = 'y', long)]
    pub(crate) yes: bool,
    /// Say what would be done and what it costs, do nothing
    #[arg(long)]
    pub(crate) dry_run: bool,
}

/// Profiles of the lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Lease {
    /// 1.5 s
    Default,
    /// 0.5 s
    Fast,
    /// 10 s
    Wide,
}
