//! From one copy to the other: what is shipped, in which order, and when a request may be answered.

pub mod change;
pub mod shipping;
