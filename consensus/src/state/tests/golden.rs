//! Stored situations: `testdata/state/*.txt` hold stories of commands, as [`super::script`] reads them. A situation is a
//! state, a command, its outcome and the reasons: each command of a story is one. After a change that is meant, `UPDATE_TESTDATA=1 cargo test -p consensus golden` writes the files anew:
//! the difference is what to review.

use std::fs;
use std::path::{Path, PathBuf};

use super::script::Script;

/// Situations stored so far; it only grows.
const SITUATIONS_MIN: usize = 500;

#[test]
fn stored_situations_turn_out_as_stored() {
    let mut situations = 0;
    let mut differing = Vec::new();
    for path in files() {
        let stored = fs::read_to_string(&path).unwrap();
        let actual = replayed(&stored);
        situations += actual.lines().filter(|line| line.starts_with("> ")).count();
        if actual == stored {
            continue;
        }
        if std::env::var_os("UPDATE_TESTDATA").is_some() {
            fs::write(&path, actual).unwrap();
        } else {
            differing.push(format!(
                "{}:\n{}",
                path.display(),
                first_difference(&stored, &actual)
            ));
        }
    }
    assert!(differing.is_empty(), "{}", differing.join("\n"));
    assert!(situations >= SITUATIONS_MIN, "only {situations} situations");
}

fn files() -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/state");
    let mut files: Vec<PathBuf> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.retain(|path| path.extension().is_some_and(|extension| extension == "txt"));
    files.sort();
    files
}

/// The text with every outcome as it is now.
fn replayed(stored: &str) -> String {
    let mut text = String::new();
    let mut script = Script::new();
    for line in stored.lines() {
        if line.starts_with("    ") {
            continue; // an outcome as stored
        }
        text.push_str(line.trim_end());
        text.push('\n');
        if line.starts_with("== ") {
            script = Script::new();
        } else if let Some(command) = line.strip_prefix("> ") {
            for outcome in script.run(command).lines() {
                text.push_str("    ");
                text.push_str(outcome);
                text.push('\n');
            }
        } else if !line.trim().is_empty() && !line.starts_with('#') {
            script.set_up(line);
        }
    }
    text
}

fn first_difference(stored: &str, actual: &str) -> String {
    let (mut stored, mut actual) = (stored.lines(), actual.lines());
    let mut context: Vec<&str> = Vec::new();
    loop {
        match (stored.next(), actual.next()) {
            (Some(a), Some(b)) if a == b => context.push(a),
            (None, None) => return String::new(),
            (a, b) => {
                let from = context
                    .iter()
                    .rposition(|line| line.starts_with("== "))
                    .unwrap_or(0);
                return format!(
                    "{}\n  stored: {a:?}\n  actual: {b:?}",
                    context[from..].join("\n")
                );
            }
        }
    }
}
