//! The secondary's end of the stream: applies in order, refuses what is older than its copy's epoch, acknowledges.

use std::collections::BTreeSet;

use consensus::state::{Epoch, MirrorRecord, ServerId};

use super::clock::MS;
use super::desk::Desk;
use super::message::{Mirror, Payload};
use super::outside::Happening;

/// One session, as the secondary has it.
#[derive(Debug)]
pub(super) struct Intake {
    epoch: Epoch,
    pub(super) session: u64,
    next: u64,
    /// Everything up to here is where it must be; and what is, further on.
    acked: u64,
    done: BTreeSet<u64>,
}

/// A primary greets. `is_following`: this copy is mounted read-only and open to a stream.
pub(super) fn on_hello(
    intake: &mut Option<Intake>,
    is_following: bool,
    session: u64,
    epoch: Epoch,
    is_identical: bool,
    desk: &mut Desk<'_>,
) {
    let primary = ServerId(desk.peer() as u64 + 1);
    let is_credible = !is_identical
        || desk
            .record()
            .is_some_and(|record| is_in_step(record, epoch, primary, desk.me));
    let is_newest = intake
        .as_ref()
        .is_none_or(|running| (running.epoch, running.session) < (epoch, session));
    let is_accepted = is_following && is_credible && is_newest && epoch >= desk.copy.epoch;
    if is_accepted {
        desk.copy.epoch = epoch;
        *intake = Some(Intake {
            epoch,
            session,
            next: 1,
            acked: 0,
            done: BTreeSet::new(),
        });
    }
    desk.send(session, Mirror::HelloAnswer { is_accepted });
}

/// As the agent checks the claim that both copies are the same.
fn is_in_step(record: &MirrorRecord, epoch: Epoch, primary: ServerId, me: ServerId) -> bool {
    record.epoch == epoch
        && record.identical
        && record.in_sync.contains(&me)
        && record.primary == Some(primary)
}

impl Intake {
    pub(super) fn on_frame(
        &mut self,
        seq: u64,
        epoch: Epoch,
        payload: Payload,
        desk: &mut Desk<'_>,
    ) {
        // Older than this copy, or a gap: the connection is broken, the primary will notice.
        if epoch < desk.copy.epoch || seq != self.next {
            return;
        }
        self.next += 1;
        desk.copy.epoch = epoch;
        match &payload {
            Payload::Write(write) => desk.copy.memory.insert(*write),
            Payload::Part { part, writes } => desk.copy.memory.replace_part(*part, writes),
            Payload::Ping | Payload::Barrier => {}
        }
        desk.out.must_check = true;
        let through = desk
            .record()
            .and_then(|record| record.acknowledges_on_receipt(desk.me));
        let on_receipt = through.is_some_and(|through| epoch <= through);
        let is_durable_first = match &payload {
            Payload::Ping => false,
            Payload::Write(_) => !on_receipt,
            Payload::Part { .. } | Payload::Barrier => true,
        };
        let disk = desk.out.disk_latency(desk.place);
        let wait = if matches!(payload, Payload::Ping) {
            0
        } else if on_receipt {
            // Written some time after.
            disk + desk.out.random.between(0, 400) * MS
        } else {
            disk
        };
        if !is_durable_first {
            self.acknowledge(seq, desk);
        }
        if !matches!(payload, Payload::Ping) {
            let (module, session) = (desk.module, self.session);
            let ack = is_durable_first.then_some(seq);
            desk.later(
                wait,
                Happening::Stored {
                    module,
                    session,
                    ack,
                    payload,
                },
            );
        }
    }
}

impl Intake {
    /// In the order of the stream, whatever was done first.
    fn acknowledge(&mut self, seq: u64, desk: &mut Desk<'_>) {
        self.done.insert(seq);
        while self.done.remove(&(self.acked + 1)) {
            self.acked += 1;
        }
        let seq = self.acked;
        desk.send(self.session, Mirror::Ack { seq });
    }
}

/// A frame is on the disk. It stays there whatever became of its session; only a running session acknowledges.
pub(super) fn on_stored(
    intake: Option<&mut Intake>,
    session: u64,
    ack: Option<u64>,
    payload: &Payload,
    desk: &mut Desk<'_>,
) {
    match payload {
        Payload::Ping => {}
        Payload::Write(write) if desk.copy.memory.contains(*write) => {
            desk.copy.disk.insert(*write);
        }
        Payload::Write(_) => {}
        Payload::Part { .. } | Payload::Barrier => desk.copy.sync(),
    }
    let running = intake.filter(|intake| intake.session == session);
    if let (Some(seq), Some(intake)) = (ack, running) {
        intake.acknowledge(seq, desk);
    }
}
