//! Words of a configuration that are understood but have no effect here.

use crate::position::Position;
use serde::Serialize;
use std::fmt;

/// One thing `module check` tells about a configuration that is accepted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Notice {
    /// Where it stands.
    pub at: Position,
    /// What has no effect, or another one than the reader may expect, and why.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "line {}, column {}: {}",
            self.at.line, self.at.column, self.text
        )
    }
}
