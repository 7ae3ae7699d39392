//! The lease profiles of a cluster, and what each promises (design R7).

use clap::ValueEnum;

/// How fast a lost server is noticed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Profile {
    /// A lease of 0.5 s
    Fast,
    /// A lease of 1.5 s
    #[default]
    Default,
    /// A lease of 10 s
    Wide,
}

impl Profile {
    /// As the command line of `skcli` names it.
    pub fn name(self) -> &'static str {
        match self {
            Profile::Fast => "fast",
            Profile::Default => "default",
            Profile::Wide => "wide",
        }
    }

    /// Takeover starts within this time of a cut: lease x 1.01 + 0.3 s, one heartbeat, one commit.
    pub fn takeover_ms_max(self) -> f64 {
        match self {
            Profile::Fast => 900.0,
            Profile::Default => 2200.0,
            Profile::Wide => 10_900.0,
        }
    }

    /// A writer waits no longer than this when the secondary dies. It is the primary that notices: the lease hardly matters.
    pub fn stall_ms_max(self) -> f64 {
        match self {
            Profile::Fast => 1200.0,
            Profile::Default | Profile::Wide => 2500.0,
        }
    }

    /// Between takeover and service the address waits until the former owner's kernel has surely forgotten it.
    pub fn address_wait_ms(self) -> f64 {
        match self {
            Profile::Fast => 600.0,
            Profile::Default | Profile::Wide => 0.0,
        }
    }
}
