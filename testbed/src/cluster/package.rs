//! Module packages of the testbed: the directories below `testbed/modules`, with the lab's own paths and addresses filled in.

use crate::lab::{Lab, topology};
use crate::oracle::Application;
use anyhow::{Context as _, ensure};
use clap::ValueEnum;
use std::fs;
use std::path::{Path, PathBuf};

/// Overrides where the module directories are.
const MODULES_ENV: &str = "SIDEKICK_MODULES_DIR";

/// When a write of the module under test is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, ValueEnum)]
pub enum Acknowledgement {
    /// Both servers have applied it
    #[default]
    Disk,
    /// The secondary has received it
    Receipt,
}

impl Acknowledgement {
    /// As it is said on our command line.
    pub fn name(self) -> &'static str {
        match self {
            Acknowledgement::Disk => "disk",
            Acknowledgement::Receipt => "receipt",
        }
    }
}

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
/// The module directory is missing or has words that are not known here.
pub fn write(lab: &Lab, application: Application) -> anyhow::Result<PathBuf> {
    make_directories(lab)?;
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
        ("@DIR@", replicated_directory(lab).display().to_string()),
        ("@VIP@", topology::virtual_v4().to_string()),
        ("@VIP6@", topology::virtual_v6().to_string()),
        (
            "@TESTBED@",
            crate::lab::program("testbed")?.display().to_string(),
        ),
    ];
    for (word, value) in values {
        // The comment at the top speaks of the words in general; what is left over is our mistake.
        text = text.replace(word, &value);
    }
    ensure!(
        !text.contains("\"@"),
        "{} has a word this lab does not know",
        path.display()
    );
    fs::write(&path, text)?;
    Ok(target)
}

/// Gives the `<heart>` of a written module these attributes.
///
/// # Errors
/// The configuration is not there, or has another `<heart>`.
pub fn ask_heart(package: &Path, attributes: &str) -> anyhow::Result<()> {
    let path = package.join("conf/userconfig.xml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    ensure!(
        text.contains("<heart>"),
        "{} has no <heart> without attributes",
        path.display()
    );
    fs::write(
        &path,
        text.replace("<heart>", &format!("<heart {attributes}>")),
    )?;
    Ok(())
}

fn make_directories(lab: &Lab) -> anyhow::Result<()> {
    for server in lab.servers() {
        fs::create_dir_all(lab.data_below(server.name()).join("app"))?;
    }
    Ok(())
}

/// Writes a module that mirrors the directory and does nothing else.
///
/// # Errors
/// The directory cannot be written.
pub fn write_bare(lab: &Lab) -> anyhow::Result<PathBuf> {
    make_directories(lab)?;
    let target = lab.site().directory().join("packages/bare");
    fs::create_dir_all(target.join("conf"))?;
    fs::write(
        target.join("conf/userconfig.xml"),
        bare_configuration(&replicated_directory(lab).display().to_string()),
    )?;
    Ok(target)
}

/// The shortest configuration of a mirror.
pub fn bare_configuration(directory: &str) -> String {
    format!(
        "<safe>\n <service mode=\"mirror\">\n  <rfs async=\"none\"><replicated dir=\"{directory}\" mode=\"read_only\"/></rfs>\n \
         </service>\n</safe>\n"
    )
}

/// Says in a package that was written when its writes are answered. On receipt the ledger promises what it has not synced either: a
/// sync waits for both disks, whatever the mode, and would hide what was only received. (A power cut in the lab ends processes and
/// leaves what the kernel has, so not even a blackout may lose such a row.)
///
/// # Errors
/// The package says nothing of it.
pub fn set_acknowledgement(package: &Path, given: Acknowledgement) -> anyhow::Result<()> {
    const DEFAULT: &str = "async=\"none\"";
    let path = package.join("conf/userconfig.xml");
    let text = fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))?;
    ensure!(
        text.contains(DEFAULT),
        "{} has no {DEFAULT}",
        path.display()
    );
    let word = match given {
        Acknowledgement::Disk => return Ok(()),
        Acknowledgement::Receipt => "async=\"second\"",
    };
    let synchronous = |word| format!("name=\"LEDGER_SYNCHRONOUS\" value=\"{word}\"");
    let is_ledger = text.contains("LEDGER_BIN");
    ensure!(
        !is_ledger || text.contains(&synchronous("full")),
        "{} does not say how the ledger syncs",
        path.display()
    );
    let text = text.replace(&synchronous("full"), &synchronous("off"));
    Ok(fs::write(&path, text.replace(DEFAULT, word))?)
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
