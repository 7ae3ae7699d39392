//! The log of a module on this server: the output of its scripts.

use std::fs;
use std::io;
use std::time::UNIX_EPOCH;

use api::v1::LogLine;
use consensus::state::ModuleName;

use crate::member::Member;

/// Lines sent when the caller does not say.
const LINES_DEFAULT: usize = 100;
/// Lines sent at most.
const LINES_MAX: usize = 10_000;

/// The newest lines of the scripts' output, oldest first.
///
/// # Errors
/// The files cannot be read.
pub(super) fn lines(
    member: &Member,
    module: &ModuleName,
    newest: usize,
) -> io::Result<Vec<LogLine>> {
    let newest = if newest == 0 {
        LINES_DEFAULT
    } else {
        newest.min(LINES_MAX)
    };
    let dir = member.paths.scripts(module);
    let mut files: Vec<_> = match fs::read_dir(&dir) {
        Ok(entries) => entries.collect::<io::Result<Vec<_>>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    files.retain(|file| {
        file.path()
            .extension()
            .is_some_and(|extension| extension == "ulog")
    });
    files.sort_by_key(|file| std::cmp::Reverse(file.file_name()));
    let mut lines = Vec::new();
    for file in files {
        let at_unix_ms = file
            .metadata()?
            .modified()?
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
            });
        let name = file.file_name().to_string_lossy().into_owned();
        let content = fs::read(file.path())?;
        let text = String::from_utf8_lossy(&content);
        lines.extend(text.lines().rev().map(|line| LogLine {
            at_unix_ms,
            level: "info".to_owned(),
            text: line.to_owned(),
            script: script_of(&name),
        }));
        if lines.len() >= newest {
            break;
        }
    }
    lines.truncate(newest);
    lines.reverse();
    Ok(lines)
}

/// `userlog_2026-01-31T120000_start_prim.ulog` is of `start_prim`.
fn script_of(file: &str) -> String {
    let stem = file.strip_suffix(".ulog").unwrap_or(file);
    stem.splitn(3, '_').nth(2).unwrap_or(stem).to_owned()
}
