//! The six directed links between two servers and a witness, by the roles of their ends.

use std::fmt;

/// A voter, by what it is when the links are cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// The primary, at the moment of the cut.
    Primary,
    /// The other server.
    Secondary,
    /// The witness.
    Witness,
}

impl Place {
    /// All three.
    pub const ALL: [Place; 3] = [Place::Primary, Place::Secondary, Place::Witness];

    /// One letter.
    pub fn letter(self) -> char {
        match self {
            Place::Primary => 'p',
            Place::Secondary => 's',
            Place::Witness => 'w',
        }
    }
}

/// From whom, to whom.
pub const DIRECTIONS: [(Place, Place); 6] = [
    (Place::Primary, Place::Secondary),
    (Place::Secondary, Place::Primary),
    (Place::Primary, Place::Witness),
    (Place::Witness, Place::Primary),
    (Place::Secondary, Place::Witness),
    (Place::Witness, Place::Secondary),
];

/// A set of directions in which every frame is lost, on all LANs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Cuts(u8);

impl Cuts {
    /// Every set that is not empty: 63.
    pub fn all() -> impl Iterator<Item = Cuts> {
        (1..64).map(Cuts)
    }

    /// Both directions between primary and secondary.
    pub fn pair() -> Cuts {
        Cuts(0b11)
    }

    /// The directions of the set.
    pub fn directions(self) -> impl Iterator<Item = (Place, Place)> {
        let is_cut = move |index: &usize| self.0 & (1 << index) != 0;
        (0..DIRECTIONS.len())
            .filter(is_cut)
            .map(|index| DIRECTIONS[index])
    }

    fn is_cut(self, from: Place, to: Place) -> bool {
        self.directions().any(|direction| direction == (from, to))
    }

    /// Both directions between two voters work: they can talk. One direction alone carries no answer, so it is worth nothing.
    pub fn can_talk(self, one: Place, other: Place) -> bool {
        one != other && !self.is_cut(one, other) && !self.is_cut(other, one)
    }

    /// With itself and at least one other, a voter is a majority of three that can talk.
    pub fn has_majority(self, place: Place) -> bool {
        Place::ALL
            .into_iter()
            .any(|other| self.can_talk(place, other))
    }
}

impl fmt::Display for Cuts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let names: Vec<String> = self
            .directions()
            .map(|(from, to)| format!("{}>{}", from.letter(), to.letter()))
            .collect();
        f.pad(&names.join(" "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    #[test]
    fn sixty_three_different_sets() {
        let names: BTreeSet<String> = Cuts::all().map(|cuts| cuts.to_string()).collect();
        assert_eq!(names.len(), 63);
        assert!(names.contains("p>s"));
        assert!(names.contains("p>s s>p p>w w>p s>w w>s"));
    }

    #[test]
    fn one_direction_is_no_conversation() {
        let cuts = Cuts(1);
        assert!(!cuts.can_talk(Place::Primary, Place::Secondary));
        assert!(!cuts.can_talk(Place::Secondary, Place::Primary));
        assert!(cuts.can_talk(Place::Primary, Place::Witness));
        let isolated = Cuts::all()
            .filter(|cuts| !Place::ALL.into_iter().any(|p| cuts.has_majority(p)))
            .count();
        // Each of the three pairs has lost one direction or the other or both.
        assert_eq!(isolated, 27);
    }
}
