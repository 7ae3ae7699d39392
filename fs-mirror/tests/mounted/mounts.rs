//! Mounts that come, go, die and hide.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use fs_mirror::fs::Access;
use fs_mirror::mount::{Unmount, UnmountError};
use fs_mirror::{Copy, CopyConfig, OpenError};

use crate::Mounted;

fn wait_until(what: &str, mut is_true: impl FnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !is_true() {
        assert!(Instant::now() < deadline, "not in time: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_secondary_shows_what_changes_below_and_refuses_changes() {
    let Some(mounted) = Mounted::with(Access::ReadOnly, |data| {
        std::fs::write(data.join("f"), "one").unwrap()
    }) else {
        return;
    };
    let path = mounted.path();
    assert_eq!(std::fs::read_to_string(path.join("f")).unwrap(), "one");
    let refused = std::fs::write(path.join("f"), "x").unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(30));
    assert_eq!(
        std::fs::create_dir(path.join("d"))
            .unwrap_err()
            .raw_os_error(),
        Some(30)
    );
    // As the replication does it: below the mount.
    let below = mounted.below();
    std::fs::write(below.join("f"), "longer than before").unwrap();
    std::fs::write(below.join("g"), "new").unwrap();
    assert_eq!(
        std::fs::read_to_string(path.join("f")).unwrap(),
        "longer than before"
    );
    assert_eq!(std::fs::read_to_string(path.join("g")).unwrap(), "new");
    std::fs::remove_file(below.join("g")).unwrap();
    assert!(!path.join("g").exists());
}

#[test]
fn a_mount_in_use_is_kept_or_aborted() {
    let Some(mut mounted) = Mounted::new(Access::ReadWrite) else {
        return;
    };
    std::fs::write(mounted.path().join("f"), "x").unwrap();
    let held = std::fs::File::open(mounted.path().join("f")).unwrap();
    let mount = mounted.mount.take().unwrap();
    let (error, mount) = mount
        .stop(Unmount::Clean(Duration::from_millis(50)))
        .unwrap_err();
    assert!(matches!(error, UnmountError::Busy(_)));
    // It still serves.
    std::fs::write(mounted.path().join("f"), "y").unwrap();
    mount
        .stop(Unmount::Abort)
        .map_err(|(error, _)| error)
        .unwrap();
    assert!(std::io::read_to_string(&held).is_err());
    assert_eq!(
        std::fs::read_to_string(mounted.path().join("f")).unwrap(),
        "y"
    );
}

#[test]
fn requests_that_wait_for_the_gate_do_not_keep_an_abort_waiting() {
    let Some(mut mounted) = Mounted::new(Access::ReadWrite) else {
        return;
    };
    std::fs::write(mounted.path().join("f"), "x").unwrap();
    let files =
        (0..6).map(|n| std::fs::File::create(mounted.path().join(format!("f{n}"))).unwrap());
    let files: Vec<_> = files.collect();
    mounted.gate.close();
    let write = |mut file: std::fs::File| std::thread::spawn(move || file.write_all(b"y"));
    let waiting: Vec<_> = files.into_iter().map(write).collect();
    mounted.gate.fence();
    let started = Instant::now();
    mounted
        .mount
        .take()
        .unwrap()
        .stop(Unmount::Abort)
        .map_err(|(error, _)| error)
        .unwrap();
    assert!(started.elapsed() < Duration::from_secs(3));
    for thread in waiting {
        assert!(thread.join().unwrap().is_err());
    }
    assert_eq!(std::fs::read(mounted.path().join("f0")).unwrap(), b"");
}

/// A process that has cloned our mount namespace and leaves it at the end of its input.
struct Elsewhere(Child);

impl Elsewhere {
    fn new() -> Elsewhere {
        let mut child = Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "sh",
                "-c",
                "echo here; read end",
            ])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap())
            .read_line(&mut line)
            .unwrap();
        assert_eq!(line, "here\n");
        Elsewhere(child)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.0.stdin.take().unwrap().write_all(b"\n").unwrap();
        self.0.wait().unwrap();
    }
}

#[test]
fn a_copy_of_the_mount_in_another_namespace_does_not_keep_it_alive() {
    let Some(mut mounted) = Mounted::new(Access::ReadWrite) else {
        return;
    };
    let _elsewhere = Elsewhere::new();
    let started = Instant::now();
    mounted.unmount();
    // Once the threads are given up to see to it themselves, the abort ends them at once.
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
}

/// The daemon of `a_dead_mount_is_detached`: mounts, and waits to be killed.
#[test]
#[ignore = "a helper process of a_dead_mount_is_detached"]
fn helper_that_is_killed() {
    let directory = std::path::PathBuf::from(std::env::var_os("HELPER_DIRECTORY").unwrap());
    let mounted = Mounted::over(&directory, Access::ReadWrite);
    println!("mounted");
    std::io::stdin().read_line(&mut String::new()).unwrap();
    drop(mounted);
}

#[test]
fn a_dead_mount_is_detached() {
    if !Mounted::can_mount() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::create_dir(directory.path().join("data")).unwrap();
    std::fs::write(directory.path().join("data/f"), "x").unwrap();
    let (data, state_dir) = (
        directory.path().join("data"),
        directory.path().join("state"),
    );
    let config = CopyConfig {
        module: "test".into(),
        directory: data.clone(),
        run_dir: state_dir.clone(),
        state_dir,
    };
    for _ in 0..2 {
        let mut daemon = Command::new(std::env::current_exe().unwrap())
            .args([
                "--ignored",
                "--exact",
                "--nocapture",
                "mounts::helper_that_is_killed",
            ])
            .env("HELPER_DIRECTORY", directory.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(daemon.stdout.take().unwrap()).lines();
        assert!(
            lines
                .map_while(Result::ok)
                .any(|line| line.ends_with("mounted"))
        );
        let running = Copy::open(config.clone()).unwrap_err();
        assert!(matches!(running, OpenError::AlreadyMounted(_)), "{running}");
        // The kernel remembers attributes of the root: the mount looks alive to a stat.
        std::fs::metadata(&data).unwrap();
        daemon.kill().unwrap();
        daemon.wait().unwrap();
        wait_until("the mount is dead", || {
            std::fs::read(data.join("f")).is_err()
        });
        let copy = Copy::open(config.clone()).unwrap();
        assert_eq!(std::fs::read_to_string(data.join("f")).unwrap(), "x");
        drop(copy);
    }
}
