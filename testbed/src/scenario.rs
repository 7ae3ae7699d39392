//! x
pub mod command_line {
    #[derive(Debug, clap::Subcommand)]
    pub enum ScenarioCommand {
        List,
    }
    pub fn run(_: ScenarioCommand) -> anyhow::Result<std::process::ExitCode> {
        todo!()
    }
}
