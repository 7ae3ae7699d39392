//! Where things are on disk; `--root` moves them all.

use std::path::{Path, PathBuf};

use consensus::state::{ModuleName, PackageHash};

/// The directories of one daemon.
#[derive(Clone, Debug)]
pub struct Paths {
    root: PathBuf,
}

impl Paths {
    /// Below `root`; `/` on a real server.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// What everything is below.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// State that must survive. Secrets are in directories of 0700 below.
    pub fn state(&self) -> PathBuf {
        self.root.join("var/lib/sidekick")
    }

    /// Keys and certificates, and who this server is.
    pub fn identity(&self) -> PathBuf {
        self.state().join("identity")
    }

    /// The Raft log.
    pub fn raft(&self) -> PathBuf {
        self.state().join("raft")
    }

    /// What former memberships left behind.
    pub fn left(&self) -> PathBuf {
        self.state().join("left")
    }

    /// Where packages are kept.
    pub fn packages(&self) -> PathBuf {
        self.state().join("packages")
    }

    /// Where modules keep what is theirs on this server.
    pub fn modules(&self) -> PathBuf {
        self.state().join("modules")
    }

    /// Packages by hash.
    pub fn package(&self, hash: &PackageHash) -> PathBuf {
        self.packages().join(format!("{hash}.safe"))
    }

    /// What a module keeps on this server: its epoch, its scripts' files and logs.
    pub fn module(&self, name: &ModuleName) -> PathBuf {
        self.modules().join(name.to_string())
    }

    /// What the scripts of a module keep here, and where their output goes.
    pub fn scripts(&self, name: &ModuleName) -> PathBuf {
        self.module(name).join("scripts")
    }

    /// The unpacked package of a module.
    pub fn unpacked(&self, name: &ModuleName, hash: &PackageHash) -> PathBuf {
        self.module(name).join(format!("package-{hash}"))
    }

    /// What lives until the machine starts again.
    pub fn run(&self) -> PathBuf {
        self.root.join("run/sidekick")
    }

    /// Where skcli finds this daemon.
    pub fn control_socket(&self) -> PathBuf {
        self.run().join("control.sock")
    }

    /// Held locked while a daemon runs, so that a second one is refused.
    pub fn lock(&self) -> PathBuf {
        self.state().join("lock")
    }
}
