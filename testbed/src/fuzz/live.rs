//! A living daemon under attack, in a lab: `s1` and `s2` serve a module while somebody with the certificate of the witness, and
//! somebody with none, says nonsense to the primary. The stream of the mirror is attacked where it is taken seriously: somebody
//! with the certificate of the primary takes the place of the primary at the secondary.
//!
//! A member that is believed is believed: a vote or a proposal that can be decoded is that member's word, and Raft does not
//! defend itself against members that lie. So of Raft's messages only those are sent that no member would send.

mod caller;

use super::mutate::Mutator;
use super::target::{CORPUS_EPOCH, Input, Target};
use super::{SLOW, Tally};
use crate::cluster::MODULE;
use crate::lab::{LANS, topology};
use crate::oracle::{Application, leaks};
use crate::scenario::Arena;
use crate::wait::boot_ns;
use anyhow::{Context as _, ensure};
use caller::Caller;
use fs_mirror::replication::wire::{self, Message};
use fs_mirror::{Epoch, Hello, Start};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::time::{Duration, Instant};

/// Inputs on one connection.
const PER_CONNECTION: u64 = 20;
/// Rows acknowledged meanwhile, at least, per second of the attack.
const ROWS_PER_SECOND_MIN: u64 = 5;
/// The daemon may grow by this.
const GROWTH_KIB_MAX: u64 = 96 << 10;
/// The service does not stop for longer than this, whatever is said.
const GAP_MS_MAX: f64 = 2500.0;
/// A session that begins again somewhere has been told of fewer bytes than this, and brings fewer.
const RECEIVED_MAX: u64 = 1 << 20;
/// How many bytes of a log's end hold the number of the newest session.
const LOG_TAIL_BYTES: usize = 64 << 10;

/// Who attacks whom: the first server leads the module.
#[derive(Debug, Clone, Copy)]
struct Attack {
    target: Target,
    victim: &'static str,
    attacker: &'static str,
}

impl Attack {
    fn on(target: Target) -> Attack {
        let (victim, attacker) = match target {
            Target::Mirror => ("s2", "s1"),
            Target::Raft | Target::Heartbeat | Target::Control => ("s1", "w"),
        };
        Attack {
            target,
            victim,
            attacker,
        }
    }
}

/// Attacks for a while.
///
/// # Errors
/// The daemon died, stopped answering, grew, or the service suffered.
pub(super) fn attack(
    target: Target,
    mutator: &mut Mutator,
    length: Duration,
) -> anyhow::Result<Tally> {
    let mut arena = Arena::formed(Application::Ledger, mutator.below(u64::MAX))?;
    match attack_in(&mut arena, Attack::on(target), mutator, length) {
        Ok(tally) => Ok(tally),
        Err(error) => Err(error.context(arena.evidence())),
    }
}

fn attack_in(
    arena: &mut Arena,
    attack: Attack,
    mutator: &mut Mutator,
    length: Duration,
) -> anyhow::Result<Tally> {
    arena.start_module()?;
    if attack.attacker == "w" {
        // Its certificate is used by us; its daemon would only be in the way of what is counted.
        arena.lab_mut().kill_daemon("w")?;
    }
    arena.ready()?;
    let victim = arena.lab().server(attack.victim)?;
    let (daemon, host) = (victim.daemon_pid(), victim.node().host);
    let before = resident_kib(arena, attack)?;
    let mut caller = Caller::of_member(&arena.lab().root(attack.attacker), host)?;
    let (began, end) = (boot_ns(), Instant::now() + length);
    let mut tally = Tally::default();
    while Instant::now() < end {
        let mut inputs = round(attack.target, mutator);
        if attack.target == Target::Mirror {
            let epoch = Epoch(arena.cluster().module_state(attack.attacker)?.epoch);
            let greeting = Greeting::drawn(mutator);
            if let Greeting::SameSession { .. } = greeting {
                to_zeros(&mut inputs, mutator.below(RECEIVED_MAX));
            }
            caller.greet_with(hello(arena, attack, epoch, greeting)?);
            run_together(&mut inputs);
            if let Some(all) = inputs.first_mut() {
                to_epoch(&mut all.bytes, epoch);
            }
        }
        let client = arena.lab().client_network()?;
        tally.understood += client.within(|| caller.send(attack.target, &inputs))?;
        client.within(|| shout(host, &inputs))?;
        tally.inputs += inputs.len() as u64;
        verify(arena, attack, daemon)?;
        arena.verify_logs()?;
    }
    // Of Raft's messages only those are sent that no member understands.
    ensure!(
        tally.understood > 0 || attack.target == Target::Raft,
        "the daemon answered none of {} inputs: what was sent never got where it is decoded",
        tally.inputs
    );
    verify_service(arena, began, length)?;
    tally.growth_kib = resident_kib(arena, attack)?.saturating_sub(before);
    ensure!(
        tally.growth_kib <= GROWTH_KIB_MAX,
        "the daemon grew by {} KiB",
        tally.growth_kib
    );
    if attack.attacker == "w" {
        arena.lab_mut().start_daemon("w")?;
    }
    arena.wait_members()?;
    arena.ready()?;
    arena.audit()?;
    Ok(tally)
}

fn round(target: Target, mutator: &mut Mutator) -> Vec<Input> {
    (0..PER_CONNECTION)
        .map(|_| mutator.next(target))
        .filter(|input| target != Target::Raft || !target.decode(input))
        .collect()
}

fn resident_kib(arena: &Arena, attack: Attack) -> anyhow::Result<u64> {
    Ok(leaks::holdings(arena.lab(), attack.victim)?.resident_kib)
}

/// How a stream begins.
enum Greeting {
    NextSession,
    /// As a primary that goes on with its session over another LAN.
    SameSession {
        received: u64,
    },
}

impl Greeting {
    fn drawn(mutator: &mut Mutator) -> Greeting {
        if mutator.below(2) == 0 {
            Greeting::NextSession
        } else {
            let received = mutator.below(RECEIVED_MAX);
            Greeting::SameSession { received }
        }
    }
}

/// What the primary itself might say.
fn hello(
    arena: &Arena,
    attack: Attack,
    epoch: Epoch,
    greeting: Greeting,
) -> anyhow::Result<Vec<u8>> {
    let log = std::fs::read(arena.lab().server(attack.victim)?.log())?;
    let tail = &log[log.len().saturating_sub(LOG_TAIL_BYTES)..];
    let tail = String::from_utf8_lossy(tail);
    let number = |rest: &str| {
        let digits = rest.split(|c: char| !c.is_ascii_digit()).next();
        digits.and_then(|digits| digits.parse::<u64>().ok())
    };
    let newest = tail.split("session=").skip(1).filter_map(number).max();
    let newest = newest.context("the secondary has had no session")?;
    let (session, start) = match greeting {
        Greeting::NextSession => (newest + 1, Start::Compare),
        Greeting::SameSession { received } => (newest, Start::Resume { received }),
    };
    let hello = Hello {
        module: MODULE.to_owned(),
        from: 1,
        to: 2,
        epoch,
        session,
        start,
    };
    let mut frame = Vec::new();
    wire::encode(&mut frame, epoch, 0, &Message::Hello(hello));
    Ok(frame)
}

/// Zeros instead: the session may be in the middle of a frame, where other bytes could become an epoch.
fn to_zeros(inputs: &mut Vec<Input>, length: u64) {
    inputs.truncate(1);
    for input in inputs {
        input.bytes = vec![0; length as usize];
    }
}

/// On a stream a frame that was cut short ends within the next input.
fn run_together(inputs: &mut [Input]) {
    if let Some((first, rest)) = inputs.split_first_mut() {
        for input in rest {
            first.bytes.append(&mut input.bytes);
        }
    }
}

/// Frames that claim a later epoch than the cluster's would, rightly, keep the real primary out until the cluster gets there:
/// whoever has the primary's key can do that, and it is not what is looked for here.
fn to_epoch(mut bytes: &mut [u8], epoch: Epoch) {
    while let Ok(Some(length)) = wire::whole_frame_length(bytes) {
        let (frame, rest) = bytes.split_at_mut(length);
        if let Some(field) = frame.get_mut(5..13).and_then(|f| f.first_chunk_mut::<8>())
            && (u64::from_le_bytes(*field) > epoch.0 || *field == CORPUS_EPOCH.0.to_le_bytes())
        {
            *field = epoch.0.to_le_bytes();
        }
        bytes = rest;
    }
}

fn verify_service(arena: &Arena, began: u64, length: Duration) -> anyhow::Result<()> {
    let now = boot_ns();
    let gap = arena.recorder()?.longest_gap_ms(began, now);
    ensure!(gap <= GAP_MS_MAX, "the service stopped for {gap:.0} ms");
    let rows = arena.recorder()?.acknowledged_between(began, now);
    ensure!(
        rows >= ROWS_PER_SECOND_MIN * length.as_secs(),
        "only {rows} rows were acknowledged during the attack"
    );
    Ok(())
}

fn verify(arena: &Arena, attack: Attack, daemon: Option<u32>) -> anyhow::Result<()> {
    let began = boot_ns();
    arena
        .cluster()
        .cluster_state(attack.victim)
        .context("the daemon does not answer its own people")?;
    let took = Duration::from_nanos(boot_ns() - began);
    ensure!(took < SLOW, "an answer took {} ms", took.as_millis());
    let alive = daemon.is_some_and(|pid| Path::new(&format!("/proc/{pid}/exe")).exists());
    ensure!(alive, "the daemon died");
    Ok(())
}

/// The same bytes from somebody without a certificate, and without TLS.
fn shout(host: u8, inputs: &[Input]) -> anyhow::Result<()> {
    for input in inputs.iter().take(2) {
        let address = SocketAddr::new(topology::address_v4(LANS[0], host).into(), topology::PORT);
        let Ok(mut stream) = TcpStream::connect_timeout(&address, SLOW) else {
            continue; // refused: there are enough strangers
        };
        stream.set_read_timeout(Some(SLOW))?;
        stream.set_write_timeout(Some(SLOW))?;
        let _refused = stream.write_all(&input.bytes);
        let _refused = stream.shutdown(std::net::Shutdown::Write);
        let mut answer = [0_u8; 512];
        let _nothing = stream.read(&mut answer);
    }
    Ok(())
}
