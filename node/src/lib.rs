//! The parts of the Sidekick daemon.

pub mod listener;
pub mod security;
pub mod shell;
