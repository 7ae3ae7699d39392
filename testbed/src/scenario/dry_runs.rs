//! `--dry-run` of every verb that changes something.

use super::arena::Arena;
use super::clusters::{Process, answering, run};
use super::figures::Figures;
use crate::cluster::skcli::Skcli;
use crate::cluster::{MODULE, package};
use crate::lab::topology;
use crate::oracle::explanation::is_daemon;
use crate::wait::{self, Finished};
use anyhow::{Context as _, ensure};
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Groups of verbs.
const GROUPS: [&str; 2] = ["cluster", "module"];
/// The module that was never started.
const IDLE: &str = "idle";
/// What the last change set off has come to rest within this time.
const REST_DEADLINE: Duration = Duration::from_secs(60);
/// Nothing was applied for so long: the cluster is at rest.
const REST: Duration = Duration::from_secs(2);

/// What a dry run comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Comes {
    /// The plan and the risk.
    ToAPlan,
    /// The refusal that the verb itself gets.
    ToTheRefusal,
}

/// A verb as it is typed.
struct Case {
    verb: &'static str,
    /// Whose daemon is asked.
    at: &'static str,
    arguments: Vec<String>,
    comes: Comes,
}

impl Case {
    fn words(&self) -> Vec<&str> {
        let verb = self.verb.split(' ');
        verb.chain(self.arguments.iter().map(String::as_str))
            .collect()
    }
}

/// Goal: every verb that changes something can be tried: it says what it would do and what it risks, or refuses as it would,
/// and nothing changes. Method: the verbs are those of the program's own help, so that a new one cannot be forgotten; the state
/// of the cluster and the files of all members before and after.
pub(super) fn dry_runs(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    arena.cluster().install_bare("s1")?;
    let idle = module_directory(arena, IDLE)?;
    let s1 = arena.cluster().skcli("s1")?;
    s1.json(&["module", "install", &idle, "-m", IDLE, "--servers", "s1,s2"])?;
    let fresh = Fresh::start(arena)?;
    let cases = cases(arena, &fresh)?;
    verify_none_forgotten(&s1, &cases)?;
    wait_rest(arena)?;
    for case in &cases {
        try_one(arena, &fresh, case).with_context(|| {
            format!("skcli {} --dry-run on {}", case.words().join(" "), case.at)
        })?;
    }
    token_stays_good(&fresh, &cases)?;
    lost_member(arena)?;
    figures.set("cases", cases.len() as f64);
    Ok(figures)
}

/// A daemon that belongs to no cluster, beside that of s2.
struct Fresh {
    _process: Process,
    root: PathBuf,
    skcli: Skcli,
    address: String,
}

impl Fresh {
    fn start(arena: &Arena) -> anyhow::Result<Fresh> {
        let root = arena.lab().site().directory().join("fresh");
        let process = run(arena, "s2", &[], std::slice::from_ref(&root))?;
        Ok(Fresh {
            _process: process,
            skcli: answering(&root)?,
            root,
            address: format!("{}:9553", topology::address_v4(1, 2)),
        })
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

/// A module directory over a directory that both servers have.
fn module_directory(arena: &Arena, name: &str) -> anyhow::Result<String> {
    let lab = arena.lab();
    for server in arena.cluster().server_names() {
        fs::create_dir_all(lab.data_below(&server).join(name))?;
    }
    let directory = lab.site().directory().join("dry").join(name);
    fs::create_dir_all(directory.join("conf"))?;
    fs::create_dir_all(directory.join("bin"))?;
    let data = lab.data_path().join(name).display().to_string();
    fs::write(
        directory.join("conf/userconfig.xml"),
        package::bare_configuration(&data),
    )?;
    Ok(directory.display().to_string())
}

/// Every verb, where it can be done and where it is refused.
fn cases(arena: &Arena, fresh: &Fresh) -> anyhow::Result<Vec<Case>> {
    use Comes::{ToAPlan, ToTheRefusal};
    let s1 = arena.cluster().skcli("s1")?;
    let token = s1.json(&["cluster", "token"])?;
    let token = token["token"].as_str().context("no token")?.to_owned();
    let other = module_directory(arena, "other")?;
    let packed = arena.lab().site().directory().join("dry/other.safe");
    let packed = packed.display().to_string();
    let contact = format!("{}:9453", topology::address_v4(1, 1));
    let own = fresh.address.as_str();
    let used = arena.cluster().used_token()?;
    let case = |verb, at, arguments: &[&str], comes| Case {
        verb,
        at,
        arguments: words(arguments),
        comes,
    };
    let me = ["--server", "s3", "--address", own];
    let join = |token: &str, me: &[&str], comes| {
        let arguments = [&[contact.as_str(), token], me].concat();
        case("cluster join", "fresh", &arguments, comes)
    };
    let of = |module| ["-m", module];
    let at = |module, server| ["-m", module, "--server", server];
    Ok(vec![
        case(
            "cluster init",
            "fresh",
            &[&["new"], &me[..]].concat(),
            ToAPlan,
        ),
        case(
            "cluster init",
            "s1",
            &[&["new"], &me[..]].concat(),
            ToTheRefusal,
        ),
        case("cluster token", "s1", &[], ToAPlan),
        case(
            "cluster token",
            "s2",
            &["--witness", "--valid", "1h"],
            ToAPlan,
        ),
        case("cluster token", "s2", &["--valid", "25h"], ToTheRefusal),
        join(&token, &me, ToAPlan),
        join(used, &me, ToTheRefusal),
        join(&token, &["--server", "s1", "--address", own], ToTheRefusal),
        join("nonsense", &me, ToTheRefusal),
        case("cluster leave", "w", &[], ToAPlan),
        case("cluster leave", "w", &["--alone"], ToAPlan),
        case("cluster leave", "s1", &["--alone"], ToAPlan),
        case("cluster leave", "fresh", &["--yes"], ToTheRefusal),
        case("cluster remove", "s1", &["s2", "--yes"], ToTheRefusal),
        case("cluster renew", "s2", &[], ToAPlan),
        case("cluster set", "s1", &["s2", "--name", "s9"], ToAPlan),
        case("cluster set", "s1", &["s2", "--name", "w"], ToTheRefusal),
        case("module install", "s1", &[&other, "-m", "other"], ToAPlan),
        case(
            "module install",
            "s1",
            &[&other, "-m", MODULE],
            ToTheRefusal,
        ),
        case("module pack", "s1", &[&other, "-o", &packed], ToAPlan),
        case("module uninstall", "s2", &of(IDLE), ToAPlan),
        case("module uninstall", "s2", &of(MODULE), ToTheRefusal),
        case("module start", "s1", &of(IDLE), ToAPlan),
        case("module stop", "s1", &of(MODULE), ToAPlan),
        case("module stop", "s2", &at(MODULE, "s1"), ToAPlan),
        case("module restart", "s1", &of(MODULE), ToAPlan),
        case("module restart", "s2", &of(MODULE), ToAPlan),
        case("module restart", "s2", &of(IDLE), ToTheRefusal),
        case("module swap", "s1", &of(MODULE), ToAPlan),
        case("module swap", "s2", &of(MODULE), ToAPlan),
        case("module prim", "s1", &of(IDLE), ToAPlan),
        case(
            "module prim",
            "s2",
            &[&at(MODULE, "s2")[..], &["--force"]].concat(),
            ToTheRefusal,
        ),
        case("module second", "s2", &of(MODULE), ToAPlan),
        case("module second", "s2", &of(IDLE), ToTheRefusal),
        case("module place", "s1", &of(MODULE), ToAPlan),
        case("module place", "s1", &at(MODULE, "w"), ToTheRefusal),
        case(
            "module diverged",
            "s1",
            &["-m", MODULE, "--discard", "5"],
            ToTheRefusal,
        ),
    ])
}

/// Every verb of the program that has `--dry-run` is among the cases, and every case is one of them.
fn verify_none_forgotten(skcli: &Skcli, cases: &[Case]) -> anyhow::Result<()> {
    let mut changing = BTreeSet::new();
    for group in GROUPS {
        for verb in verbs_in(&skcli.run(&[group, "--help"])?) {
            if skcli.run(&[group, &verb, "--help"])?.contains("--dry-run") {
                changing.insert(format!("{group} {verb}"));
            }
        }
    }
    let tried: BTreeSet<String> = cases.iter().map(|case| case.verb.to_owned()).collect();
    ensure!(
        tried == changing,
        "verbs that change something: {changing:?}; tried are {tried:?}"
    );
    Ok(())
}

/// The verbs that a help lists.
fn verbs_in(help: &str) -> Vec<String> {
    let list = help
        .lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| !line.is_empty());
    let first = list.filter_map(|line| {
        let is_verb = line.starts_with("  ") && !line.starts_with("   ");
        line.split_whitespace().next().filter(|_| is_verb)
    });
    first
        .filter(|verb| *verb != "help")
        .map(str::to_owned)
        .collect()
}

fn try_one(arena: &Arena, fresh: &Fresh, case: &Case) -> anyhow::Result<()> {
    let skcli = match case.at {
        "fresh" => fresh.skcli.clone(),
        server => arena.cluster().skcli(server)?,
    };
    let before = fingerprint(arena, fresh)?;
    let words = case.words();
    let tried = skcli.try_run(&[&words[..], &["--dry-run"]].concat())?;
    let after = fingerprint(arena, fresh)?;
    ensure!(
        before == after,
        "something changed: {}",
        difference(&before, &after)
    );
    match case.comes {
        Comes::ToAPlan => verify_plan(&tried),
        Comes::ToTheRefusal => verify_refusal(&tried, &skcli.try_run(&words)?),
    }
}

fn verify_plan(tried: &Finished) -> anyhow::Result<()> {
    let has = |begin: &str| tried.stdout.lines().any(|line| line.starts_with(begin));
    let has_plan = has("would be: ") || has("nothing would change");
    ensure!(
        tried.is_success() && has_plan && has("risk: "),
        "should say what would be and what is at risk: {}",
        tried.summary()
    );
    ensure!(
        tried.stdout.contains("nothing was done"),
        "should say that nothing was done: {}",
        tried.summary()
    );
    Ok(())
}

/// The same words and the same exit status.
fn verify_refusal(tried: &Finished, done: &Finished) -> anyhow::Result<()> {
    let code = |finished: &Finished| finished.status.and_then(|status| status.code());
    ensure!(
        code(tried).is_some_and(|code| code != 0)
            && code(tried) == code(done)
            && tried.stderr == done.stderr,
        "tried: {}; really: {}",
        tried.summary(),
        done.summary()
    );
    Ok(())
}

/// It was tried, not used.
fn token_stays_good(fresh: &Fresh, cases: &[Case]) -> anyhow::Result<()> {
    let join = cases
        .iter()
        .find(|case| case.verb == "cluster join" && case.comes == Comes::ToAPlan);
    let words = join.context("a join that would be done")?.words();
    let joined = fresh.skcli.try_run(&words)?;
    ensure!(
        joined.is_success(),
        "after its dry run the join itself: {}",
        joined.summary()
    );
    Ok(())
}

/// Only who is lost can be removed.
fn lost_member(arena: &mut Arena) -> anyhow::Result<()> {
    arena.lab_mut().power_cut("w")?;
    let is_listed_down = |arena: &Arena| -> Result<(), String> {
        let state = arena.cluster().cluster_state("s1");
        let members = state.map_err(|error| format!("{error:#}"))?.members;
        if members.iter().any(|m| m.name == "w" && m.is_down) {
            Ok(())
        } else {
            Err(format!("{members:?}"))
        }
    };
    wait::until("the witness counted as down", REST_DEADLINE, || {
        is_listed_down(arena)
    })?;
    let tried = ["cluster", "remove", "w", "--dry-run"];
    verify_plan(&arena.cluster().skcli("s1")?.try_run(&tried)?)?;
    is_listed_down(arena).map_err(|members| anyhow::anyhow!("it was removed: {members}"))
}

/// Waits until no entry is applied any more.
fn wait_rest(arena: &Arena) -> anyhow::Result<()> {
    let mut last = (applied(arena)?, wait::boot_ns());
    wait::until("a cluster at rest", REST_DEADLINE, || {
        let now = applied(arena).map_err(|error| format!("{error:#}"))?;
        if now != last.0 {
            last = (now, wait::boot_ns());
        }
        let rested = Duration::from_nanos(wait::boot_ns() - last.1);
        if rested >= REST {
            Ok(())
        } else {
            Err(format!("applied {:?} a moment ago", last.0))
        }
    })?;
    Ok(())
}

/// What every member has applied.
fn applied(arena: &Arena) -> anyhow::Result<Vec<u64>> {
    let members = ["s1", "s2", "w"];
    let indices = members.iter().map(|member| {
        let state = arena.cluster().cluster_state(member)?;
        Ok(state.applied_index)
    });
    indices.collect()
}

/// Waits until all have applied the newest entry: what one has applied the others apply a little later.
fn wait_level(arena: &Arena) -> anyhow::Result<()> {
    wait::until("all members at one entry", REST_DEADLINE, || {
        let all = applied(arena).map_err(|error| format!("{error:#}"))?;
        match all.as_slice() {
            [first, rest @ ..] if rest.iter().all(|index| index == first) => Ok(()),
            _ => Err(format!("{all:?}")),
        }
    })?;
    Ok(())
}

/// The members, who shall run and leads each module, and the newest event that is not by a daemon. A daemon may declare another one,
/// or drop its copy, whenever the machine is slow.
fn on_record(arena: &Arena) -> anyhow::Result<BTreeMap<String, String>> {
    let mut seen = BTreeMap::new();
    let events = wait::answer("the events", || arena.cluster().events_of("s1"))?;
    let by_operators = events.iter().filter(|event| !is_daemon(&event.author));
    let newest = by_operators.max_by_key(|event| event.id);
    seen.insert(
        "newest event".to_owned(),
        newest.map_or_else(String::new, |e| {
            format!("{} {} by {}", e.id, e.text, e.author)
        }),
    );
    let state = wait::answer("the members", || arena.cluster().cluster_state("s1"))?;
    for member in &state.members {
        let addresses: Vec<&str> = member.lans.iter().map(|l| l.address.as_str()).collect();
        let told = format!("{} {} {addresses:?}", member.name, member.is_voter);
        seen.insert(format!("member {}", member.id), told);
    }
    for module in wait::answer("the modules", || arena.cluster().modules("s1"))? {
        let wanted = module.servers.iter().map(|s| (&s.server, &s.wanted));
        let wanted: Vec<_> = wanted.collect();
        let told = format!("{} {} {wanted:?}", module.primary, module.ack);
        seen.insert(format!("module {}", module.module), told);
    }
    Ok(seen)
}

/// What must be the same: what an operator can change of the cluster, and every file of the state directories but those of the
/// log, which hold no more than what was applied.
fn fingerprint(arena: &Arena, fresh: &Fresh) -> anyhow::Result<BTreeMap<String, String>> {
    wait_level(arena)?;
    let mut seen = on_record(arena)?;
    let roots = ["s1", "s2", "w"].map(|member| arena.lab().root(member));
    for root in roots.iter().chain([&fresh.root]) {
        files_below(&root.join("var/lib/sidekick"), &mut seen)?;
    }
    files_below(&arena.lab().site().directory().join("dry"), &mut seen)?;
    Ok(seen)
}

fn files_below(directory: &Path, seen: &mut BTreeMap<String, String>) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = entry.path();
        let kind = entry.file_type()?;
        // The stores of Raft and of the copies, and what scripts said.
        let is_store = ["raft", "journal", "scripts"]
            .iter()
            .any(|name| path.ends_with(name));
        if kind.is_dir() && !is_store {
            files_below(&path, seen)?;
        } else if kind.is_file() {
            let content = fs::read(&path)?;
            let told = format!("{} bytes, {:016x}", content.len(), hash(&content));
            seen.insert(path.display().to_string(), told);
        }
    }
    Ok(())
}

fn hash(content: &[u8]) -> u64 {
    use std::hash::{DefaultHasher, Hash as _, Hasher as _};
    let mut hasher = DefaultHasher::new();
    content.hash(&mut hasher);
    hasher.finish()
}

fn difference(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>) -> String {
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    let changed = names
        .into_iter()
        .filter(|name| before.get(*name) != after.get(*name));
    let told =
        changed.map(|name| format!("{name}: {:?}, then {:?}", before.get(name), after.get(name)));
    told.collect::<Vec<_>>().join("; ")
}
