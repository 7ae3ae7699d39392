//! Module packages of the testbed: the directories below `testbed/modules`, with the lab's own paths and addresses filled in.

use crate::lab::{Lab, topology};
use crate::oracle::Application;
use anyhow::{Context as _, ensure};
use std::fs;
use std::path::{Path, PathBuf};

/// Overrides where the module directories are.
const MODULES_ENV: &str = "SIDEKICK_MODULES_DIR";

/// Where the module directories are.
fn modules() -> PathBuf {
    std::env::var_os(MODULES_ENV).map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("modules"),
        PathBuf::from,
    )
}

/// The replicated directory of the module under test, the same path on every server.
pub fn replicated_directory(lab: &Lab) -> PathBuf {
    lab.data_path().join("app")
}

/// Writes the module directory of an application for a lab, ready to be installed, and makes the replicated directory on
/// every server.
///
/// # Errors
/// The module directory is missing or has not the macros that are filled in here.
pub fn write(lab: &Lab, application: Application) -> anyhow::Result<PathBuf> {
    for server in lab.servers() {
        let directory = lab.data_below(server.name()).join("app");
        fs::create_dir_all(&directory)?;
    }
    let source = modules().join(application.name());
    ensure!(source.is_dir(), "no module directory {}", source.display());
    let target = lab
        .site()
        .directory()
        .join("packages")
        .join(application.name());
    copy(&source, &target)?;
    let path = target.join("conf/userconfig.xml");
    let mut text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    let values = [
        ("DIRECTORY", replicated_directory(lab).display().to_string()),
        ("VIRTUAL_V4", topology::virtual_v4().to_string()),
        ("VIRTUAL_V6", topology::virtual_v6().to_string()),
        (
            "TESTBED",
            crate::lab::program("testbed")?.display().to_string(),
        ),
    ];
    for (name, value) in values {
        text = set_macro(&text, name, &value);
    }
    fs::write(&path, text)?;
    Ok(target)
}

fn copy(source: &Path, target: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(target)?;
    for entry in fs::read_dir(source)? {
        let entry = entry?;
        let to = target.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &to)?;
        } else {
            fs::copy(entry.path(), to)?;
        }
    }
    Ok(())
}

/// Gives the macro `name` of a `userconfig.xml` another value; a file without it is left as it is.
fn set_macro(text: &str, name: &str, value: &str) -> String {
    let start = format!("<macro name=\"{name}\" value=\"");
    let Some(at) = text.find(&start).map(|at| at + start.len()) else {
        return text.to_owned();
    };
    let Some(end) = text[at..].find('"').map(|end| at + end) else {
        return text.to_owned();
    };
    format!("{}{value}{}", &text[..at], &text[end..])
}

#[cfg(test)]
mod tests {
    use super::set_macro;

    #[test]
    fn macro_gets_its_value() {
        let text =
            r#"<safe><macro name="DIRECTORY" value="/srv/x"/><macro name="A" value="1"/></safe>"#;
        let changed = set_macro(text, "DIRECTORY", "/lab/data");
        assert!(
            changed.contains(r#"<macro name="DIRECTORY" value="/lab/data"/>"#),
            "{changed}"
        );
        assert_eq!(set_macro(text, "B", "2"), text);
    }
}
