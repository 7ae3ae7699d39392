//! What stays behind when this server leaves its cluster: set aside, never deleted.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::paths::Paths;

/// Moves everything that belongs to a membership into a directory of its own. The identity goes first: without it this server
/// belongs to no cluster, and what a crash leaves undone is done at the next start ([`finish`]).
///
/// # Errors
/// Something cannot be moved.
pub fn set_aside(paths: &Paths, label: &str) -> io::Result<PathBuf> {
    let aside = fresh_directory(&paths.left(), label)?;
    for part in [
        paths.identity(),
        paths.raft(),
        paths.modules(),
        paths.packages(),
    ] {
        move_into(&part, &aside)?;
    }
    Ok(aside)
}

/// Completes a leave that was interrupted: a log without an identity belongs to nobody.
///
/// # Errors
/// Something cannot be moved.
pub fn finish(paths: &Paths) -> io::Result<()> {
    let has_log = fs::read_dir(paths.raft()).is_ok_and(|mut entries| entries.next().is_some());
    if has_log {
        let aside = set_aside(paths, "unfinished")?;
        tracing::warn!(
            "a log without an identity was set aside in {}",
            aside.display()
        );
    }
    Ok(())
}

fn fresh_directory(left: &Path, label: &str) -> io::Result<PathBuf> {
    DirBuilder::new().recursive(true).mode(0o700).create(left)?;
    for number in 1_u32.. {
        let aside = left.join(format!("{label}-{number}"));
        match DirBuilder::new().mode(0o700).create(&aside) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
            created => return created.map(|()| aside),
        }
    }
    Err(io::ErrorKind::AlreadyExists.into())
}

fn move_into(part: &Path, aside: &Path) -> io::Result<()> {
    let Some(name) = part.file_name() else {
        return Ok(());
    };
    match fs::rename(part, aside.join(name)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        moved => moved?,
    }
    for directory in [part.parent(), Some(aside)].into_iter().flatten() {
        File::open(directory)?.sync_all()?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_membership_is_set_aside_and_an_interrupted_leave_is_finished() {
        let root = tempfile::tempdir().unwrap();
        let paths = Paths::new(root.path());
        let fill = || {
            for part in [paths.identity(), paths.raft(), paths.modules()] {
                fs::create_dir_all(&part).unwrap();
                fs::write(part.join("file"), "content").unwrap();
            }
        };
        fill();
        let aside = set_aside(&paths, "shop-s2").unwrap();
        assert!(!paths.identity().exists() && !paths.raft().exists());
        assert_eq!(
            fs::read_to_string(aside.join("raft/file")).unwrap(),
            "content"
        );
        // The power failed when only the identity had gone.
        fill();
        fs::remove_dir_all(paths.identity()).unwrap();
        finish(&paths).unwrap();
        assert!(!paths.raft().exists() && !paths.modules().exists());
        // With an empty log there is nothing to finish.
        fs::create_dir_all(paths.raft()).unwrap();
        finish(&paths).unwrap();
        assert!(paths.raft().exists());
    }
}
