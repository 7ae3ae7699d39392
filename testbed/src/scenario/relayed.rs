//! Commands typed where the member that has to act is out of reach.

use super::arena::{Arena, CONVERGE_DEADLINE, hold, ms_since};
use super::figures::Figures;
use crate::cluster::MODULE;
use crate::lab::{Direction, LANS};
use crate::matrix::move_leader;
use crate::wait::{self, Finished};
use anyhow::{Context as _, ensure};
use api::v1::ModuleState;
use std::time::Duration;

/// The outcome of a command that waits for nothing is learnt within this time.
const LEARNT_MS_MAX: f64 = 5000.0;
/// With the stop and start of an application in it.
const DONE_MS_MAX: f64 = 20_000.0;
/// Connections of a server that is cut off have ended after this time.
const CUT_OFF: Duration = Duration::from_secs(4);
/// Exit status of a refusal, and of a command that nobody answered.
const REFUSED: i32 = 4;
const NO_ANSWER: i32 = 5;

/// Goal: a server that reaches neither the leader nor the primary directly still gets its commands done, once, and learns the
/// outcome; refusals come through word for word, and where no way leads it says which were tried. Method: the witness leads and
/// the link between it and the secondary is cut, one way and both; then the link of the pair.
pub(super) fn command_relayed(arena: &mut Arena) -> anyhow::Result<Figures> {
    let mut figures = Figures::default();
    let primary = arena.ready()?;
    let secondary = arena.cluster().other(&primary)?;
    to_the_leader(arena, &primary, &secondary, &mut figures)?;
    let primary = arena.ready()?;
    let secondary = arena.cluster().other(&primary)?;
    to_the_primary(arena, &primary, &secondary, &mut figures)?;
    arena.ready()?;
    Ok(figures)
}

/// The command is typed on a server that the leader does not reach.
struct CutOff<'a> {
    arena: &'a Arena,
    server: &'a str,
}

impl CutOff<'_> {
    /// As `type_alone`, with both copies in sync.
    fn type_mirrored(&self, cuts: &[(&str, &str)], arguments: &[&str]) -> anyhow::Result<f64> {
        // Moving the leader may cost the pair its link.
        move_leader(self.arena, "w").context("make the witness lead")?;
        self.arena.ready()?;
        self.type_alone(cuts, arguments)
    }

    /// The witness leads; then its link to the server is cut, and the command is typed. Answers the milliseconds until its end.
    fn type_alone(&self, cuts: &[(&str, &str)], arguments: &[&str]) -> anyhow::Result<f64> {
        move_leader(self.arena, "w").context("make the witness lead")?;
        let cuts = directions(cuts);
        let cut = self.arena.lab().cut_all(&cuts, &LANS)?;
        let done = self
            .arena
            .cluster()
            .skcli(self.server)?
            .try_run(arguments)?;
        let took = ms_since(cut);
        self.arena.lab().heal()?;
        ensure!(
            done.is_success(),
            "skcli {} on {}, which the leader does not reach: {}",
            arguments.join(" "),
            self.server,
            done.summary()
        );
        Ok(took)
    }
}

fn to_the_leader(
    arena: &Arena,
    primary: &str,
    secondary: &str,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let (answers, both) = ([("w", secondary)], [("w", secondary), (secondary, "w")]);
    let here = CutOff {
        arena,
        server: secondary,
    };
    let mut learnt = 0.0_f64;
    // The leader hears the command, and its answer is lost: asked again over the primary, it must not be done twice.
    for cuts in [&answers[..], &both] {
        let before = tokens_made(arena, primary)?;
        learnt = learnt.max(here.type_mirrored(cuts, &["cluster", "token"])?);
        wait_one_token(arena, primary, before)?;
    }
    let stop = ["module", "stop", "-m", MODULE];
    learnt = learnt.max(here.type_mirrored(&both, &stop)?);
    arena
        .cluster()
        .wait_state(primary, &[ModuleState::Alone], CONVERGE_DEADLINE)?;
    wait::until(
        "STOP where it was asked for",
        CONVERGE_DEADLINE,
        || match arena.state_of(secondary) {
            Ok(ModuleState::Stop) => Ok(()),
            Ok(state) => Err(format!("{state:?}")),
            Err(error) => Err(format!("{error:#}")),
        },
    )?;
    let start = ["module", "start", "-m", MODULE];
    learnt = learnt.max(here.type_alone(&both, &start)?);
    figures.set("learnt_ms", learnt);
    ensure!(
        learnt <= LEARNT_MS_MAX,
        "the outcome was learnt after {learnt:.0} ms, the limit is {LEARNT_MS_MAX:.0} ms"
    );
    arena.ready()?;
    let swapped = here.type_mirrored(&both, &["module", "swap", "-m", MODULE])?;
    figures.set("swap_ms", swapped);
    ensure!(
        swapped <= DONE_MS_MAX,
        "swap took {swapped:.0} ms, the limit is {DONE_MS_MAX:.0} ms"
    );
    let leads = arena.ready()?;
    ensure!(
        leads == secondary,
        "swap was done, and {leads} is primary instead of {secondary}"
    );
    Ok(())
}

fn to_the_primary(
    arena: &Arena,
    primary: &str,
    secondary: &str,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let pair = [(primary, secondary), (secondary, primary)];
    arena.lab().cut_all(&directions(&pair), &LANS)?;
    let typed = type_without_pair(arena, primary, secondary, figures);
    arena.lab().heal()?;
    typed?;
    no_way(arena, secondary)
}

fn type_without_pair(
    arena: &Arena,
    primary: &str,
    secondary: &str,
    figures: &mut Figures,
) -> anyhow::Result<()> {
    let skcli = arena.cluster().skcli(secondary)?;
    let what = format!("{secondary} to know that {primary} is alone");
    wait::until(&what, CONVERGE_DEADLINE, || {
        let state = arena.cluster().module_state(secondary);
        let state = state.map_err(|e| format!("{e:#}"))?;
        let its = state.servers.iter().find(|each| each.server == primary);
        if its.is_some_and(|its| its.state() == ModuleState::Alone) {
            Ok(())
        } else {
            Err(crate::cluster::observe::summary(&state))
        }
    })?;
    let before = process_of(arena, primary)?;
    let began = wait::boot_ns();
    let done = skcli.try_run(&["module", "restart", "-m", MODULE])?;
    let took = ms_since(began);
    ensure!(
        done.is_success() && done.stdout.contains(&format!("restarted on {primary}")),
        "restart on {secondary}, cut off from {primary}: {}",
        done.summary()
    );
    figures.set("restart_ms", took);
    ensure!(
        took <= DONE_MS_MAX,
        "restart took {took:.0} ms, the limit is {DONE_MS_MAX:.0} ms"
    );
    let after = process_of(arena, primary)?;
    ensure!(
        before != after,
        "a restart was asked for, and process {before} runs on"
    );
    // There is no secondary: the primary's own words.
    let refused = skcli.try_run(&["module", "swap", "-m", MODULE])?;
    verify_failed(
        &refused,
        REFUSED,
        &[&format!("{primary} says: "), "secondary"],
    )
}

/// Cut off from everybody: the ways that were tried are named.
fn no_way(arena: &Arena, secondary: &str) -> anyhow::Result<()> {
    arena.ready()?;
    let cut = arena.lab().isolate(secondary)?;
    hold(cut, CUT_OFF);
    let done = arena
        .cluster()
        .skcli(secondary)?
        .try_run(&["module", "restart", "-m", MODULE]);
    arena.lab().heal()?;
    verify_failed(
        &done?,
        NO_ANSWER,
        &["was not reached", "directly: ", "over w: "],
    )
}

fn verify_failed(done: &Finished, code: i32, says: &[&str]) -> anyhow::Result<()> {
    let is_so = done.status.and_then(|status| status.code()) == Some(code);
    let missing = says.iter().find(|text| !done.stderr.contains(**text));
    ensure!(
        is_so && missing.is_none(),
        "expected exit status {code} and {says:?}: {}",
        done.summary()
    );
    Ok(())
}

fn directions<'a>(cuts: &[(&'a str, &'a str)]) -> Vec<Direction<'a>> {
    cuts.iter()
        .map(|(from, to)| Direction { from, to })
        .collect()
}

/// Done, and done once; the server that is asked may apply it a moment later than the leader.
fn wait_one_token(arena: &Arena, asked: &str, before: usize) -> anyhow::Result<()> {
    let made = wait::until("the token on record", CONVERGE_DEADLINE, || {
        let made = tokens_made(arena, asked).map_err(|error| format!("{error:#}"))? - before;
        if made > 0 {
            Ok(made)
        } else {
            Err("none was made".to_owned())
        }
    })?;
    ensure!(made == 1, "one token was asked for, {made} were made");
    Ok(())
}

fn tokens_made(arena: &Arena, asked: &str) -> anyhow::Result<usize> {
    let events = arena.cluster().events_of(asked)?;
    let is_token = |event: &&api::v1::EventReply| event.text.contains("token created");
    Ok(events.iter().filter(is_token).count())
}

/// The process of the application, as its start script notes it.
fn process_of(arena: &Arena, server: &str) -> anyhow::Result<String> {
    let state = arena.lab().root(server).join("var/lib/sidekick/modules");
    let file = state.join(MODULE).join("scripts/ledger.pid");
    std::fs::read_to_string(&file).with_context(|| format!("read {}", file.display()))
}
