//! The log of a module on this server: the output of its scripts.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use api::v1::LogLine;
use futures_util::Stream;
use tonic::Status;

use super::refusal::{Refusal, chain};

/// Lines sent when the caller does not say.
const LINES_DEFAULT: usize = 100;
/// Lines sent at most.
const LINES_MAX: usize = 10_000;
/// How often a caller that follows is told what is new.
const LOOK_EVERY: Duration = Duration::from_millis(300);
/// Bytes of one file read at a time: a script that floods its log is followed, not swallowed.
const READ_BYTES_MAX: u64 = 1 << 20;

/// The newest lines of the scripts' output below `dir`, oldest first.
///
/// # Errors
/// The files cannot be read.
pub(super) fn lines(dir: &Path, newest: usize) -> io::Result<Vec<LogLine>> {
    let newest = if newest == 0 {
        LINES_DEFAULT
    } else {
        newest.min(LINES_MAX)
    };
    let mut lines = Vec::new();
    for file in files(dir)?.into_iter().rev() {
        let content = fs::read(&file)?;
        let text = String::from_utf8_lossy(&content);
        let made: Vec<LogLine> = text.lines().map(line_of(&file)?).collect();
        lines.extend(made.into_iter().rev());
        if lines.len() >= newest {
            break;
        }
    }
    lines.truncate(newest);
    lines.reverse();
    Ok(lines)
}

/// `first`, and then what the scripts go on to write, until the caller goes away.
pub(super) fn follow(
    following: Following,
    first: Vec<LogLine>,
) -> impl Stream<Item = Result<LogLine, Status>> + Send {
    let state = (following, first.into_iter());
    futures_util::stream::unfold(state, |(mut following, mut batch)| async move {
        loop {
            if let Some(line) = batch.next() {
                return Some((Ok(line), (following, batch)));
            }
            tokio::time::sleep(LOOK_EVERY).await;
            let looked = tokio::task::spawn_blocking(move || {
                let lines = following.take_new();
                (following, lines)
            });
            match looked.await {
                Ok((back, Ok(lines))) => {
                    following = back;
                    batch = lines.into_iter();
                }
                Ok((back, Err(error))) => {
                    let refusal = Refusal::failed("the log cannot be followed", chain(error));
                    return Some((Err(refusal.into()), (back, Vec::new().into_iter())));
                }
                Err(_) => return None,
            }
        }
    })
}

/// How far each file has been told.
pub(super) struct Following {
    dir: PathBuf,
    told: BTreeMap<PathBuf, u64>,
}

impl Following {
    /// Everything that is there now counts as told.
    pub(super) fn from_now(dir: &Path) -> Following {
        let files = files(dir).unwrap_or_default();
        let told = files.into_iter().map(|path| {
            let length = fs::metadata(&path).map_or(0, |status| status.len());
            (path, length)
        });
        Following {
            told: told.collect(),
            dir: dir.to_owned(),
        }
    }

    /// Whole lines written since the last call.
    fn take_new(&mut self) -> io::Result<Vec<LogLine>> {
        let mut lines = Vec::new();
        for path in files(&self.dir)? {
            let from = self.told.entry(path.clone()).or_insert(0);
            let mut file = match File::open(&path) {
                Ok(file) => file,
                // Pruned in between.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            let length = file.metadata()?.len();
            if length < *from {
                // Cut to its limit: what is new is told from the beginning.
                *from = 0;
            }
            file.seek(SeekFrom::Start(*from))?;
            let mut content = Vec::new();
            file.take(READ_BYTES_MAX).read_to_end(&mut content)?;
            let is_flooded = content.len() as u64 == READ_BYTES_MAX;
            let whole = match content.iter().rposition(|byte| *byte == b'\n') {
                Some(last) => last + 1,
                None if is_flooded => content.len(),
                None => 0,
            };
            *from += whole as u64;
            let text = String::from_utf8_lossy(&content[..whole]);
            lines.extend(text.lines().map(line_of(&path)?));
        }
        Ok(lines)
    }
}

/// The scripts' output files, oldest first: their names begin with the time.
fn files(dir: &Path) -> io::Result<Vec<PathBuf>> {
    let mut files: Vec<PathBuf> = match fs::read_dir(dir) {
        Ok(entries) => entries
            .map(|entry| entry.map(|entry| entry.path()))
            .collect::<io::Result<_>>()?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
        Err(error) => return Err(error),
    };
    files.retain(|path| {
        path.extension()
            .is_some_and(|extension| extension == "ulog")
    });
    files.sort();
    Ok(files)
}

/// Makes lines of the text of a file, dated with its last change.
fn line_of(file: &Path) -> io::Result<impl Fn(&str) -> LogLine> {
    let changed = fs::metadata(file)?.modified()?;
    let at_unix_ms = changed.duration_since(UNIX_EPOCH).map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    });
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let script = script_of(&name);
    Ok(move |text: &str| LogLine {
        at_unix_ms,
        level: "info".to_owned(),
        text: text.to_owned(),
        script: script.clone(),
    })
}

/// `userlog_2026-01-31T120000_start_prim.ulog` is of `start_prim`.
fn script_of(file: &str) -> String {
    let stem = file.strip_suffix(".ulog").unwrap_or(file);
    stem.splitn(3, '_').nth(2).unwrap_or(stem).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn texts(lines: Vec<LogLine>) -> Vec<String> {
        lines
            .into_iter()
            .map(|line| format!("{}: {}", line.script, line.text))
            .collect()
    }

    /// Goal: who follows gets every whole line once, in files that grow, appear, and are cut.
    #[test]
    fn whole_lines_are_told_once() -> io::Result<()> {
        let dir = tempfile::tempdir()?;
        let first = dir.path().join("userlog_2026-01-31T120000_start_prim.ulog");
        fs::write(&first, "one\ntwo\n")?;
        assert_eq!(
            texts(lines(dir.path(), 1)?),
            ["start_prim: two"],
            "the newest"
        );
        let mut following = Following::from_now(dir.path());
        assert_eq!(texts(following.take_new()?), Vec::<String>::new());
        let mut file = fs::OpenOptions::new().append(true).open(&first)?;
        file.write_all(b"three\nfo")?;
        assert_eq!(texts(following.take_new()?), ["start_prim: three"]);
        file.write_all(b"ur\n")?;
        let second = dir.path().join("userlog_2026-01-31T120001_stop_prim.ulog");
        fs::write(second, "five\n")?;
        assert_eq!(
            texts(following.take_new()?),
            ["start_prim: four", "stop_prim: five"]
        );
        fs::write(&first, "six\n")?;
        assert_eq!(texts(following.take_new()?), ["start_prim: six"]);
        Ok(())
    }
}
