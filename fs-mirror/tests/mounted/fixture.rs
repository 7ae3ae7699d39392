//! A directory with the file system mounted over it, gone again when the test is over, failed or not.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use fs_mirror::fs::{Access, Fs};
use fs_mirror::fuse::Answer;
use fs_mirror::mount::{Mount, Unmount};
use fs_mirror::{Alone, Copy, CopyConfig, Gate};

pub(crate) struct Mounted {
    pub(crate) fs: Arc<Fs<Answer>>,
    pub(crate) gate: Arc<Gate>,
    pub(crate) copy: Arc<Copy>,
    mount: Option<Mount>,
    directory: tempfile::TempDir,
}

impl Mounted {
    /// `None` where this machine cannot mount, after saying why.
    pub(crate) fn new(access: Access) -> Option<Mounted> {
        Mounted::with(access, |_| {})
    }

    /// The same after `prepare` has filled the directory.
    pub(crate) fn with(access: Access, prepare: impl FnOnce(&Path)) -> Option<Mounted> {
        if !rustix::process::geteuid().is_root() || std::fs::metadata("/dev/fuse").is_err() {
            println!("skipped: mounting needs root and /dev/fuse");
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        prepare(&data);
        let state_dir = directory.path().join("state");
        let copy = Copy::open(CopyConfig {
            module: "test".into(),
            directory: data.clone(),
            state_dir,
        })
        .unwrap();
        let gate = Arc::new(Gate::open_forever());
        let on_fault = Box::new(|fault| panic!("the disk failed: {fault:?}"));
        let fs =
            Arc::new(Fs::new(&copy, access, Arc::clone(&gate), Arc::new(Alone), on_fault).unwrap());
        let mount = Some(Mount::start(Arc::clone(&fs), &data, 4).unwrap());
        Some(Mounted {
            fs,
            gate,
            copy,
            mount,
            directory,
        })
    }

    /// The mounted directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("data")
    }

    /// Runs a shell script in the mounted directory; it stops at the first failure.
    pub(crate) fn sh(&self, script: &str) -> String {
        let output = self.try_sh(script);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(
            output.status.success(),
            "{script}\n--- {}\n{out}{err}",
            output.status
        );
        out.into_owned()
    }

    pub(crate) fn try_sh(&self, script: &str) -> Output {
        Command::new("bash")
            .args(["-euxc", script])
            .current_dir(self.path())
            .output()
            .unwrap()
    }

    /// Unmounts; afterwards the path leads to the bare directory.
    pub(crate) fn unmount(&mut self) {
        let mount = self.mount.take().unwrap();
        mount
            .stop(Unmount::Clean(Duration::from_secs(5)))
            .map_err(|(error, _)| error)
            .unwrap();
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Some(mount) = self.mount.take()
            && let Err((error, _)) = mount.stop(Unmount::Abort)
        {
            eprintln!("unmount: {error}");
        }
    }
}
