//! A directory with the file system mounted over it, gone again when the test is over, failed or not.

use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::time::Duration;

use fs_mirror::fs::{Access, Fs};
use fs_mirror::mount::{Mount, Unmount};
use fs_mirror::{Alone, Copy, CopyConfig, Gate};

pub(crate) struct Mounted {
    pub(crate) gate: Arc<Gate>,
    pub(crate) mount: Option<Mount>,
    copy: Arc<Copy>,
    data: PathBuf,
    /// Removed last; none when the directory belongs to somebody else.
    directory: Option<tempfile::TempDir>,
}

impl Mounted {
    /// Says why when this machine cannot mount.
    pub(crate) fn can_mount() -> bool {
        let can = rustix::process::geteuid().is_root() && std::fs::metadata("/dev/fuse").is_ok();
        if !can {
            println!("skipped: mounting needs root and /dev/fuse");
        }
        can
    }

    /// `None` where this machine cannot mount.
    pub(crate) fn new(access: Access) -> Option<Mounted> {
        Mounted::with(access, |_| {})
    }

    /// The same after `prepare` has filled the directory.
    pub(crate) fn with(access: Access, prepare: impl FnOnce(&Path)) -> Option<Mounted> {
        if !Mounted::can_mount() {
            return None;
        }
        let directory = tempfile::tempdir().unwrap();
        let data = directory.path().join("data");
        std::fs::create_dir(&data).unwrap();
        prepare(&data);
        let mut mounted = Mounted::over(directory.path(), access);
        mounted.directory = Some(directory);
        Some(mounted)
    }

    /// Mounts over `data` in a directory.
    pub(crate) fn over(directory: &Path, access: Access) -> Mounted {
        let (data, state_dir) = (directory.join("data"), directory.join("state"));
        let config = CopyConfig {
            module: "test".into(),
            directory: data.clone(),
            run_dir: state_dir.clone(),
            state_dir,
        };
        let copy = Copy::open(config).unwrap();
        let gate = Arc::new(Gate::open_forever());
        let on_fault = Box::new(|fault| panic!("the disk failed: {fault:?}"));
        let fs =
            Arc::new(Fs::new(&copy, access, Arc::clone(&gate), Arc::new(Alone), on_fault).unwrap());
        let mount = Some(Mount::start(fs, &data, 4).unwrap());
        Mounted {
            gate,
            mount,
            copy,
            data,
            directory: None,
        }
    }

    /// The mounted directory.
    pub(crate) fn path(&self) -> PathBuf {
        self.data.clone()
    }

    /// The real directory under the mount.
    pub(crate) fn below(&self) -> PathBuf {
        PathBuf::from(format!("/proc/self/fd/{}", self.copy.root().as_raw_fd()))
    }

    /// Runs a shell script in the mounted directory; it stops at the first failure.
    pub(crate) fn sh(&self, script: &str) {
        let output = self.try_sh(script);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{}\n{out}{err}", output.status);
    }

    fn try_sh(&self, script: &str) -> Output {
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
