//! What `skcli module explain` must tell of every role change: on one screen who saw what, which entry decided, who asked and
//! what it cost (P10).

use anyhow::ensure;
use serde_json::Value;

/// Lines of a terminal that a tired operator does not scroll.
const SCREEN_LINES: usize = 40;

/// Checks what a server answered, as text and as JSON.
///
/// # Errors
/// Names the step, and what it does not tell.
pub fn verify(text: &str, answer: &Value) -> anyhow::Result<()> {
    let lines = text.lines().count();
    ensure!(
        lines <= SCREEN_LINES,
        "module explain prints {lines} lines:\n{text}"
    );
    let steps = answer["steps"].as_array().map_or(&[][..], Vec::as_slice);
    ensure!(!steps.is_empty(), "module explain tells nothing: {text}");
    steps.iter().try_for_each(verify_step)
}

fn verify_step(step: &Value) -> anyhow::Result<()> {
    let told = |key: &str| step[key].as_str().unwrap_or_default();
    let what = told("what");
    ensure!(!what.is_empty(), "a step without a name: {step}");
    ensure!(step["entry"].as_u64() > Some(0), "no entry: {step}");
    ensure!(!told("author").is_empty(), "no author: {step}");
    let because: Vec<&str> = step["because"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    // Who typed a command is the reason.
    ensure!(
        !is_daemon(told("author")) || !because.is_empty(),
        "nobody saw a reason: {step}"
    );
    // A former primary that was missed: who missed it, and on which LAN it was heard last. One that started again says so.
    let was_missed = what.contains("counts as down");
    let is_seen = |reason: &&str| {
        let by_lan = reason.contains("not heard by") && reason.contains("LAN");
        let is_new_run = reason.contains("daemon of ") && reason.contains(" started");
        // A voter hears a run that says so before its word is committed.
        let is_new_run = is_new_run || reason.contains("its start is not committed");
        by_lan || is_new_run || reason.contains("not kept any more")
    };
    ensure!(
        !was_missed || because.iter().any(is_seen),
        "nobody says when the former primary was heard last: {step}"
    );
    Ok(())
}

/// The author of an entry is a daemon, and nobody typed it.
pub fn is_daemon(author: &str) -> bool {
    ["server ", "witness "]
        .iter()
        .any(|daemon| author.starts_with(daemon))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn took_over(because: &[&str]) -> Value {
        json!({ "steps": [{
            "what": "s2 took over: s1, which was primary, counts as down",
            "because": because, "entry": 31, "author": "server s2",
        }] })
    }

    #[test]
    fn silence_about_who_heard_whom_is_found() {
        let down = "s1 counts as down: declared by s2 and w, 2 of 3 votes (entry 31)";
        let heard = "s1 not heard by s2 for 1.9 s on any LAN; last on LAN 1 1.9 s ago";
        verify("one line", &took_over(&[down, heard])).expect("explained");
        let new_run = "w hears run 4 of s1 for 2.1 s, but its start is not committed";
        verify("one line", &took_over(&[down, new_run])).expect("explained");
        let error = verify("one line", &took_over(&[down])).expect_err("who heard it?");
        assert!(error.to_string().contains("heard last"), "{error}");
        let error = verify("one line", &took_over(&[])).expect_err("no reason");
        assert!(error.to_string().contains("reason"), "{error}");
    }

    #[test]
    fn more_than_a_screen_and_nothing_at_all_are_found() {
        let long = "x\n".repeat(SCREEN_LINES + 1);
        assert!(verify(&long, &took_over(&["s1 not heard by s2, last on LAN 1"])).is_err());
        assert!(verify("", &json!({ "steps": [] })).is_err());
    }
}
