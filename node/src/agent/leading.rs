//! Everything that exists only while this server leads: the mounted copy, its gate, its addresses, its partnership.

use std::sync::Arc;
use std::time::Duration;

use consensus::Lease;
use consensus::state::{Epoch, ModuleName};
use fs_mirror::{Copy, Gate, Primary, PrimaryEvent, PrimaryOptions, Progress, Unmount};
use module::Configuration;
use parking_lot::Mutex;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::blocking;
use super::disk_failure::DiskFailure;
use super::moving::Moving;
use super::open_addition::OpenAddition;
use super::partnership::{Partnership, Told};
use super::warden::Warden;
use crate::core::address_times::AddressTimes;
use crate::core::plan::Stage;
use crate::member::Member;
use crate::shell::addresses::{AddressKeeper, VirtualAddress, find_interface};

/// What a tenure is made from.
pub(super) struct LeadingParts {
    /// The daemon.
    pub member: Arc<Member>,
    /// The module.
    pub module: ModuleName,
    /// The copy to mount.
    pub copy: Arc<Copy>,
    /// The note of a proposed addition.
    pub addition: Arc<OpenAddition>,
    /// Where a failure of the disk is noted.
    pub disk_failure: DiskFailure,
    /// This is the first tenure at its epoch: what a switchover left identical has not been changed since.
    pub is_first_tenure: bool,
    /// How long to wait before the addresses are added: the former primary's may still be in its kernel.
    pub address_wait: Duration,
}

/// One tenure as primary.
pub(super) struct Leading {
    module: ModuleName,
    stage: Stage,
    primary: Arc<Primary>,
    gate: Arc<Gate>,
    lease: Lease,
    addresses: Vec<AddressKeeper>,
    /// No address before this time: the former primary's may still be in its kernel.
    addresses_from: Instant,
    wants_addresses: bool,
    tasks: Tasks,
}

/// Where the mounted copy tells what happens to it.
struct EventSink {
    module: ModuleName,
    disk_failure: DiskFailure,
    quiet: watch::Sender<Option<u64>>,
    events: mpsc::UnboundedSender<PrimaryEvent>,
}

impl EventSink {
    fn tell(&self, event: PrimaryEvent) {
        match event {
            PrimaryEvent::LinkQuiet { session } => {
                self.quiet.send_replace(Some(session));
            }
            // Not by way of the tenure, which may end before a slow disk answers (R11).
            PrimaryEvent::LocalDiskFailed { operation, errno } => {
                let failure = format!("{operation} failed with errno {errno}");
                // Every request may fail from now on.
                if self.disk_failure.note(failure) {
                    tracing::error!(module = %self.module, operation, errno, "the disk of this copy failed");
                }
            }
            PrimaryEvent::SessionLost { .. } | PrimaryEvent::Resynced { .. } => {
                if self.events.send(event).is_err() {
                    tracing::debug!("the tenure has ended");
                }
            }
        }
    }
}

/// The tasks of a tenure; they end with it.
struct Tasks([JoinHandle<()>; 3]);

impl Drop for Tasks {
    fn drop(&mut self) {
        for task in &self.0 {
            task.abort();
        }
    }
}

impl Leading {
    /// Mounts the copy read-write behind a gate that opens as far as the right reaches.
    ///
    /// # Errors
    /// The epoch cannot be made durable, or the mount fails: nothing is left behind.
    pub(super) async fn mount(
        parts: LeadingParts,
        epoch: Epoch,
        counts_peer: bool,
    ) -> anyhow::Result<Leading> {
        let gate = Arc::new(Gate::closed());
        let (events_in, events) = mpsc::unbounded_channel();
        let (quiet_in, quiet) = watch::channel(None);
        let copy = Arc::clone(&parts.copy);
        let primary_gate = Arc::clone(&gate);
        let sink = EventSink {
            module: parts.module.clone(),
            disk_failure: parts.disk_failure.clone(),
            quiet: quiet_in,
            events: events_in,
        };
        let primary = blocking(move || {
            let options = PrimaryOptions::default();
            Primary::start(
                copy,
                fs_mirror::Epoch(epoch.0),
                counts_peer,
                primary_gate,
                Box::new(move |event| sink.tell(event)),
                options,
            )
        })
        .await??;
        let primary = Arc::new(primary);
        let warden = Arc::new(Warden {
            consensus: parts.member.consensus.clone(),
            module: parts.module.clone(),
            me: parts.member.id(),
            fresh: parts.member.fresh(),
            out: parts.member.out(),
            addition: Arc::clone(&parts.addition),
            gate: Arc::clone(&gate),
            adjusting: Mutex::default(),
        });
        // Before anything asks whether it may serve: the task below may start late.
        let lease = parts.member.consensus.lease();
        warden.adjust(&lease);
        let moving = Moving {
            member: Arc::clone(&parts.member),
            module: parts.module.clone(),
            primary: Arc::clone(&primary),
        };
        let partnership = Partnership {
            member: parts.member,
            module: parts.module.clone(),
            primary: Arc::clone(&primary),
            addition: parts.addition,
            warden: Arc::clone(&warden),
            events,
            may_begin_identical: parts.is_first_tenure,
            disk_failure: parts.disk_failure,
            told: Told::default(),
        };
        Ok(Leading {
            module: parts.module,
            stage: Stage::Mounted,
            primary,
            gate,
            lease,
            addresses: Vec::new(),
            addresses_from: Instant::now() + parts.address_wait,
            wants_addresses: false,
            tasks: Tasks([
                tokio::spawn(warden.run()),
                tokio::spawn(moving.run(quiet)),
                tokio::spawn(partnership.run()),
            ]),
        })
    }

    /// How far this primary has come.
    pub(super) fn stage(&self) -> Stage {
        self.stage
    }

    /// Notes how far this primary has come.
    pub(super) fn set_stage(&mut self, stage: Stage) {
        self.stage = stage;
    }

    /// Nobody looks after the peer any more: the record did not name this server for a moment.
    pub(super) fn has_partnership_ended(&self) -> bool {
        let Tasks([_, _, partnership]) = &self.tasks;
        partnership.is_finished()
    }

    /// The peer's reintegration.
    pub(super) fn progress(&self) -> Progress {
        self.primary.progress()
    }

    /// Adds the virtual addresses and tells the neighbours. An address that cannot be added is logged and tried again
    /// by the next look: the application still runs for whoever reaches it otherwise.
    pub(super) fn add_addresses(&mut self, configuration: &Configuration) {
        self.wants_addresses = true;
        if Instant::now() < self.addresses_from {
            return;
        }
        self.addresses.retain(AddressKeeper::is_held);
        for wanted in &configuration.virtual_addresses {
            if self.addresses.iter().any(|held| held.ip() == wanted.addr) {
                continue;
            }
            let (gate, lease) = (Arc::clone(&self.gate), self.lease.clone());
            let address = VirtualAddress {
                ip: wanted.addr,
                interface: wanted.interface.clone(),
            };
            let kept = find_interface(&address).and_then(|interface| {
                AddressKeeper::start(&interface, wanted.addr, move || {
                    AddressTimes::of_lease(lease.length()).renewal(gate.remaining())
                })
            });
            match kept {
                Ok(keeper) => self.addresses.push(keeper),
                Err(error) => {
                    tracing::warn!(module = %self.module, %error, "virtual address not added")
                }
            }
        }
    }

    /// True when an address that should be here is not: it could not be added, or ran out with a lease that came back.
    pub(super) fn lacks_addresses(&self, configuration: &Configuration) -> bool {
        let held = self
            .addresses
            .iter()
            .filter(|keeper| keeper.is_held())
            .count();
        self.wants_addresses && held < configuration.virtual_addresses.len()
    }

    /// Removes the virtual addresses before it returns.
    pub(super) fn drop_addresses(&mut self) {
        self.wants_addresses = false;
        for keeper in self.addresses.drain(..) {
            keeper.drop_now();
        }
    }

    /// Every acknowledged write on every copy that must have it, both synced.
    ///
    /// # Errors
    /// The deadline passed, or a disk failed.
    pub(super) async fn drain(&self, deadline: Duration) -> anyhow::Result<()> {
        let primary = Arc::clone(&self.primary);
        Ok(blocking(move || primary.drain(deadline)).await??)
    }

    /// Unmounts in order; also says whether the secondary confirmed that it has everything that was ever acknowledged on its disk.
    ///
    /// # Errors
    /// A process still holds the mount: it was ended the hard way.
    pub(super) async fn unmount(self) -> (anyhow::Result<()>, bool) {
        self.end(Unmount::Clean).await
    }

    /// No request is answered with success from now on.
    pub(super) fn fence(&self) {
        self.gate.fence();
        self.primary.fence();
    }

    /// Tears the mount down whoever uses it.
    ///
    /// # Errors
    /// The kernel refused; the mount is dead all the same.
    pub(super) async fn abort(self) -> anyhow::Result<()> {
        self.end(Unmount::Abort).await.0
    }

    async fn end(self, how: Unmount) -> (anyhow::Result<()>, bool) {
        let Leading { primary, tasks, .. } = self;
        drop(tasks);
        let ended = blocking(move || {
            let stopped = primary.stop(how).map_err(anyhow::Error::new);
            (stopped, primary.is_confirmed())
        });
        ended.await.unwrap_or_else(|error| (Err(error), false))
    }
}

#[cfg(test)]
mod tests {
    use consensus::state::ServerId;

    use super::*;
    use crate::core::failed_copy::Failures;
    use crate::core::goal::tests::record;
    use crate::core::partnership::{Facts, Move, Stream, next_move};

    const ME: ServerId = ServerId(1);
    const PEER: ServerId = ServerId(2);

    /// Goal: a server that took over with what it had only received, and whose sync fails after it lost its lease, does not strike off
    /// the only whole copy when the lease returns (R11, R16). Method: the event, once nobody of the tenure listens any more.
    #[test]
    fn regression_a_sync_that_fails_after_the_tenure_counts_in_the_next() {
        let disk_failure = DiskFailure::default();
        let (quiet, _) = watch::channel(None);
        let (events, of_tenure) = mpsc::unbounded_channel();
        let sink = EventSink {
            module: "m".parse().unwrap(),
            disk_failure: disk_failure.clone(),
            quiet,
            events,
        };
        drop(of_tenure);
        let mut led = record(8, Some(ME), &[ME, PEER]);
        led.received_only.insert(ME);
        let next = |has_failed_disk| {
            let facts = Facts {
                me: ME,
                is_fresh: true,
                stream: Stream::Down,
                addition_open: None,
                peer_is_down: true,
                may_begin_identical: false,
                is_adopted: true,
                has_failed_disk,
            };
            next_move(&led, facts)
        };
        assert_eq!(next(disk_failure.is_noted()), Move::DropPeer);
        sink.tell(PrimaryEvent::LocalDiskFailed {
            operation: "syncfs",
            errno: 5,
        });
        assert_eq!(next(disk_failure.is_noted()), Move::Wait);
        let failures = Failures {
            disk: disk_failure.text(),
            not_applied: None,
        };
        assert_eq!(
            failures.against_leading(&led, ME).as_deref(),
            Some("its disk failed: syncfs failed with errno 5")
        );
    }
}
