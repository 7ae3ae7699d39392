//! A cluster driven by lines of text, so that a situation and what becomes of it can be read.
//!
//! ```text
//! cluster s1 s2 w3              members; a name with `w` is the witness
//! module db s1 s2 ack=receipt   installed, not started
//! running db s1 s2              the first leads, both are in sync
//! > COMMAND                     applied; the lines below it say what came of it
//! ```
//! Commands are those of [`Script::command`]; an epoch, a run or a round that is not given is the one in force.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use crate::state::*;

pub(crate) struct Script {
    pub(crate) state: ClusterState,
    pub(crate) index: u64,
}

impl Script {
    pub(crate) fn new() -> Self {
        Self {
            state: ClusterState::default(),
            index: 0,
        }
    }

    /// A line of set-up.
    pub(crate) fn set_up(&mut self, line: &str) {
        let words = Words::of(line);
        match words.at(0) {
            "cluster" => self.set_up_cluster(&words),
            "module" => self.must(&line.replacen("module", "install", 1)),
            "running" => {
                let (module, first, second) = (words.at(1), words.at(2), words.at(3));
                self.must(&format!("want {module} {second} started"));
                self.must(&format!("claim {module} {first}"));
                self.must(&format!("add {module} {second} by {first}"));
            }
            other => panic!("unknown line of set-up {other:?}"),
        }
    }

    fn set_up_cluster(&mut self, words: &Words<'_>) {
        for (position, name) in words.plain.iter().skip(1).enumerate() {
            if position == 0 {
                self.must(&format!("init {name}"));
            } else {
                let kind = if name.starts_with('w') {
                    "witness"
                } else {
                    "server"
                };
                self.must(&format!("token {name} {kind}"));
                self.must(&format!("join {name} {name} {kind}"));
            }
        }
    }

    pub(crate) fn must(&mut self, line: &str) {
        let outcome = self.run(line);
        assert!(!outcome.starts_with("refused"), "{line}: {outcome}");
    }

    /// Applies a command; returns what came of it, a line each.
    pub(crate) fn run(&mut self, line: &str) -> String {
        let proposal = self.proposal(line);
        let before = self.state.clone();
        self.index += 1;
        let result = self.state.apply(self.index, &proposal);
        self.state.validate().unwrap();
        match result {
            Ok(accepted) => format!("{}{}", shown(accepted), self.changes(&before)),
            Err(rejection) => {
                assert_eq!(before, self.state, "a refused command changed something");
                format!("refused: {rejection}\n")
            }
        }
    }

    /// What a line proposes in the present state.
    pub(crate) fn proposal(&self, line: &str) -> Proposal {
        let words = Words::of(line);
        let at_unix_ms = words.number("at").unwrap_or(1000) * 1000;
        let author = words.options.get("author").unwrap_or(&"test");
        Proposal {
            command: self.command(&words),
            author: (*author).to_owned(),
            evidence: String::new(),
            at_unix_ms,
        }
    }

    fn command(&self, words: &Words<'_>) -> Command {
        match words.at(0) {
            "init" => Command::InitCluster {
                info: info(words),
                first: new_member(words, 1),
            },
            "token" => Command::CreateToken {
                token: secret(words.at(1)),
                witness: words.at(2) == "witness",
                expires_at_unix_s: words.number("expires").unwrap_or(2000),
            },
            "join" => Command::AddMember {
                token: secret(words.at(1)),
                member: new_member(words, 2),
            },
            "certificate" => Command::SetCertificate {
                server: self.id(words.at(1)),
                certificate: secret(words.at(2)),
            },
            "remove" => Command::RemoveMember {
                server: self.id(words.at(1)),
            },
            "forget" => Command::ForgetMember {
                server: self.id(words.at(1)),
                accept_loss: words.plain.contains(&"accept-loss"),
            },
            "replace" => Command::ReplaceMember {
                token: secret(words.at(1)),
                member: new_member(words, 2),
                replaces: self.id(words.options["gone"]),
                accept_loss: words.plain.contains(&"accept-loss"),
            },
            "place" => Command::PlaceCopy {
                module: module(words.at(1)),
                server: self.id(words.at(2)),
            },
            "change" => {
                let server = self.id(words.at(1));
                let now = new_member(words, 2);
                Command::ChangeMember {
                    server,
                    name: now.name,
                    addresses: now.addresses,
                }
            }
            "settle" => Command::SettleVoters {
                replaced_at: words.number("at_entry").unwrap_or(self.index),
            },
            "start" | "declare" | "withdraw" => self.presence_command(words),
            "install" | "reconfigure" | "uninstall" => self.module_command(words),
            "want" | "claim" | "drop" | "add" | "swap" | "stepdown" | "takeover" | "force"
            | "discard" | "serves" => self.role_command(words),
            other => panic!("unknown command {other:?}"),
        }
    }

    fn presence_command(&self, words: &Words<'_>) -> Command {
        let server = self.id(words.at(1));
        let run_of = |server| {
            self.state
                .members
                .get(&server)
                .map_or(Incarnation(1), |m| m.incarnation)
        };
        let run = words.number("run").map(Incarnation);
        if words.at(0) == "start" {
            return Command::ServerStarted {
                server,
                incarnation: run.unwrap_or_else(|| run_of(server).next()),
            };
        }
        let voter = self.id(words.at(3));
        let of_voter = words
            .number("voter_run")
            .map_or_else(|| run_of(voter), Incarnation);
        let taken_back = self
            .state
            .withdrawals
            .get(&server)
            .and_then(|w| w.get(&voter))
            .map_or(0, |r| r.number);
        let next = taken_back + 1;
        let round = Round {
            incarnation: of_voter,
            number: words.number("round").unwrap_or(next),
        };
        if words.at(0) == "withdraw" {
            return Command::Withdraw {
                voter,
                round,
                server,
            };
        }
        let incarnation = run.unwrap_or_else(|| run_of(server));
        let evidence = format!(
            "{} not heard by {} for 1.8 s on any LAN",
            words.at(1),
            words.at(3)
        );
        Command::Declare {
            voter,
            round,
            server,
            incarnation,
            evidence,
        }
    }

    fn module_command(&self, words: &Words<'_>) -> Command {
        let name = module(words.at(1));
        let list = |key: &str| -> Vec<&str> {
            words
                .options
                .get(key)
                .map(|text| text.split(',').filter(|part| !part.is_empty()).collect())
                .unwrap_or_default()
        };
        let package = PackageHash(secret(words.options.get("package").unwrap_or(&"package")));
        let ack = if words.options.get("ack") == Some(&"receipt") {
            AckMode::Receipt
        } else {
            AckMode::Disk
        };
        let directories = match words.options.get("dirs") {
            Some(_) => list("dirs").into_iter().map(str::to_owned).collect(),
            None => vec![format!("/srv/{name}")],
        };
        let addresses = list("ips")
            .into_iter()
            .map(|ip| ip.parse().unwrap())
            .collect();
        let heart_timeout_ms = words.number("heart").map(|ms| ms as u32);
        match words.at(0) {
            "install" => {
                let servers = [self.id(words.at(2)), self.id(words.at(3))];
                Command::InstallModule {
                    name,
                    servers,
                    package,
                    ack,
                    directories,
                    addresses,
                    heart_timeout_ms,
                }
            }
            "reconfigure" => Command::ReconfigureModule {
                name,
                package,
                ack,
                directories,
                addresses,
                heart_timeout_ms,
            },
            _ => Command::UninstallModule { name },
        }
    }

    fn role_command(&self, words: &Words<'_>) -> Command {
        let module = module(words.at(1));
        let in_force = self
            .state
            .modules
            .get(&module)
            .map_or(Epoch(0), |record| record.epoch);
        let epoch = words.number("epoch").map_or(in_force, Epoch);
        let server = self.id(words.at(2));
        match words.at(0) {
            "want" => {
                let wanted = if words.at(3) == "started" {
                    Wanted::Started
                } else {
                    Wanted::Stopped
                };
                Command::SetWanted {
                    module,
                    server,
                    wanted,
                }
            }
            "claim" => Command::ClaimFirst {
                module,
                epoch,
                server,
            },
            "drop" => Command::DropSecondary {
                module,
                epoch,
                primary: self.id(words.at(4)),
                server,
            },
            "add" => Command::AddSecondary {
                module,
                epoch,
                primary: self.id(words.at(4)),
                server,
            },
            "swap" => Command::Switchover {
                module,
                epoch,
                from: server,
                to: self.id(words.at(3)),
            },
            "takeover" => Command::TakeOver {
                module,
                epoch,
                server,
            },
            "force" => Command::Force {
                module,
                epoch,
                server,
                reason: words.options.get("reason").unwrap_or(&"").replace('_', " "),
            },
            "discard" => Command::DiscardDiverged {
                module,
                server,
                since: epoch,
            },
            "serves" => Command::ApplicationStarted {
                module,
                epoch,
                server,
                after_ms: 800,
            },
            _ => {
                let reason = match words.at(3) {
                    "stopped" => StepDownReason::Stopped,
                    "failed" => StepDownReason::ApplicationFailed,
                    "disk" => StepDownReason::DiskFailed,
                    other => panic!("unknown reason {other:?}"),
                };
                Command::StepDown {
                    module,
                    epoch,
                    server,
                    reason,
                }
            }
        }
    }

    /// A member by name, also one that left; `#9` is a number.
    fn id(&self, name: &str) -> ServerId {
        if let Some(number) = name.strip_prefix('#') {
            return ServerId(number.parse().unwrap());
        }
        let named = self
            .state
            .members
            .values()
            .find(|member| member.name.as_str() == name);
        named
            .map(|member| member.id)
            .unwrap_or_else(|| panic!("no member {name:?}"))
    }

    fn changes(&self, before: &ClusterState) -> String {
        let mut text = String::new();
        for event in self
            .state
            .events
            .iter()
            .filter(|event| event.id > before.last_event)
        {
            let cause = event
                .cause
                .map(|cause| format!(" [from #{cause}]"))
                .unwrap_or_default();
            writeln!(text, "#{} {event}{cause}", event.id).unwrap();
        }
        for (name, record) in &self.state.modules {
            if before
                .modules
                .get(name)
                .is_none_or(|earlier| roles(earlier) != roles(record))
            {
                writeln!(text, "{name}: {}", self.shown_roles(record)).unwrap();
            }
        }
        for server in self.state.members.keys() {
            let hearts = |state: &ClusterState| {
                let shortest = state.shortest_hearts.get(server).copied();
                (state.heart_timeout_ms(*server), shortest)
            };
            if hearts(before) != hearts(&self.state) {
                let (asked, shortest) = hearts(&self.state);
                writeln!(
                    text,
                    "{}: {}",
                    self.names([*server]),
                    shown_hearts(asked, shortest)
                )
                .unwrap();
            }
        }
        if before.voters() != self.state.voters() {
            writeln!(text, "voters: {}", self.names(self.state.voters())).unwrap();
        }
        if before.former_voters != self.state.former_voters {
            let former: Vec<String> = self
                .state
                .former_voters
                .iter()
                .map(|former| self.names(former.voters.clone()))
                .collect();
            writeln!(text, "former voters with a say: [{}]", former.join(" ")).unwrap();
        }
        text
    }

    fn shown_roles(&self, record: &MirrorRecord) -> String {
        let primary = record
            .primary
            .map_or_else(|| "nobody".to_owned(), |p| self.names([p]));
        let mut text = format!(
            "epoch {}, {primary} leads, in sync {}",
            record.epoch,
            self.names(record.in_sync.clone())
        );
        if !record.received_only.is_empty() {
            write!(
                text,
                ", received only {}",
                self.names(record.received_only.clone())
            )
            .unwrap();
        }
        if record.identical {
            text.push_str(", identical");
        }
        for (server, since) in &record.diverged {
            write!(
                text,
                ", {} diverged at epoch {since}",
                self.names([*server])
            )
            .unwrap();
        }
        text
    }

    fn names(&self, servers: impl IntoIterator<Item = ServerId>) -> String {
        let name = |server: ServerId| match self.state.who(server) {
            Some(who) => who.to_string(),
            None => format!("#{server}"),
        };
        let names: Vec<String> = servers.into_iter().map(name).collect();
        if names.is_empty() {
            "nobody".to_owned()
        } else {
            names.join("+")
        }
    }
}

type Roles = (
    Epoch,
    Option<ServerId>,
    Vec<ServerId>,
    Vec<ServerId>,
    bool,
    BTreeMap<ServerId, Epoch>,
);

fn roles(record: &MirrorRecord) -> Roles {
    let list = |set: &std::collections::BTreeSet<ServerId>| set.iter().copied().collect();
    (
        record.epoch,
        record.primary,
        list(&record.in_sync),
        list(&record.received_only),
        record.identical,
        record.diverged.clone(),
    )
}

fn shown(accepted: Accepted) -> String {
    match accepted {
        Accepted::Done => "done\n".to_owned(),
        Accepted::Unchanged => "unchanged\n".to_owned(),
        Accepted::MemberAdded(id) => format!("added as number {id}\n"),
    }
}

fn shown_hearts(asked: Option<u32>, shortest: Option<u32>) -> String {
    let ms = |ms: Option<u32>| ms.map_or_else(|| "nothing".to_owned(), |ms| format!("{ms} ms"));
    format!(
        "its modules ask for {}, of this run for {} at the least",
        ms(asked),
        ms(shortest)
    )
}

fn module(name: &str) -> ModuleName {
    name.parse().unwrap()
}

/// 32 bytes from a word.
fn secret(word: &str) -> [u8; 32] {
    let mut bytes = [0; 32];
    bytes
        .iter_mut()
        .zip(word.bytes())
        .for_each(|(byte, of_word)| *byte = of_word);
    bytes
}

fn info(words: &Words<'_>) -> ClusterInfo {
    let name = words
        .options
        .get("cluster")
        .unwrap_or(&"test")
        .parse()
        .unwrap();
    ClusterInfo {
        id: [1; 16],
        name,
        ca_fingerprint: [2; 32],
        lease_ms: 1500,
    }
}

fn new_member(words: &Words<'_>, position: usize) -> NewMember {
    let name = words.at(position);
    let default = format!("10.0.0.{}:9453", name.bytes().last().unwrap());
    let addresses = words.options.get("addresses").copied().unwrap_or(&default);
    NewMember {
        name: name.parse().unwrap(),
        kind: if words.plain.get(position + 1) == Some(&"witness") {
            MemberKind::Witness
        } else {
            MemberKind::Server
        },
        addresses: addresses
            .split(',')
            .filter(|a| !a.is_empty())
            .map(|a| a.parse().unwrap())
            .collect(),
        certificate: secret(words.options.get("certificate").unwrap_or(&name)),
        incarnation: Incarnation(words.number("run").unwrap_or(1)),
    }
}

/// The words of a line: plain ones by position, `key=value` by key.
struct Words<'a> {
    plain: Vec<&'a str>,
    options: BTreeMap<&'a str, &'a str>,
}

impl<'a> Words<'a> {
    fn of(line: &'a str) -> Self {
        let (mut plain, mut options) = (Vec::new(), BTreeMap::new());
        for word in line.split_whitespace() {
            match word.split_once('=') {
                Some((key, value)) => {
                    options.insert(key, value);
                }
                None => plain.push(word),
            }
        }
        Self { plain, options }
    }

    fn at(&self, position: usize) -> &'a str {
        self.plain
            .get(position)
            .copied()
            .unwrap_or_else(|| panic!("word {position} is missing in {:?}", self.plain))
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.options.get(key).map(|text| text.parse().unwrap())
    }
}
