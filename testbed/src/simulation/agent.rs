//! The agent of one module on one server: looks, does the one next step, waits.
//!
//! What should run and the next step are `node::core`'s decisions; what is here mirrors the loop of `node::agent`.

use consensus::liveness::BootTime;
use consensus::state::{Command, Epoch, MirrorRecord, ServerId, StepDownReason};
use node::core::failed_copy::{Failures, is_compared_first};
use node::core::goal::{Goal, Wishes, goal, may_take_over};
use node::core::hand_over::{Ending, HandOver, hand_over};
use node::core::plan::{Running, Stage, Step, next_step};
use node::core::right::Right;

use super::clock::{MS, SECOND};
use super::desk::Desk;
use super::intake::{Intake, on_hello, on_stored};
use super::message::{Mirror, Payload};
use super::outside::Happening;
use super::proposals::Purpose;
use super::tenure::Tenure;

const STEP_RETRY: u64 = 500 * MS;
const DRAIN_DEADLINE: u64 = 10 * SECOND;
/// A committed proposal is applied here within this time, or looked at again.
const APPLIED_WITHIN: u64 = 2 * SECOND;

#[derive(Debug)]
enum Local {
    Nothing,
    Following(Option<Intake>),
    Leading(Box<Tenure>),
}

impl Local {
    fn running(&self) -> Running {
        match self {
            Self::Nothing => Running::Nothing,
            Self::Following(_) => Running::Following,
            Self::Leading(tenure) => Running::Leading(tenure.stage),
        }
    }
}

/// What the agent waits for, looking at nothing else.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Busy {
    No,
    Step(Step),
    Draining { until: BootTime },
    Proposing { epoch: Epoch, until: BootTime },
}

#[derive(Debug)]
pub(super) struct Agent {
    local: Local,
    busy: Busy,
    /// A start or stop script runs.
    script: Option<Stage>,
    pub(super) swap_at: Option<Epoch>,
    right_lost_at: Option<BootTime>,
    led_at: Option<Epoch>,
    failed_disk: bool,
    not_before: BootTime,
    tenures: u32,
    /// How the last tenure ended, and at which epoch; nothing when it was fenced.
    ended: Option<(Epoch, Ending)>,
}

impl Agent {
    pub(super) fn new() -> Self {
        Self {
            local: Local::Nothing,
            busy: Busy::No,
            script: None,
            swap_at: None,
            right_lost_at: None,
            led_at: None,
            failed_disk: false,
            not_before: BootTime(0),
            tenures: 0,
            ended: None,
        }
    }

    pub(super) fn tenure(&self) -> Option<&Tenure> {
        match &self.local {
            Local::Leading(tenure) => Some(tenure),
            Local::Nothing | Local::Following(_) => None,
        }
    }

    fn tenure_mut(&mut self) -> Option<&mut Tenure> {
        match &mut self.local {
            Local::Leading(tenure) => Some(tenure),
            Local::Nothing | Local::Following(_) => None,
        }
    }

    /// The application is open to clients here and now.
    pub(super) fn serves(&self, now: BootTime) -> bool {
        self.tenure()
            .is_some_and(|tenure| tenure.is_settled() && tenure.gate.is_open(now))
    }

    pub(super) fn follows(&self) -> bool {
        matches!(self.local, Local::Following(Some(_)))
    }

    pub(super) fn has_failed_disk(&self) -> bool {
        self.failed_disk || self.tenure().is_some_and(|tenure| tenure.disk_failed)
    }

    pub(super) fn shown(&self) -> String {
        let gate = self.tenure().map(|tenure| tenure.gate);
        let gate = gate.map_or(String::new(), |gate| format!(", gate {gate:?}"));
        format!("{:?}{gate}", self.local.running())
    }

    /// The record, the lease or what is known of this run changed.
    pub(super) fn on_change(&mut self, desk: &mut Desk<'_>) {
        if let Some(tenure) = self.tenure_mut() {
            tenure.adjust(desk);
            tenure.work(desk);
        }
        self.look(desk);
    }

    pub(super) fn on_lease(&mut self, desk: &mut Desk<'_>) {
        if let Some(tenure) = self.tenure_mut() {
            tenure.adjust(desk);
        }
    }

    pub(super) fn on_tick(&mut self, desk: &mut Desk<'_>) {
        if let Some(tenure) = self.tenure_mut() {
            tenure.on_tick(desk);
        }
        self.look(desk);
    }

    pub(super) fn on_mirror(&mut self, session: u64, mirror: Mirror, desk: &mut Desk<'_>) {
        match mirror {
            Mirror::Hello {
                epoch,
                is_identical,
            } => {
                // An agent in the middle of a step takes the connection when the step has ended: too late for most.
                let is_following =
                    matches!(self.local, Local::Following(_)) && self.busy == Busy::No;
                let mut none = None;
                let intake = match &mut self.local {
                    Local::Following(intake) => intake,
                    Local::Nothing | Local::Leading(_) => &mut none,
                };
                on_hello(intake, is_following, session, epoch, is_identical, desk);
            }
            Mirror::HelloAnswer { is_accepted } => {
                if let Some(tenure) = self.tenure_mut() {
                    tenure.on_hello_answer(session, is_accepted, desk);
                }
            }
            Mirror::Frame {
                seq,
                epoch,
                payload,
            } => {
                if let Local::Following(Some(intake)) = &mut self.local
                    && intake.session == session
                {
                    intake.on_frame(seq, epoch, payload, desk);
                }
            }
            Mirror::Ack { seq } => {
                if let Some(tenure) = self.tenure_mut() {
                    tenure.on_ack(session, seq, desk);
                }
            }
        }
    }

    pub(super) fn on_stored(
        &mut self,
        session: u64,
        ack: Option<u64>,
        payload: &Payload,
        desk: &mut Desk<'_>,
    ) {
        let intake = match &mut self.local {
            Local::Following(intake) => intake.as_mut(),
            Local::Nothing | Local::Leading(_) => None,
        };
        on_stored(intake, session, ack, payload, desk);
    }

    pub(super) fn send_part(&mut self, session: u64, desk: &mut Desk<'_>) {
        if let Some(tenure) = self.tenure_mut() {
            tenure.send_part(session, desk);
        }
    }

    /// The application of the tenure `id` writes, and will write again.
    pub(super) fn on_application(&mut self, id: u32, desk: &mut Desk<'_>) {
        let is_stopping = self.script.is_some();
        let Some(tenure) = self.tenure_mut().filter(|tenure| tenure.id == id) else {
            return;
        };
        if !tenure.is_settled() || is_stopping {
            return;
        }
        tenure.begin_write(desk);
        self.schedule_write(desk);
    }

    fn schedule_write(&self, desk: &mut Desk<'_>) {
        let Some(tenure) = self.tenure() else { return };
        let (module, id) = (desk.module, tenure.id);
        let wait = desk.out.random.between(60, 160) * MS;
        desk.later(wait, Happening::Write { module, tenure: id });
    }

    pub(super) fn on_written(&mut self, id: u32, write: u32, desk: &mut Desk<'_>) {
        if let Some(tenure) = self.tenure_mut().filter(|tenure| tenure.id == id) {
            tenure.on_written(write, desk);
        }
    }

    /// The disk under the mounted copy fails from now on (R11). The failure may end the session before the agent looks.
    pub(super) fn fail_disk(&mut self, desk: &mut Desk<'_>) {
        if let Some(tenure) = self.tenure_mut() {
            tenure.disk_failed = true;
            if desk.out.random.between(0, 2) == 0 {
                tenure.end_session(desk);
                tenure.work(desk);
            }
        }
    }

    /// Looks until there is nothing to do at once.
    pub(super) fn look(&mut self, desk: &mut Desk<'_>) {
        loop {
            if self.is_busy(desk) {
                return;
            }
            let record = desk.record();
            self.watch_right(record, desk);
            if record.is_none_or(|record| self.swap_at != Some(record.epoch)) {
                self.swap_at = None;
            }
            let goal = self.goal(record, desk);
            let is_leading = self.tenure().is_some();
            let must_fence = is_leading && matches!(goal, Goal::Fence | Goal::Down | Goal::Follow);
            let is_due = must_fence || desk.now >= self.not_before;
            if !is_due || !self.act(record, goal, must_fence, desk) {
                return;
            }
        }
    }

    fn is_busy(&mut self, desk: &mut Desk<'_>) -> bool {
        match self.busy {
            Busy::No => false,
            Busy::Step(_) => true,
            Busy::Draining { until } => {
                let drained = self.tenure_mut().map(|tenure| tenure.drain(desk));
                if let Some(Some(ending)) = drained {
                    self.ended = desk.record().map(|record| (record.epoch, ending));
                    self.begin(Step::DrainAndUnmount, 10, desk);
                    return true;
                }
                if drained.is_none() || desk.now >= until {
                    self.busy = Busy::No;
                    self.not_before = desk.now.plus_ns(STEP_RETRY);
                    if let Some(tenure) = self.tenure_mut() {
                        tenure.forget_drain();
                    }
                    return false;
                }
                true
            }
            Busy::Proposing { epoch, until } => {
                let has_moved = desk.record().is_none_or(|record| record.epoch != epoch);
                let is_open = desk.proposals.is_pending(Purpose::Agent(desk.module));
                if has_moved {
                    self.busy = Busy::No;
                    return false;
                }
                if desk.now >= until {
                    self.busy = Busy::No;
                    self.not_before = desk.now.plus_ns(STEP_RETRY);
                    return false;
                }
                if !is_open {
                    let soon = desk.now.plus_ns(STEP_RETRY);
                    self.busy = Busy::Proposing {
                        epoch,
                        until: until.min(soon),
                    };
                }
                true
            }
        }
    }

    fn watch_right(&mut self, record: Option<&MirrorRecord>, desk: &Desk<'_>) {
        let right = record.map_or(Right::None, |record| desk.standing().right(record));
        let is_held = match right {
            Right::None | Right::Forever => true,
            Right::WhileLeased => desk.now < desk.lease_until,
        };
        if is_held {
            self.right_lost_at = None;
        } else if self.right_lost_at.is_none() {
            self.right_lost_at = Some(desk.now);
        }
    }

    fn goal(&self, record: Option<&MirrorRecord>, desk: &Desk<'_>) -> Goal {
        let is_leading = self.tenure().is_some();
        let wishes = Wishes {
            is_leaving: false,
            is_leave_overdue: false,
            swap_at: self.swap_at,
            is_right_overdue: match self.right_lost_at {
                None => false,
                Some(lost_at) if is_leading => desk.now.ns_since(lost_at) >= desk.lease_ns(),
                Some(_) => true,
            },
        };
        goal(&desk.standing(), record, wishes, is_leading)
    }

    fn act(
        &mut self,
        record: Option<&MirrorRecord>,
        goal: Goal,
        must_fence: bool,
        desk: &mut Desk<'_>,
    ) -> bool {
        let is_leading = self.tenure().is_some();
        self.failed_disk |= self.tenure().is_some_and(|tenure| tenure.disk_failed);
        if record.is_some_and(|record| is_compared_first(record, desk.me)) {
            self.failed_disk = false;
        }
        let failures = Failures {
            disk: self.failed_disk.then(String::new),
            not_applied: None,
        };
        if let Some(record) = record
            && !is_leading
            && may_take_over(&desk.standing(), record)
            && failures.against_leading(record, desk.me).is_none()
        {
            let command = Command::TakeOver {
                module: desk.name.clone(),
                epoch: record.epoch,
                server: desk.me,
            };
            self.propose(
                record.epoch,
                command,
                "started, in sync, and there is no primary",
                desk,
            );
            return false;
        }
        if let Some(record) = record
            && record.primary == Some(desk.me)
            && failures.against_leading(record, desk.me).is_some()
        {
            self.leave_failed_disk(record.epoch, desk);
            return false;
        }
        let is_paused =
            !must_fence && (self.script.is_some() || (self.right_lost_at.is_some() && is_leading));
        if is_paused {
            return false;
        }
        let is_ended = self.tenure().is_some_and(Tenure::has_partnership_ended);
        if is_ended && matches!(goal, Goal::Lead { .. }) {
            // The role went away and came back between two looks.
            self.perform(Step::Fence, desk);
            return self.busy == Busy::No;
        }
        match next_step(goal, self.local.running()) {
            Some(step) => {
                self.perform(step, desk);
                self.busy == Busy::No
            }
            None => false,
        }
    }

    fn propose(&mut self, epoch: Epoch, command: Command, evidence: &str, desk: &mut Desk<'_>) {
        desk.propose(Purpose::Agent(desk.module), command, evidence);
        let until = desk.now.plus_ns(2 * APPLIED_WITHIN);
        self.busy = Busy::Proposing { epoch, until };
    }

    fn leave_failed_disk(&mut self, epoch: Epoch, desk: &mut Desk<'_>) {
        if let Some(tenure) = self.tenure_mut() {
            tenure.fence(desk);
        }
        self.local = Local::Nothing;
        self.script = None;
        let command = Command::StepDown {
            module: desk.name.clone(),
            epoch,
            server: desk.me,
            reason: StepDownReason::DiskFailed,
        };
        self.propose(epoch, command, "write failed with errno 5", desk);
    }

    fn begin(&mut self, step: Step, ms: u64, desk: &mut Desk<'_>) {
        self.busy = Busy::Step(step);
        let module = desk.module;
        desk.later(ms * MS, Happening::StepDone { module });
    }

    fn perform(&mut self, step: Step, desk: &mut Desk<'_>) {
        desk.note(format_args!("{step:?}"));
        match step {
            Step::StartFollowing => self.begin(step, 20, desk),
            Step::StopFollowing => {
                // Nothing is acknowledged once this has begun.
                self.local = Local::Following(None);
                let ms = desk.out.random.between(5, 60);
                self.begin(step, ms, desk);
            }
            Step::MountPrimary { .. } => {
                let ms = desk.out.random.between(10, 60);
                self.begin(step, ms, desk);
            }
            Step::AddAddresses => {
                if let Some(tenure) = self.tenure_mut() {
                    tenure.add_address(desk);
                    tenure.stage = Stage::Reachable;
                }
            }
            Step::DropAddresses => {
                if let Some(tenure) = self.tenure_mut() {
                    tenure.drop_address(desk);
                    tenure.stage = Stage::Mounted;
                }
            }
            Step::StartApplication => self.run_script(Stage::Serving, desk),
            Step::StopApplication => self.run_script(Stage::Reachable, desk),
            Step::DrainAndUnmount => {
                let until = desk.now.plus_ns(DRAIN_DEADLINE);
                self.busy = Busy::Draining { until };
                if let Some(tenure) = self.tenure_mut() {
                    tenure.forget_drain();
                }
            }
            Step::ProposeHandOver { epoch, to } => self.hand_over(epoch, to, desk),
            Step::Fence => {
                if let Some(tenure) = self.tenure_mut() {
                    tenure.fence(desk);
                }
                self.script = None;
                let ms = desk.out.random.between(10, 150);
                self.begin(step, ms, desk);
            }
        }
    }

    fn run_script(&mut self, to: Stage, desk: &mut Desk<'_>) {
        self.script = Some(to);
        let ms = if desk.out.random.chance(5) {
            desk.out.random.between(1000, 4000)
        } else {
            desk.out.random.between(20, 200)
        };
        let (module, tenure) = (desk.module, self.tenures);
        desk.later(ms * MS, Happening::ScriptDone { module, tenure });
    }

    fn hand_over(&mut self, epoch: Epoch, to: Option<ServerId>, desk: &mut Desk<'_>) {
        let Some(record) = desk.record().filter(|record| record.epoch == epoch) else {
            return;
        };
        let (module, me) = (desk.name.clone(), desk.me);
        let ended = self.ended.filter(|(at, _)| *at == epoch);
        let ending = ended.map(|(_, ending)| ending).unwrap_or_default();
        let command = match hand_over(record, me, to, ending) {
            HandOver::SwitchOver { to } => Command::Switchover {
                module,
                epoch,
                from: me,
                to,
            },
            HandOver::StepDown => Command::StepDown {
                module,
                epoch,
                server: me,
                reason: StepDownReason::Stopped,
            },
            HandOver::Drop { secondary } => {
                desk.copy.sync();
                Command::DropSecondary {
                    module,
                    epoch,
                    primary: me,
                    server: secondary,
                }
            }
        };
        let evidence = "application stopped, drained, unmounted";
        self.propose(epoch, command, evidence, desk);
    }

    pub(super) fn on_script_done(&mut self, tenure: u32, desk: &mut Desk<'_>) {
        let Some(to) = self.script.filter(|_| tenure == self.tenures) else {
            return;
        };
        self.script = None;
        if let Some(tenure) = self.tenure_mut() {
            tenure.stage = to;
        }
        if to == Stage::Serving {
            self.schedule_write(desk);
        }
        self.look(desk);
    }

    pub(super) fn on_step_done(&mut self, desk: &mut Desk<'_>) {
        let Busy::Step(step) = self.busy else { return };
        self.busy = Busy::No;
        match step {
            Step::StartFollowing => self.local = Local::Following(None),
            Step::StopFollowing | Step::Fence => self.local = Local::Nothing,
            Step::DrainAndUnmount => {
                if let Some(tenure) = self.tenure_mut() {
                    tenure.end_session(desk);
                }
                self.local = Local::Nothing;
            }
            Step::MountPrimary { epoch, counts_peer } => self.mount(epoch, counts_peer, desk),
            Step::AddAddresses
            | Step::StartApplication
            | Step::StopApplication
            | Step::DropAddresses
            | Step::ProposeHandOver { .. } => {}
        }
        self.look(desk);
    }

    fn mount(&mut self, epoch: Epoch, counts_peer: bool, desk: &mut Desk<'_>) {
        let is_first_tenure = self.led_at.replace(epoch) != Some(epoch);
        self.ended = None;
        self.tenures += 1;
        match Tenure::mount(self.tenures, epoch, counts_peer, is_first_tenure, desk) {
            Some(tenure) => self.local = Local::Leading(Box::new(tenure)),
            None => self.not_before = desk.now.plus_ns(STEP_RETRY),
        }
    }
}
