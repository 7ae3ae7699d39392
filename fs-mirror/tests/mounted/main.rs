//! The file system mounted for real over a directory, alone (no secondary), used by ordinary programs.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test that cannot go on has failed, one that is skipped says why"
)]

mod fixture;
mod mounts;
mod programs;

use fixture::Mounted;
