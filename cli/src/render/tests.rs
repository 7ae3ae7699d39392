//! Goal: what an operator reads at a bad hour stays readable. Method: replies made by hand, whole texts as expected.

use super::{clean, cluster, json, module, paint};
use api::v1::{
    ChangeReply, ClusterStateReply, EventReply, ExplainReply, ExplainStep, InstallReply, LanReply,
    LogLine, MemberReply, ModuleState, ModuleStateReply, Quality, ServerModuleReply,
};

fn member(id: u64, name: &str, is_witness: bool, heard_age_ms: u64) -> MemberReply {
    let lan = |network: u64| LanReply {
        address: format!("10.{network}.0.{id}:9453"),
        heard_age_ms,
    };
    MemberReply {
        id,
        name: name.into(),
        is_witness,
        is_voter: true,
        is_down: heard_age_ms == u64::MAX,
        lans: vec![lan(0), lan(1)],
    }
}

fn cluster_reply() -> ClusterStateReply {
    ClusterStateReply {
        cluster: "demo".into(),
        answered_by: 1,
        leader: 2,
        term: 3,
        applied_index: 120,
        applied_age_ms: 140,
        has_quorum: true,
        lease_remaining_ms: 1420,
        members: vec![
            member(1, "s1", false, 0),
            member(2, "s2", false, 90),
            member(3, "w", true, u64::MAX),
        ],
        notices: Vec::new(),
    }
}

#[test]
fn the_cluster_at_a_glance() {
    let expected = "\
cluster demo, as s1 sees it (0.1 s old)
leader   s2 (term 3, entry 120)
majority yes, lease for another 1.4 s

MEMBER  ROLE            STATE  LAN  ADDRESS        HEARD
s1      server, voter   up     1    10.0.0.1:9453  itself
                               2    10.1.0.1:9453  itself
s2      server, voter   up     1    10.0.0.2:9453  0.0 s ago
                               2    10.1.0.2:9453  0.0 s ago
w       witness, voter  DOWN   1    10.0.0.3:9453  never
                               2    10.1.0.3:9453  never
";
    assert_eq!(cluster::state(&cluster_reply()), expected);
}

#[test]
fn a_server_without_majority_says_so() {
    let reply = ClusterStateReply {
        leader: 0,
        has_quorum: false,
        ..cluster_reply()
    };
    let text = cluster::state(&reply);
    assert!(
        text.contains("leader   unknown (term 3, entry 120)\n"),
        "{text}"
    );
    assert!(
        text.contains("majority NO: this server does not hear a majority"),
        "{text}"
    );
}

fn server(name: &str, state: ModuleState, quality: Quality, detail: &str) -> ServerModuleReply {
    ServerModuleReply {
        server: name.into(),
        state: state.into(),
        quality: quality.into(),
        wanted: "started".into(),
        detail: detail.into(),
        report_age_ms: 200,
        ..ServerModuleReply::default()
    }
}

fn module_reply() -> ModuleStateReply {
    let copying = ServerModuleReply {
        resync_bytes_total: 1 << 30,
        resync_bytes_done: 450 << 20,
        resync_bytes_sent: 12 << 20,
        ..server(
            "s2",
            ModuleState::Second,
            Quality::Transient,
            "reintegrating 43 %",
        )
    };
    ModuleStateReply {
        module: "pg".into(),
        epoch: 7,
        primary: "s1".into(),
        primary_id: 1,
        in_sync: vec!["s1".into()],
        in_sync_ids: vec![1],
        mode: "mirror".into(),
        ack: "disk".into(),
        last_cause: "s2 was dropped by s1".into(),
        applied_age_ms: 90,
        servers: vec![
            server("s1", ModuleState::Alone, Quality::Ready, "up to date"),
            copying,
        ],
    }
}

#[test]
fn a_module_at_a_glance() {
    let expected = "\
module pg, mirror, epoch 7 (0.0 s old)
primary s1, in sync: s1, acknowledges after the disk
last change: s2 was dropped by s1

SERVER  STATE               WANTED   DETAIL              COPIED                              REPORTED
s1      ALONE (Ready)       started  up to date                                              0.2 s ago
s2      SECOND (Transient)  started  reintegrating 43 %  450.0 MiB of 1.0 GiB, 12.0 MiB sent  0.2 s ago
";
    let squeeze = |text: &str| {
        text.split(' ')
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    };
    let text = module::state(&module_reply());
    assert_eq!(squeeze(&text), squeeze(expected));
    let columns: Vec<Option<usize>> = text
        .lines()
        .skip(4)
        .map(|line| line.find("REPORTED").or(line.rfind("0.2 s ago")))
        .collect();
    assert!(
        columns.windows(2).all(|pair| pair[0] == pair[1]),
        "columns are aligned: {text}"
    );
}

#[test]
fn all_modules_at_a_glance() {
    let unreachable = ModuleStateReply {
        module: "files".into(),
        primary: String::new(),
        in_sync: vec![],
        servers: vec![
            server("s1", ModuleState::Wait, Quality::NotReady, "waits for s2"),
            server("s2", ModuleState::Unknown, Quality::NotReady, "unreachable"),
        ],
        ..module_reply()
    };
    let expected = "\
MODULE  MODE    PRIMARY  IN SYNC  SERVERS                               AGE
pg      mirror  s1       s1       s1 ALONE (Ready), s2 SECOND (Transient)  0.0 s
files   mirror  none     none     s1 WAIT (NotReady), s2 UNKNOWN        0.0 s
";
    let squeeze = |text: &str| {
        text.split(' ')
            .filter(|word| !word.is_empty())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(
        squeeze(&module::list(&[module_reply(), unreachable])),
        squeeze(expected)
    );
    let none = "no module is installed\nnext: skcli module install FILE.safe -m NAME\n";
    assert_eq!(module::list(&[]), none);
    assert_eq!(module::states(&[]), none);
}

#[test]
fn changes_say_what_was_done() {
    let reply = ChangeReply {
        lines: vec!["s2 becomes primary".into()],
        epoch: 8,
    };
    assert_eq!(module::change(false, &reply), "s2 becomes primary\n");
    assert_eq!(
        module::change(true, &reply),
        "s2 becomes primary\nnothing was done\n"
    );
    assert_eq!(module::change(false, &ChangeReply::default()), "done\n");
    let reply = InstallReply {
        package_hash: "ab12".into(),
        notices: vec!["line 1, column 2: x".into()],
        plan: Vec::new(),
    };
    assert_eq!(
        module::install("pg", false, &reply),
        "module pg is installed\npackage ab12\nnotice: line 1, column 2: x\n\
         next: skcli module prim pg    (on the server whose files shall be kept)\n"
    );
}

#[test]
fn events_logs_and_explanations() {
    let event = EventReply {
        id: 42,
        at_unix_ms: 1_772_366_399_250,
        module: "pg".into(),
        epoch: 8,
        text: "s2 takes over".into(),
        author: "s2".into(),
        evidence: "s1 not heard for 1.9 s by s2 and w".into(),
        cause: 41,
        entry: 57,
    };
    assert_eq!(
        cluster::event(&event),
        "2026-03-01 11:59:59.250Z  #42  pg (epoch 8): s2 takes over\n    \
         by s2; s1 not heard for 1.9 s by s2 and w; because of #41\n"
    );
    let line = LogLine {
        at_unix_ms: 1_772_366_399_250,
        level: "info".into(),
        text: "server\nstarted".into(),
        script: "start_prim".into(),
    };
    assert_eq!(
        module::log_line(&line),
        "2026-03-01 11:59:59.250Z  INFO   [start_prim] server started\n"
    );
    let step = ExplainStep {
        event: 42,
        at_unix_ms: 1_772_366_399_250,
        epoch: 8,
        what: "s2 became primary".into(),
        because: vec!["s1 was declared down by s2 and w".into()],
        service_gap_ms: 2100,
        entry: 57,
        author: "server s2".into(),
        cost: vec!["about 2.1 s without service in all".into()],
    };
    assert_eq!(
        module::explain("pg", &ExplainReply { steps: vec![step] }),
        "2026-03-01 11:59:59.250Z  epoch 8, entry 57  s2 became primary\n    because s1 was declared down by s2 and w\n    \
         cost    about 2.1 s without service in all\n    by      server s2, event #42\n"
    );
    assert_eq!(
        module::explain("pg", &ExplainReply::default()),
        "module pg has had no change of roles yet\n"
    );
}

#[test]
fn json_names_are_stable() {
    let names = |value: serde_json::Value| {
        value
            .as_object()
            .map(|map| map.keys().cloned().collect::<Vec<_>>())
    };
    let reply = module_reply();
    let expected = [
        "ack",
        "applied_age_ms",
        "epoch",
        "in_sync",
        "in_sync_ids",
        "last_cause",
        "mode",
        "module",
        "primary",
        "primary_id",
        "servers",
    ];
    assert_eq!(names(json::module(&reply)).unwrap(), expected);
    let server = json::module(&reply)["servers"][1].clone();
    assert_eq!(server["state"], "SECOND");
    assert_eq!(server["quality"], "Transient");
    let expected = [
        "detail",
        "quality",
        "report_age_ms",
        "resync_bytes_done",
        "resync_bytes_sent",
        "resync_bytes_total",
        "server",
        "state",
        "wanted",
    ];
    assert_eq!(names(server).unwrap(), expected);
    let cluster = json::cluster(&cluster_reply());
    assert_eq!(
        cluster["members"][2]["lans"][0]["heard_age_ms"],
        serde_json::Value::Null,
        "never is null"
    );
    let expected = [
        "answered_by",
        "applied_age_ms",
        "applied_index",
        "cluster",
        "has_quorum",
        "leader",
        "lease_remaining_ms",
        "members",
        "notices",
        "term",
    ];
    assert_eq!(names(cluster).unwrap(), expected);
}

#[test]
fn nothing_from_elsewhere_steers_the_terminal() {
    let nasty = "a\u{1b}[2Jb\u{7}\u{9b}c\td\u{202e}e\r\nf";
    assert_eq!(clean(nasty), "a\\u{1b}[2Jb\\u{7}\\u{9b}c d\u{fffd}e\\r\nf");
    let line = LogLine {
        text: "\u{1b}]0;owned\u{7}".into(),
        ..LogLine::default()
    };
    assert!(!clean(&module::log_line(&line)).contains('\u{1b}'));
}

#[test]
fn colours_do_not_move_columns() {
    let text = module::state(&module_reply());
    let painted = paint(&text);
    assert!(painted.contains("\u{1b}[32m(Ready)\u{1b}[0m"));
    assert!(painted.contains("\u{1b}[33m(Transient)\u{1b}[0m"));
    let mut plain = painted;
    for code in [
        "\u{1b}[31m",
        "\u{1b}[32m",
        "\u{1b}[33m",
        "\u{1b}[90m",
        "\u{1b}[0m",
    ] {
        plain = plain.replace(code, "");
    }
    assert_eq!(plain, text);
}
