//! A primary and its peer: the stream between them, and the proposals that move the peer in and out of the in-sync set.
//!
//! One task for one tenure. It is the only one that proposes `DropSecondary` (R4) and `AddSecondary` (R10), and the
//! only one that tells the mounted copy which record counts.

use std::sync::Arc;
use std::time::Duration;

use consensus::ProposeError;
use consensus::state::{Command, Epoch, MirrorRecord, ModuleName, ServerId, Wanted};
use fs_mirror::{Hello, Primary, PrimaryEvent, Start};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::PROPOSAL_DEADLINE;
use super::disk_failure::DiskFailure;
use super::open_addition::OpenAddition;
use super::warden::Warden;
use crate::core::partnership::{Facts, Move, Stream, next_move};
use crate::core::readmission::Readmission;
use crate::member::Member;

/// How long the peer may be dialled for the first session after a switchover, before it is dropped and reintegrated instead.
/// With the greeting (`GREETING_IN_SYNC_MAX`) that is how long a switchover may keep writers waiting.
const HANDOVER_DIAL_MAX: Duration = Duration::from_millis(1700);
/// How long reaching lock-step may take once every block was compared.
const HOLD_PATIENCE: Duration = Duration::from_secs(5);
/// Pause between two attempts to reach a peer that takes over the other half of a switchover.
const HANDOVER_RETRY: Duration = Duration::from_millis(30);
/// Pause between two attempts to reach a peer that has to be reintegrated.
const ATTACH_RETRY: Duration = Duration::from_millis(300);

/// What one tenure's partnership works with.
pub(super) struct Partnership {
    /// The daemon.
    pub member: Arc<Member>,
    /// The module.
    pub module: ModuleName,
    /// The mounted copy.
    pub primary: Arc<Primary>,
    /// The note of a proposed addition.
    pub addition: Arc<OpenAddition>,
    /// Sets the gate.
    pub warden: Arc<Warden>,
    /// What the mounted copy reports.
    pub events: mpsc::UnboundedReceiver<PrimaryEvent>,
    /// The copies may still be as a switchover left them.
    pub may_begin_identical: bool,
    /// Whether the local disk failed (R11).
    pub disk_failure: DiskFailure,
    /// What happened to the stream; empty at first.
    pub told: Told,
}

/// What happened to the stream, for the evidence of what is proposed.
#[derive(Debug, Default)]
pub(super) struct Told {
    /// When it was lost last, and why.
    lost: Option<(Instant, String)>,
    /// What the last resynchronisation moved.
    resynced: String,
}

/// The stream to the peer, as far as this task knows.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Session {
    /// None; the next attempt is due at this time.
    None { retry_at: Instant },
    /// Attached; catching up or in lock-step.
    Attached { id: u64 },
    /// Attached, and every block is the same as long as it lives: whenever the record does not name the peer, its
    /// addition has to be proposed.
    CaughtUp { id: u64 },
}

impl Session {
    fn stream(self) -> Stream {
        match self {
            Session::None { .. } => Stream::Down,
            Session::Attached { .. } => Stream::Attached,
            Session::CaughtUp { .. } => Stream::CaughtUp,
        }
    }

    /// Something may be done about it now.
    fn is_due(self, now: Instant) -> bool {
        match self {
            Session::None { retry_at } => now >= retry_at,
            Session::Attached { .. } | Session::CaughtUp { .. } => true,
        }
    }
}

/// When the peer may be dialled again.
struct Admission {
    readmission: Readmission,
    attached_at: Instant,
    not_before: Instant,
}

impl Admission {
    fn on_loss(&mut self, now: Instant) {
        self.not_before = now + self.readmission.on_loss(now - self.attached_at);
    }
}

impl Partnership {
    /// Works until this server is not the primary any more, or the task is ended.
    pub(super) async fn run(mut self) {
        let started = Instant::now();
        let mut applied = self.member.consensus.watch();
        let mut fresh = self.member.fresh();
        let mut session = Session::None { retry_at: started };
        let mut admission = Admission {
            readmission: Readmission::default(),
            attached_at: started,
            not_before: started,
        };
        let mut adopted = None;
        let mut partner = None;
        loop {
            applied.borrow_and_update();
            while let Ok(event) = self.events.try_recv() {
                session = self.on_event(event, session, &mut admission);
            }
            // Fencing comes before the end of the session: what ended it is no reason to go on alone.
            if self.warden.gate.is_fenced() {
                return;
            }
            let Some(record) = self.record() else { return };
            let is_adopted = self.adopt(&record, &mut adopted);
            let peer = record.peer_of(self.member.id());
            if partner != peer {
                // A session belongs to the server it was opened to: whoever takes its place begins anew.
                partner = peer;
                session = Session::None { retry_at: started };
            }
            let Some(peer) = peer else {
                if applied.changed().await.is_err() {
                    return;
                }
                continue;
            };
            let facts = Facts {
                me: self.member.id(),
                is_fresh: *fresh.borrow_and_update(),
                stream: session.stream(),
                addition_open: self.addition.epoch(),
                peer_is_down: self.counts_as_down(peer),
                may_begin_identical: self.may_begin_identical
                    && started.elapsed() < HANDOVER_DIAL_MAX,
                is_adopted,
                has_failed_disk: self.disk_failure.is_noted() || self.primary.is_doubted(),
            };
            if session.is_due(Instant::now()) {
                match next_move(&record, facts) {
                    Move::Attach { .. } if Instant::now() < admission.not_before => {
                        session = Session::None {
                            retry_at: admission.not_before,
                        };
                    }
                    Move::Attach { identical } => {
                        admission.attached_at = Instant::now();
                        let dial_until = identical.then_some(started + HANDOVER_DIAL_MAX);
                        session = self.attach(&record, peer, dial_until).await;
                        continue;
                    }
                    Move::DropPeer => {
                        self.drop_peer(&record, peer, session.stream()).await;
                        continue;
                    }
                    Move::AddPeer => {
                        self.add_peer(&record, peer).await;
                        continue;
                    }
                    Move::Wait => {
                        if let Session::None { retry_at } = &mut session {
                            *retry_at = Instant::now() + ATTACH_RETRY;
                        }
                    }
                }
            }
            let retry_at = match session {
                _ if !is_adopted => Instant::now() + ATTACH_RETRY,
                Session::None { retry_at } => retry_at,
                Session::Attached { .. } | Session::CaughtUp { .. } => {
                    Instant::now() + Duration::from_secs(3600)
                }
            };
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                changed = fresh.changed() => if changed.is_err() { return },
                event = self.events.recv() => match event {
                    Some(event) => session = self.on_event(event, session, &mut admission),
                    None => return,
                },
                () = tokio::time::sleep_until(retry_at) => {}
            }
        }
    }

    /// The record, as long as this server is its primary.
    fn record(&self) -> Option<MirrorRecord> {
        let state = self.member.consensus.state();
        let record = state.modules.get(&self.module)?;
        (record.primary == Some(self.member.id())).then(|| record.clone())
    }

    fn counts_as_down(&self, server: ServerId) -> bool {
        let state = self.member.consensus.state();
        state
            .members
            .get(&server)
            .is_none_or(|member| member.is_down)
    }

    /// Tells the mounted copy which record counts; false when that has to be tried again.
    fn adopt(&self, record: &MirrorRecord, adopted: &mut Option<Epoch>) -> bool {
        if *adopted == Some(record.epoch) {
            return true;
        }
        let counts_peer = self.warden.standing().counts_peer(record);
        let epoch = fs_mirror::Epoch(record.epoch.0);
        let set = tokio::task::block_in_place(|| self.primary.set_record(epoch, counts_peer));
        match set {
            Ok(()) => *adopted = Some(record.epoch),
            Err(error) => {
                let is_of_disk = error.is_disk_failure();
                let error = format!("{:#}", anyhow::Error::new(error));
                tracing::error!(module = %self.module, error, "failed to adopt epoch {}", record.epoch);
                if is_of_disk {
                    self.disk_failure
                        .note(format!("adopt epoch {}: {error}", record.epoch));
                }
            }
        }
        *adopted == Some(record.epoch)
    }

    fn on_event(
        &mut self,
        event: PrimaryEvent,
        session: Session,
        admission: &mut Admission,
    ) -> Session {
        match event {
            PrimaryEvent::SessionLost {
                session: lost,
                cause,
            } => match session {
                Session::Attached { id } | Session::CaughtUp { id } if id == lost => {
                    let now = Instant::now();
                    admission.on_loss(now);
                    let (losses, wait) =
                        (admission.readmission.losses(), admission.not_before - now);
                    tracing::info!(module = %self.module, %cause, losses, ?wait, "the stream to the secondary ended");
                    self.told.lost = Some((now, cause.to_string()));
                    Session::None { retry_at: now }
                }
                Session::None { .. } | Session::Attached { .. } | Session::CaughtUp { .. } => {
                    session
                }
            },
            // Others see to it: this task may be waiting for the log.
            PrimaryEvent::LinkQuiet { .. } | PrimaryEvent::LocalDiskFailed { .. } => session,
            PrimaryEvent::Resynced {
                session: id,
                bytes_total,
                bytes_sent,
                took,
            } => {
                tracing::info!(module = %self.module, bytes_total, bytes_sent, ?took, "the secondary has caught up");
                self.told.resynced = format!(
                    "; {bytes_sent} of {bytes_total} bytes were sent, in {} ms",
                    took.as_millis()
                );
                match session {
                    Session::Attached { id: current } if current == id => Session::CaughtUp { id },
                    Session::None { .. } | Session::Attached { .. } | Session::CaughtUp { .. } => {
                        session
                    }
                }
            }
        }
    }

    /// Dials the peer and starts a session; in sync at once after a switchover, when the peer must be reached until
    /// `dial_until`; with a resync otherwise.
    async fn attach(
        &self,
        record: &MirrorRecord,
        peer: ServerId,
        dial_until: Option<Instant>,
    ) -> Session {
        let in_sync = dial_until.is_some();
        let id = self.member.next_session();
        let retry = if in_sync {
            HANDOVER_RETRY
        } else {
            ATTACH_RETRY
        };
        let failed = Session::None {
            retry_at: Instant::now() + retry,
        };
        if record.wanted_on(peer) != Wanted::Started {
            return failed;
        }
        let start = if in_sync {
            Start::Identical
        } else {
            Start::Compare
        };
        let hello = greeting(self.member.id(), record, peer, id, start);
        let dialled = self.member.dial_mirror(peer);
        let dialled = match dial_until {
            None => dialled.await,
            Some(until) => match tokio::time::timeout_at(until, dialled).await {
                Ok(dialled) => dialled,
                Err(_) => return failed,
            },
        };
        let link = match dialled {
            Ok(link) => link,
            Err(error) => {
                tracing::debug!(module = %self.module, %error, "cannot reach server {peer}");
                return failed;
            }
        };
        let primary = Arc::clone(&self.primary);
        match tokio::task::spawn_blocking(move || primary.attach(link, hello)).await {
            Ok(Ok(())) => {
                tracing::info!(module = %self.module, peer = peer.0, in_sync, "attached the secondary");
                if in_sync {
                    Session::CaughtUp { id }
                } else {
                    Session::Attached { id }
                }
            }
            Ok(Err(error)) => {
                tracing::debug!(module = %self.module, %error, "server {peer} did not take the stream");
                failed
            }
            Err(error) => {
                tracing::error!(module = %self.module, %error, "attaching the secondary panicked");
                failed
            }
        }
    }

    /// R4: until this is applied, waiting writes stay unacknowledged. Repeated until some record newer than this one
    /// is applied; Raft orders it against the peer's promotion.
    ///
    /// R16: a copy that was only received, and led to, is on the disk before the other one stops counting.
    async fn drop_peer(&self, record: &MirrorRecord, peer: ServerId, stream: Stream) {
        if record.received_only.contains(&self.member.id()) && !self.sync_copy().await {
            return self.wait_for_news(record).await;
        }
        if self.warden.gate.is_fenced() {
            return;
        }
        let evidence = match stream {
            Stream::Down => self.how_lost(),
            Stream::Attached | Stream::CaughtUp => {
                "the addition of the secondary is taken back: it is stopped, or counts as down"
                    .to_owned()
            }
        };
        let command = Command::DropSecondary {
            module: self.module.clone(),
            epoch: record.epoch,
            primary: self.member.id(),
            server: peer,
        };
        self.propose(command, &evidence).await;
        self.wait_for_news(record).await;
    }

    /// False when the disk failed, now or before, which the agent is told, too.
    async fn sync_copy(&self) -> bool {
        let primary = Arc::clone(&self.primary);
        let synced = tokio::task::spawn_blocking(move || primary.sync()).await;
        let synced = synced
            .map_err(anyhow::Error::new)
            .and_then(|synced| synced.map_err(anyhow::Error::new));
        if let Err(error) = &synced {
            let error = format!("{error:#}");
            tracing::error!(module = %self.module, error, "what was received is not on the disk");
        }
        synced.is_ok() && !self.disk_failure.is_noted()
    }

    /// Why the stream is down, and how long writers had waited when going on without it was proposed.
    fn how_lost(&self) -> String {
        match &self.told.lost {
            Some((at, cause)) => format!(
                "the stream to the secondary is down: {cause}; no write was acknowledged for {} ms until this was proposed",
                at.elapsed().as_millis()
            ),
            None => "the stream to the secondary is down".to_owned(),
        }
    }

    /// R10, and the first half of R6: the note is durable and the gate obeys both records before the proposal leaves.
    ///
    /// With the note open at this epoch the proposal has left before, and its outcome is not applied yet: it is only
    /// repeated.
    async fn add_peer(&self, record: &MirrorRecord, peer: ServerId) {
        if self.addition.epoch() != Some(record.epoch) && !self.prepare_addition(record).await {
            return;
        }
        let command = Command::AddSecondary {
            module: self.module.clone(),
            epoch: record.epoch,
            primary: self.member.id(),
            server: peer,
        };
        let evidence = format!(
            "every directory listed, every block compared, in lock-step{}",
            self.told.resynced
        );
        self.propose(command, &evidence).await;
        self.wait_for_news(record).await;
    }

    /// Lock-step reached, the note durable, the gate under both records.
    async fn prepare_addition(&self, record: &MirrorRecord) -> bool {
        let primary = Arc::clone(&self.primary);
        let held =
            tokio::task::spawn_blocking(move || primary.hold_for_addition(HOLD_PATIENCE)).await;
        let hold = match held
            .map_err(anyhow::Error::new)
            .and_then(|held| held.map_err(anyhow::Error::new))
        {
            Ok(hold) => hold,
            Err(error) => {
                tracing::warn!(module = %self.module, %error, "the secondary is not in lock-step; not proposed");
                self.wait_for_news(record).await;
                return false;
            }
        };
        let noted = tokio::task::block_in_place(|| self.addition.open(record.epoch));
        if let Err(error) = noted {
            // Nothing was proposed and nothing notes it: no record would ever end the waiting.
            self.primary.abandon_addition(hold);
            tracing::error!(module = %self.module, %error, "failed to note the addition; not proposed");
            self.wait_for_news(record).await;
            return false;
        }
        self.warden.adjust(&self.member.consensus.lease());
        true
    }

    async fn propose(&self, command: Command, evidence: &str) {
        let proposal = self.member.proposal(command, evidence);
        match self
            .member
            .consensus
            .propose(proposal, PROPOSAL_DEADLINE)
            .await
        {
            Ok(_) => {}
            Err(ProposeError::Rejected(rejection)) => {
                tracing::info!(module = %self.module, %rejection, "refused");
            }
            Err(error) => {
                tracing::warn!(module = %self.module, %error, "proposal not committed yet")
            }
        }
    }

    /// What was committed, or refused because of a newer record, is not applied here yet: waits for it, a moment.
    async fn wait_for_news(&self, record: &MirrorRecord) {
        let mut applied = self.member.consensus.watch();
        let is_newer = |applied: &consensus::Applied| {
            let current = applied.state.modules.get(&self.module);
            current.map(|current| current.epoch) != Some(record.epoch)
        };
        let news = tokio::time::timeout(ATTACH_RETRY, applied.wait_for(is_newer)).await;
        if news.is_err() {
            tracing::debug!(module = %self.module, "no newer record yet");
        }
    }
}

/// How the primary of `record` greets `peer`.
pub(super) fn greeting(
    me: ServerId,
    record: &MirrorRecord,
    peer: ServerId,
    session: u64,
    start: Start,
) -> Hello {
    Hello {
        module: record.name.to_string(),
        from: me.0,
        to: peer.0,
        epoch: fs_mirror::Epoch(record.epoch.0),
        session,
        start,
    }
}
