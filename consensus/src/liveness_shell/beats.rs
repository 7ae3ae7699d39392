//! Heartbeats out: one connection to each voter on each LAN, so that no LAN and no voter delays another.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use tracing::debug;

use super::Liveness;
use crate::clock;
use crate::heard::Heard;
use crate::liveness::{BootTime, Timing};
use crate::position::LogPosition;
use crate::proto::heartbeats_client::HeartbeatsClient;
use crate::proto::{Heartbeat, HeartbeatAnswer};
use crate::raft::dial::{ConnectError, Dialer, connect};
use crate::raft::machine::Applied;
use crate::state::{Incarnation, ServerId};

/// Between the starts of two attempts to connect.
const RECONNECT_INTERVAL: Duration = Duration::from_millis(150);
/// Heartbeats waiting for the connection: a newer one is worth more than an old one, so few.
const QUEUE_MAX: usize = 2;

/// One round of heartbeats. All LANs carry the same time, so that none makes another look old.
#[derive(Debug, Clone, Default)]
struct Beat {
    sent: BootTime,
    applied: u64,
    hears: Vec<u64>,
    durable: LogPosition,
    /// The lengths for the sender's lease, as it has applied them.
    timing: Timing,
}

/// Sends the heartbeats of one server.
pub(crate) struct Beats {
    pub(crate) me: ServerId,
    pub(crate) incarnation: Incarnation,
    /// The lengths of the cluster's profile.
    pub(crate) profile: Timing,
    pub(crate) dialer: Arc<dyn Dialer>,
    pub(crate) applied: watch::Receiver<Applied>,
    /// Where the log that is on the disk ends.
    pub(crate) durable: Arc<Mutex<LogPosition>>,
    pub(crate) heard: Arc<Heard>,
    pub(crate) liveness: Arc<Liveness>,
}

/// Where a heartbeat goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Target {
    voter: ServerId,
    lan: usize,
    address: SocketAddr,
}

impl Beats {
    pub(crate) fn liveness(&self) -> &Arc<Liveness> {
        &self.liveness
    }

    /// Sends until dropped; the links end with it.
    pub(crate) async fn run(self) {
        let (sender, beat) = watch::channel(Beat::default());
        let mut links = Links::default();
        loop {
            let began = Instant::now();
            links.follow(self.targets(), |target| self.link(target, beat.clone()));
            let next = self.beat();
            let period = Duration::from_nanos(next.timing.heartbeat_ns);
            sender.send_replace(next);
            sleep_until(began + period).await;
        }
    }

    fn beat(&self) -> Beat {
        let (state, applied) = {
            let applied = self.applied.borrow();
            (applied.state.clone(), applied.position)
        };
        let hears = state
            .voters()
            .into_iter()
            .filter(|voter| self.heard.is_fresh_any(*voter))
            .map(|voter| voter.0)
            .collect();
        Beat {
            sent: clock::now(),
            applied: applied.index,
            hears,
            durable: applied.earlier(*self.durable.lock()),
            timing: self.profile.of_server(&state, self.me),
        }
    }

    fn targets(&self) -> Vec<Target> {
        let state = self.applied.borrow().state.clone();
        let voters = state.all_voters();
        // The learner of a pair becomes a voter when a witness joins: its grant must be there by then, or the lease of the
        // primary would have a gap.
        let is_pair = state.members.len() < 3;
        let others = state
            .members
            .iter()
            .filter(|(id, _)| **id != self.me && (is_pair || voters.contains(id)));
        let each_lan = others.flat_map(|(id, member)| {
            let lans = member.addresses.iter().enumerate();
            lans.map(|(lan, address)| Target {
                voter: *id,
                lan,
                address: *address,
            })
        });
        each_lan.collect()
    }

    fn link(&self, target: Target, beat: watch::Receiver<Beat>) -> Link {
        Link {
            me: self.me,
            incarnation: self.incarnation,
            target,
            dialer: self.dialer.clone(),
            liveness: self.liveness.clone(),
            connect_max: Duration::from_nanos(self.profile.connect_ns()),
            beat,
        }
    }
}

/// The running links; dropping it ends them.
#[derive(Default)]
struct Links(BTreeMap<Target, JoinHandle<()>>);

impl Links {
    fn follow(&mut self, targets: Vec<Target>, link: impl Fn(Target) -> Link) {
        self.0.retain(|target, task| {
            let is_wanted = targets.contains(target);
            if !is_wanted {
                task.abort();
            }
            is_wanted
        });
        for target in targets {
            self.0
                .entry(target)
                .or_insert_with(|| spawn(link(target).run()));
        }
    }
}

impl Drop for Links {
    fn drop(&mut self) {
        self.0.values().for_each(JoinHandle::abort);
    }
}

/// Heartbeats to one voter on one LAN.
struct Link {
    me: ServerId,
    incarnation: Incarnation,
    target: Target,
    dialer: Arc<dyn Dialer>,
    liveness: Arc<Liveness>,
    /// By the profile: a short lease must not be lost to a network on which a connection takes longer than that.
    connect_max: Duration,
    beat: watch::Receiver<Beat>,
}

impl Link {
    async fn run(mut self) {
        loop {
            let next_attempt = Instant::now() + RECONNECT_INTERVAL;
            match self.open().await {
                Ok((queue, answers)) => self.exchange(queue, answers).await,
                Err(ConnectError::Removed { by }) => self.liveness.on_removed(by),
                Err(error) => debug!(target = ?self.target, %error, "no heartbeat connection"),
            }
            sleep_until(next_attempt).await;
        }
    }

    async fn open(
        &self,
    ) -> Result<(mpsc::Sender<Heartbeat>, Streaming<HeartbeatAnswer>), ConnectError> {
        let Target {
            voter,
            lan,
            address,
        } = self.target;
        let channel = connect(self.dialer.clone(), voter, lan, address, self.connect_max).await?;
        let (queue, queued) = mpsc::channel(QUEUE_MAX);
        // The answer to the call may come only with the first answer in it, so the first heartbeat must be under way.
        let first = self.heartbeat();
        let _ = queue.try_send(first);
        let unreachable = |source| ConnectError::Unreachable {
            peer: voter,
            source,
        };
        let mut client = HeartbeatsClient::new(channel);
        let exchange = client.exchange(ReceiverStream::new(queued));
        let opened = timeout(self.silence_max(), exchange)
            .await
            .map_err(|error| unreachable(Arc::new(error)))?;
        match opened {
            Ok(answers) => Ok((queue, answers.into_inner())),
            Err(status) if status.code() == Code::NotFound => {
                Err(ConnectError::Removed { by: voter })
            }
            Err(status) => Err(unreachable(Arc::new(status))),
        }
    }

    /// Sends each beat and takes the answers until the voter falls silent.
    async fn exchange(
        &mut self,
        queue: mpsc::Sender<Heartbeat>,
        mut answers: Streaming<HeartbeatAnswer>,
    ) {
        let mut silent_from = Instant::now() + self.silence_max();
        loop {
            tokio::select! {
                answer = answers.message() => match answer {
                    Ok(Some(HeartbeatAnswer { sent_at, lease_ns })) => {
                        silent_from = Instant::now() + self.silence_max();
                        let lease_ns = (lease_ns > 0).then_some(lease_ns);
                        self.liveness.on_answer(self.target.voter, self.target.lan, BootTime(sent_at), lease_ns);
                    }
                    Err(status) if status.code() == Code::NotFound => {
                        self.liveness.on_removed(self.target.voter);
                        return;
                    }
                    Ok(None) | Err(_) => return,
                },
                changed = self.beat.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    // A full queue means that the connection is stuck: silence will end it.
                    let _ = queue.try_send(self.heartbeat());
                }
                () = sleep_until(silent_from) => return,
            }
        }
    }

    fn silence_max(&self) -> Duration {
        Duration::from_nanos(self.beat.borrow().timing.link_silence_ns())
    }

    fn heartbeat(&self) -> Heartbeat {
        let beat = self.beat.borrow();
        Heartbeat {
            from: self.me.0,
            to: self.target.voter.0,
            lan: u32::try_from(self.target.lan).unwrap_or(u32::MAX),
            incarnation: self.incarnation.0,
            sent_at: beat.sent.0,
            applied: beat.applied,
            hears: beat.hears.clone(),
            durable: beat.durable.index,
            durable_term: beat.durable.term,
        }
    }
}
