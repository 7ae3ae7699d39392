//! The replicated data of one module on one server: which writes are there, in memory and on the disk.

use consensus::state::Epoch;

/// A set of writes, by their number.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Writes(Vec<u64>);

/// Parts in which a resync copies the tree.
pub(super) const PARTS: u32 = 5;

impl Writes {
    pub(super) fn insert(&mut self, write: u32) {
        let word = write as usize / 64;
        if word >= self.0.len() {
            self.0.resize(word + 1, 0);
        }
        self.0[word] |= 1 << (write % 64);
    }

    fn remove(&mut self, write: u32) {
        if let Some(word) = self.0.get_mut(write as usize / 64) {
            *word &= !(1 << (write % 64));
        }
    }

    pub(super) fn contains(&self, write: u32) -> bool {
        self.0
            .get(write as usize / 64)
            .is_some_and(|word| word & (1 << (write % 64)) != 0)
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        let bits = |(position, word): (usize, &u64)| {
            let word = *word;
            (0..64).filter_map(move |bit| {
                (word & (1 << bit) != 0).then_some(position as u32 * 64 + bit)
            })
        };
        self.0.iter().enumerate().flat_map(bits)
    }

    /// The first one of these that `other` lacks.
    pub(super) fn first_missing_in(&self, other: &Writes) -> Option<u32> {
        let theirs = other.0.iter().chain(std::iter::repeat(&0));
        let (position, missing) = self
            .0
            .iter()
            .zip(theirs)
            .map(|(mine, theirs)| mine & !theirs)
            .enumerate()
            .find(|(_, missing)| *missing != 0)?;
        Some(position as u32 * 64 + missing.trailing_zeros())
    }

    /// Writes of the part `part` become exactly `writes`.
    pub(super) fn replace_part(&mut self, part: u32, writes: &[u32]) {
        let stale: Vec<u32> = self
            .iter()
            .filter(|write| part_of(*write) == part)
            .collect();
        stale.into_iter().for_each(|write| self.remove(write));
        writes.iter().for_each(|write| self.insert(*write));
    }

    pub(super) fn of_part(&self, part: u32) -> Vec<u32> {
        self.iter()
            .filter(|write| part_of(*write) == part)
            .collect()
    }
}

/// The part of the tree that a write changes.
pub(super) fn part_of(write: u32) -> u32 {
    write % PARTS
}

/// One copy.
#[derive(Debug, Clone, Default)]
pub(super) struct Copy {
    /// As a reader sees it.
    pub(super) memory: Writes,
    /// What is left after a power cut.
    pub(super) disk: Writes,
    /// Durable: frames of older epochs are refused.
    pub(super) epoch: Epoch,
    /// Durable: the note of a proposed addition (R6).
    pub(super) addition: Option<Epoch>,
}

impl Copy {
    pub(super) fn sync(&mut self) {
        self.disk = self.memory.clone();
    }
}
