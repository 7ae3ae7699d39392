//! A module as it lies on this server, before its agent does anything with it.

use std::path::PathBuf;
use std::sync::Arc;

use consensus::state::ModuleName;
use fs_mirror::{Copy, CopyConfig};
use module::Configuration;

use super::open_addition::OpenAddition;
use super::scripts::Application;
use crate::member::Member;
use crate::packages;
use crate::shell::blocking::blocking;

/// Why a module cannot run on this server for now.
#[derive(Debug, thiserror::Error)]
pub(super) enum NotReady {
    #[error("package")]
    Package(#[from] packages::PackageError),
    #[error("replicated directory")]
    Copy(#[from] fs_mirror::OpenError),
    #[error("state directory")]
    State(#[from] std::io::Error),
    #[error("virtual address")]
    Address(#[from] crate::shell::addresses::AddressError),
    #[error("control group")]
    Cgroup(#[from] crate::shell::cgroup::CgroupError),
}

/// A module as it lies on this server: unpacked, its directory open, nothing left over from an earlier daemon.
pub(super) struct Installed {
    /// Which installation of the module this is.
    pub(super) installation: u64,
    pub(super) configuration: Configuration,
    pub(super) directory: PathBuf,
    pub(super) copy: Arc<Copy>,
    pub(super) addition: Arc<OpenAddition>,
    pub(super) application: Application,
}

impl Installed {
    /// `None` when the module is not installed any more.
    pub(super) async fn prepare(
        member: &Arc<Member>,
        module: &ModuleName,
    ) -> Result<Option<Installed>, NotReady> {
        let state = member.state();
        let Some(record) = state.modules.get(module) else {
            return Ok(None);
        };
        let installation = record.installation;
        let module_dir = member.module_dir(module)?;
        let (package, unpacked) = packages::unpacked(member, module, &record.package).await?;
        let configuration = package.configuration().clone();
        let directory = configuration
            .rfs
            .directories
            .first()
            .cloned()
            .unwrap_or_default();
        let application = Application::new(member, module, &configuration, &unpacked, &directory)?;
        application.end_leftovers().await?;
        let config = CopyConfig {
            module: module.to_string(),
            directory: directory.clone(),
            state_dir: module_dir.clone(),
            run_dir: member.paths.run(),
        };
        let scripts = member.paths.scripts(module);
        let addresses = configuration.addresses();
        // A mount that does not answer keeps its opener waiting: not on a thread that others need.
        let opening = blocking(move || {
            std::fs::create_dir_all(scripts)?;
            crate::shell::addresses::remove_leftovers(&addresses)?;
            let copy = Copy::open(config)?;
            let addition = OpenAddition::load(&module_dir)?;
            Ok::<_, NotReady>((copy, Arc::new(addition)))
        });
        let (copy, addition) = opening.await?;
        Ok(Some(Installed {
            installation,
            configuration,
            copy,
            addition,
            application,
            directory,
        }))
    }
}
