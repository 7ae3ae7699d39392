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
        #[arg(long, value_enum, default_value = "default")]
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
