//! The file system mounted for real over a directory, alone (no secondary), used by ordinary programs.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod fixture;
mod programs;

use fixture::Mounted;
