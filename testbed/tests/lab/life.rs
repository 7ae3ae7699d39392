//! Labs come and go without a trace.

use crate::needs_lab;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;
use testbed::lab::{CLIENT, Lab, Topology, cgroup};
use testbed::wait;

const SOON: Duration = Duration::from_secs(20);

fn is_running(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists()
}

/// Goal: after a lab's end there is no process, directory or cgroup of it. Method: look before and after.
#[test]
fn lab_leaves_nothing() {
    needs_lab!();
    let lab = Lab::up(Topology::mirror()).unwrap();
    let said = lab.exec("s1", &["hostname"], SOON).unwrap();
    assert_eq!(said.stdout.trim(), "s1");
    let said = lab.exec(CLIENT, &["ip", "-o", "addr"], SOON).unwrap();
    assert!(said.stdout.contains("10.77.1.200/24"), "{}", said.stdout);
    let directory = lab.site().directory().to_owned();
    let group = lab.server("s1").unwrap().cgroup().to_owned();
    let pids: Vec<u32> = lab.servers().iter().filter_map(|s| s.init_pid()).collect();
    assert_eq!(pids.len(), 3);
    drop(lab);
    assert!(!directory.exists());
    assert!(!group.exists());
    assert!(pids.iter().all(|pid| !is_running(*pid)));
}

/// Goal: even a SIGKILL of the testbed ends all it started, and `lab clean` removes the rest. Method: do it to a child.
#[test]
fn killed_testbed_leaves_nothing_that_runs() {
    needs_lab!();
    let mut child = Command::new(env!("CARGO_BIN_EXE_testbed"))
        .args(["lab", "up", "pair", "--bare"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut text = [0_u8; 4096];
    let length = child.stdout.as_mut().unwrap().read(&mut text).unwrap();
    let text = String::from_utf8_lossy(&text[..length]).into_owned();
    let directory = PathBuf::from(text.lines().next().unwrap().rsplit(' ').next().unwrap());
    let description = std::fs::read_to_string(directory.join("lab.json")).unwrap();
    let description: serde_json::Value = serde_json::from_str(&description).unwrap();
    let pids: Vec<u32> = description["pids"]
        .as_array()
        .unwrap()
        .iter()
        .map(|pair| u32::try_from(pair[1].as_u64().unwrap()).unwrap())
        .collect();
    assert_eq!(pids.len(), 4);
    assert!(pids.iter().all(|pid| is_running(*pid)));
    child.kill().unwrap();
    child.wait().unwrap();
    wait::until("end of all holders", SOON, || {
        match pids.iter().find(|pid| is_running(**pid)) {
            Some(pid) => Err(format!("{pid} still runs")),
            None => Ok(()),
        }
    })
    .unwrap();
    wait::until("cleaning", SOON, || {
        testbed::lab::clean::remove_dead_labs().map_err(|e| e.to_string())?;
        if directory.exists() {
            Err("directory is there".to_owned())
        } else {
            Ok(())
        }
    })
    .unwrap();
    let group = cgroup::mount_point().unwrap().join("sidekick-lab");
    assert!(!group.join(directory.file_name().unwrap()).exists());
}

/// Goal: a server that lost power comes back with its disk and nothing else. Method: files, shared memory, processes, cgroups.
#[test]
fn power_cycle_keeps_the_disk_only() {
    needs_lab!();
    let mut lab = Lab::up(Topology::mirror()).unwrap();
    let data = lab.data_path().join("kept").display().to_string();
    let group = cgroup::mount_point().unwrap().join("module");
    let script = format!(
        "echo 1 > {data} && echo 1 > /dev/shm/gone && mkdir {group} && (sleep 1000 & echo $! > {group}/cgroup.procs)",
        group = group.display()
    );
    // The sleeper keeps the output open: only the file tells when all is done.
    let done = lab.exec("s1", &["sh", "-c", &script], SOON).unwrap();
    assert!(done.is_success(), "{}", done.summary());
    assert_eq!(cgroup::below(lab.server("s1").unwrap().cgroup()).len(), 1);
    lab.power_cut("s1").unwrap();
    assert!(lab.exec("s1", &["true"], SOON).is_err());
    lab.power_on("s1").unwrap();
    let look = format!("cat {data}; ls /dev/shm; ps -e -o comm=");
    let seen = lab.exec("s1", &["sh", "-c", &look], SOON).unwrap();
    assert!(seen.stdout.starts_with('1'), "{}", seen.stdout);
    assert!(!seen.stdout.contains("gone"), "{}", seen.stdout);
    assert!(!seen.stdout.contains("sleep"), "{}", seen.stdout);
    assert!(cgroup::below(lab.server("s1").unwrap().cgroup()).is_empty());
    // Another server has another disk at the same path.
    let other = lab.exec("s2", &["cat", &data], SOON).unwrap();
    assert!(!other.is_success());
}
