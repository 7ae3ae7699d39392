//! The ledger and the recorder, without a cluster: the oracle must be right before anything is judged by it.

use crate::needs_lab;
use std::process::{Child, Stdio};
use std::time::Duration;
use testbed::lab::{Lab, Topology, topology};
use testbed::oracle::{Application, Load, Recorder, Target};
use testbed::wait;

const SOON: Duration = Duration::from_secs(20);
const TWO_WRITERS: Load = Load {
    writers: 2,
    rest: Duration::ZERO,
};

pub(crate) fn start_ledger(lab: &Lab) -> Child {
    let directory = lab.data_path().join("ledger").display().to_string();
    let command = [
        env!("CARGO_BIN_EXE_testbed"),
        "ledger",
        "--dir",
        &directory,
        "--listen",
        "10.77.1.1:8080",
    ];
    lab.command("s1", &command)
        .unwrap()
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

fn record(lab: &Lab) -> Recorder {
    let target = Target::at(Application::Ledger, topology::address_v4(1, 1).into());
    wait::until("the ledger", SOON, || {
        let log = lab.site().directory().join("acknowledged");
        Recorder::start(lab.client_network().unwrap(), target, TWO_WRITERS, log)
            .map_err(|e| format!("{e:#}"))
    })
    .unwrap()
}

/// Goal: what is acknowledged survives a power cycle of the ledger's server, and the recorder goes on by itself.
#[test]
fn acknowledged_rows_survive_a_power_cycle() {
    needs_lab!();
    let mut lab = Lab::up(Topology::mirror()).unwrap();
    let mut ledger = start_ledger(&lab);
    let recorder = record(&lab);
    recorder.wait_load(20, SOON).unwrap();
    let cut = lab.power_cut("s1").unwrap().done_ns;
    ledger.wait().unwrap();
    lab.power_on("s1").unwrap();
    let mut ledger = start_ledger(&lab);
    recorder.wait_served(cut, SOON).unwrap();
    recorder.wait_load(20, SOON).unwrap();
    let report = recorder.finish().unwrap();
    assert!(report.acknowledged >= 40, "{report:?}");
    assert_eq!(report.lost, Vec::<u64>::new());
    assert!(report.unknown >= 1, "the cut hit no write: {report:?}");
    drop(lab);
    ledger.wait().unwrap();
}

/// Goal: the recorder finds a loss. Method: throw the database away behind its back.
#[test]
fn planted_loss_is_found() {
    needs_lab!();
    let mut lab = Lab::up(Topology::mirror()).unwrap();
    let mut ledger = start_ledger(&lab);
    let recorder = record(&lab);
    recorder.wait_load(20, SOON).unwrap();
    let cut = lab.power_cut("s1").unwrap().done_ns;
    ledger.wait().unwrap();
    std::fs::remove_dir_all(lab.data_below("s1").join("ledger")).unwrap();
    lab.power_on("s1").unwrap();
    let mut ledger = start_ledger(&lab);
    recorder.wait_served(cut, SOON).unwrap();
    let report = recorder.finish().unwrap();
    assert!(report.lost.len() >= 20, "{report:?}");
    drop(lab);
    ledger.wait().unwrap();
}
