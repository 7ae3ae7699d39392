//! Replies to text and to JSON: pure functions, tested with golden text.

pub(crate) mod check;
pub(crate) mod cluster;
pub(crate) mod json;
pub(crate) mod module;
mod table;
mod time;

use crate::failure::Failure;
use serde_json::{Value, json};

const RED: &str = "\u{1b}[31m";
const GREEN: &str = "\u{1b}[32m";
const ORANGE: &str = "\u{1b}[33m";
const GREY: &str = "\u{1b}[90m";
const PLAIN: &str = "\u{1b}[0m";

/// Replaces control characters but line feeds: text of scripts and other servers must not steer the terminal.
pub(crate) fn clean(text: &str) -> String {
    let mut clean = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\n' => clean.push('\n'),
            '\t' => clean.push(' '),
            // Also the characters that turn the direction of text.
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => clean.push('\u{fffd}'),
            other if other.is_control() => clean.extend(other.escape_default()),
            other => clean.push(other),
        }
    }
    clean
}

/// Colours the words that tell how things are. It works on finished text, so tables stay aligned.
pub(crate) fn paint(text: &str) -> String {
    let words = [
        ("(Ready)", GREEN),
        ("(Transient)", ORANGE),
        ("(NotReady)", RED),
        (" up ", GREEN),
        (" DOWN ", RED),
        ("UNKNOWN", GREY),
        ("WARN", ORANGE),
        ("ERROR", RED),
    ];
    words.iter().fold(text.to_owned(), |text, (word, colour)| {
        text.replace(word, &format!("{colour}{word}{PLAIN}"))
    })
}

/// A failure for people: what, why, next.
pub(crate) fn failure(failure: &Failure) -> String {
    let mut text = format!("error: {failure}\n");
    for (label, line) in [
        ("why:  ", failure.why()),
        ("next: ", failure.next_command()),
    ] {
        if !line.is_empty() {
            text.push_str(&format!("  {label}{line}\n"));
        }
    }
    text
}

/// A failure for programs.
pub(crate) fn failure_json(failure: &Failure) -> Value {
    let (line, column) = match failure {
        Failure::Configuration { error, .. } => (Some(error.at.line), Some(error.at.column)),
        Failure::Usage { .. }
        | Failure::Package { .. }
        | Failure::Io { .. }
        | Failure::Unreachable { .. }
        | Failure::Silent { .. }
        | Failure::Broken
        | Failure::Refused { .. } => (None, None),
    };
    json!({
        "error": {
            "what": failure.to_string(),
            "why": failure.why(),
            "next_command": failure.next_command(),
            "exit_code": failure.exit_code(),
            "line": line,
            "column": column,
        }
    })
}

#[cfg(test)]
mod tests;
