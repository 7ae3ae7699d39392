//! The application of a module: started and stopped by the module's scripts, ended by its cgroup.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use consensus::state::ModuleName;
use module::{Configuration, User};
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use crate::member::Member;
use crate::shell::cgroup::{Cgroup, CgroupError};
use crate::shell::scripts::{LOG_BYTES_MAX, Outcome, ScriptEnvironment, Scripts};

/// How long killed processes may take to go.
const KILL_DEADLINE: Duration = Duration::from_secs(10);
/// What a stop script gets when this server has already lost the right to serve.
const FENCED_STOP_DEADLINE: Duration = Duration::from_secs(3);
/// How long it may take in all, its start on a disk that may hang and its end by force included.
const FENCED_STOP_MAX: Duration = Duration::from_secs(5);

/// How a script under way ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum ScriptEnd {
    /// The application runs.
    Started,
    /// It does not; why, for people.
    StartFailed(String),
    /// No process of the module is left.
    Stopped,
}

/// The application of one module on this server.
pub(super) struct Application {
    scripts: Arc<Scripts>,
    user: Option<User>,
    under_way: Option<JoinHandle<ScriptEnd>>,
}

impl Application {
    /// Scripts from the unpacked package, over the replicated directory.
    ///
    /// # Errors
    /// There is no cgroup v2, or it cannot be used.
    pub(super) fn new(
        member: &Member,
        module: &ModuleName,
        configuration: &Configuration,
        unpacked: &Path,
        directory: &Path,
    ) -> Result<Self, CgroupError> {
        let programs = std::env::current_exe()
            .ok()
            .and_then(|exe| exe.parent().map(Path::to_owned));
        let user = configuration.user.clone();
        let environment = ScriptEnvironment {
            module: module.to_string(),
            installation: member.paths.root().to_owned(),
            programs: programs.unwrap_or_else(|| "/usr/bin".into()),
            package: unpacked.to_owned(),
            state: member.paths.state(),
            module_state: member.paths.scripts(module),
            directory: Some(directory.to_owned()),
            variables: user
                .as_ref()
                .map(|user| user.variables.clone())
                .unwrap_or_default(),
        };
        let cgroup = Cgroup::of_root(member.paths.root())?.child(module.as_ref())?;
        Ok(Self {
            scripts: Arc::new(Scripts::new(cgroup, environment, LOG_BYTES_MAX)),
            user,
            under_way: None,
        })
    }

    /// Kills what an earlier daemon left running: its mount is dead, so it can serve nobody.
    ///
    /// # Errors
    /// Something survives.
    pub(super) async fn end_leftovers(&self) -> Result<(), CgroupError> {
        self.scripts.cgroup().kill(KILL_DEADLINE).await
    }

    /// A script is under way.
    pub(super) fn is_busy(&self) -> bool {
        self.under_way.is_some()
    }

    /// Runs the start script beside the agent.
    pub(super) fn start(&mut self) {
        let scripts = Arc::clone(&self.scripts);
        let user = self.user.clone();
        self.under_way = Some(tokio::spawn(async move {
            match user {
                None => ScriptEnd::Started,
                Some(user) => start(&scripts, &user).await,
            }
        }));
    }

    /// Runs the stop script beside the agent, gently, then with force, then kills what is left.
    pub(super) fn stop(&mut self) {
        let scripts = Arc::clone(&self.scripts);
        let user = self.user.clone();
        self.under_way = Some(tokio::spawn(async move {
            if let Some(user) = user {
                stop(&scripts, &user).await;
            }
            kill(&scripts).await;
            ScriptEnd::Stopped
        }));
    }

    /// Ends the application now, whatever is under way. The stop script gets a moment for what runs outside the
    /// cgroup. False when processes survive.
    pub(super) async fn kill(&mut self) -> bool {
        if let Some(task) = self.under_way.take() {
            task.abort();
        }
        if self.user.is_some() {
            self.stop_fenced().await;
        }
        kill(&self.scripts).await
    }

    /// Runs the stop script on a thread of its own, which is left behind when a disk that hangs keeps the script from starting: the
    /// steps that follow must come.
    async fn stop_fenced(&self) {
        let (scripts, runtime) = (Arc::clone(&self.scripts), Handle::current());
        let forced = tokio::task::spawn_blocking(move || {
            let arguments = ["force", "PRIM", "STOP", "stop"];
            runtime.block_on(scripts.run("stop_prim", &arguments, FENCED_STOP_DEADLINE))
        });
        match tokio::time::timeout(FENCED_STOP_MAX, forced).await {
            Ok(Ok(Ok(_run))) => {}
            Ok(Ok(Err(error))) => {
                let error = format!("{:#}", anyhow::Error::new(error));
                tracing::warn!(error, "stop_prim force");
            }
            Ok(Err(error)) => tracing::error!(%error, "stop_prim force"),
            Err(_elapsed) => {
                tracing::warn!("stop_prim force neither starts nor ends: killing what is left")
            }
        }
    }

    /// Kills what is left, without the stop script; false when processes survive.
    pub(super) async fn kill_again(&self, deadline: Duration) -> bool {
        self.scripts.cgroup().kill(deadline).await.is_ok()
    }

    /// The end of the script under way; never, when there is none.
    pub(super) async fn ended(&mut self) -> ScriptEnd {
        let Some(task) = &mut self.under_way else {
            return std::future::pending().await;
        };
        let end = task.await;
        self.under_way = None;
        end.unwrap_or_else(|error| ScriptEnd::StartFailed(error.to_string()))
    }
}

async fn start(scripts: &Scripts, user: &User) -> ScriptEnd {
    match scripts
        .run("start_prim", &["WAIT", "PRIM", "start"], user.start_timeout)
        .await
    {
        Ok(run) => match run.outcome {
            Outcome::Exited { status } if status.success() => ScriptEnd::Started,
            Outcome::Missing => ScriptEnd::Started,
            Outcome::Exited { status } => {
                ScriptEnd::StartFailed(format!("start_prim ended with {status}"))
            }
            Outcome::TimedOut => ScriptEnd::StartFailed(format!(
                "start_prim did not end within {:?}",
                user.start_timeout
            )),
        },
        Err(error) => ScriptEnd::StartFailed(format!("{:#}", anyhow::Error::new(error))),
    }
}

async fn stop(scripts: &Scripts, user: &User) {
    let gentle = scripts
        .run(
            "stop_prim",
            &["PRIM", "STOP", "stop"],
            user.nice_stop_timeout,
        )
        .await;
    if gentle.is_ok_and(|run| run.outcome.is_success()) {
        return;
    }
    tracing::warn!("stop_prim failed: running it again with force");
    let forced = scripts
        .run(
            "stop_prim",
            &["force", "PRIM", "STOP", "stop"],
            user.force_stop_timeout,
        )
        .await;
    match forced {
        Ok(run) if run.outcome.is_success() => {}
        Ok(run) => {
            tracing::warn!(outcome = ?run.outcome, "stop_prim force failed: killing what is left")
        }
        Err(error) => tracing::warn!(%error, "stop_prim force could not run: killing what is left"),
    }
}

/// False when processes survive.
async fn kill(scripts: &Scripts) -> bool {
    let killed = scripts.cgroup().kill(KILL_DEADLINE).await;
    if let Err(error) = &killed {
        tracing::error!(%error, "processes of the module survive");
    }
    killed.is_ok()
}
