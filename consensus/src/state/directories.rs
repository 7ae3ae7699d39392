//! Which directories overlap.
