//! Control groups of a lab: one below the lab's for each server, which is the root of all the server sees.

use anyhow::Context as _;
use std::fs;
use std::path::{Path, PathBuf};

/// All labs are below this group.
const TOP: &str = "sidekick-lab";

/// Where cgroup version 2 is mounted.
pub fn mount_point() -> anyhow::Result<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mounts").context("read /proc/self/mounts")?;
    mounts
        .lines()
        .filter_map(|line| {
            let mut fields = line.split(' ');
            let (_source, target, kind) = (fields.next()?, fields.next()?, fields.next()?);
            (kind == "cgroup2").then(|| PathBuf::from(target))
        })
        .next()
        .context("cgroup version 2 is not mounted on this machine")
}

/// Makes the group of one server of a lab.
pub(super) fn create(lab: &str, server: &str) -> anyhow::Result<PathBuf> {
    let group = mount_point()?.join(TOP).join(lab).join(server);
    fs::create_dir_all(&group).with_context(|| format!("make cgroup {}", group.display()))?;
    Ok(group)
}

/// Removes all groups of a lab. Groups that still hold processes stay: nothing of a lab is killed from here.
pub(super) fn remove_lab(lab: &str) {
    if let Ok(top) = mount_point() {
        remove_tree(&top.join(TOP).join(lab));
        // Only the last lab succeeds here.
        let _still_used = fs::remove_dir(top.join(TOP));
    }
}

fn remove_tree(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
    if let Err(error) = fs::remove_dir(group) {
        tracing::debug!(group = %group.display(), %error, "cgroup stays");
    }
}

/// Removes the groups a dead server left below its own, as a reboot would.
pub(super) fn reset(group: &Path) {
    let Ok(entries) = fs::read_dir(group) else {
        return;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_tree(&entry.path());
        }
    }
}

/// Every group below `group`, for the leak check.
pub fn below(group: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let Ok(entries) = fs::read_dir(group) else {
        return found;
    };
    for entry in entries.flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            found.extend(below(&entry.path()));
            found.push(entry.path());
        }
    }
    found
}

/// Names of labs that have a group.
pub(super) fn labs() -> Vec<String> {
    let Ok(top) = mount_point() else {
        return Vec::new();
    };
    fs::read_dir(top.join(TOP))
        .map(|entries| {
            entries
                .flatten()
                .filter(|e| e.file_type().is_ok_and(|kind| kind.is_dir()))
                .map(|e| e.file_name().to_string_lossy().into_owned())
                .collect()
        })
        .unwrap_or_default()
}
