//! One entry of a package, and which names are allowed.

use super::error::EntryProblem;
use std::fmt;

/// Directories that a package may hold.
const ALLOWED_ROOTS: &[&str] = &["conf", "bin", "web"];
/// A file that old packages carry at the top; it is accepted and never written.
pub(super) const OBSOLETE_FILE: &str = "manifest.xml";
const NAME_BYTES_MAX: usize = 512;
const PART_BYTES_MAX: usize = 255;
const PARTS_MAX: usize = 8;

/// A file or directory with a name that has been checked.
pub(super) struct Entry {
    /// Relative, `/` between the parts, none at the end.
    pub(super) name: String,
    /// `None`: a directory.
    pub(super) content: Option<Vec<u8>>,
}

impl Entry {
    pub(super) fn content(&self) -> Option<&[u8]> {
        self.content.as_deref()
    }

    pub(super) fn is_script(&self) -> bool {
        self.name.starts_with("bin/")
    }
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.content {
            Some(content) => write!(f, "{} ({} bytes)", self.name, content.len()),
            None => write!(f, "{}/", self.name),
        }
    }
}

/// Checks a name as it stands in an archive; the answer has no `/` at the end.
pub(super) fn check_name(raw: &[u8]) -> Result<&str, EntryProblem> {
    if raw.len() > NAME_BYTES_MAX {
        return Err(EntryProblem::NameTooLong);
    }
    let name = std::str::from_utf8(raw).map_err(|_| EntryProblem::NameNotUtf8)?;
    if name
        .chars()
        .any(|character| character.is_control() || character == '\\')
    {
        return Err(EntryProblem::NameCharacters);
    }
    let name = name.strip_suffix('/').unwrap_or(name);
    let parts: Vec<&str> = name.split('/').collect();
    if parts.iter().any(|part| matches!(*part, "" | "." | "..")) {
        return Err(EntryProblem::NameLeadsOut);
    }
    if parts.iter().any(|part| part.len() > PART_BYTES_MAX) {
        return Err(EntryProblem::NameTooLong);
    }
    if parts.len() > PARTS_MAX {
        return Err(EntryProblem::NameTooDeep);
    }
    let is_allowed = parts
        .first()
        .is_some_and(|root| ALLOWED_ROOTS.contains(root));
    if is_allowed || name == OBSOLETE_FILE {
        Ok(name)
    } else {
        Err(EntryProblem::OutsideAllowed)
    }
}
