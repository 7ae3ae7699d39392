//! The parts of the Sidekick daemon.
//!
//! `core` decides what must run here (pure), `agent` does it for one module, `shell` touches the machine, `security` holds
//! keys, `listener` the port, `services` what others may ask, `daemon` joins them.

pub mod agent;
pub mod core;
pub mod daemon;
pub mod leaving;
pub mod listener;
pub mod member;
pub mod packages;
pub mod paths;
mod recall;
pub mod renewal;
pub mod security;
pub mod services;
pub mod shell;
