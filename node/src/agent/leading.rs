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
    disk_failed: watch::Receiver<Option<String>>,
    tasks: Tasks,
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
        let primary = blocking(move || {
            let report = move |event: PrimaryEvent| {
                if let PrimaryEvent::LinkQuiet { session } = event {
                    quiet_in.send_replace(Some(session));
                    return;
                }
                if events_in.send(event).is_err() {
                    tracing::debug!("the tenure has ended");
                }
            };
            let options = PrimaryOptions::default();
            Primary::start(
                copy,
                fs_mirror::Epoch(epoch.0),
                counts_peer,
                primary_gate,
                Box::new(report),
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
        let (disk_failed_in, disk_failed) = watch::channel(None);
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
            disk_failed: disk_failed_in,
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
            disk_failed,
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

    /// Why the disk of this copy failed, once it has.
    pub(super) fn disk_failure(&self) -> Option<String> {
        self.disk_failed.borrow().clone()
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
    /// The deadline passed.
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
