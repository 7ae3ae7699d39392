//! Goal: the machine is reset only when nothing softer is left, and then for sure. Method: a fifo for the device, whose reader
//! sees every sign of life; and the real device, where there is one and nobody uses it.

use std::fs::File;
use std::io::Read as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::time::Instant;

use super::*;

const SOON: Duration = Duration::from_secs(10);

struct Fixture {
    dir: tempfile::TempDir,
    device: PathBuf,
    reader: File,
}

impl Fixture {
    fn new() -> Fixture {
        let dir = tempfile::tempdir().unwrap();
        let device = dir.path().join("device");
        rustix::fs::mknodat(
            rustix::fs::CWD,
            &device,
            rustix::fs::FileType::Fifo,
            rustix::fs::Mode::RUSR | rustix::fs::Mode::WUSR,
            0,
        )
        .unwrap();
        let reader = std::fs::OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(&device)
            .unwrap();
        Fixture {
            dir,
            device,
            reader,
        }
    }

    fn watchdog(&self) -> Watchdog {
        Watchdog::new(Some(self.device.clone()), self.dir.path())
    }

    /// What was written since the last call.
    fn written(&mut self) -> String {
        let mut text = Vec::new();
        // Nothing to read is no error here.
        let _ = self.reader.read_to_end(&mut text);
        String::from_utf8(text).unwrap()
    }

    fn wait_for_life(&mut self) {
        let until = Instant::now() + SOON;
        while !self.written().contains('1') {
            assert!(Instant::now() < until, "no sign of life");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn it_is_armed_with_the_first_and_disarmed_after_the_last() {
    let mut fixture = Fixture::new();
    let watchdog = fixture.watchdog();
    assert!(watchdog.hold("a").unwrap() && watchdog.hold("b").unwrap());
    fixture.wait_for_life();
    watchdog.release("a");
    fixture.wait_for_life();
    watchdog.release("b");
    assert!(fixture.written().ends_with('V'), "no magic close");
    watchdog.release("b");
    assert_eq!(watchdog.settle().unwrap(), Before::Quiet);
    // It can be armed again.
    assert!(watchdog.hold("a").unwrap());
    watchdog.release("a");
    assert!(fixture.written().ends_with("1V"));
}

#[test]
fn without_a_device_nothing_happens() {
    let dir = tempfile::tempdir().unwrap();
    for path in [None, Some(dir.path().join("no such device"))] {
        let watchdog = Watchdog::new(path, dir.path());
        assert!(!watchdog.hold("a").unwrap());
        assert!(!watchdog.bite());
        watchdog.release("a");
        assert_eq!(watchdog.settle().unwrap(), Before::Quiet);
    }
}

#[test]
fn a_device_that_somebody_else_uses_is_an_error_and_leaves_no_note() {
    let fixture = Fixture::new();
    let watchdog = fixture.watchdog();
    drop(fixture.reader);
    // A fifo without a reader refuses, as a device in use does.
    let error = watchdog.hold("a").unwrap_err();
    assert!(matches!(error, WatchdogError::Open { .. }), "{error}");
    assert_eq!(watchdog.settle().unwrap(), Before::Quiet);
}

#[test]
fn daemon_that_does_not_beat_gives_no_sign_of_life() {
    let mut fixture = Fixture::new();
    let watchdog = fixture.watchdog();
    watchdog.0.beat_ns.store(0, Ordering::Release);
    assert!(watchdog.hold("a").unwrap());
    fixture.written();
    // Two turns of the thread.
    std::thread::sleep(PET_EVERY * 2);
    assert_eq!(fixture.written(), "");
    watchdog.beat();
    fixture.wait_for_life();
    watchdog.release("a");
}

#[test]
fn bitten_it_falls_silent_and_cannot_be_called_off() {
    let mut fixture = Fixture::new();
    let watchdog = fixture.watchdog();
    assert!(watchdog.hold("pg").unwrap());
    assert!(watchdog.bite());
    watchdog.note_cause("processes of pg survive and its mount cannot be aborted");
    fixture.written();
    watchdog.release("pg");
    assert!(watchdog.hold("other").unwrap());
    std::thread::sleep(PET_EVERY * 2);
    assert_eq!(fixture.written(), "");
    let left = watchdog.0.note.lock().read().unwrap().unwrap();
    assert_eq!(
        left.cause,
        "processes of pg survive and its mount cannot be aborted"
    );
}

#[test]
fn what_a_killed_daemon_armed_is_disarmed_and_a_reset_is_explained() {
    let mut fixture = Fixture::new();
    let killed = fixture.watchdog();
    assert!(killed.hold("pg").unwrap());
    std::mem::forget(killed);
    fixture.written();
    let next = fixture.watchdog();
    assert_eq!(next.settle().unwrap(), Before::Disarmed);
    assert!(fixture.written().contains('V'));
    // The same after a boot: nothing ticks any more, and the cause is told.
    let note = fixture.dir.path().join("watchdog-armed");
    std::fs::write(
        &note,
        "another boot\n/dev/watchdog\nthis server was primary of pg\n",
    )
    .unwrap();
    let told = fixture.watchdog().settle().unwrap();
    assert_eq!(told, Before::Reset("this server was primary of pg".into()));
    assert_eq!(fixture.watchdog().settle().unwrap(), Before::Quiet);
}

#[test]
fn regression_the_device_that_ticks_is_disarmed_whatever_is_named_now() {
    for named in [None, Some("another device")] {
        let mut fixture = Fixture::new();
        let killed = fixture.watchdog();
        assert!(killed.hold("pg").unwrap());
        std::mem::forget(killed);
        fixture.written();
        let named = named.map(|name| fixture.dir.path().join(name));
        let next = Watchdog::new(named, fixture.dir.path());
        assert_eq!(next.settle().unwrap(), Before::Disarmed);
        assert!(fixture.written().contains('V'));
    }
}

/// Goal: signs of life go on while the note cannot be written. Method: whoever writes it holds it.
#[test]
fn regression_a_disk_that_hangs_resets_nobody() {
    let mut fixture = Fixture::new();
    let watchdog = fixture.watchdog();
    assert!(watchdog.hold("a").unwrap());
    let hanging = watchdog.0.note.lock();
    let other = {
        let watchdog = watchdog.clone();
        std::thread::spawn(move || watchdog.hold("b"))
    };
    fixture.written();
    fixture.wait_for_life();
    drop(hanging);
    assert!(other.join().unwrap().unwrap());
    watchdog.release("a");
    watchdog.release("b");
}

/// Goal: the reset does not wait for the disk either. Method: whoever writes the note holds it.
#[test]
fn a_disk_that_hangs_puts_no_reset_off() {
    let mut fixture = Fixture::new();
    let watchdog = fixture.watchdog();
    assert!(watchdog.hold("a").unwrap());
    let hanging = watchdog.0.note.lock();
    assert!(watchdog.bite());
    fixture.written();
    // Two turns of the thread.
    std::thread::sleep(PET_EVERY * 2);
    assert_eq!(fixture.written(), "");
    drop(hanging);
}

/// Goal: the real interface. Method: arm and disarm at once; a machine must survive its tests, so only where asked for.
#[test]
fn real_device_is_armed_and_disarmed() {
    let path = Path::new("/dev/watchdog");
    let Ok(wanted) = std::env::var("SIDEKICK_TEST_WATCHDOG") else {
        let there = if path.exists() {
            "is there"
        } else {
            "does not exist"
        };
        println!(
            "skipped: /dev/watchdog {there}; set SIDEKICK_TEST_WATCHDOG=1 to arm and disarm it"
        );
        return;
    };
    assert_eq!(wanted, "1");
    let dir = tempfile::tempdir().unwrap();
    let watchdog = Watchdog::new(Some(path.to_owned()), dir.path());
    assert!(watchdog.hold("test").unwrap());
    watchdog.release("test");
}
