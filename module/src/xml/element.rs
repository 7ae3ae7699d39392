//! The tree.

use crate::position::Position;

/// One element with its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Element {
    pub(crate) name: String,
    pub(crate) at: Position,
    pub(crate) attributes: Vec<Attribute>,
    pub(crate) children: Vec<Element>,
    /// Text that is not white space, with the place where it starts; the first piece is enough to refuse it.
    pub(crate) text: Option<(String, Position)>,
}

/// One attribute with its place; the value is unescaped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Attribute {
    pub(crate) name: String,
    pub(crate) value: String,
    pub(crate) at: Position,
}
