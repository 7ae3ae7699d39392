//! What an agent says of its module on this server, and how people read it.

use consensus::state::{Epoch, MirrorRecord, ServerId, Wanted};
use fs_mirror::{Aside, Progress};
use tokio::time::Instant;

use api::v1::{ModuleState, Quality};

use crate::core::failed_copy::Failures;
use crate::core::plan::{Running, Stage};

/// The facts an agent publishes after each look.
#[derive(Clone, Debug)]
pub struct Report {
    /// What runs here.
    pub running: Running,
    /// On the way out: handing over, or being fenced.
    pub is_leaving: bool,
    /// The record names this server, but its lease has run out.
    pub right_is_lost: bool,
    /// The record names this server, and it must hear from a majority before it may act on that.
    pub waits_for_majority: bool,
    /// That is so because the peer may have been added unseen.
    pub addition_open: bool,
    /// Why this copy cannot be brought up to date.
    pub copy_trouble: Option<String>,
    /// What is known against this copy.
    pub failures: Failures,
    /// What was set aside of this copy.
    pub aside: Option<Aside>,
    /// Why the last step failed; `None` when nothing is wrong.
    pub trouble: Option<String>,
    /// Why the application does not run, until it does.
    pub application_trouble: Option<String>,
    /// The running or last reintegration of the peer, on a primary.
    pub resync: Option<Progress>,
    /// The epoch the agent has seen.
    pub epoch: Option<Epoch>,
    /// When this was written.
    pub at: Instant,
}

impl Default for Report {
    fn default() -> Self {
        Self {
            running: Running::Nothing,
            is_leaving: false,
            right_is_lost: false,
            waits_for_majority: false,
            addition_open: false,
            copy_trouble: None,
            failures: Failures::default(),
            aside: None,
            trouble: None,
            application_trouble: None,
            resync: None,
            epoch: None,
            at: Instant::now(),
        }
    }
}

/// What people are shown.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shown {
    /// STOP, WAIT, ALONE, PRIM, SECOND.
    pub state: ModuleState,
    /// Green, orange, red.
    pub quality: Quality,
    /// The second label.
    pub detail: String,
}

impl Report {
    /// The state shown to people for server `me`; `name` tells servers' names, `is_down` whether one is known dead.
    pub fn shown(
        &self,
        record: Option<&MirrorRecord>,
        me: ServerId,
        name: impl Fn(ServerId) -> String,
        is_down: impl Fn(ServerId) -> bool,
    ) -> Shown {
        let (state, quality, detail) = match (self.running, record) {
            (_, None) => (
                ModuleState::Stop,
                Quality::NotReady,
                "not installed".to_owned(),
            ),
            (Running::Leading(stage), Some(record)) => self.leading(stage, record),
            (Running::Following, Some(record)) => self.following(record, me, name, is_down),
            (Running::Nothing, Some(record)) => match record.wanted_on(me) {
                Wanted::Stopped => (ModuleState::Stop, Quality::NotReady, "stopped".to_owned()),
                Wanted::Started => self.failed_copy(record, me).unwrap_or((
                    ModuleState::Wait,
                    Quality::Transient,
                    "starting".to_owned(),
                )),
            },
        };
        match self.trouble.as_ref().or(self.application_trouble.as_ref()) {
            None => Shown {
                state,
                quality,
                detail,
            },
            Some(trouble) => Shown {
                state,
                quality: Quality::NotReady,
                detail: trouble.clone(),
            },
        }
    }

    fn following(
        &self,
        record: &MirrorRecord,
        me: ServerId,
        name: impl Fn(ServerId) -> String,
        is_down: impl Fn(ServerId) -> bool,
    ) -> (ModuleState, Quality, String) {
        if self.waits_for_majority {
            let why = match record.peer_of(me) {
                Some(peer) if self.addition_open => format!(
                    "{} may have been made an up-to-date copy just before this server lost the majority",
                    name(peer)
                ),
                Some(_) | None => "the other copy may lead by now".to_owned(),
            };
            let detail = format!("waits for a majority of the voters: {why}");
            return (ModuleState::Wait, Quality::NotReady, detail);
        }
        if let Some(failed) = self.failed_copy(record, me) {
            return failed;
        }
        let is_outdated = record.primary.is_some() && !record.in_sync.contains(&me);
        if is_outdated && let Some(trouble) = &self.copy_trouble {
            return (ModuleState::Second, Quality::NotReady, trouble.clone());
        }
        following(record, me, name, is_down)
    }

    /// What is said of a copy that is in sync on record and must not lead.
    fn failed_copy(
        &self,
        record: &MirrorRecord,
        me: ServerId,
    ) -> Option<(ModuleState, Quality, String)> {
        let why = self.failures.against_leading(record, me)?;
        let is_led = record.primary.is_some_and(|primary| primary != me);
        let state = if is_led {
            ModuleState::Second
        } else {
            ModuleState::Wait
        };
        Some((state, Quality::NotReady, format!("must not lead, {why}")))
    }

    fn leading(&self, stage: Stage, record: &MirrorRecord) -> (ModuleState, Quality, String) {
        let is_alone = record.in_sync.len() < 2;
        let state = if is_alone {
            ModuleState::Alone
        } else {
            ModuleState::Prim
        };
        let (quality, detail) = match stage {
            _ if self.right_is_lost => (
                Quality::NotReady,
                "no lease from a majority: serves nothing until it returns",
            ),
            _ if self.is_leaving => (Quality::Transient, "stopping"),
            Stage::Mounted | Stage::Reachable => (Quality::Transient, "starting the application"),
            Stage::Serving if is_alone && self.failures.disk.is_some() => (
                Quality::NotReady,
                "the only copy in sync, and its disk failed: another server leads as soon as its copy is in sync",
            ),
            Stage::Serving if is_alone => (Quality::Ready, "the only copy in sync"),
            Stage::Serving => (Quality::Ready, "up to date"),
        };
        (state, quality, detail.to_owned())
    }
}

fn following(
    record: &MirrorRecord,
    me: ServerId,
    name: impl Fn(ServerId) -> String,
    is_down: impl Fn(ServerId) -> bool,
) -> (ModuleState, Quality, String) {
    let holds = record.in_sync.contains(&me);
    match record.primary {
        Some(primary) if primary == me => (
            ModuleState::Wait,
            Quality::Transient,
            "taking over".to_owned(),
        ),
        Some(_) if holds => (ModuleState::Second, Quality::Ready, "up to date".to_owned()),
        Some(primary) if is_down(primary) => (
            ModuleState::Wait,
            Quality::NotReady,
            waits_for(&[primary], name),
        ),
        Some(_) if record.diverged.contains_key(&me) => (
            ModuleState::Second,
            Quality::Transient,
            "not up to date; what differs is set aside: skcli module diverged".to_owned(),
        ),
        Some(_) => (
            ModuleState::Second,
            Quality::Transient,
            "not up to date".to_owned(),
        ),
        None if record.in_sync.is_empty() => {
            let detail = "no copy was declared the good one yet: skcli module prim".to_owned();
            (ModuleState::Wait, Quality::NotReady, detail)
        }
        None if holds => (
            ModuleState::Wait,
            Quality::Transient,
            "up to date, about to lead".to_owned(),
        ),
        None => {
            let holders: Vec<_> = record.in_sync.iter().copied().collect();
            (
                ModuleState::Wait,
                Quality::NotReady,
                waits_for(&holders, name),
            )
        }
    }
}

fn waits_for(holders: &[ServerId], name: impl Fn(ServerId) -> String) -> String {
    let names: Vec<String> = holders.iter().map(|holder| name(*holder)).collect();
    format!("waits for {}: it holds the newest copy", names.join(" or "))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::goal::tests::record;

    const ME: ServerId = ServerId(1);
    const PEER: ServerId = ServerId(2);

    fn shown(report: &Report, record: &MirrorRecord) -> (ModuleState, Quality, String) {
        let shown = report.shown(Some(record), ME, |server| format!("s{server}"), |_| false);
        (shown.state, shown.quality, shown.detail)
    }

    fn follows() -> Report {
        Report {
            running: Running::Following,
            ..Report::default()
        }
    }

    /// Goal: a server that may not serve before a majority has answered says so, and why (R6).
    #[test]
    fn waiting_for_a_majority_is_told_with_its_reason() {
        let alone = record(7, Some(ME), &[ME]);
        let open = Report {
            waits_for_majority: true,
            addition_open: true,
            ..follows()
        };
        let (state, quality, detail) = shown(&open, &alone);
        assert_eq!((state, quality), (ModuleState::Wait, Quality::NotReady));
        assert_eq!(
            detail,
            "waits for a majority of the voters: s2 may have been made an up-to-date copy just before this server lost the majority"
        );
        let both = record(7, Some(ME), &[ME, PEER]);
        let waits = Report {
            waits_for_majority: true,
            ..follows()
        };
        assert_eq!(
            shown(&waits, &both).2,
            "waits for a majority of the voters: the other copy may lead by now"
        );
    }

    /// Goal: a copy that is in sync on record and failed to apply what it acknowledged does not look as if it could take over (R11).
    #[test]
    fn a_copy_that_failed_to_apply_says_why_it_does_not_lead() {
        let failed = Report {
            failures: Failures {
                disk: None,
                not_applied: Some("no space left".to_owned()),
            },
            ..follows()
        };
        let expected = |state| {
            let detail = "must not lead, it may lack acknowledged writes: no space left";
            (state, Quality::NotReady, detail.to_owned())
        };
        let tied = |primary| {
            let mut record = record(8, Some(primary), &[ME, PEER]);
            record.received_only.insert(ME);
            record
        };
        assert_eq!(shown(&failed, &tied(ME)), expected(ModuleState::Wait));
        assert_eq!(shown(&failed, &tied(PEER)), expected(ModuleState::Second));
        // Without acknowledgement on receipt it was not acknowledged.
        let led = record(8, Some(PEER), &[ME, PEER]);
        assert_eq!(shown(&failed, &led).1, Quality::Ready);
    }

    #[test]
    fn a_copy_that_cannot_be_brought_up_to_date_says_why() {
        let theirs = record(7, Some(PEER), &[PEER]);
        let full = Report {
            copy_trouble: Some("no room".to_owned()),
            ..follows()
        };
        let expected = (ModuleState::Second, Quality::NotReady, "no room".to_owned());
        assert_eq!(shown(&full, &theirs), expected);
        // What an earlier session said does not matter any more.
        let whole = record(8, Some(PEER), &[ME, PEER]);
        assert_eq!(shown(&full, &whole).1, Quality::Ready);
        let mut diverged = theirs;
        diverged.diverged.insert(ME, Epoch(6));
        assert!(
            shown(&follows(), &diverged)
                .2
                .contains("skcli module diverged")
        );
    }
}
