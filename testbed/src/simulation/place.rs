//! Who is where: the servers first, then the witness, then whoever else votes.

use consensus::state::ServerId;

use super::message::Place;

/// The number of the member at `place`.
pub(super) fn id(place: Place) -> ServerId {
    ServerId(place as u64 + 1)
}

/// The first two hold the modules' copies; whoever else there is only votes.
pub(super) fn holds_copies(place: Place) -> bool {
    place < 2
}

pub(super) fn is_witness(place: Place) -> bool {
    place == 2
}
