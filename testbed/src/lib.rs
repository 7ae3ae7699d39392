//! The testbed of Sidekick: laboratories of real servers on one machine, faults, oracles, scenarios, the demo and the benches.
//!
//! It drives the finished programs (`sknode`, `skcli`) from outside, as an operator, an application and a power cut would.
//! It never reaches into their memory, so what it proves holds for what is shipped.

pub mod bench;
pub mod cluster;
pub mod demo;
pub mod lab;
pub mod ledger;
pub mod oracle;
pub mod scenario;
pub mod wait;
