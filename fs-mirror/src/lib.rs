//! A file system that applies every change on two servers before the application is answered.
//!
//! `fs` is the file system over the real directory (no FUSE in it), `fuse` translates kernel requests, `replication`
//! ships changes to the secondary and applies them there, `resync` brings a copy up to date while the application runs.
//! This crate knows nothing of Raft: the node tells it the epoch, whether the peer is in the in-sync set, and until when
//! it may serve ([`Gate`]).

mod alone;
mod aside;
mod content;
pub mod copy;
mod epoch;
pub mod fs;
pub mod fuse;
pub mod gate;
pub mod mount;
pub mod primary;
pub mod replication;
pub mod resync;
pub mod secondary;

pub use alone::Alone;
pub use aside::{Aside, AsideFile, AsideSet, BELOW_STATE as ASIDE_BELOW_STATE};
pub use copy::{Copy, CopyConfig, EpochError, OpenError};
pub use epoch::Epoch;
pub use gate::Gate;
pub use primary::{DrainError, Primary, PrimaryEvent, PrimaryOptions, StopError, Unmount};
pub use replication::link::Link;
pub use replication::wire::{Hello, HelloReply, RefusalReason, Start};
pub use resync::Progress;
pub use secondary::{Secondary, SecondaryEvent};
