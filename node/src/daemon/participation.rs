//! Whether this member may take part in its cluster: its own disk cannot tell that it is an old copy, or of one that was removed.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use consensus::OpenError;
use consensus::state::{ClusterState, Incarnation, ServerId};

use super::{Daemon, StartError};
use crate::agent::open_addition::replace_durably;
use crate::member::Member;
use crate::recall::{Memories, is_enough, recall};
use crate::security::{Identity, Known};

/// Pause before the others are asked again what they remember.
const RECALL_AGAIN: Duration = Duration::from_millis(200);

impl Daemon {
    /// A member that must not take part stays, to say so, and to be told to leave.
    pub(super) async fn become_member_again(
        self: &Arc<Self>,
        identity: Identity,
        author: &str,
    ) -> anyhow::Result<()> {
        // Once known it stays so: the next start has another number, and the others may have forgotten meanwhile.
        if let Ok(why) = fs::read_to_string(self.unfit_note()) {
            tracing::error!(why, "this server takes part in nothing");
            self.unfit.store(Some(Arc::new(why)));
            return Ok(());
        }
        match self.become_member(identity, author).await {
            Ok(_member) => Ok(()),
            Err(error) if is_unfit(&error) => {
                let why = format!("{error:#}");
                if is_unfit_for_good(&error) {
                    replace_durably(&self.unfit_note(), why.as_bytes())?;
                }
                tracing::error!(
                    why,
                    "this server takes part in nothing; type `skcli cluster leave --alone` here, then let it join again with --replaces"
                );
                self.unfit.store(Some(Arc::new(why)));
                Ok(())
            }
            Err(error) => Err(error),
        }
    }

    /// Where it is noted that this server must not take part again.
    fn unfit_note(&self) -> PathBuf {
        self.paths.identity().join("unfit")
    }

    /// Ends everything once another member says that this one was removed from the cluster. A primary alone needs nobody (R6), so
    /// nothing else would ever end it, and the operator who removed it may have made another server primary.
    ///
    /// The right goes before the note is written: fencing must not wait for a disk. After a crash in between the others say so
    /// again. Raft goes on until the others do not need its vote.
    pub(super) async fn end_when_removed(self: Arc<Self>, member: Arc<Member>) {
        let by = member.consensus.removed().await;
        let asked_to_leave = self.asked_to_leave.load(Ordering::SeqCst);
        self.declare_unfit(&member, Parting::of(asked_to_leave, &member.name_of(by)));
        self.leave().await;
        member.consensus.vote_gone().await;
        self.out.send_replace(true);
        member.consensus.clone().shutdown().await;
    }

    /// Takes the right to serve away from every module here, says why, and notes it.
    fn declare_unfit(&self, member: &Member, parting: Parting) {
        member.set_out();
        parting.tell();
        let why = parting.why();
        if let Err(error) = replace_durably(&self.unfit_note(), why.as_bytes()) {
            tracing::error!(%error, "that this server must not take part was not noted: it must be told again after a restart");
        }
        self.unfit.store(Some(Arc::new(why)));
    }

    /// Whether somebody asked here that this member leaves. To be said before the others can know of it: their word that it is a
    /// member no more may come before the answer.
    pub fn set_asked_to_leave(&self, is_asked: bool) {
        self.asked_to_leave.store(is_asked, Ordering::SeqCst);
    }

    /// Takes part once enough others have said what they remember of this member, then says that it has started (R12). Its own
    /// disk may be an old copy: until then it neither votes nor appends nor grants leases, and it forms no run that could be
    /// mistaken for one of before.
    pub(super) async fn take_part(
        self: Arc<Self>,
        member: Arc<Member>,
        mut answered: BTreeSet<ServerId>,
        how_started: String,
    ) {
        let me = member.id();
        let mut is_told = false;
        loop {
            let state = member.state();
            let (others, voters) = match state.members.is_empty() {
                // The log is still being read.
                true => {
                    let known = member.identity.known.clone();
                    let all = known.iter().map(|other| ServerId(other.id));
                    let all = all.chain([me]).collect();
                    (known, all)
                }
                false => (others_of(&state, me), state.voters()),
            };
            if is_enough(&voters, me, &answered) {
                break;
            }
            if !is_told {
                is_told = true;
                tracing::info!("waits until a majority has said what it remembers of this member");
            }
            tokio::time::sleep(RECALL_AGAIN).await;
            let recalled = recall(&member.dialer, &others).await;
            if let Err(error) = check_memories(&member, recalled.memories) {
                return self.end_restored(&member, error.to_string()).await;
            }
            answered.extend(recalled.answered);
        }
        member.consensus.admit();
        if let Err(rejection) = member.announce_start(how_started).await {
            self.end_restored(&member, rejection.to_string()).await;
        }
    }

    /// What this member forgot it may have acknowledged: it leaves Raft at once.
    async fn end_restored(&self, member: &Member, why: String) {
        self.declare_unfit(member, Parting::Unwanted { why });
        self.out.send_replace(true);
        member.consensus.clone().shutdown().await;
        self.leave().await;
    }
}

/// How this server came to take part in nothing.
#[derive(Debug, PartialEq, Eq)]
enum Parting {
    /// Somebody asked here that it leaves: nobody has to do anything.
    Wanted {
        /// Who says that it is done.
        by: String,
    },
    /// It was removed, or runs on an old copy: a person has to do something.
    Unwanted {
        /// What happened.
        why: String,
    },
}

impl Parting {
    /// `by` says that this server is a member no more.
    fn of(asked_to_leave: bool, by: &str) -> Parting {
        if asked_to_leave {
            return Parting::Wanted { by: by.to_owned() };
        }
        Parting::Unwanted {
            why: format!("{by} says that this server was removed from the cluster for good"),
        }
    }

    /// A surprise needs a person, a leave that was asked for does not.
    fn tell(&self) {
        let why = self.why();
        match self {
            Parting::Wanted { .. } => tracing::info!(
                why,
                "this server leaves its cluster, as was asked here, and ends what it served"
            ),
            Parting::Unwanted { .. } => tracing::warn!(
                why,
                "this server ends what it served and takes part in nothing any more; type `skcli cluster leave --alone` here, then let it join again with --replaces"
            ),
        }
    }

    /// What is noted, and shown until what is here is set aside.
    fn why(&self) -> String {
        match self {
            Parting::Wanted { by } => {
                format!(
                    "it was told to leave its cluster, and {by} says that it is a member no more"
                )
            }
            Parting::Unwanted { why } => why.clone(),
        }
    }
}

/// Whether the others know this run, or a later one, already.
pub(super) fn check_run(memories: Memories, next: Incarnation) -> Result<(), StartError> {
    if memories.is_removed {
        return Err(StartError::Removed);
    }
    if next <= memories.incarnation {
        return Err(StartError::RestoredRun {
            next,
            known: memories.incarnation,
        });
    }
    Ok(())
}

/// The same for a member whose log is open: it holds what the others remember that it held.
fn check_memories(member: &Member, memories: Memories) -> anyhow::Result<()> {
    check_run(memories, member.incarnation)?;
    let (found, remembered) = (member.consensus.held(), memories.log);
    if found < remembered {
        return Err(consensus::StartError::Restored { found, remembered }.into());
    }
    Ok(())
}

/// The members beside `me`, and where they are.
pub(super) fn others_of(state: &ClusterState, me: ServerId) -> Vec<Known> {
    let others = state.members.values().filter(|other| other.id != me);
    others
        .map(|other| Known {
            id: other.id.0,
            addresses: other.addresses.clone(),
        })
        .collect()
}

/// Whether a member was refused for what it is, and not because something failed: it needs a person.
fn is_unfit(error: &anyhow::Error) -> bool {
    let by_us = error
        .downcast_ref::<StartError>()
        .is_some_and(|error| match error {
            StartError::Removed | StartError::RestoredRun { .. } => true,
            StartError::Running(_) | StartError::NotRoot | StartError::LogFailed => false,
        });
    let by_store = error
        .downcast_ref::<consensus::StartError>()
        .is_some_and(|error| match error {
            consensus::StartError::Bind(_) | consensus::StartError::Restored { .. } => true,
            consensus::StartError::Open(error) => matches!(error, OpenError::Damaged { .. }),
            consensus::StartError::Log(_)
            | consensus::StartError::Thread(_)
            | consensus::StartError::Raft(_) => false,
        });
    by_us || by_store
}

/// Whether nothing that could be put right on this server makes it fit again.
fn is_unfit_for_good(error: &anyhow::Error) -> bool {
    let by_us = error.downcast_ref::<StartError>().is_some();
    let by_store = error.downcast_ref::<consensus::StartError>();
    by_us || matches!(by_store, Some(consensus::StartError::Restored { .. }))
}

#[cfg(test)]
mod tests {
    use std::io;

    use parking_lot::Mutex;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[test]
    fn regression_a_wanted_leave_is_no_removal() {
        let removed = Parting::of(false, "s1");
        let left = Parting::of(true, "s1");
        assert!(matches!(removed, Parting::Unwanted { .. }));
        assert_eq!(
            removed.why(),
            "s1 says that this server was removed from the cluster for good"
        );
        assert!(matches!(left, Parting::Wanted { .. }));
        assert_eq!(
            left.why(),
            "it was told to leave its cluster, and s1 says that it is a member no more"
        );
    }

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Lines;

        fn make_writer(&self) -> Lines {
            self.clone()
        }
    }

    fn said(parting: &Parting) -> String {
        let lines = Lines::default();
        let log = tracing_subscriber::fmt()
            .with_ansi(false)
            .with_writer(lines.clone())
            .finish();
        tracing::subscriber::with_default(log, || parting.tell());
        String::from_utf8(lines.0.lock().clone()).unwrap()
    }

    #[test]
    fn regression_a_leave_that_was_asked_for_is_no_warning() {
        let asked = said(&Parting::of(true, "s1"));
        assert!(
            asked.contains(" INFO ") && !asked.contains("WARN"),
            "{asked}"
        );
        assert!(asked.contains("as was asked here"), "{asked}");
        let surprise = said(&Parting::of(false, "s1"));
        assert!(surprise.contains(" WARN "), "{surprise}");
        assert!(surprise.contains("leave --alone"), "{surprise}");
    }
}
