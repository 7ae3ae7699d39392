//! Replies about modules, for people.

use super::table::table;
use super::time::{age, bytes, duration, moment, old};
use api::v1::{
    ChangeReply, DivergedReply, DivergedServer, DivergedSet, ExplainReply, ExplainStep,
    InstallReply, LogLine, ModuleState, ModuleStateReply, Quality, ServerModuleReply,
};

/// The state as SafeKit users know it.
pub(crate) fn state_word(state: ModuleState) -> &'static str {
    match state {
        ModuleState::Stop => "STOP",
        ModuleState::Wait => "WAIT",
        ModuleState::Alone => "ALONE",
        ModuleState::Prim => "PRIM",
        ModuleState::Second => "SECOND",
        ModuleState::Unknown => "UNKNOWN",
    }
}

pub(crate) fn quality_word(quality: Quality) -> &'static str {
    match quality {
        Quality::Ready => "Ready",
        Quality::Transient => "Transient",
        Quality::NotReady => "NotReady",
    }
}

/// "PRIM (Ready)"; of an unknown state nothing more is known.
fn status(server: &ServerModuleReply) -> String {
    match server.state() {
        ModuleState::Unknown => "UNKNOWN".to_owned(),
        state @ (ModuleState::Stop
        | ModuleState::Wait
        | ModuleState::Alone
        | ModuleState::Prim
        | ModuleState::Second) => {
            format!("{} ({})", state_word(state), quality_word(server.quality()))
        }
    }
}

fn or_none(names: &[String]) -> String {
    if names.is_empty() {
        "none".to_owned()
    } else {
        names.join(" ")
    }
}

fn primary(reply: &ModuleStateReply) -> &str {
    if reply.primary.is_empty() {
        "none"
    } else {
        &reply.primary
    }
}

/// One module.
pub(crate) fn state(reply: &ModuleStateReply) -> String {
    let mut text = format!(
        "module {}, {}, epoch {} ({})\nprimary {}, in sync: {}, acknowledges after {}\n",
        reply.module,
        reply.mode,
        reply.epoch,
        old(reply.applied_age_ms),
        primary(reply),
        or_none(&reply.in_sync),
        acknowledgement(&reply.ack)
    );
    if !reply.last_cause.is_empty() {
        text.push_str(&format!(
            "last change: {}\n",
            reply.last_cause.replace('\n', " ")
        ));
    }
    text.push('\n');
    let rows = reply.servers.iter().map(server_row).collect();
    text.push_str(&table(
        &["SERVER", "STATE", "WANTED", "DETAIL", "COPIED", "REPORTED"],
        rows,
    ));
    text
}

fn acknowledgement(ack: &str) -> &str {
    match ack {
        "disk" => "the disk",
        "receipt" => "receipt",
        other => other,
    }
}

fn server_row(server: &ServerModuleReply) -> Vec<String> {
    let copied = match server.resync_bytes_total {
        0 => String::new(),
        total => format!(
            "{} of {}, {} sent",
            bytes(server.resync_bytes_done),
            bytes(total),
            bytes(server.resync_bytes_sent)
        ),
    };
    vec![
        server.server.clone(),
        status(server),
        server.wanted.clone(),
        server.detail.clone(),
        copied,
        age(server.report_age_ms),
    ]
}

/// All modules, each in full.
pub(crate) fn states(modules: &[ModuleStateReply]) -> String {
    if modules.is_empty() {
        return NO_MODULES.to_owned();
    }
    modules.iter().map(state).collect::<Vec<_>>().join("\n")
}

const NO_MODULES: &str = "no module is installed\nnext: skcli module install FILE.safe -m NAME\n";

/// All modules, a line each.
pub(crate) fn list(modules: &[ModuleStateReply]) -> String {
    if modules.is_empty() {
        return NO_MODULES.to_owned();
    }
    let rows = modules.iter().map(|module| {
        let servers = module
            .servers
            .iter()
            .map(|server| format!("{} {}", server.server, status(server)));
        vec![
            module.module.clone(),
            module.mode.clone(),
            primary(module).to_owned(),
            or_none(&module.in_sync),
            servers.collect::<Vec<_>>().join(", "),
            duration(module.applied_age_ms),
        ]
    });
    table(
        &["MODULE", "MODE", "PRIMARY", "IN SYNC", "SERVERS", "AGE"],
        rows.collect(),
    )
}

pub(crate) fn install(name: &str, is_dry_run: bool, reply: &InstallReply) -> String {
    let done = if is_dry_run {
        "could be installed, nothing was done"
    } else {
        "is installed"
    };
    let mut text = format!("module {name} {done}\npackage {}\n", reply.package_hash);
    for notice in &reply.notices {
        text.push_str(&format!("notice: {notice}\n"));
    }
    for line in &reply.plan {
        text.push_str(&format!("{line}\n"));
    }
    if !is_dry_run {
        text.push_str(&format!(
            "next: skcli module prim {name}    (on the server whose files shall be kept)\n"
        ));
    }
    text
}

pub(crate) fn change(is_dry_run: bool, reply: &ChangeReply) -> String {
    let mut text: String = reply.lines.iter().map(|line| format!("{line}\n")).collect();
    if is_dry_run {
        text.push_str("nothing was done\n");
    } else if text.is_empty() {
        text.push_str("done\n");
    }
    text
}

pub(crate) fn log_line(line: &LogLine) -> String {
    let script = if line.script.is_empty() {
        String::new()
    } else {
        format!("[{}] ", line.script)
    };
    format!(
        "{}  {:5}  {script}{}\n",
        moment(line.at_unix_ms),
        line.level.to_uppercase(),
        line.text.replace('\n', " ")
    )
}

/// What both servers keep, set by set.
pub(crate) fn diverged(name: &str, reply: &DivergedReply) -> String {
    let mut text = String::new();
    for server in &reply.servers {
        text.push_str(&diverged_server(name, server));
    }
    if text.is_empty() {
        return format!("nothing is set aside: no copy of {name} was left behind by a force\n");
    }
    text
}

fn diverged_server(name: &str, server: &DivergedServer) -> String {
    let mut text = String::new();
    if !server.answers {
        text.push_str(&format!(
            "{} does not answer: what it keeps is not known\n",
            server.server
        ));
    }
    if server.pending != 0 {
        text.push_str(&format!(
            "{}: its copy is as the force of epoch {} left it behind; what differs is set aside when it is brought up to date\n",
            server.server, server.pending
        ));
    }
    for set in &server.sets {
        text.push_str(&diverged_set(name, &server.server, set));
    }
    text
}

fn diverged_set(name: &str, server: &str, set: &DivergedSet) -> String {
    let mut text = format!(
        "{server}: set {}, {} files, {}, in {}\n",
        set.id,
        set.files_total,
        bytes(set.bytes_total),
        set.directory
    );
    if !set.why.is_empty() {
        text.push_str(&format!("  {}\n", set.why.replace('\n', " ")));
    }
    let rows = set.files.iter().map(|file| {
        vec![
            file.path.clone(),
            file.why.clone(),
            bytes(file.size),
            moment(file.kept_at_unix_ms),
        ]
    });
    text.push_str(&table(
        &["FILE", "WAS", "SIZE", "SET ASIDE"],
        rows.collect(),
    ));
    let shown = set.files.len() as u64;
    if shown < set.files_total {
        text.push_str(&format!("and {} more\n", set.files_total - shown));
    }
    text.push_str(&format!(
        "when nothing of it is needed: skcli module diverged -m {name} --server {server} --discard {}\n",
        set.id
    ));
    text
}

pub(crate) fn explain(name: &str, reply: &ExplainReply) -> String {
    if reply.steps.is_empty() {
        return format!("module {name} has had no change of roles yet\n");
    }
    reply.steps.iter().map(step).collect::<Vec<_>>().join("\n")
}

fn step(step: &ExplainStep) -> String {
    let mut text = format!(
        "{}  epoch {}, entry {}  {}\n",
        moment(step.at_unix_ms),
        step.epoch,
        step.entry,
        step.what.replace('\n', " ")
    );
    for because in &step.because {
        text.push_str(&format!("    because {}\n", because.replace('\n', " ")));
    }
    for cost in &step.cost {
        text.push_str(&format!("    cost    {}\n", cost.replace('\n', " ")));
    }
    if !step.author.is_empty() {
        text.push_str(&format!(
            "    by      {}, event #{}\n",
            step.author, step.event
        ));
    }
    text
}
