//! The testbed of Sidekick: laboratories of real servers on one machine, faults, oracles, scenarios, the demo and the benches.
//!
//! It drives the finished programs (`sknode`, `skcli`) from outside, as an operator, an application and a power cut would.
//! It never reaches into their memory, so what it proves holds for what is shipped. Only `fuzz` calls into the product's
//! libraries: into the decoders of what arrives from other members.

pub mod bench;
pub mod chaos;
pub mod cluster;
pub mod demo;
pub mod fuzz;
pub mod lab;
pub mod ledger;
pub mod matrix;
pub mod oracle;
pub mod scenario;
mod trust;
pub mod wait;
