//! What a server must not keep (P11): mounts, cgroups, addresses, file descriptors, memory.

use crate::lab::{LANS, Lab, cgroup, topology};
use anyhow::{Context as _, ensure};
use std::collections::BTreeSet;
use std::time::Duration;

/// `ip` answers in this time.
const TOOL_DEADLINE: Duration = Duration::from_secs(10);
/// File descriptors a daemon may have gained over a run; the kernel and the runtime keep a few.
const DESCRIPTORS_GROWTH_MAX: usize = 64;
/// A daemon with one module, whatever it went through.
const RESIDENT_KIB_MAX: u64 = 100 << 10;

/// What a server has at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holdings {
    /// FUSE mounts over its data; others belong to whatever else the machine does.
    pub mounts: BTreeSet<String>,
    /// cgroups below its own.
    pub cgroups: usize,
    /// Addresses of its interfaces that are not its own: the virtual ones.
    pub addresses: BTreeSet<String>,
    /// Open descriptors of its daemon; 0 when it does not run.
    pub descriptors: usize,
    /// Resident memory of its daemon in KiB; 0 when it does not run.
    pub resident_kib: u64,
}

/// Looks at a server that has power.
///
/// # Errors
/// It has none.
pub fn holdings(lab: &Lab, name: &str) -> anyhow::Result<Holdings> {
    let server = lab.server(name)?;
    let init = server
        .init_pid()
        .with_context(|| format!("{name} has no power"))?;
    let mounts = std::fs::read_to_string(format!("/proc/{init}/mounts"))?;
    let listed = lab.exec(name, &["ip", "-o", "addr"], TOOL_DEADLINE)?;
    ensure!(listed.is_success(), "ip addr: {}", listed.summary());
    let (descriptors, resident_kib) = match server.daemon_pid() {
        Some(pid) => (
            std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count),
            resident_kib(pid),
        ),
        None => (0, 0),
    };
    Ok(Holdings {
        mounts: mounts
            .lines()
            .filter(|line| {
                line.split(' ')
                    .nth(2)
                    .is_some_and(|kind| kind.starts_with("fuse"))
            })
            .filter_map(|line| line.split(' ').nth(1))
            .filter(|directory| std::path::Path::new(directory).starts_with(lab.data_path()))
            .map(str::to_owned)
            .collect(),
        cgroups: cgroup::below(server.cgroup()).len(),
        addresses: listed
            .stdout
            .lines()
            .filter_map(|line| line.split_whitespace().nth(3))
            .filter(|address| !is_own(address, server.node().host))
            .map(str::to_owned)
            .collect(),
        descriptors,
        resident_kib,
    })
}

/// Loopback, link-local, or the address the lab gave to this host.
fn is_own(address: &str, host: u8) -> bool {
    let bare = address.split('/').next().unwrap_or(address);
    let given = LANS.into_iter().any(|lan| {
        bare == topology::address_v4(lan, host).to_string()
            || bare == topology::address_v6(lan, host).to_string()
    });
    given || bare.starts_with("127.") || bare == "::1" || bare.starts_with("fe80:")
}

/// Resident memory of a process in KiB.
pub fn resident_kib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse().ok())
        .unwrap_or(0)
}

/// A server holds nothing that it did not hold before: used when it is in the same role again.
///
/// # Errors
/// Names what was left behind.
pub fn verify_same(before: &Holdings, after: &Holdings) -> anyhow::Result<()> {
    ensure!(
        before.mounts == after.mounts,
        "mounts were left behind: before {:?}, after {:?}",
        before.mounts,
        after.mounts
    );
    ensure!(
        after.cgroups <= before.cgroups,
        "cgroups were left behind: before {}, after {}",
        before.cgroups,
        after.cgroups
    );
    ensure!(
        before.addresses == after.addresses,
        "addresses were left behind: before {:?}, after {:?}",
        before.addresses,
        after.addresses
    );
    ensure!(
        after.descriptors <= before.descriptors + DESCRIPTORS_GROWTH_MAX,
        "file descriptors grow: before {}, after {}",
        before.descriptors,
        after.descriptors
    );
    ensure!(
        after.resident_kib <= RESIDENT_KIB_MAX,
        "the daemon keeps {} KiB of memory, {RESIDENT_KIB_MAX} at most are allowed",
        after.resident_kib
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holdings(mounts: &[&str], addresses: &[&str]) -> Holdings {
        Holdings {
            mounts: mounts.iter().map(|m| (*m).to_owned()).collect(),
            cgroups: 1,
            addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
            descriptors: 50,
            resident_kib: 0,
        }
    }

    #[test]
    fn every_planted_leak_is_found() {
        let clean = holdings(&["/data"], &["10.77.1.100/32"]);
        verify_same(&clean, &clean).expect("nothing was left");
        let mount = holdings(&["/data", "/old"], &["10.77.1.100/32"]);
        verify_same(&clean, &mount).expect_err("a mount was left");
        let address = holdings(&["/data"], &[]);
        verify_same(&address, &clean).expect_err("an address was left");
        let cgroup = Holdings {
            cgroups: 2,
            ..clean.clone()
        };
        verify_same(&clean, &cgroup).expect_err("a cgroup was left");
        let descriptors = Holdings {
            descriptors: 500,
            ..clean.clone()
        };
        verify_same(&clean, &descriptors).expect_err("descriptors grow");
        let memory = Holdings {
            resident_kib: RESIDENT_KIB_MAX + 1,
            ..clean.clone()
        };
        verify_same(&clean, &memory).expect_err("memory is kept");
    }

    #[test]
    fn only_foreign_addresses_count() {
        for own in [
            "127.0.0.1/8",
            "::1/128",
            "fe80::1/64",
            "10.77.1.3/24",
            "fd00:4d:2::3/64",
        ] {
            assert!(is_own(own, 3), "{own}");
        }
        for foreign in ["10.77.1.100/32", "10.77.1.4/24", "fd00:4d:1::64/128"] {
            assert!(!is_own(foreign, 3), "{foreign}");
        }
    }
}
