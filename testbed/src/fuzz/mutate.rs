//! Inputs that are almost right.

use super::target::{Input, Target};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{Rng as _, SeedableRng as _};

/// Mutations of one input.
const MUTATIONS_MAX: u32 = 6;
/// An input never grows beyond this: a frame of the mirror is the largest message.
const INPUT_BYTES_MAX: usize = 2 << 20;
/// Bytes that are inserted or repeated at once.
const PIECE_BYTES_MAX: usize = 300;
/// Numbers at the edges of types and limits.
const EDGES: [u64; 14] = [
    0,
    1,
    0x7f,
    0x80,
    0xff,
    0x7fff,
    0xffff,
    0x0010_0000,
    0x0010_0001,
    0x7fff_ffff,
    0xffff_ffff,
    0x7fff_ffff_ffff_ffff,
    0x8000_0000_0000_0000,
    u64::MAX,
];

/// Makes inputs from a corpus; one seed is one sequence.
pub(super) struct Mutator {
    corpus: Vec<Input>,
    random: StdRng,
}

impl Mutator {
    pub(super) fn new(corpus: Vec<Input>, seed: u64) -> Mutator {
        Mutator {
            corpus,
            random: StdRng::seed_from_u64(seed),
        }
    }

    /// The next input for a target.
    pub(super) fn next(&mut self, target: Target) -> Input {
        let Some(base) = self.corpus.choose(&mut self.random).cloned() else {
            return Input::default();
        };
        let mut input = base;
        for _ in 0..self.random.random_range(1..=MUTATIONS_MAX) {
            self.mutate(&mut input.body);
            input.body.truncate(INPUT_BYTES_MAX);
        }
        // Mostly the envelope is right, so that the body is looked at.
        input.bytes = target.wrap(input.kind, &input.body);
        if self.random.random_ratio(1, 5) {
            self.mutate(&mut input.bytes);
        }
        input
    }

    /// A number for whoever sends the inputs.
    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.random.random_range(0..end)
    }

    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        let at = self.random.random_range(0..=bytes.len());
        match self.random.random_range(0..9) {
            0 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << self.random.random_range(0..8);
                }
            }
            1 => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = self.random.random();
                }
            }
            2 => self.set_number(bytes, at),
            3 => self.set_varint(bytes, at),
            4 => bytes.truncate(at),
            5 => {
                let end = self.end_of_piece(bytes, at);
                bytes.drain(at..end);
            }
            6 => {
                let length = self.random.random_range(0..PIECE_BYTES_MAX);
                let piece: Vec<u8> = (0..length).map(|_| self.random.random()).collect();
                bytes.splice(at..at, piece);
            }
            7 => {
                let end = self.end_of_piece(bytes, at);
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
            _ => self.splice_other(bytes, at),
        }
    }

    fn end_of_piece(&mut self, bytes: &[u8], at: usize) -> usize {
        let length = self.random.random_range(0..PIECE_BYTES_MAX);
        (at + length).min(bytes.len())
    }

    fn edge(&mut self) -> u64 {
        let edge = EDGES.choose(&mut self.random).copied().unwrap_or(0);
        edge.wrapping_add(self.random.random_range(0..3))
            .wrapping_sub(1)
    }

    /// A little-endian number of one of the usual widths.
    fn set_number(&mut self, bytes: &mut [u8], at: usize) {
        let width = *[1, 2, 4, 8].choose(&mut self.random).unwrap_or(&4);
        let number = self.edge().to_le_bytes();
        if let Some(place) = bytes.get_mut(at..at + width) {
            place.copy_from_slice(&number[..width]);
        }
    }

    /// A number as protobuf and postcard write it, in the place of the one that begins here.
    fn set_varint(&mut self, bytes: &mut Vec<u8>, at: usize) {
        let old = bytes[at..].iter().position(|byte| byte & 0x80 == 0);
        let end = old.map_or(bytes.len(), |more| at + more + 1);
        let mut number = self.edge();
        let mut new = Vec::new();
        while number >= 0x80 {
            new.push((number & 0x7f) as u8 | 0x80);
            number >>= 7;
        }
        new.push(number as u8);
        bytes.splice(at..end, new);
    }

    /// The rest comes from another message.
    fn splice_other(&mut self, bytes: &mut Vec<u8>, at: usize) {
        if let Some(other) = self.corpus.choose(&mut self.random) {
            let from = self.random.random_range(0..=other.body.len());
            bytes.truncate(at);
            bytes.extend_from_slice(&other.body[from..]);
        }
    }
}
