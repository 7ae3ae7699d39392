//! The network of liveness: heartbeats out, answers in, leases published, silent members declared (rule R7).
//!
//! Sending and ticking happen on a thread of their own, so that a busy daemon does not look dead. The cores decide; they sit
//! behind one short-held lock because an answer must not wait for a queue.

mod beats;
mod declare;
mod lease;
mod listen;

use std::io;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};

pub(crate) use beats::Beats;
pub(crate) use declare::declare;
pub use lease::Lease;
pub(crate) use lease::{LeasePublisher, Terms};
pub(crate) use listen::HeartbeatService;

use crate::clock;
use crate::heard::Heard;
use crate::liveness::{Action, BootTime, Heartbeat, LeaseHolder, Timing, Verdict, Watcher};
use crate::raft::machine::Applied;
use crate::state::{ClusterState, Incarnation, ServerId};

/// Opinions waiting to be proposed; one that does not fit is formed again 200 ms later.
const ACTIONS_MAX: usize = 64;

/// The two cores and what they need to see.
pub(crate) struct Liveness {
    applied: watch::Receiver<Applied>,
    heard: Arc<Heard>,
    cores: Mutex<Cores>,
}

struct Cores {
    watcher: Watcher,
    holder: LeaseHolder,
    lease: LeasePublisher,
    /// Index up to which the watcher has been told what was applied.
    told: Option<u64>,
}

impl Liveness {
    pub(crate) fn new(
        profile: Timing,
        me: ServerId,
        incarnation: Incarnation,
        applied: watch::Receiver<Applied>,
        heard: Arc<Heard>,
    ) -> (Arc<Liveness>, Lease) {
        let (publisher, lease) = LeasePublisher::new(profile.lease_ns);
        let cores = Cores {
            watcher: Watcher::new(profile, me, incarnation, clock::now()),
            holder: LeaseHolder::new(profile, me, incarnation),
            lease: publisher,
            told: None,
        };
        (
            Arc::new(Liveness {
                applied,
                heard,
                cores: Mutex::new(cores),
            }),
            lease,
        )
    }

    /// A voter's answer to a heartbeat. What was applied comes first: a grant must not be older than the record.
    pub(crate) fn on_heartbeat(&self, heartbeat: &Heartbeat) -> Verdict {
        let mut cores = self.cores.lock();
        cores.catch_up(&self.applied);
        let now = clock::now();
        self.heard.note(heartbeat.from, heartbeat.lan, now);
        cores.watcher.on_heartbeat(heartbeat, now)
    }

    /// `voter` answered the heartbeat sent at `sent`, and granted `lease_ns` or nothing.
    pub(crate) fn on_answer(
        &self,
        voter: ServerId,
        lan: usize,
        sent: BootTime,
        lease_ns: Option<u64>,
    ) {
        let state = self.applied.borrow().state.clone();
        let mut cores = self.cores.lock();
        let now = clock::now();
        self.heard.note(voter, lan, now);
        cores.holder.on_answer(voter, sent, lease_ns, now);
        cores.publish_lease(&state, now);
    }

    /// `voter` says that this member was removed from the cluster.
    pub(crate) fn on_removed(&self, voter: ServerId) {
        if self.heard.note_remover(voter) {
            // Whether that is a surprise, the daemon knows: it was told to leave, or it warns.
            tracing::info!(%voter, "a voter says that this member was removed from the cluster for good");
        }
    }

    /// What to propose, and how soon to look again.
    fn look(&self) -> (Vec<Action>, Duration) {
        let state = self.applied.borrow().state.clone();
        let mut cores = self.cores.lock();
        cores.catch_up(&self.applied);
        let now = clock::now();
        // A sole voter grants itself, and a new record or configuration may end or begin a lease without any answer.
        cores.publish_lease(&state, now);
        let actions = cores.watcher.on_tick(now);
        (actions, Duration::from_nanos(cores.watcher.look_ns()))
    }
}

impl Cores {
    fn catch_up(&mut self, applied: &watch::Receiver<Applied>) {
        let applied = applied.borrow();
        if self.told != Some(applied.position.index) {
            self.told = Some(applied.position.index);
            self.watcher.on_applied(&applied.state, clock::now());
        }
    }

    fn publish_lease(&self, state: &ClusterState, now: BootTime) {
        self.lease.publish(Terms {
            until: self.holder.valid_until(state, now).unwrap_or_default(),
            heard_at: self.holder.heard_at(state, now).unwrap_or_default(),
            length_ns: self.holder.length_ns(state),
        });
    }
}

/// The thread that sends heartbeats and looks who is silent.
pub(crate) struct LivenessThread {
    stop: watch::Sender<bool>,
    thread: JoinHandle<()>,
}

impl LivenessThread {
    /// Starts it; opinions to propose arrive at the receiver.
    pub(crate) fn start(beats: Beats) -> io::Result<(LivenessThread, mpsc::Receiver<Action>)> {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()?;
        let (stop, mut stopped) = watch::channel(false);
        let (actions, to_propose) = mpsc::channel(ACTIONS_MAX);
        let thread = thread::Builder::new()
            .name("liveness".into())
            .spawn(move || {
                runtime.block_on(async {
                    let liveness = beats.liveness().clone();
                    tokio::select! {
                        () = beats.run() => {}
                        () = look_regularly(liveness, actions) => {}
                        // Also when the handle was dropped without stopping: nobody is left to serve.
                        _ = stopped.wait_for(|is_stopped| *is_stopped) => {}
                    }
                });
            })?;
        Ok((LivenessThread { stop, thread }, to_propose))
    }

    /// Stops sending and waits for the thread.
    pub(crate) fn stop(self) {
        self.stop.send_replace(true);
        if self.thread.join().is_err() {
            tracing::error!("liveness thread panicked");
        }
    }
}

async fn look_regularly(liveness: Arc<Liveness>, actions: mpsc::Sender<Action>) {
    loop {
        let began = Instant::now();
        let (to_propose, look_again_after) = liveness.look();
        for action in to_propose {
            // Full or closed: the watcher forms the opinion again.
            let _ = actions.try_send(action);
        }
        sleep_until(began + look_again_after).await;
    }
}
