//! Planted bugs: whether the proof kit finds what it is there to find.

mod bug;
pub mod table;

#[cfg(test)]
mod tests;

pub use bug::Bug;
