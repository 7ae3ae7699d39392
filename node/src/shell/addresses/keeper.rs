//! Holds one virtual address: a thread of its own renews it while it may, and announces it.

use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use tracing::{info, warn};

use super::netlink::Netlink;
use super::{AddressError, Interface};
use crate::core::address_times::{EXPIRY_MAX, Renewal};
use crate::shell::announce::{Announcer, Schedule};

/// The lifetime the kernel is given. One second is its smallest unit.
const LIFETIME_S: u32 = 1;
/// How often the lifetime starts anew: three chances before it ends.
pub const RENEW_EVERY: Duration = Duration::from_millis(300);
/// The thread runs before ordinary ones: a busy machine must not lose its address.
const NICENESS: i32 = -10;

/// A virtual address on this server, held until [`drop_now`](AddressKeeper::drop_now), until the
/// right to it ends, or until this value is dropped.
pub struct AddressKeeper {
    ip: IpAddr,
    interface: Interface,
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The thread and whoever drops the address take turns: a renewal that is under way when the
/// address is dropped must not bring it back.
struct Shared {
    held: Mutex<Held>,
    wake: Condvar,
}

struct Held {
    netlink: Netlink,
    interface: u32,
    ip: IpAddr,
    is_wanted: bool,
    renewed_at: Instant,
}

impl AddressKeeper {
    /// Adds the address, has announced it when it returns, and goes on renewing it as long as
    /// `may_renew` says so. It is asked at each renewal and must only read atomics. A `bool` will
    /// do for an answer.
    ///
    /// # Errors
    /// `NotAllowed` when the first answer is no; `System` when the kernel refuses the address.
    pub fn start<A: Into<Renewal>>(
        interface: &Interface,
        ip: IpAddr,
        may_renew: impl Fn() -> A + Send + 'static,
    ) -> Result<AddressKeeper, AddressError> {
        let announcer = Announcer::new(interface, ip).map_err(AddressError::during(
            "open a packet socket for announcements",
        ))?;
        let mut held = Held {
            netlink: Netlink::open().map_err(AddressError::during("open netlink"))?,
            interface: interface.index,
            ip,
            is_wanted: true,
            renewed_at: Instant::now(),
        };
        match may_renew().into() {
            Renewal::Renew => held
                .renew()
                .map_err(AddressError::during("add a virtual address"))?,
            Renewal::Skip | Renewal::Drop => return Err(AddressError::NotAllowed { address: ip }),
        }
        // Frozen meanwhile, and woken much later: nobody may hear of the address.
        if may_renew().into() == Renewal::Drop {
            held.let_go();
            return Err(AddressError::NotAllowed { address: ip });
        }
        let shared = Arc::new(Shared {
            held: Mutex::new(held),
            wake: Condvar::new(),
        });
        let mut keeping = Keeping {
            shared: Arc::clone(&shared),
            announcer,
            schedule: Schedule::default(),
            added_at: Instant::now(),
            is_failing: false,
        };
        // Here and not by the thread, which a busy machine may start late: what starts behind the
        // address must not be the first that the neighbours hear of it.
        keeping.announce_if_due();
        let spawned = std::thread::Builder::new()
            .name("sk-address".to_owned())
            .spawn(move || keeping.run(|| may_renew().into()));
        let thread = match spawned {
            Ok(thread) => thread,
            Err(source) => {
                shared.held.lock().let_go();
                let action = "start the thread that renews an address";
                return Err(AddressError::System { action, source });
            }
        };
        info!(address = %ip, interface = %interface.name, "virtual address added");
        Ok(AddressKeeper {
            ip,
            interface: interface.clone(),
            shared,
            thread: Some(thread),
        })
    }

    /// Removes the address before it returns, whatever the thread is doing.
    pub fn drop_now(&self) {
        self.shared.held.lock().let_go();
        self.shared.wake.notify_all();
    }

    /// Whether the address is still being held and was renewed within its lifetime.
    #[must_use]
    pub fn is_held(&self) -> bool {
        let held = self.shared.held.lock();
        held.is_wanted && held.renewed_at.elapsed() < EXPIRY_MAX
    }

    /// The address.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.ip
    }

    /// The interface that has it.
    #[must_use]
    pub fn interface(&self) -> &Interface {
        &self.interface
    }
}

impl Drop for AddressKeeper {
    fn drop(&mut self) {
        self.drop_now();
        if let Some(thread) = self.thread.take() {
            // Its panic, if any, was reported by its own hook; the address is gone either way.
            let _ = thread.join();
        }
    }
}

impl Held {
    fn renew(&mut self) -> io::Result<()> {
        self.netlink.hold(self.interface, self.ip, LIFETIME_S)?;
        self.renewed_at = Instant::now();
        Ok(())
    }

    fn let_go(&mut self) {
        if !self.is_wanted {
            return;
        }
        self.is_wanted = false;
        if let Err(error) = self.netlink.remove(self.interface, self.ip) {
            warn!(address = %self.ip, %error, "could not remove the virtual address, it expires within {EXPIRY_MAX:?}");
        }
    }
}

/// What the thread owns.
struct Keeping {
    shared: Arc<Shared>,
    announcer: Option<Announcer>,
    schedule: Schedule,
    added_at: Instant,
    is_failing: bool,
}

impl Keeping {
    fn run(mut self, may_renew: impl Fn() -> Renewal) {
        // Not being allowed to costs punctuality under load only.
        let _ = rustix::process::nice(NICENESS);
        let shared = Arc::clone(&self.shared);
        let mut held = shared.held.lock();
        let mut renew_at = held.renewed_at + RENEW_EVERY;
        while held.is_wanted {
            // First: whoever slept for long may announce nothing.
            if Instant::now() >= renew_at {
                renew_at = Instant::now() + RENEW_EVERY;
                self.renew(&mut held, &may_renew);
                continue;
            }
            self.announce_if_due();
            let wake_at = self
                .next_announcement()
                .map_or(renew_at, |at| at.min(renew_at));
            let _ = shared.wake.wait_until(&mut held, wake_at);
        }
        info!(address = %held.ip, "virtual address removed");
    }

    /// One renewal. The right is asked for before and after it: a process frozen in between and
    /// woken much later would otherwise bring back an address that meanwhile moved elsewhere. What
    /// is left of that race lasts microseconds, is not announced, and no write is served in it.
    fn renew(&mut self, held: &mut Held, may_renew: &impl Fn() -> Renewal) {
        match may_renew() {
            Renewal::Renew => {
                let had_expired = held.renewed_at.elapsed() >= EXPIRY_MAX;
                let outcome = held.renew();
                if may_renew() == Renewal::Drop {
                    held.let_go();
                    return;
                }
                self.on_renewed(held.ip, outcome, had_expired);
            }
            Renewal::Skip => {}
            Renewal::Drop => held.let_go(),
        }
    }

    fn on_renewed(&mut self, ip: IpAddr, outcome: io::Result<()>, had_expired: bool) {
        match outcome {
            Ok(()) => {
                if had_expired || self.is_failing {
                    // It was away: neighbours may have asked meanwhile and heard nothing.
                    self.schedule = Schedule::default();
                    self.added_at = Instant::now();
                    warn!(address = %ip, "virtual address had expired and was added again");
                }
                self.is_failing = false;
            }
            Err(error) => {
                if !self.is_failing {
                    warn!(address = %ip, %error, "could not renew the virtual address, still trying");
                }
                self.is_failing = true;
            }
        }
    }

    fn next_announcement(&self) -> Option<Instant> {
        self.announcer.as_ref()?;
        Some(self.added_at + self.schedule.next()?)
    }

    fn announce_if_due(&mut self) {
        let Some(announcer) = &self.announcer else {
            return;
        };
        if !self.schedule.take_due(self.added_at.elapsed()) {
            return;
        }
        if let Err(error) = announcer.send() {
            warn!(%error, "could not announce the virtual address");
        }
    }
}
