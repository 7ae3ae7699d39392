//! The daemon's own start and end, and what it says while it lags behind.

use api::v1::ModuleState;
use std::os::unix::net::UnixStream;
use std::time::Duration;
use testbed::cluster::observe::{Observer, control_socket};
use testbed::cluster::{Cluster, MODULE, package};
use testbed::lab::{Lab, Topology};
use testbed::wait;

const SOON: Duration = Duration::from_secs(20);
/// Half a second for answers under way, and a busy machine.
const STOP_DEADLINE: Duration = Duration::from_secs(5);

/// Goal: SIGTERM ends the daemon whatever its clients do. Method: one client that has an answer and keeps its connection
/// without looking at it again, one that never says a word.
#[test]
fn regression_silent_clients_do_not_keep_the_daemon() {
    if let Some(why) = testbed::cluster::missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let mut lab = Lab::up(Topology::named("pair").unwrap()).unwrap();
    lab.start_daemon("s1").unwrap();
    let root = lab.root("s1");
    let silent = wait::until("the control socket", SOON, || {
        UnixStream::connect(control_socket(&root)).map_err(|e| e.to_string())
    })
    .unwrap();
    let observer = Observer::new().unwrap();
    let answer = observer.cluster(&root);
    lab.terminate_daemon("s1", STOP_DEADLINE).unwrap();
    drop((silent, answer));
}

/// Goal: a daemon that was told to end leads no more once it has left; it would go with its mount and its watchdog. Method: a lone
/// primary, and a client that keeps the daemon for half a second after that.
#[test]
fn regression_who_has_left_does_not_lead_again() {
    if let Some(why) = testbed::cluster::missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let mut cluster = Cluster::form(Lab::up(Topology::mirror()).unwrap()).unwrap();
    let bare = package::write_bare(cluster.lab()).unwrap();
    let bare = bare.display().to_string();
    let s1 = cluster.skcli("s1").unwrap();
    let install = ["module", "install", &bare, "-m", MODULE];
    s1.json(&[install.as_slice(), &["--servers", "s1,s2"]].concat())
        .unwrap();
    s1.json(&["module", "prim", "-m", MODULE]).unwrap();
    cluster
        .wait_state("s1", &[ModuleState::Alone], SOON)
        .unwrap();
    let silent = UnixStream::connect(control_socket(&cluster.lab().root("s1"))).unwrap();
    cluster
        .lab_mut()
        .terminate_daemon("s1", STOP_DEADLINE)
        .unwrap();
    drop(silent);
    let log = cluster.lab().server("s1").unwrap().log();
    let log = std::fs::read_to_string(log).unwrap();
    let (_, after) = log.split_once("asked to stop").unwrap();
    assert!(
        after.contains("DrainAndUnmount") && !after.contains("MountPrimary"),
        "{after}"
    );
}

/// Goal: a module that was just installed elsewhere is not called unknown. Method: it is installed while the witness is cut off; the
/// witness says what it cannot know, and once healed waits until it knows.
#[test]
fn regression_a_server_that_lags_asks_before_it_calls_a_module_unknown() {
    if let Some(why) = testbed::cluster::missing() {
        eprintln!("skipped: {why}");
        return;
    }
    let cluster = Cluster::form(Lab::up(Topology::mirror()).unwrap()).unwrap();
    cluster.lab().isolate("w").unwrap();
    let bare = package::write_bare(cluster.lab()).unwrap();
    let bare = bare.display().to_string();
    let install = [
        "module",
        "install",
        &bare,
        "-m",
        MODULE,
        "--servers",
        "s1,s2",
    ];
    let s1 = cluster.skcli("s1").unwrap();
    s1.json(&install).unwrap();
    s1.json(&["module", "prim", "-m", MODULE]).unwrap();
    let state = ["module", "state", "-m", MODULE];
    let refused = cluster.skcli("w").unwrap().try_run(&state).unwrap();
    assert!(
        !refused.is_success() && refused.stderr.contains("may not have heard of the newest"),
        "{}",
        refused.summary()
    );
    let done = std::thread::scope(|scope| {
        let asked = scope.spawn(|| cluster.skcli("w").unwrap().try_run(&state).unwrap());
        cluster.lab().heal().unwrap();
        asked.join().unwrap()
    });
    assert!(done.is_success(), "{}", done.summary());
}
