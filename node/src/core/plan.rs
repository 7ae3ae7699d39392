//! The one next step from what runs to what should run.
//!
//! ```text
//!             StartFollowing                MountPrimary      AddAddresses      StartApplication
//!   Following <------------- Nothing ------------------> Mounted ------> Reachable ------> Serving
//!             ------------->         <------------------         <------           <------
//!             StopFollowing            DrainAndUnmount   DropAddresses   StopApplication
//!
//!   Fence goes from Mounted, Reachable or Serving straight to Nothing.
//! ```

use consensus::state::{Epoch, ServerId};

use super::goal::Goal;

/// What runs on this server for one module.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Running {
    /// Nothing is mounted, no process of the module lives.
    Nothing,
    /// The copy is mounted read-only and takes the primary's stream.
    Following,
    /// Some part of being primary.
    Leading(Stage),
}

/// How far a primary has come.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Stage {
    /// The copy is mounted read-write.
    Mounted,
    /// The virtual addresses are here.
    Reachable,
    /// The application runs.
    Serving,
}

/// One thing to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Step {
    /// Mount read-only and listen to the primary.
    StartFollowing,
    /// Apply what was received, end the session, unmount.
    StopFollowing,
    /// Mount read-write at `epoch`.
    MountPrimary {
        /// The epoch this server leads at.
        epoch: Epoch,
        /// Whether the record names the peer as in sync.
        counts_peer: bool,
    },
    /// Virtual addresses up, neighbours told.
    AddAddresses,
    /// Run the start script.
    StartApplication,
    /// Run the stop script, then empty the cgroup.
    StopApplication,
    /// Virtual addresses down.
    DropAddresses,
    /// Every acknowledged write on both copies, then unmount.
    DrainAndUnmount,
    /// Propose who leads next.
    ProposeHandOver {
        /// The epoch the proposal must match.
        epoch: Epoch,
        /// The secondary that takes over; `None`: step down.
        to: Option<ServerId>,
    },
    /// Stop answering, addresses down, application killed, mount aborted: the ladder of R8.
    Fence,
}

/// The next step towards `goal`; `None` when it is reached.
pub fn next_step(goal: Goal, running: Running) -> Option<Step> {
    match goal {
        Goal::Down => towards_down(running),
        Goal::Follow => towards_follow(running),
        Goal::Lead { epoch, counts_peer } => towards_lead(epoch, counts_peer, running),
        Goal::HandOver { epoch, to } => towards_hand_over(epoch, to, running),
        Goal::Fence => match running {
            Running::Leading(_) => Some(Step::Fence),
            Running::Nothing | Running::Following => None,
        },
    }
}

fn towards_down(running: Running) -> Option<Step> {
    match running {
        Running::Nothing => None,
        Running::Following => Some(Step::StopFollowing),
        Running::Leading(_) => Some(Step::Fence),
    }
}

fn towards_follow(running: Running) -> Option<Step> {
    match running {
        Running::Nothing => Some(Step::StartFollowing),
        Running::Following => None,
        Running::Leading(_) => Some(Step::Fence),
    }
}

fn towards_lead(epoch: Epoch, counts_peer: bool, running: Running) -> Option<Step> {
    match running {
        Running::Nothing => Some(Step::MountPrimary { epoch, counts_peer }),
        Running::Following => Some(Step::StopFollowing),
        Running::Leading(Stage::Mounted) => Some(Step::AddAddresses),
        Running::Leading(Stage::Reachable) => Some(Step::StartApplication),
        Running::Leading(Stage::Serving) => None,
    }
}

fn towards_hand_over(epoch: Epoch, to: Option<ServerId>, running: Running) -> Option<Step> {
    match running {
        Running::Following => Some(Step::StopFollowing),
        Running::Leading(Stage::Serving) => Some(Step::StopApplication),
        Running::Leading(Stage::Reachable) => Some(Step::DropAddresses),
        Running::Leading(Stage::Mounted) => Some(Step::DrainAndUnmount),
        Running::Nothing => Some(Step::ProposeHandOver { epoch, to }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EPOCH: Epoch = Epoch(7);
    const LEAD: Goal = Goal::Lead {
        epoch: EPOCH,
        counts_peer: true,
    };
    const SWAP: Goal = Goal::HandOver {
        epoch: EPOCH,
        to: Some(ServerId(2)),
    };
    const EVERYTHING: [Running; 5] = [
        Running::Nothing,
        Running::Following,
        Running::Leading(Stage::Mounted),
        Running::Leading(Stage::Reachable),
        Running::Leading(Stage::Serving),
    ];

    /// One letter a step, so that the whole table can be read at a glance.
    fn letter(step: Option<Step>) -> char {
        match step {
            None => '.',
            Some(Step::StartFollowing) => 'f',
            Some(Step::StopFollowing) => 'x',
            Some(Step::MountPrimary { .. }) => 'm',
            Some(Step::AddAddresses) => 'a',
            Some(Step::StartApplication) => 's',
            Some(Step::StopApplication) => 'S',
            Some(Step::DropAddresses) => 'A',
            Some(Step::DrainAndUnmount) => 'M',
            Some(Step::ProposeHandOver { .. }) => 'P',
            Some(Step::Fence) => 'F',
        }
    }

    #[test]
    fn every_goal_from_every_state() {
        // Nothing, Following, Mounted, Reachable, Serving.
        let table = [
            (Goal::Down, ".xFFF"),
            (Goal::Follow, "f.FFF"),
            (LEAD, "mxas."),
            (SWAP, "PxMAS"),
            (Goal::Fence, "..FFF"),
        ];
        for (goal, expected) in table {
            let steps: String = EVERYTHING
                .iter()
                .map(|running| letter(next_step(goal, *running)))
                .collect();
            assert_eq!(steps, expected, "{goal:?}");
        }
    }

    #[test]
    fn a_primary_mounts_before_it_is_reachable_and_is_reachable_before_it_serves() {
        assert!(Stage::Mounted < Stage::Reachable && Stage::Reachable < Stage::Serving);
    }
}
