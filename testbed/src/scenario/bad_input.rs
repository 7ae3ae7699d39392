//! Wrong input from people, packages and strangers: each must be a clear error, and nothing may change.

use super::arena::Arena;
use super::figures::Figures;
use crate::cluster::{Cluster, package};
use crate::lab::{CLIENT, Direction, Lab, topology};
use crate::oracle::Application;
use crate::wait::{self, Finished};
use anyhow::{Context as _, ensure};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

mod strangers;

/// A command that is refused is refused within this time.
const REFUSED_DEADLINE: Duration = Duration::from_secs(30);
/// Seconds after which a token has expired; as short as tokens can be.
const TOKEN_S: &str = "1";

/// One wrong command.
struct Case<'a> {
    what: &'a str,
    server: &'a str,
    arguments: Vec<String>,
    /// The text must name at least one of these.
    says: &'a [&'a str],
}

impl<'a> Case<'a> {
    fn new(what: &'a str, server: &'a str, arguments: &[&str], says: &'a [&'a str]) -> Case<'a> {
        Case {
            what,
            server,
            arguments: arguments.iter().map(|a| (*a).to_owned()).collect(),
            says,
        }
    }
}

/// Goal: every line of the list of bad input. Method: the real command line, and the state of the cluster before and after.
pub(super) fn bad_input(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let mut count = 0;
    count += commands(arena.cluster())?;
    count += packages(arena.cluster())?;
    count += directories(arena.cluster())?;
    count += tokens(arena)?;
    count += partitioned_join(arena)?;
    count += strangers::all(arena)?;
    count += people(arena.lab())?;
    count += unfit(arena.cluster())?;
    figures.set("cases", f64::from(count));
    Ok(figures)
}

/// Members, modules and epochs: what must be the same after a refused command.
fn fingerprint(cluster: &Cluster) -> anyhow::Result<String> {
    let state = cluster.cluster_state("s1")?;
    let mut members: Vec<String> = state
        .members
        .iter()
        .map(|m| format!("{} {}", m.id, m.name))
        .collect();
    members.sort();
    let modules = cluster.skcli("s1")?.json(&["module", "list"])?;
    let modules: Vec<String> = modules
        .as_array()
        .or_else(|| modules["modules"].as_array())
        .map(|list| {
            list.iter()
                .map(|m| format!("{} {}", m["module"], m["epoch"]))
                .collect()
        })
        .unwrap_or_default();
    Ok(format!("{members:?} {modules:?}"))
}

fn refuse(cluster: &Cluster, cases: &[Case<'_>]) -> anyhow::Result<u32> {
    for case in cases {
        let before = fingerprint(cluster)?;
        let arguments: Vec<&str> = case.arguments.iter().map(String::as_str).collect();
        let finished = cluster.skcli(case.server)?.try_run(&arguments)?;
        verify_refusal(case.what, &finished, case.says)?;
        let after = fingerprint(cluster)?;
        ensure!(
            before == after,
            "{}: refused, yet {before} became {after}",
            case.what
        );
    }
    Ok(u32::try_from(cases.len())?)
}

/// Exit status not 0, no panic, and a text that names the trouble.
fn verify_refusal(what: &str, finished: &Finished, says: &[&str]) -> anyhow::Result<()> {
    let said = format!("{} {}", finished.stderr, finished.stdout);
    let code = finished.status.and_then(|status| status.code());
    ensure!(
        code.is_some_and(|code| code != 0 && code < 100),
        "{what}: should be refused, but: {}",
        finished.summary()
    );
    ensure!(!said.contains("panicked"), "{what}: panicked: {said}");
    let lower = said.to_lowercase();
    ensure!(
        says.iter().any(|word| lower.contains(&word.to_lowercase())),
        "{what}: the text should name one of {says:?}: {}",
        said.trim()
    );
    Ok(())
}

fn commands(cluster: &Cluster) -> anyhow::Result<u32> {
    refuse(
        cluster,
        &[
            Case::new("unknown verb", "s1", &["frobnicate"], &["frobnicate"]),
            Case::new(
                "unknown module",
                "s1",
                &["module", "start", "-m", "nosuch"],
                &["nosuch"],
            ),
            Case::new(
                "state of an unknown module",
                "s1",
                &["module", "state", "-m", "nosuch"],
                &["nosuch"],
            ),
            Case::new(
                "name that cannot be",
                "s1",
                &["module", "start", "-m", "../etc"],
                &["../etc", "letter"],
            ),
            Case::new(
                "a cluster again",
                "s1",
                &[
                    "cluster",
                    "init",
                    "two",
                    "--server",
                    "s1",
                    "--address",
                    "10.77.1.1:9453",
                ],
                &["already", "cluster"],
            ),
        ],
    )
}

/// Writes a module directory with this configuration.
fn module(lab: &Lab, name: &str, configuration: &str) -> anyhow::Result<PathBuf> {
    let directory = lab.site().directory().join("bad").join(name);
    fs::create_dir_all(directory.join("conf"))?;
    fs::create_dir_all(directory.join("bin"))?;
    fs::write(directory.join("conf/userconfig.xml"), configuration)?;
    Ok(directory)
}

fn install<'a>(
    what: &'a str,
    directory: &Path,
    name: &str,
    servers: &str,
    says: &'a [&'a str],
) -> Case<'a> {
    let path = directory.display().to_string();
    Case::new(
        what,
        "s1",
        &["module", "install", &path, "-m", name, "--servers", servers],
        says,
    )
}

fn packages(cluster: &Cluster) -> anyhow::Result<u32> {
    let lab = cluster.lab();
    let data = lab.data_path().display().to_string();
    let torn = module(lab, "torn", "<safe>\n <service mode=\"mirror\">\n")?;
    let doctype = module(
        lab,
        "doctype",
        &format!(
            "<!DOCTYPE safe [<!ENTITY x \"y\">]>\n{}",
            package::bare_configuration(&data)
        ),
    )?;
    let unknown = module(
        lab,
        "unknown",
        "<safe><service mode=\"mirror\"><rsf/></service></safe>",
    )?;
    let fine = module(lab, "fine", &package::bare_configuration(&data))?;
    let no_zip = lab.site().directory().join("bad/nozip.safe");
    fs::write(&no_zip, "this is no package")?;
    refuse(
        cluster,
        &[
            install(
                "malformed XML",
                &torn,
                "bad",
                "s1,s2",
                &["line", ":2", ":3"],
            ),
            install("DOCTYPE", &doctype, "bad", "s1,s2", &["doctype"]),
            install("unknown tag", &unknown, "bad", "s1,s2", &["rsf"]),
            install("no package", &no_zip, "bad", "s1,s2", &["package", "zip"]),
            install(
                "no file",
                Path::new("/nonexistent.safe"),
                "bad",
                "s1,s2",
                &["nonexistent"],
            ),
            install("unknown server", &fine, "bad", "s1,s9", &["s9"]),
            install(
                "a witness as server",
                &fine,
                "bad",
                "s1,w",
                &["witness", "no server"],
            ),
            install("one server twice", &fine, "bad", "s1,s1", &["s1", "two"]),
        ],
    )
}

fn directories(cluster: &Cluster) -> anyhow::Result<u32> {
    let lab = cluster.lab();
    for server in cluster.server_names() {
        fs::create_dir_all(lab.data_below(&server).join("first/below"))?;
    }
    let path = |relative: &str| lab.data_path().join(relative).display().to_string();
    let root = module(lab, "root", &package::bare_configuration("/"))?;
    let missing = module(
        lab,
        "missing",
        &package::bare_configuration(&path("missing")),
    )?;
    let relative = module(lab, "relative", &package::bare_configuration("srv/data"))?;
    let first = module(lab, "first", &package::bare_configuration(&path("first")))?;
    let below = module(
        lab,
        "below",
        &package::bare_configuration(&path("first/below")),
    )?;
    fs::create_dir_all(lab.data_below("s1").join("one-sided"))?;
    let says_s2 = format!("s2 says: {} is not a directory", path("one-sided"));
    let one_sided = module(
        lab,
        "one-sided",
        &package::bare_configuration(&path("one-sided")),
    )?;
    let mut count = refuse(
        cluster,
        &[
            install(
                "a directory that only this server has",
                &one_sided,
                "bad",
                "s1,s2",
                &[&says_s2],
            ),
            install("the root directory", &root, "bad", "s1,s2", &["/"]),
            install(
                "a directory that does not exist",
                &missing,
                "bad",
                "s1,s2",
                &["missing"],
            ),
            install(
                "a relative directory",
                &relative,
                "bad",
                "s1,s2",
                &["absolute"],
            ),
        ],
    )?;
    let package = first.display().to_string();
    let skcli = cluster.skcli("s1")?;
    skcli.json(&[
        "module",
        "install",
        &package,
        "-m",
        "first",
        "--servers",
        "s1,s2",
    ])?;
    count += refuse(
        cluster,
        &[
            install(
                "a directory of another module",
                &below,
                "bad",
                "s1,s2",
                &["first"],
            ),
            install("the same directory", &first, "bad", "s1,s2", &["first"]),
        ],
    )?;
    skcli.run(&["module", "uninstall", "-m", "first"])?;
    Ok(count)
}

/// A wiped witness tries to join with tokens that do not count.
fn tokens(arena: &mut Arena) -> anyhow::Result<u32> {
    wipe(arena, "w")?;
    let token = |arguments: &[&str]| -> anyhow::Result<String> {
        let mut all = vec!["cluster", "token"];
        all.extend(arguments);
        let answer = arena.cluster().skcli("s1")?.json(&all)?;
        let text = answer["token"].as_str().context("no token in the answer")?;
        Ok(text.to_owned())
    };
    let good = token(&["--witness"])?;
    let for_server = token(&[])?;
    let expired = token(&["--witness", "--valid", TOKEN_S])?;
    let expires = wait::unix_ms() + 2100;
    wait::until("the end of a token", REFUSED_DEADLINE, || {
        if wait::unix_ms() > expires {
            Ok(())
        } else {
            Err("still valid".to_owned())
        }
    })?;
    let contact = topology::address_v4(1, 1).to_string() + ":9453";
    let elsewhere = topology::address_v4(1, 2).to_string() + ":9453";
    let own = topology::address_v4(1, 3).to_string() + ":9453";
    let join = |what: &'static str, token: &str, name: &str, says: &'static [&'static str]| {
        Case::new(
            what,
            "w",
            &[
                "cluster",
                "join",
                &contact,
                token,
                "--server",
                name,
                "--address",
                &own,
            ],
            says,
        )
    };
    let cases = [
        join("no token at all", "nonsense", "w2", &["token"]),
        join(
            "a token with one letter changed",
            &changed(&good),
            "w2",
            &["token", "fingerprint", "certificate"],
        ),
        join("an expired token", &expired, "w2", &["expired"]),
        join(
            "a server's token for a witness",
            &for_server,
            "w2",
            &["witness", "no server"],
        ),
        join(
            "a token used before",
            arena.cluster().used_token()?,
            "w3",
            &["used"],
        ),
        Case::new(
            "a token used before, at another server",
            "w",
            &[
                "cluster",
                "join",
                &elsewhere,
                arena.cluster().used_token()?,
                "--server",
                "w3",
                "--address",
                &own,
            ],
            &["used"],
        ),
        join("a name that is taken", &good, "s1", &["s1", "taken"]),
        Case::new(
            "a member that is not there",
            "w",
            &[
                "cluster",
                "join",
                "10.77.1.99:9453",
                &good,
                "--server",
                "w2",
                "--address",
                &own,
            ],
            &["10.77.1.99", "reach", "connect"],
        ),
    ];
    refuse(arena.cluster(), &cases)
}

/// The witness is away, and the two servers do not hear each other: whoever is asked has no majority, and says so in time.
fn partitioned_join(arena: &mut Arena) -> anyhow::Result<u32> {
    let answer = arena
        .cluster()
        .skcli("s1")?
        .json(&["cluster", "token", "--witness"])?;
    let token = answer["token"].as_str().context("no token in the answer")?;
    for lan in crate::lab::LANS {
        for (from, to) in [("s1", "s2"), ("s2", "s1")] {
            arena.lab().cut(Direction { from, to }, lan)?;
        }
    }
    let contact = topology::address_v4(1, 1).to_string() + ":9453";
    let own = topology::address_v4(1, 3).to_string() + ":9453";
    let joined = arena.cluster().skcli("w")?.try_run(&[
        "cluster",
        "join",
        &contact,
        token,
        "--server",
        "w9",
        "--address",
        &own,
        "--replaces",
        "w",
    ]);
    arena.lab().heal()?;
    let says = &["no leader", "outcome unknown"];
    verify_refusal("a join while the servers are partitioned", &joined?, says)?;
    wait::until("a majority again", REFUSED_DEADLINE, || {
        match arena.cluster().cluster_state("s1") {
            Ok(state) if state.has_quorum => Ok(()),
            Ok(_) => Err("no majority".to_owned()),
            Err(error) => Err(format!("{error:#}")),
        }
    })?;
    joins_after_healing(arena, &contact, &own)?;
    Ok(2)
}

/// What became of the join is known when a majority has decided something after it: the newcomer is a member or is none, and a
/// new token lets it join: in the place of the witness it replaces, or in its own if its answer was lost.
fn joins_after_healing(arena: &Arena, contact: &str, own: &str) -> anyhow::Result<()> {
    let newcomer = arena.cluster().skcli("w")?;
    wait_left(arena)?;
    let asked = arena.cluster().skcli("s1")?;
    let answer = asked.json(&["cluster", "token", "--witness"])?;
    let token = answer["token"].as_str().context("no token in the answer")?;
    let place = wait::until(
        "what became of the join",
        REFUSED_DEADLINE,
        || match is_down(arena).map_err(|e| format!("{e:#}"))? {
            None => Ok("w"),
            Some(true) => Ok("w9"),
            Some(false) => Err("a member that nobody runs is not missed yet".to_owned()),
        },
    )?;
    newcomer.json(&[
        "cluster",
        "join",
        contact,
        token,
        "--server",
        "w9",
        "--address",
        own,
        "--replaces",
        place,
    ])?;
    wait::until("the newcomer", REFUSED_DEADLINE, || {
        let seen = is_down(arena).map_err(|e| format!("{e:#}"))?;
        let own = arena.cluster().cluster_state("w");
        let own = own.map_err(|e| format!("{e:#}"))?;
        match seen == Some(false) && own.has_quorum {
            true => Ok(()),
            false => Err(format!("down: {seen:?}")),
        }
    })?;
    Ok(())
}

/// The daemon on the witness's machine belongs to no cluster.
fn wait_left(arena: &Arena) -> anyhow::Result<()> {
    let newcomer = arena.cluster().skcli("w")?;
    wait::until("a fresh daemon", REFUSED_DEADLINE, || {
        let said = newcomer
            .try_run(&["cluster", "state"])
            .map_err(|e| format!("{e:#}"))?;
        match said.stderr.contains("belongs to no cluster") {
            true => Ok(()),
            false => Err(said.summary()),
        }
    })?;
    Ok(())
}

/// Whether the newcomer counts as down; none when it is no member.
fn is_down(arena: &Arena) -> anyhow::Result<Option<bool>> {
    let state = arena.cluster().cluster_state("s1")?;
    let found = state.members.iter().find(|member| member.name == "w9");
    Ok(found.map(|member| member.is_down))
}

/// Another letter in the middle of the token.
fn changed(token: &str) -> String {
    let middle = token.len() / 2;
    token
        .char_indices()
        .map(|(index, letter)| match letter {
            'a' if index == middle => 'b',
            _other if index == middle => 'a',
            letter => letter,
        })
        .collect()
}

/// The server comes back with an empty disk.
fn wipe(arena: &mut Arena, name: &str) -> anyhow::Result<()> {
    arena.lab_mut().power_cut(name)?;
    let root = arena.lab().root(name);
    fs::remove_dir_all(&root)?;
    fs::create_dir(&root)?;
    arena.lab_mut().power_on(name)?;
    arena.lab_mut().start_daemon(name)?;
    arena.cluster().wait_answers(name)
}

/// The daemon under wrong circumstances.
fn people(lab: &Lab) -> anyhow::Result<u32> {
    let sknode = crate::lab::program("sknode")?.display().to_string();
    let root = lab.site().directory().join("nobody");
    fs::create_dir_all(&root)?;
    let root_text = root.display().to_string();
    let started = lab.exec(
        CLIENT,
        &[
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
            &sknode,
            "--root",
            &root_text,
        ],
        REFUSED_DEADLINE,
    )?;
    verify_refusal("the daemon without root", &started, &["root"])?;
    let taken = lab.root("s1").display().to_string();
    let started = lab.exec("s1", &[&sknode, "--root", &taken], REFUSED_DEADLINE)?;
    verify_refusal(
        "a second daemon on one directory",
        &started,
        &["already", "another", "lock", "in use"],
    )?;
    Ok(2)
}

/// The virtual address of the module answers on the LAN already, or there is no FUSE: the module is not even installed.
fn unfit(cluster: &Cluster) -> anyhow::Result<u32> {
    let lab = cluster.lab();
    let address = topology::virtual_v4().to_string();
    let package = package::write(lab, Application::Ledger)?;
    let with_length = format!("{address}/32");
    let says: &[&str] = &[&address];
    let cases = [install(
        "a virtual address that answers",
        &package,
        "taken",
        "s1,s2",
        says,
    )];
    let mut count = during(
        lab,
        CLIENT,
        ["ip", "addr", "add", &with_length, "dev", "lan1"],
        ["ip", "addr", "del", &with_length, "dev", "lan1"],
        || refuse(cluster, &cases),
    )?;
    let address = topology::virtual_v6().to_string();
    let with_length = format!("{address}/128");
    let says: &[&str] = &[&address];
    let cases = [install(
        "an IPv6 virtual address that answers",
        &package,
        "taken",
        "s1,s2",
        says,
    )];
    count += during(
        lab,
        CLIENT,
        ["ip", "addr", "add", &with_length, "dev", "lan1", "nodad"],
        ["ip", "addr", "del", &with_length, "dev", "lan1"],
        || refuse(cluster, &cases),
    )?;
    let cases = [install("no FUSE", &package, "nofuse", "s1,s2", &["fuse"])];
    count += during(
        lab,
        "s1",
        ["mount", "-t", "tmpfs", "none", "/dev"],
        ["umount", "/dev"],
        || refuse(cluster, &cases),
    )?;
    // The command is typed on s1, and the trouble is on the other server.
    let cases = [install(
        "no FUSE on the other server",
        &package,
        "nofuse",
        "s1,s2",
        &["s2 says: this kernel has no fuse"],
    )];
    count += during(
        lab,
        "s2",
        ["mount", "-t", "tmpfs", "none", "/dev"],
        ["umount", "/dev"],
        || refuse(cluster, &cases),
    )?;
    Ok(count)
}

/// Does one thing inside a place, works, and undoes the thing whatever came of the work.
fn during<T, const N: usize, const M: usize>(
    lab: &Lab,
    place: &str,
    before: [&str; N],
    after: [&str; M],
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    let run = |command: &[&str]| -> anyhow::Result<()> {
        let done = lab.exec(place, command, REFUSED_DEADLINE)?;
        ensure!(
            done.is_success(),
            "{}: {}",
            command.join(" "),
            done.summary()
        );
        Ok(())
    };
    run(&before)?;
    let result = work();
    run(&after)?;
    result
}
