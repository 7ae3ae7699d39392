//! What stays behind when this server leaves its cluster: set aside, never deleted.

use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use crate::paths::Paths;

/// What belongs to a membership, in the order in which it goes. The identity is first: without it this server belongs to no
/// cluster. The log is last: a server that joins again must not meet anything of before, so as long as anything is left there is
/// something that says so, and what a crash leaves undone is done at the next start ([`finish`]).
fn parts(paths: &Paths) -> [PathBuf; 4] {
    [
        paths.identity(),
        paths.modules(),
        paths.packages(),
        paths.raft(),
    ]
}

/// Moves everything that belongs to a membership into a directory of its own.
///
/// # Errors
/// Something cannot be moved.
pub fn set_aside(paths: &Paths, label: &str) -> io::Result<PathBuf> {
    let aside = fresh_directory(&paths.left(), label)?;
    for part in parts(paths) {
        move_into(&part, &aside)?;
    }
    Ok(aside)
}

/// Nothing of any membership is here.
pub fn is_clean(paths: &Paths) -> bool {
    !parts(paths).iter().any(|part| is_left(part))
}

fn is_left(part: &Path) -> bool {
    fs::read_dir(part).is_ok_and(|mut entries| entries.next().is_some())
}

/// Completes a leave that was interrupted: what is there without an identity belongs to nobody.
///
/// # Errors
/// Something cannot be moved.
pub fn finish(paths: &Paths) -> io::Result<()> {
    if !is_clean(paths) {
        let aside = set_aside(paths, "unfinished")?;
        tracing::warn!(
            "what was left of a membership without an identity was set aside in {}",
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
    fn a_membership_is_set_aside() {
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
        // With empty directories there is nothing to finish.
        for part in parts(&paths) {
            fs::create_dir_all(part).unwrap();
        }
        finish(&paths).unwrap();
        assert!(parts(&paths).iter().all(|part| part.exists()));
    }

    #[test]
    fn regression_a_leave_that_stopped_after_any_move_is_finished() {
        for moved in 1..=parts(&Paths::new(Path::new("/"))).len() {
            let root = tempfile::tempdir().unwrap();
            let paths = Paths::new(root.path());
            for part in parts(&paths) {
                fs::create_dir_all(&part).unwrap();
                fs::write(part.join("file"), "content").unwrap();
            }
            // The power failed after so many moves.
            let aside = fresh_directory(&paths.left(), "shop-s2").unwrap();
            for part in parts(&paths).iter().take(moved) {
                move_into(part, &aside).unwrap();
            }
            finish(&paths).unwrap();
            for part in parts(&paths) {
                assert!(!part.exists(), "after {moved} moves: {}", part.display());
            }
        }
    }
}
