//! What stays of a module that was uninstalled.

use std::path::Path;
use std::{fs, io};

use fs_mirror::ASIDE_BELOW_STATE;

/// Empties the module's directory, and removes it unless a force has set files aside there: they may be all that is left of
/// acknowledged writes, and only an operator gives them up.
pub(super) fn remove_all_but_aside(directory: &Path) -> io::Result<()> {
    let mut keeps_aside = false;
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if entry.file_name() == ASIDE_BELOW_STATE {
            keeps_aside = true;
            tracing::warn!("what a force set aside stays in {}", entry.path().display());
        } else if entry.file_type()?.is_dir() {
            fs::remove_dir_all(entry.path())?;
        } else {
            fs::remove_file(entry.path())?;
        }
    }
    if keeps_aside {
        return Ok(());
    }
    fs::remove_dir(directory)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regression_uninstalling_keeps_what_a_force_set_aside() {
        let directory = tempfile::tempdir().unwrap();
        let module = directory.path().join("m");
        let kept = module.join(ASIDE_BELOW_STATE).join("5/removed");
        fs::create_dir_all(&kept).unwrap();
        fs::write(kept.join("rows"), "acknowledged").unwrap();
        fs::create_dir(module.join("package")).unwrap();
        fs::write(module.join("epoch"), "7").unwrap();
        remove_all_but_aside(&module).unwrap();
        let left: Vec<_> = fs::read_dir(&module).unwrap().collect();
        assert_eq!(left.len(), 1);
        assert_eq!(
            fs::read_to_string(kept.join("rows")).unwrap(),
            "acknowledged"
        );

        fs::remove_dir_all(module.join(ASIDE_BELOW_STATE)).unwrap();
        remove_all_but_aside(&module).unwrap();
        assert!(!module.exists());
    }
}
