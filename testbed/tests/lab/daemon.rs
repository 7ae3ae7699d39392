//! The daemon's own start and end, without a cluster.

use std::os::unix::net::UnixStream;
use std::time::Duration;
use testbed::cluster::observe::{Observer, control_socket};
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
