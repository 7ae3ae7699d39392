//! One agent per module: compares what should run here with what runs, and does the one next step.
//!
//! The agent is one task that owns everything the module has on this server. Long steps (scripts) run beside it and come
//! back as events, so that a lost right is acted on at once whatever a script does.

mod copy_health;
mod copy_trouble;
mod disk_failure;
mod fencing;
mod handle;
mod installed;
mod leading;
mod moving;
pub mod open_addition;
mod partnership;
mod preparing;
mod proposals;
mod removal;
mod report;
mod requests;
mod scripts;
mod warden;

pub use handle::AgentHandle;
pub use report::Report;
pub use requests::{Request, RestartRefused, SwapRefused};

use std::sync::Arc;
use std::time::Duration;

use consensus::state::{Command, Epoch, MirrorRecord, ModuleName, Wanted};
use fs_mirror::{Secondary, SecondaryEvent};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

use crate::core::address_times::wait_before_adding;
use crate::core::goal::{Goal, Wishes, goal, may_take_over};
use crate::core::hand_over::{Ending, lacks_word};
use crate::core::plan::{Running, Stage, Step, next_step};
use crate::core::right::{Right, Standing};
use crate::member::Member;
use copy_trouble::CopyTrouble;
use disk_failure::DiskFailure;
use installed::{Installed, NotReady};
use leading::{Leading, LeadingParts};
use preparing::until_ready;
use requests::{EarlySession, answer};
use scripts::ScriptEnd;

/// Pause before an address that could not be added is tried again.
const ADDRESS_RETRY: Duration = Duration::from_millis(100);
/// Pause after a step that failed.
const STEP_RETRY: Duration = Duration::from_millis(500);
/// How long a proposal of the agent looks for a leader before the situation is looked at again.
const PROPOSAL_DEADLINE: Duration = Duration::from_secs(2);
/// How long draining may wait for the peer before it is dropped, which the partnership does by itself.
const DRAIN_DEADLINE: Duration = Duration::from_secs(10);
/// Leases that a server which starts as the only whole copy looks for a majority.
const ASKS_FOR_LEASES: u32 = 2;
/// Starts that may fail before the module stops on this server.
const START_FAILURES_MAX: u32 = 3;
/// Requests that may wait for the agent.
const REQUESTS_MAX: usize = 64;

/// Starts the agent of `module` as it is installed now; it ends when that installation is gone, and says so to `ended`.
pub fn start(member: Arc<Member>, module: ModuleName, ended: mpsc::Sender<()>) -> AgentHandle {
    let (requests, incoming) = mpsc::channel(REQUESTS_MAX);
    let (report, reported) = watch::channel(Report::default());
    tokio::spawn(async move {
        run(member, module, incoming, report).await;
        // When the queue is full somebody is about to look anyway.
        let _ = ended.try_send(());
    });
    AgentHandle {
        requests,
        report: reported,
    }
}

async fn run(
    member: Arc<Member>,
    module: ModuleName,
    mut requests: mpsc::Receiver<Request>,
    report: watch::Sender<Report>,
) {
    let attempt = || Installed::prepare(&member, &module);
    let on_failure = |error: NotReady| {
        let text = format!("{:#}", anyhow::Error::new(error));
        if report.borrow().trouble.as_deref() != Some(&text) {
            tracing::warn!(module = %module, "not ready on this server: {text}");
        }
        report.send_modify(|report| report.trouble = Some(text));
    };
    let Some(installed) = until_ready(&mut requests, attempt, on_failure).await else {
        return;
    };
    tracing::info!(module = %module, directory = %installed.directory.display(), "module ready on this server");
    Agent::new(member, module, installed, requests, report)
        .run()
        .await;
}

/// What the module has on this server.
enum Local {
    Nothing,
    Following(Secondary),
    Leading(Leading),
}

impl Local {
    fn running(&self) -> Running {
        match self {
            Local::Nothing => Running::Nothing,
            Local::Following(_) => Running::Following,
            Local::Leading(leading) => Running::Leading(leading.stage()),
        }
    }
}

struct Agent {
    member: Arc<Member>,
    module: ModuleName,
    installed: Installed,
    requests: mpsc::Receiver<Request>,
    report: watch::Sender<Report>,
    local: Local,
    fresh: watch::Receiver<bool>,
    out: watch::Receiver<bool>,
    swap: Option<(Epoch, oneshot::Sender<Result<Epoch, SwapRefused>>)>,
    restart: Option<oneshot::Sender<Result<(), RestartRefused>>>,
    leaving: Option<oneshot::Sender<()>>,
    is_leave_overdue: bool,
    right_lost_at: Option<Instant>,
    start_failures: u32,
    /// The application was given up here; said when stepping down.
    gave_up: bool,
    /// The epoch of the last tenure.
    led_at: Option<Epoch>,
    /// How the last tenure ended, and at which epoch; nothing when it was fenced.
    ended: Option<(Epoch, Ending)>,
    /// Why this copy cannot be trusted any more (R11), until it is compared with another one. What the next daemon must know is noted
    /// with the copy.
    disk_failure: DiskFailure,
    /// Why this copy cannot be brought up to date.
    copy_trouble: CopyTrouble,
    /// A stream that came before its record was applied here.
    early: Option<EarlySession>,
    /// When this server began to become primary, until it was told that the application runs.
    becoming_since: Option<Instant>,
    /// Until then the only whole copy looks for a majority before it leads without one.
    asks_until: Instant,
    not_before: Instant,
}

impl Agent {
    fn new(
        member: Arc<Member>,
        module: ModuleName,
        installed: Installed,
        requests: mpsc::Receiver<Request>,
        report: watch::Sender<Report>,
    ) -> Self {
        let asks_until = Instant::now() + ASKS_FOR_LEASES * member.lease_length_max();
        Self {
            fresh: member.fresh(),
            out: member.out(),
            member,
            module,
            installed,
            requests,
            report,
            local: Local::Nothing,
            swap: None,
            restart: None,
            leaving: None,
            is_leave_overdue: false,
            right_lost_at: None,
            start_failures: 0,
            gave_up: false,
            led_at: None,
            ended: None,
            disk_failure: DiskFailure::default(),
            copy_trouble: CopyTrouble::default(),
            early: None,
            becoming_since: None,
            asks_until,
            not_before: Instant::now(),
        }
    }

    /// Until the module is uninstalled: look, do one step, look again; wait when there is nothing to do.
    async fn run(mut self) {
        let mut applied = self.member.consensus.watch();
        let mut lease = self.member.consensus.lease().changed();
        let mut disk_failed = self.disk_failure.changed();
        loop {
            applied.borrow_and_update();
            lease.borrow_and_update();
            disk_failed.borrow_and_update();
            let record = self.record();
            self.look_at_early_session(record.as_ref());
            self.end_setting_aside(record.as_ref());
            self.tell_what_counts(record.as_ref());
            self.end_failed_session(record.as_ref());
            self.watch_right(record.as_ref());
            self.end_wishes(record.as_ref());
            let goal = self.goal(record.as_ref());
            self.publish(record.as_ref(), goal);
            if self.has_left(record.as_ref()) {
                return;
            }
            if record.is_none() && matches!(self.local, Local::Nothing) {
                self.remove().await;
                return;
            }
            let must_fence = self.must_fence(goal);
            if (must_fence || Instant::now() >= self.not_before)
                && self.act(record.as_ref(), goal).await
            {
                continue;
            }
            let wake_at = self.wake_at();
            tokio::select! {
                changed = applied.changed() => if changed.is_err() { return },
                changed = lease.changed() => if changed.is_err() { return },
                changed = disk_failed.changed() => if changed.is_err() { return },
                changed = self.fresh.changed() => if changed.is_err() { return },
                changed = self.out.changed() => if changed.is_err() { return },
                request = self.requests.recv() => match request {
                    Some(request) => self.on_request(request),
                    None => return,
                },
                end = self.installed.application.ended() => self.on_script_end(end),
                () = tokio::time::sleep_until(wake_at) => {}
            }
        }
    }

    /// The record of the installation that this agent is for; one of the same name that came after it is not.
    fn record(&self) -> Option<MirrorRecord> {
        let state = self.member.state();
        let record = state.modules.get(&self.module)?;
        (record.installation == self.installed.installation).then(|| record.clone())
    }

    fn standing(&self) -> Standing {
        Standing {
            me: self.member.id(),
            is_fresh: *self.fresh.borrow(),
            addition_open: self.installed.addition.epoch(),
            is_out: *self.out.borrow(),
        }
    }

    fn goal(&self, record: Option<&MirrorRecord>) -> Goal {
        let patience = self.member.lease_length();
        let wishes = Wishes {
            is_leaving: self.leaving.is_some(),
            is_leave_overdue: self.is_leave_overdue,
            swap_at: self.swap.as_ref().map(|(epoch, _)| *epoch),
            is_right_overdue: match (&self.local, self.right_lost_at) {
                (_, None) => false,
                (Local::Leading(_), Some(lost_at)) => lost_at.elapsed() >= patience,
                (Local::Nothing | Local::Following(_), Some(_)) => true,
            },
        };
        let is_leading = matches!(self.local, Local::Leading(_));
        goal(&self.standing(), record, wishes, is_leading)
    }

    /// Notes since when the right has been missing although the record names this server.
    fn watch_right(&mut self, record: Option<&MirrorRecord>) {
        let right = record.map_or(Right::None, |record| self.standing().right(record));
        let is_held = match right {
            Right::None | Right::Forever => true,
            Right::WhileLeased => self.member.lease_remaining().is_some(),
        };
        if is_held {
            self.right_lost_at = None;
        } else if self.right_lost_at.is_none() {
            tracing::warn!(module = %self.module, "no lease from a majority: nothing is served until it returns");
            self.right_lost_at = Some(Instant::now());
        }
    }

    /// A wish belongs to one epoch, a restart to one tenure.
    fn end_wishes(&mut self, record: Option<&MirrorRecord>) {
        if !matches!(self.local, Local::Leading(_)) {
            self.answer_restart(Err(RestartRefused::Failed));
        }
        let epoch = record.map(|record| record.epoch);
        if let Some((at, done)) = self.swap.take_if(|(at, _)| Some(*at) != epoch) {
            let moved = record.filter(|record| record.primary != Some(self.member.id()));
            let result = moved.map_or(Err(SwapRefused::Overtaken), |record| Ok(record.epoch));
            tracing::info!(module = %self.module, "the switchover asked for at epoch {at} has ended");
            answer(done, result);
        }
    }

    /// Told to leave, and nothing runs here any more. A lone primary leaves without handing over: nobody else could
    /// lead, and after a restart it leads again. One without a majority cannot hand over, and one that did not end in order must not
    /// call the copies whole (R16): the voters will see it go.
    fn has_left(&mut self, record: Option<&MirrorRecord>) -> bool {
        let right = record.map_or(Right::None, |record| self.standing().right(record));
        let can_say = record.is_some_and(|record| !lacks_word(record, self.ending(record.epoch)));
        let must_hand_over = right == Right::WhileLeased && self.right_lost_at.is_none() && can_say;
        let has_left = matches!(self.local, Local::Nothing) && !must_hand_over;
        if has_left && let Some(done) = self.leaving.take() {
            return done.send(()).is_ok();
        }
        false
    }

    /// Does one thing; true when the situation should be looked at again at once.
    async fn act(&mut self, record: Option<&MirrorRecord>, goal: Goal) -> bool {
        if self.leaving.is_none()
            && !matches!(self.local, Local::Leading(_))
            && let Some(record) = record.filter(|record| may_take_over(&self.standing(), record))
            && self
                .failures()
                .against_leading(record, self.member.id())
                .is_none()
        {
            return self.propose_take_over(record).await;
        }
        if let Some(failure) = self.against_leading(record) {
            return self.leave_failed_disk(record, &failure).await;
        }
        if self.is_paused(goal) || record.is_some_and(|record| self.asks_first(record)) {
            return false;
        }
        if let Local::Leading(leading) = &self.local
            && matches!(goal, Goal::Lead { .. })
            && leading.has_partnership_ended()
        {
            // The role went away and came back between two looks: this tenure is over, another one begins.
            tracing::warn!(module = %self.module, "the tenure ended unseen: beginning anew");
            return self.perform(Step::Fence).await;
        }
        if let Local::Leading(leading) = &mut self.local
            && leading.lacks_addresses(&self.installed.configuration)
            && matches!(goal, Goal::Lead { .. })
        {
            leading.add_addresses(&self.installed.configuration);
            if leading.lacks_addresses(&self.installed.configuration) {
                self.not_before = Instant::now() + ADDRESS_RETRY;
            }
            return true;
        }
        match next_step(goal, self.local.running()) {
            Some(step) => {
                tracing::info!(module = %self.module, ?goal, ?step, "next step");
                self.perform(step).await
            }
            None => false,
        }
    }

    /// Leads, and should not: nothing may delay what follows.
    fn must_fence(&self, goal: Goal) -> bool {
        let is_leading = matches!(self.local, Local::Leading(_));
        is_leading && matches!(goal, Goal::Fence | Goal::Down | Goal::Follow)
    }

    /// A script under way, or a right that may return: nothing but fencing goes on.
    fn is_paused(&self, goal: Goal) -> bool {
        let is_leading = matches!(self.local, Local::Leading(_));
        !self.must_fence(goal)
            && (self.installed.application.is_busy() || self.right_lost_at.is_some() && is_leading)
    }

    /// Waits a while after a start for a majority that may know of a force.
    fn asks_first(&self, record: &MirrorRecord) -> bool {
        let is_leading = matches!(self.local, Local::Leading(_));
        let has_waited = Instant::now() >= self.asks_until;
        self.standing().asks_first(record, is_leading, has_waited)
    }

    async fn perform(&mut self, step: Step) -> bool {
        let outcome = match step {
            Step::StartFollowing => self.start_following().await,
            Step::StopFollowing => self.stop_following().await,
            Step::MountPrimary { epoch, counts_peer } => {
                self.mount_primary(epoch, counts_peer).await
            }
            Step::AddAddresses => self.add_addresses(),
            Step::StartApplication => self.start_application(),
            Step::StopApplication => self.stop_application(),
            Step::DropAddresses => self.drop_addresses(),
            Step::DrainAndUnmount => self.drain_and_unmount().await,
            Step::ProposeHandOver { epoch, to } => self.propose_hand_over(epoch, to).await,
            Step::Fence => self.fence().await,
        };
        match outcome {
            Ok(()) => {
                self.report.send_modify(|report| report.trouble = None);
                true
            }
            Err(error) => {
                tracing::error!(module = %self.module, ?step, error = format!("{error:#}"), "step failed");
                self.report
                    .send_modify(|report| report.trouble = Some(format!("{error:#}")));
                self.not_before = Instant::now() + STEP_RETRY;
                false
            }
        }
    }

    async fn start_following(&mut self) -> anyhow::Result<()> {
        let copy = Arc::clone(&self.installed.copy);
        let module = self.module.clone();
        let (trouble, disk_failure) = (self.copy_trouble.clone(), self.disk_failure.clone());
        let report = move |event: SecondaryEvent| match event {
            SecondaryEvent::SessionEnded { session, cause } => {
                tracing::info!(%module, session, ?cause, "the primary's stream ended");
                trouble.note(&cause);
            }
            SecondaryEvent::LocalDiskFailed { operation, errno } => {
                if disk_failure.note(format!("{operation} failed with errno {errno}")) {
                    tracing::error!(%module, operation, errno, "the disk of this copy failed");
                }
            }
        };
        let secondary = blocking(move || Secondary::start(copy, Box::new(report))).await??;
        self.local = Local::Following(secondary);
        Ok(())
    }

    async fn stop_following(&mut self) -> anyhow::Result<()> {
        if let Local::Following(secondary) = std::mem::replace(&mut self.local, Local::Nothing) {
            blocking(move || secondary.stop()).await??;
        }
        Ok(())
    }

    async fn mount_primary(&mut self, epoch: Epoch, counts_peer: bool) -> anyhow::Result<()> {
        self.becoming_since.get_or_insert_with(Instant::now);
        self.ended = None;
        self.arm_watchdog().await;
        let parts = LeadingParts {
            member: Arc::clone(&self.member),
            module: self.module.clone(),
            copy: Arc::clone(&self.installed.copy),
            addition: Arc::clone(&self.installed.addition),
            disk_failure: self.disk_failure.clone(),
            is_first_tenure: self.led_at.replace(epoch) != Some(epoch),
            address_wait: self.address_wait(),
        };
        match Leading::mount(parts, epoch, counts_peer).await {
            Ok(leading) => {
                self.local = Local::Leading(leading);
                Ok(())
            }
            Err(error) => {
                self.disarm_watchdog().await;
                Err(error)
            }
        }
    }

    fn address_wait(&self) -> Duration {
        let state = self.member.state();
        let record = state.modules.get(&self.module);
        record.map_or(Duration::ZERO, |record| {
            wait_before_adding(self.member.profile(), &state, record, self.member.id())
        })
    }

    fn add_addresses(&mut self) -> anyhow::Result<()> {
        if let Local::Leading(leading) = &mut self.local {
            leading.add_addresses(&self.installed.configuration);
            leading.set_stage(Stage::Reachable);
        }
        Ok(())
    }

    fn start_application(&mut self) -> anyhow::Result<()> {
        self.installed.application.start();
        Ok(())
    }

    fn stop_application(&mut self) -> anyhow::Result<()> {
        self.installed.application.stop();
        Ok(())
    }

    fn drop_addresses(&mut self) -> anyhow::Result<()> {
        if let Local::Leading(leading) = &mut self.local {
            leading.drop_addresses();
            leading.set_stage(Stage::Mounted);
        }
        Ok(())
    }

    /// Everything acknowledged by every copy that must have it, then the mount goes away. The partnership goes on until
    /// then: it drops a peer that does not answer.
    async fn drain_and_unmount(&mut self) -> anyhow::Result<()> {
        self.becoming_since = None;
        if let Local::Leading(leading) = &self.local {
            leading.drain(DRAIN_DEADLINE).await?;
        }
        if let Local::Leading(leading) = std::mem::replace(&mut self.local, Local::Nothing) {
            let epoch = self.record().map(|record| record.epoch);
            let (unmounted, is_confirmed) = leading.unmount().await;
            let ending = Ending {
                is_confirmed,
                // Else whoever held the mount may have written what was never shipped.
                is_clean: unmounted.is_ok(),
            };
            self.ended = epoch.map(|epoch| (epoch, ending));
            // The application was stopped before, and the mount is gone one way or the other.
            self.disarm_watchdog().await;
            unmounted?;
        }
        Ok(())
    }

    fn on_script_end(&mut self, end: ScriptEnd) {
        match end {
            ScriptEnd::Started => {
                self.start_failures = 0;
                self.report
                    .send_modify(|report| report.application_trouble = None);
                if let Local::Leading(leading) = &mut self.local {
                    leading.set_stage(Stage::Serving);
                }
                self.tell_started();
                self.answer_restart(Ok(()));
            }
            ScriptEnd::StartFailed(why) => self.on_start_failed(&why),
            ScriptEnd::Stopped => {
                if let Local::Leading(leading) = &mut self.local {
                    leading.set_stage(Stage::Reachable);
                }
            }
        }
    }

    /// Tries again a few times, then gives the module to the other server or stops it.
    fn on_start_failed(&mut self, why: &str) {
        self.start_failures += 1;
        tracing::error!(module = %self.module, failures = self.start_failures, "start_prim failed: {why}");
        self.report.send_modify(|report| {
            report.application_trouble = Some(format!("start_prim failed: {why}"))
        });
        self.answer_restart(Err(RestartRefused::Failed));
        self.installed.application.stop();
        self.not_before = Instant::now() + STEP_RETRY;
        if self.start_failures >= START_FAILURES_MAX {
            self.start_failures = 0;
            self.gave_up = true;
            self.give_up();
        }
    }

    /// History, so that a change of roles can say what it cost; nothing depends on it.
    fn tell_started(&mut self) {
        let Some(since) = self.becoming_since.take() else {
            return;
        };
        let (Some(epoch), member) = (self.led_at, Arc::clone(&self.member)) else {
            return;
        };
        let command = Command::ApplicationStarted {
            module: self.module.clone(),
            epoch,
            server: member.id(),
            after_ms: u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX),
        };
        let proposal = member.proposal(command, "start_prim has ended well");
        tokio::spawn(async move {
            if let Err(error) = member.consensus.propose(proposal, PROPOSAL_DEADLINE).await {
                tracing::debug!(%error, "the start of the application is not on record");
            }
        });
    }

    fn give_up(&self) {
        let member = Arc::clone(&self.member);
        let command = Command::SetWanted {
            module: self.module.clone(),
            server: member.id(),
            wanted: Wanted::Stopped,
        };
        let proposal = member.proposal(
            command,
            "the application failed to start several times in a row",
        );
        tokio::spawn(async move {
            if let Err(error) = member.consensus.propose(proposal, PROPOSAL_DEADLINE).await {
                tracing::error!(%error, "failed to stop a module whose application does not start");
            }
        });
    }

    fn answer_restart(&mut self, result: Result<(), RestartRefused>) {
        if let Some(done) = self.restart.take() {
            answer(done, result);
        }
    }

    /// When to look again although nothing was heard.
    fn wake_at(&self) -> Instant {
        let look_again = Instant::now() + Duration::from_millis(500);
        let patience_ends = self
            .right_lost_at
            .map(|lost_at| lost_at + self.member.lease_length());
        let lease_ends = self
            .member
            .lease_remaining()
            .map(|left| Instant::now() + left);
        let early_ends = self.early.as_ref().map(|early| early.until);
        let asks_until = Some(self.asks_until);
        let ends = [patience_ends, lease_ends, early_ends, asks_until];
        [Some(self.not_before)]
            .into_iter()
            .chain(ends)
            .flatten()
            .filter(|at| *at > Instant::now())
            .fold(look_again, Instant::min)
    }

    /// The module is gone from the cluster: nothing of it stays but the data, and what a force set aside of it.
    async fn remove(&self) {
        let dir = self.member.paths.module(&self.module);
        let removed = {
            let dir = dir.clone();
            blocking(move || removal::remove_all_but_aside(&dir)).await
        };
        if let Err(error) = removed {
            tracing::warn!(module = %self.module, %error, "failed to remove {}", dir.display());
        }
        tracing::info!(module = %self.module, "module removed from this server");
    }

    fn publish(&self, record: Option<&MirrorRecord>, goal: Goal) {
        let progress = match &self.local {
            Local::Leading(leading) => Some(leading.progress()),
            Local::Following(_) | Local::Nothing => None,
        };
        let running = self.local.running();
        let right_is_lost = self.right_lost_at.is_some();
        let me = self.member.id();
        let waits_for_majority = record.is_some_and(|record| record.primary == Some(me))
            && (right_is_lost
                || record.is_some_and(|record| self.standing().right(record) == Right::None));
        let addition_open = record.is_some_and(|record| self.standing().may_have_added(record));
        let (copy_trouble, failures) = (self.copy_trouble.text(), self.failures());
        self.report.send_modify(|report| {
            report.running = running;
            report.is_leaving = matches!(goal, Goal::HandOver { .. } | Goal::Fence);
            report.right_is_lost = right_is_lost;
            report.waits_for_majority = waits_for_majority;
            report.addition_open = addition_open;
            report.copy_trouble = copy_trouble;
            report.failures = failures;
            report.aside = Some(self.installed.copy.aside().clone());
            report.resync = progress;
            report.epoch = record.map(|record| record.epoch);
            report.at = Instant::now();
        });
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> anyhow::Result<T> {
    Ok(tokio::task::spawn_blocking(work).await?)
}
