//! Replicated directories: plain absolute paths, none inside another.

use super::mirror::DIRECTORIES_MAX;
use super::rejection::{DirectoryProblem, Rejection};

/// The longest path the kernel takes, without its terminating NUL.
const PATH_BYTES_MAX: usize = 4095;

/// The directories as they are kept: checked, without a slash at the end.
pub(super) fn checked(given: &[String]) -> Result<Vec<String>, Rejection> {
    if given.is_empty() || given.len() > DIRECTORIES_MAX {
        return Err(Rejection::DirectoryCount { given: given.len() });
    }
    let mut kept: Vec<String> = Vec::with_capacity(given.len());
    for directory in given {
        let plain = plain(directory).map_err(|problem| Rejection::DirectoryInvalid {
            directory: shown(directory),
            problem,
        })?;
        if let Some(other) = kept.iter().find(|other| overlap(other, plain)) {
            return Err(Rejection::DirectoryOverlaps {
                directory: plain.to_owned(),
                other: None,
                other_directory: other.clone(),
            });
        }
        kept.push(plain.to_owned());
    }
    Ok(kept)
}

/// One is the other, or lies in it. By parts of the path: `/srv/a` and `/srv/ab` do not overlap.
pub(super) fn overlap(a: &str, b: &str) -> bool {
    let (a, b) = (a.split('/'), b.split('/'));
    // The shorter path decides: all its parts are those of the longer one.
    a.zip(b).all(|(a, b)| a == b)
}

fn plain(directory: &str) -> Result<&str, DirectoryProblem> {
    if directory.len() > PATH_BYTES_MAX {
        return Err(DirectoryProblem::TooLong);
    }
    if directory.contains('\0') {
        return Err(DirectoryProblem::Nul);
    }
    let Some(below) = directory.strip_prefix('/') else {
        return Err(DirectoryProblem::NotAbsolute);
    };
    if below.split('/').all(|part| matches!(part, "" | "." | "..")) {
        return Err(DirectoryProblem::Root);
    }
    let below = below.strip_suffix('/').unwrap_or(below);
    if below.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(DirectoryProblem::NotPlain);
    }
    Ok(directory.strip_suffix('/').unwrap_or(directory))
}

/// A path from outside in a message: the start of it is enough.
fn shown(directory: &str) -> String {
    directory.chars().take(200).collect()
}
