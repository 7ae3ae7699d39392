//! x
#[derive(Debug, clap::Args)]
pub struct Options {}
pub fn run(_: &Options) -> anyhow::Result<std::process::ExitCode> {
    todo!()
}
pub mod load {
    #[derive(Debug, clap::Args)]
    pub struct Options {}
    pub fn run(_: &Options) -> anyhow::Result<std::process::ExitCode> {
        todo!()
    }
}
pub mod pass_through {
    #[derive(Debug, clap::Args)]
    pub struct Options {}
    pub fn run(_: &Options) -> anyhow::Result<std::process::ExitCode> {
        todo!()
    }
}
