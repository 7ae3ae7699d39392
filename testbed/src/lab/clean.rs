//! Removing what dead labs left: directories and cgroups. Living labs are never touched.

use super::{cgroup, files};
use std::fs;

/// Removes directories and cgroups of labs whose process is gone. Answers their names.
///
/// # Errors
/// A directory cannot be read or removed.
pub fn remove_dead_labs() -> anyhow::Result<Vec<String>> {
    let labs = files::all()?;
    let mut removed = Vec::new();
    for (name, is_alive, directory) in &labs {
        if *is_alive {
            continue;
        }
        cgroup::remove_lab(name);
        match fs::remove_dir_all(directory) {
            Ok(()) => removed.push(name.clone()),
            // Another process cleans at the same time.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
    }
    let alive = |name: &String| {
        labs.iter()
            .any(|(lab, is_alive, _)| lab == name && *is_alive)
    };
    for group in cgroup::labs().iter().filter(|name| !alive(name)) {
        if files::base().join(group).exists() {
            continue; // born after we looked
        }
        cgroup::remove_lab(group);
    }
    Ok(removed)
}
