//! The output file of one run of a script, and its limit.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{SystemTime, UNIX_EPOCH};

const PREFIX: &str = "userlog_";
const SUFFIX: &str = ".ulog";
/// Runs of one script within one second that get a name of their own.
const SAME_SECOND_MAX: u32 = 1000;

/// A file that a script and what it started append to.
#[derive(Debug)]
pub(super) struct ScriptLog {
    file: File,
    path: PathBuf,
    bytes_max: u64,
}

impl ScriptLog {
    /// Makes `userlog_<date>T<time>_<script>.ulog`, times in UTC.
    pub(super) fn create(directory: &Path, script: &str, bytes_max: u64) -> io::Result<ScriptLog> {
        fs::create_dir_all(directory)?;
        let time = utc(SystemTime::now());
        for number in 1..=SAME_SECOND_MAX {
            let again = if number > 1 {
                format!("_{number}")
            } else {
                String::new()
            };
            let path = directory.join(format!("{PREFIX}{time}_{script}{again}{SUFFIX}"));
            // Appending: every writer, whichever process it is in, writes at the current end, also
            // after the file was cut.
            let opened = OpenOptions::new()
                .read(true)
                .append(true)
                .create_new(true)
                .mode(0o600)
                .open(&path);
            match opened {
                Ok(file) => {
                    return Ok(ScriptLog {
                        file,
                        path,
                        bytes_max,
                    });
                }
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(error) => return Err(error),
            }
        }
        Err(io::ErrorKind::AlreadyExists.into())
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    pub(super) fn stdio(&self) -> io::Result<Stdio> {
        self.file.try_clone().map(Stdio::from)
    }

    /// When the file is over its limit, keeps its first half (how it began) and its newest quarter
    /// (what happened last). Lines written at that very moment may be lost.
    pub(super) fn cut_to_limit(&self) -> io::Result<()> {
        let length = self.file.metadata()?.len();
        if length <= self.bytes_max {
            return Ok(());
        }
        let head = self.bytes_max / 2;
        let mut tail = vec![0; usize::try_from(self.bytes_max / 4).unwrap_or(0)];
        let tail_at = length - tail.len() as u64;
        self.file.read_exact_at(&mut tail, tail_at)?;
        self.file.set_len(head)?;
        let cut = format!("\n[sidekick: {} bytes cut here]\n", tail_at - head);
        let mut file = &self.file;
        file.write_all(&[cut.as_bytes(), &tail].concat())
    }
}

/// Removes the oldest output files in `directory`, so that after one more at most `files_max` remain.
pub(super) fn prune(directory: &Path, files_max: usize) -> io::Result<()> {
    let entries = match fs::read_dir(directory) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    // The names begin with the time, so they sort by it.
    let mut names: Vec<String> = entries
        .filter_map(Result::ok)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with(PREFIX) && name.ends_with(SUFFIX))
        .collect();
    names.sort_unstable();
    let surplus = (names.len() + 1).saturating_sub(files_max);
    for name in &names[..surplus.min(names.len())] {
        match fs::remove_file(directory.join(name)) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// `2026-11-24T07:30:05` as `20261124T073005`, which is a good file name.
fn utc(time: SystemTime) -> String {
    let seconds = time
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let (year, month, day) = civil_date(seconds / 86_400);
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}")
}

/// The date a number of days after 1 January 1970. Counts from 1 March of year 0, so that the leap
/// day is the last of a year of the count and months have a regular pattern (153 days in five).
fn civil_date(days_since_1970: u64) -> (u64, u64, u64) {
    const DAYS_TO_1970: u64 = 719_468;
    const DAYS_IN_400_YEARS: u64 = 146_097;
    let days = days_since_1970 + DAYS_TO_1970;
    let (era, day_of_era) = (days / DAYS_IN_400_YEARS, days % DAYS_IN_400_YEARS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = (month_from_march + 2) % 12 + 1;
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn dates() {
        let at = |seconds| utc(UNIX_EPOCH + Duration::from_secs(seconds));
        assert_eq!(at(0), "19700101T000000");
        assert_eq!(at(951_827_696), "20000229T123456");
        assert_eq!(at(1_709_251_199), "20240229T235959");
        assert_eq!(at(1_735_689_599), "20241231T235959");
        assert_eq!(at(4_107_542_400), "21000301T000000");
    }

    #[test]
    fn over_the_limit_beginning_and_end_are_kept() {
        let directory = tempfile::tempdir().unwrap();
        let log = ScriptLog::create(directory.path(), "start_prim", 1000).unwrap();
        let mut file = &log.file;
        file.write_all(b"first line\n").unwrap();
        for number in 0..10_000 {
            writeln!(file, "line {number}").unwrap();
            if number % 777 == 0 {
                log.cut_to_limit().unwrap();
            }
        }
        log.cut_to_limit().unwrap();
        let text = fs::read_to_string(log.path()).unwrap();
        assert!(text.len() < 1000, "{}", text.len());
        assert!(text.starts_with("first line\nline 0\n"), "{text}");
        assert!(text.ends_with("line 9999\n"), "{text}");
        assert!(text.contains("bytes cut here"), "{text}");
    }

    #[test]
    fn runs_within_one_second_get_files_of_their_own_and_old_ones_go() {
        let directory = tempfile::tempdir().unwrap();
        let paths: Vec<PathBuf> = (0..5)
            .map(|_| ScriptLog::create(directory.path(), "s", 10).unwrap().path)
            .collect();
        fs::write(directory.path().join("other"), "").unwrap();
        prune(directory.path(), 3).unwrap();
        let left = paths.iter().filter(|path| path.exists()).count();
        assert_eq!(left, 2, "room for one more");
        assert!(directory.path().join("other").exists());
    }
}
