//! A person's force: a copy that lacks acknowledged writes leads (R6), and what becomes of the copy that had them.

use super::super::ClusterState;
use super::super::command::{Accepted, REASON_MAX};
use super::super::events::EventKind;
use super::super::ids::{Epoch, ModuleName, ServerId};
use super::super::mirror::Wanted;
use super::super::rejection::Rejection;
use super::Entry;
use super::roles::leads_alone;

impl ClusterState {
    /// The one way to lead without every acknowledged write. The copies that had them are marked, so that their files are
    /// set aside before they are brought up to date.
    pub(super) fn force(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        epoch: Epoch,
        server: ServerId,
        reason: &str,
    ) -> Result<Accepted, Rejection> {
        let record = self.module_at(module, epoch)?;
        self.check_of_module(record, server)?;
        let reason = reason.trim();
        if reason.is_empty() || reason.chars().count() > REASON_MAX {
            return Err(Rejection::ForceReason);
        }
        if record.in_sync.is_empty() {
            return Err(Rejection::FirstStart {
                module: module.clone(),
            });
        }
        if record.in_sync.contains(&server) {
            return Err(Rejection::ForceNotNeeded {
                module: module.clone(),
                server: self.named(server),
                leads: record.primary == Some(server),
            });
        }
        if record.unfilled.contains(&server) {
            return Err(Rejection::ForceWithoutCopy {
                module: module.clone(),
                server: self.named(server),
                holders: self.named_all(record.in_sync.iter().copied()),
            });
        }
        self.check_up(module, server)?;
        let given_up = record.in_sync.clone();
        let kind = EventKind::PrimaryForced {
            server: self.named(server),
            from: record.primary.map(|from| self.named(from)),
            given_up: self.named_all(given_up.iter().copied()),
            reason: reason.to_owned(),
        };
        self.change_roles(entry, module, leads_alone(server, kind, None));
        if let Some(record) = self.modules.get_mut(module) {
            record.wanted.insert(server, Wanted::Started);
            let since = record.epoch;
            record
                .diverged
                .extend(given_up.into_iter().map(|server| (server, since)));
        }
        Ok(Accepted::Done)
    }

    /// Audited, since it may be the end of acknowledged writes. When the copy has not been brought up to date yet, nothing
    /// of it will be set aside.
    pub(super) fn discard_diverged(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        server: ServerId,
        since: Epoch,
    ) -> Result<Accepted, Rejection> {
        let record = self.module(module)?;
        self.check_of_module(record, server)?;
        let epoch = record.epoch;
        if let Some(record) = self.modules.get_mut(module)
            && record.diverged.get(&server) == Some(&since)
        {
            record.diverged.remove(&server);
        }
        let kind = EventKind::DivergedDiscarded {
            server: self.named(server),
            since,
        };
        self.record(entry, Some((module, epoch)), kind, None);
        Ok(Accepted::Done)
    }

    /// History only. The epoch may have grown since the tenure began; once per tenure is enough.
    pub(super) fn application_started(
        &mut self,
        entry: Entry<'_>,
        module: &ModuleName,
        epoch: Epoch,
        server: ServerId,
        after_ms: u64,
    ) -> Result<Accepted, Rejection> {
        let record = self.module(module)?;
        self.check_of_module(record, server)?;
        if epoch > record.epoch {
            return Err(Rejection::StaleEpoch {
                module: module.clone(),
                given: epoch,
                current: record.epoch,
            });
        }
        if record.primary != Some(server) {
            return Err(Rejection::NotPrimary {
                module: module.clone(),
                server: self.named(server),
                primary: record.primary.map(|primary| self.named(primary)),
            });
        }
        let latest = self.events.iter().rev().find(|event| {
            event.module.as_ref() == Some(module)
                && (event.kind.moves_primary() || is_start(&event.kind))
        });
        if latest.is_some_and(|event| is_start(&event.kind)) {
            return Ok(Accepted::Unchanged);
        }
        let (cause, epoch) = (latest.map(|event| event.id), record.epoch);
        let kind = EventKind::ApplicationStarted {
            server: self.named(server),
            after_ms,
        };
        self.record(entry, Some((module, epoch)), kind, cause);
        Ok(Accepted::Done)
    }
}

fn is_start(kind: &EventKind) -> bool {
    matches!(kind, EventKind::ApplicationStarted { .. })
}
