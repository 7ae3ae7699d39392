//! Goal: what a person reads before a change is what would happen, and every risk is named. Method: states made by the real
//! `apply`, changed by it, and compared.

use super::*;
use crate::services::story::{S1, S2, Story};

fn risks_of(story: &Story, command: Command) -> Vec<String> {
    let mut after = Story {
        state: story.state.clone(),
        index: story.index,
    };
    after.apply(command);
    risks(&story.state, &after.state)
}

#[test]
fn stopping_the_primary_shows_that_the_other_takes_over() {
    let story = Story::mirrored();
    let risks = risks_of(
        &story,
        Command::SetWanted {
            module: story.record().name.clone(),
            server: S1,
            wanted: Wanted::Stopped,
        },
    );
    assert_eq!(
        risks,
        ["db stops on s1 and starts on s2: clients wait as long as that takes"]
    );
}

#[test]
fn stopping_the_secondary_leaves_one_copy() {
    let mut story = Story::mirrored();
    let risks = risks_of(
        &story,
        Command::SetWanted {
            module: story.record().name.clone(),
            server: S2,
            wanted: Wanted::Stopped,
        },
    );
    assert_eq!(
        risks,
        ["only the copy of db on s1 gets new writes: while it is lost, db waits for it"]
    );
    // Then the primary as well: nobody is left.
    story.want(S2, Wanted::Stopped);
    let risks = risks_of(
        &story,
        Command::SetWanted {
            module: story.record().name.clone(),
            server: S1,
            wanted: Wanted::Stopped,
        },
    );
    assert_eq!(
        risks,
        ["db stops on s1 and runs nowhere until it is started again"]
    );
}

#[test]
fn a_force_says_what_is_given_up_and_that_the_other_lives() {
    let mut story = Story::mirrored();
    story.want(S2, Wanted::Stopped);
    let risks = risks_of(
        &story,
        Command::Force {
            module: story.record().name.clone(),
            epoch: story.record().epoch,
            server: S2,
            reason: "drill".to_owned(),
        },
    );
    assert_eq!(risks.len(), 3, "{risks:?}");
    assert!(
        risks[1].contains("every write that db acknowledged on s1 since event #"),
        "{risks:?}"
    );
    assert!(
        risks[2].contains("s1 counts as up and serves db"),
        "{risks:?}"
    );
}

#[test]
fn changing_nothing_risks_nothing() {
    let story = Story::mirrored();
    assert_eq!(risks(&story.state, &story.state), Vec::<String>::new());
    assert!(next(&story.state, story.record()).is_none());
}

/// What was applied between the making of a plan and its telling was left out of it, and named by another state.
#[test]
fn regression_a_plan_is_compared_with_the_state_it_was_made_on() {
    let mut story = Story::mirrored();
    let applied = Applied {
        position: consensus::LogPosition {
            term: 1,
            index: story.index,
        },
        state: Arc::new(story.state.clone()),
    };
    let mut shown = Shown::on(&applied);
    let command = Command::SetWanted {
        module: story.record().name.clone(),
        server: S2,
        wanted: Wanted::Stopped,
    };
    let proposal = Proposal {
        command,
        author: "ann".to_owned(),
        evidence: "command".to_owned(),
        at_unix_ms: unix_ms(),
    };
    shown.apply(&proposal).expect("it would be accepted");
    // Others go on meanwhile.
    story.want(S1, Wanted::Stopped);
    story.want(S1, Wanted::Started);
    drop(applied);
    let lines = shown.lines(&["one that no state shows".to_owned()]);
    let (planned, risks): (Vec<_>, Vec<_>) = lines
        .iter()
        .partition(|line| line.starts_with("would be: "));
    assert!(!planned.is_empty(), "{lines:?}");
    assert_eq!(
        risks,
        [
            "risk: one that no state shows",
            "risk: only the copy of db on s1 gets new writes: while it is lost, db waits for it"
        ]
    );
}
