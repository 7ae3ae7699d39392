//! Places in a text, as people count them.

use serde::Serialize;
use std::cell::Cell;

/// A place in `userconfig.xml`: both numbers start at 1, columns count characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
pub struct Position {
    /// Line, from 1.
    pub line: u32,
    /// Column in characters, from 1.
    pub column: u32,
}

/// Turns byte offsets of one text into positions.
pub(crate) struct Lines<'a> {
    text: &'a str,
    starts: Vec<usize>,
    /// The newest answer: (offset, index of its line, characters before it in the line). Positions are asked for in
    /// rising order, and counting from here keeps a file that is one long line from costing its length squared.
    newest: Cell<(usize, usize, usize)>,
}

impl<'a> Lines<'a> {
    pub(crate) fn of(text: &'a str) -> Lines<'a> {
        let breaks = text.bytes().enumerate().filter(|(_, byte)| *byte == b'\n');
        let starts = std::iter::once(0)
            .chain(breaks.map(|(at, _)| at + 1))
            .collect();
        Lines {
            text,
            starts,
            newest: Cell::new((0, 0, 0)),
        }
    }

    /// The position of byte `offset`; one behind the end is the position after the last character.
    pub(crate) fn position(&self, offset: usize) -> Position {
        let offset = offset.min(self.text.len());
        let index = self
            .starts
            .partition_point(|start| *start <= offset)
            .saturating_sub(1);
        let (known, line, characters) = self.newest.get();
        let (from, counted) = if line == index && known <= offset {
            (known, characters)
        } else {
            (self.starts.get(index).copied().unwrap_or(0), 0)
        };
        let before = self
            .text
            .get(from..offset)
            .map_or(0, |part| part.chars().count());
        self.newest.set((offset, index, counted + before));
        Position {
            line: number(index + 1),
            column: number(counted + before + 1),
        }
    }

    /// The position of a slice of this very text.
    pub(crate) fn position_of(&self, part: &str) -> Option<Position> {
        let offset = (part.as_ptr() as usize).checked_sub(self.text.as_ptr() as usize)?;
        (offset <= self.text.len()).then(|| self.position(offset))
    }
}

fn number(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::{Lines, Position};

    #[test]
    fn columns_count_characters_and_lines_start_at_one() {
        let text = "ab\nçd\n";
        let lines = Lines::of(text);
        assert_eq!(lines.position(0), Position { line: 1, column: 1 });
        assert_eq!(lines.position(5), Position { line: 2, column: 2 });
        assert_eq!(lines.position(text.len()), Position { line: 3, column: 1 });
        assert_eq!(
            lines.position_of(&text[3..5]),
            Some(Position { line: 2, column: 1 })
        );
    }
}
