//! Replies as JSON. Names stay for ever: programs depend on them. Ages are milliseconds, `null` means never or none.

use super::check::hex;
use super::module::{quality_word, state_word};
use crate::local::Checked;
use api::v1::{
    ChangeReply, ClusterStateReply, CreateTokenReply, DivergedFile, DivergedReply, DivergedSet,
    EventReply, ExplainReply, InitReply, InitRequest, InstallReply, JoinReply, JoinRequest,
    LogLine, MemberReply, ModuleState, ModuleStateReply, ServerModuleReply,
};
use serde_json::{Value, json};
use std::path::Path;

fn text_or_null(text: &str) -> Value {
    if text.is_empty() {
        Value::Null
    } else {
        text.into()
    }
}

fn number_or_null(number: u64) -> Value {
    if number == 0 {
        Value::Null
    } else {
        number.into()
    }
}

fn age_or_null(ms: u64) -> Value {
    if ms == u64::MAX {
        Value::Null
    } else {
        ms.into()
    }
}

/// What was only shown.
pub(crate) fn planned(lines: &[String]) -> Value {
    json!({ "dry_run": true, "lines": lines })
}

pub(crate) fn init(request: &InitRequest, reply: &InitReply) -> Value {
    json!({
        "cluster": request.cluster,
        "server": request.server,
        "server_id": reply.server_id,
        "ca_fingerprint": reply.ca_fingerprint,
    })
}

pub(crate) fn token(reply: &CreateTokenReply) -> Value {
    json!({ "token": reply.token, "expires_at_unix_s": reply.expires_at_unix_s })
}

pub(crate) fn join(request: &JoinRequest, reply: &JoinReply) -> Value {
    json!({ "cluster": reply.cluster, "server": request.server, "server_id": reply.server_id })
}

pub(crate) fn cluster(reply: &ClusterStateReply) -> Value {
    json!({
        "cluster": reply.cluster,
        "answered_by": reply.answered_by,
        "leader": number_or_null(reply.leader),
        "term": reply.term,
        "applied_index": reply.applied_index,
        "applied_age_ms": reply.applied_age_ms,
        "has_quorum": reply.has_quorum,
        "lease_remaining_ms": reply.lease_remaining_ms,
        "members": reply.members.iter().map(member).collect::<Vec<_>>(),
        "notices": reply.notices,
    })
}

fn member(member: &MemberReply) -> Value {
    let lans = member.lans.iter();
    let lans = lans.map(
        |lan| json!({ "address": lan.address, "heard_age_ms": age_or_null(lan.heard_age_ms) }),
    );
    json!({
        "id": member.id,
        "name": member.name,
        "is_witness": member.is_witness,
        "is_voter": member.is_voter,
        "is_down": member.is_down,
        "lans": lans.collect::<Vec<_>>(),
    })
}

pub(crate) fn event(event: &EventReply) -> Value {
    json!({
        "id": event.id,
        "at_unix_ms": event.at_unix_ms,
        "module": text_or_null(&event.module),
        "epoch": number_or_null(event.epoch),
        "text": event.text,
        "author": event.author,
        "evidence": event.evidence,
        "cause": number_or_null(event.cause),
        "entry": event.entry,
    })
}

pub(crate) fn module(reply: &ModuleStateReply) -> Value {
    json!({
        "module": reply.module,
        "mode": reply.mode,
        "epoch": reply.epoch,
        "primary": text_or_null(&reply.primary),
        "primary_id": number_or_null(reply.primary_id),
        "in_sync": reply.in_sync,
        "in_sync_ids": reply.in_sync_ids,
        "ack": reply.ack,
        "last_cause": reply.last_cause,
        "applied_age_ms": reply.applied_age_ms,
        "servers": reply.servers.iter().map(server).collect::<Vec<_>>(),
    })
}

fn server(server: &ServerModuleReply) -> Value {
    json!({
        "server": server.server,
        "state": state_word(server.state()),
        "quality": quality_word(server.quality()),
        "wanted": server.wanted,
        "detail": server.detail,
        "report_age_ms": age_or_null(server.report_age_ms),
        "resync_bytes_total": server.resync_bytes_total,
        "resync_bytes_done": server.resync_bytes_done,
        "resync_bytes_sent": server.resync_bytes_sent,
    })
}

pub(crate) fn modules(modules: &[ModuleStateReply]) -> Value {
    json!({ "modules": modules.iter().map(module).collect::<Vec<_>>() })
}

pub(crate) fn word(state: ModuleState) -> Value {
    json!({ "state": state_word(state) })
}

pub(crate) fn install(name: &str, is_dry_run: bool, reply: &InstallReply) -> Value {
    json!({ "module": name, "dry_run": is_dry_run, "package_hash": reply.package_hash, "notices": reply.notices, "plan": reply.plan })
}

pub(crate) fn change(name: &str, is_dry_run: bool, reply: &ChangeReply) -> Value {
    json!({ "module": name, "dry_run": is_dry_run, "epoch": number_or_null(reply.epoch), "lines": reply.lines })
}

pub(crate) fn log_line(line: &LogLine) -> Value {
    json!({
        "at_unix_ms": line.at_unix_ms,
        "level": line.level,
        "script": text_or_null(&line.script),
        "text": line.text,
    })
}

pub(crate) fn explain(name: &str, reply: &ExplainReply) -> Value {
    let steps = reply.steps.iter().map(|step| {
        json!({
            "event": step.event,
            "at_unix_ms": step.at_unix_ms,
            "epoch": step.epoch,
            "what": step.what,
            "because": step.because,
            "service_gap_ms": number_or_null(step.service_gap_ms),
            "entry": step.entry,
            "author": step.author,
            "cost": step.cost,
        })
    });
    json!({ "module": name, "steps": steps.collect::<Vec<_>>() })
}

pub(crate) fn diverged(name: &str, reply: &DivergedReply) -> Value {
    let file = |file: &DivergedFile| {
        json!({
            "path": file.path,
            "size": file.size,
            "kept_at_unix_ms": file.kept_at_unix_ms,
            "why": file.why,
        })
    };
    let set = |set: &DivergedSet| {
        json!({
            "id": set.id,
            "directory": set.directory,
            "why": text_or_null(&set.why),
            "files_total": set.files_total,
            "bytes_total": set.bytes_total,
            "files": set.files.iter().map(file).collect::<Vec<_>>(),
        })
    };
    let servers = reply.servers.iter().map(|server| {
        json!({
            "server": server.server,
            "answers": server.answers,
            "pending": number_or_null(server.pending),
            "sets": server.sets.iter().map(set).collect::<Vec<_>>(),
        })
    });
    json!({ "module": name, "servers": servers.collect::<Vec<_>>() })
}

pub(crate) fn checked(file: &Path, checked: &Checked) -> Value {
    json!({
        "file": file.display().to_string(),
        "configuration": checked.configuration,
        "scripts": checked.scripts,
        "notices": checked.notices,
    })
}

pub(crate) fn packed(to: &Path, bytes: usize, hash: &[u8; 32]) -> Value {
    json!({ "file": to.display().to_string(), "bytes": bytes, "package_hash": hex(hash) })
}
