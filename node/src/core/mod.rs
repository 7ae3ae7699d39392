//! What must run on this server now, and what to do next: pure, no clock, no I/O.
//!
//! [`right`] turns the applied record, the lease and what this daemon may have proposed into the right to serve;
//! [`goal`] says what should run; [`plan`] gives the one next step from what runs to what should; [`partnership`] says
//! what a primary does about its peer, [`readmission`] how soon; [`hand_over`] what it puts on record when it has ended,
//! [`failed_copy`] whether its copy may lead at all; [`ladder`] judges whether a fencing has succeeded; [`voter_change`] says what an open change of the voters needs,
//! [`address_times`] how long addresses may outlive the right to them.

pub mod address_times;
pub mod failed_copy;
pub mod goal;
pub mod hand_over;
pub mod ladder;
pub mod partnership;
pub mod plan;
pub mod readmission;
pub mod right;
pub mod voter_change;
