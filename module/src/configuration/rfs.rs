//! `<rfs>`: what is replicated, and when a write is answered.

use super::reading::{Reading, not_yet};
use super::value::Value;
use crate::error::{ConfigError, Problem};
use crate::position::Position;
use crate::xml::Element;
use serde::Serialize;
use std::path::{Path, PathBuf};

/// Most replicated directories of a module, for now.
pub const DIRECTORIES_MAX: usize = 1;

/// Longest path of a replicated directory.
const PATH_BYTES_MAX: usize = 1024;
/// Directories of the kernel: nothing in or below them is a file that could be replicated.
const KERNEL_DIRECTORIES: &[&str] = &["/proc", "/sys", "/dev"];
/// Directories that the system itself runs from: a mount over them would take the server down.
const SYSTEM_DIRECTORIES: &[&str] = &[
    "/bin", "/boot", "/etc", "/lib", "/lib64", "/root", "/run", "/sbin", "/tmp", "/usr", "/var",
    "/var/lib",
];

/// When a write is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum AckMode {
    /// Both servers have applied it, and synced it where the application asked for that (`async="none"`).
    Disk,
    /// The secondary has received it, and applies it after; synced as with `Disk` where the application asked for that
    /// (`async="second"`).
    Receipt,
}

/// `<rfs>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Replication {
    /// The replicated directories; they do not overlap.
    pub directories: Vec<PathBuf>,
    /// When a write is answered.
    pub ack: AckMode,
}

/// How an attribute is checked.
#[derive(Clone, Copy)]
enum Form {
    Any,
    OnOff,
    Number,
    Duration(&'static str),
}

const CHOSEN: &str = "Sidekick chooses sizes and parallelism itself";
const LEASE: &str = "a lost peer is noticed by heartbeats, within the lease of the cluster";
const WINDOWS: &str = "it is for Windows only";
const LATER: &str = "comes in a later version";

/// Attributes that are checked and have no effect, with the reason told.
const WITHOUT_EFFECT: &[(&str, Form, &str)] = &[
    (
        "mountoversuffix",
        Form::Any,
        "the directory itself is mounted over, nothing is renamed",
    ),
    (
        "mountover",
        Form::OnOff,
        "the directory itself is mounted over, nothing is renamed",
    ),
    (
        "acl",
        Form::OnOff,
        "access control lists are always replicated",
    ),
    ("packetsize", Form::Number, CHOSEN),
    ("reipacketsize", Form::Number, CHOSEN),
    ("ruzone_blocksize", Form::Number, CHOSEN),
    ("nbrei", Form::Number, CHOSEN),
    ("nbremconn", Form::Number, CHOSEN),
    ("reicommit", Form::Number, CHOSEN),
    (
        "namespacepolicy",
        Form::Number,
        "interrupted reintegrations always compare and copy only what differs",
    ),
    ("locktimeout", Form::Duration("s"), LEASE),
    ("sendtimeout", Form::Duration("s"), LEASE),
    ("reitimeout", Form::Duration("s"), LEASE),
    (
        "reidetail",
        Form::OnOff,
        "skcli module state shows the progress of a reintegration",
    ),
    ("iotimeout", Form::Duration("s"), WINDOWS),
    ("roflags", Form::Any, WINDOWS),
    ("allocthreshold", Form::Any, WINDOWS),
    ("nfsbox_options", Form::Any, WINDOWS),
];

/// Attributes that are refused unless they ask for what happens anyway.
const NOT_YET: &[(&str, &[&str], &str)] = &[
    (
        "reiallowedbw",
        &["", "0", "unlimited"],
        "a limit on the bandwidth of reintegration comes in a later version",
    ),
    (
        "scripts",
        &["off"],
        "callbacks of replication come in a later version",
    ),
    (
        "syncdelta",
        &["0", "0m", "1", "1m"],
        "a stale copy never starts by its age: roles are committed by the cluster",
    ),
    ("syncat", &["", "none"], "replication is continuous"),
    ("checktime", &[], LATER),
    ("checkintv", &[], LATER),
];

impl Replication {
    pub(super) fn read(
        element: &Element,
        reading: &mut Reading,
    ) -> Result<Replication, ConfigError> {
        let known: Vec<&'static str> = std::iter::once("async")
            .chain(WITHOUT_EFFECT.iter().map(|(name, _, _)| *name))
            .chain(NOT_YET.iter().map(|(name, _, _)| *name))
            .collect();
        reading.attributes(element, &known)?;
        reading.children(element, &["replicated", "flow"], &[])?;
        let ack = read_ack(element, reading)?;
        read_others(element, reading)?;
        for flow in reading.all(element, "flow") {
            reading.attributes(flow, &["name"])?;
            reading.childless(flow)?;
            reading.notice(
                flow.at,
                "<flow> has no effect: replication uses the first LAN that works",
            );
        }
        Ok(Replication {
            directories: read_directories(element, reading)?,
            ack,
        })
    }
}

fn read_ack(element: &Element, reading: &mut Reading) -> Result<AckMode, ConfigError> {
    let Some(value) = reading.value(element, "async")? else {
        return Ok(AckMode::Disk);
    };
    Ok(match value.word(&["none", "second"])? {
        "second" => AckMode::Receipt,
        _ => AckMode::Disk,
    })
}

fn read_others(element: &Element, reading: &mut Reading) -> Result<(), ConfigError> {
    for (name, form, because) in WITHOUT_EFFECT {
        if let Some(value) = reading.value(element, name)? {
            check_form(&value, *form)?;
            reading.without_effect(element, name, because);
        }
    }
    for (name, harmless, because) in NOT_YET {
        match reading.value(element, name)? {
            Some(value) if !harmless.contains(&value.text.as_str()) => {
                return Err(value.later(because));
            }
            Some(_) | None => {}
        }
    }
    Ok(())
}

fn check_form(value: &Value, form: Form) -> Result<(), ConfigError> {
    match form {
        Form::Any => Ok(()),
        Form::OnOff => value.on_off().map(|_| ()),
        Form::Number => value.number(0..=u64::from(u32::MAX)).map(|_| ()),
        Form::Duration(native) => value.duration(native).map(|_| ()),
    }
}

fn read_directories(element: &Element, reading: &mut Reading) -> Result<Vec<PathBuf>, ConfigError> {
    let mut found: Vec<(PathBuf, Position)> = Vec::new();
    for replicated in reading.all(element, "replicated") {
        let (path, at) = read_directory(replicated, reading)?;
        if let Some((other, first)) = found.iter().find(|(other, _)| overlap(other, &path)) {
            let problem = Problem::Overlap {
                one: path.display().to_string(),
                other: other.display().to_string(),
                first_line: first.line,
            };
            return Err(ConfigError { at, problem });
        }
        found.push((path, at));
    }
    if let Some((path, at)) = found.get(DIRECTORIES_MAX) {
        let what = format!("a second <replicated dir=\"{}\">", path.display());
        return Err(not_yet(
            *at,
            what,
            "one directory per module for now: put the others below it",
        ));
    }
    if found.is_empty() {
        let problem = Problem::MissingElement {
            name: "replicated",
            within: element.name.clone(),
        };
        return Err(ConfigError {
            at: element.at,
            problem,
        });
    }
    Ok(found.into_iter().map(|(path, _)| path).collect())
}

fn read_directory(
    element: &Element,
    reading: &Reading,
) -> Result<(PathBuf, Position), ConfigError> {
    reading.attributes(element, &["dir", "mode"])?;
    let later = [
        ("tocheck", "check for the path in bin/prestart"),
        (
            "notreplicated",
            "everything below the directory is replicated",
        ),
    ];
    reading.children(element, &[], &later)?;
    if let Some(mode) = reading.value(element, "mode")? {
        // The secondary is always read-only: the attribute asks for what happens anyway.
        mode.word(&["read_only"])?;
    }
    let value = reading.needed(element, "dir")?;
    Ok((directory(&value)?, value.at))
}

fn directory(value: &Value) -> Result<PathBuf, ConfigError> {
    let text = value.text.as_str();
    if text == "/" {
        return Err(value.wrong("a directory below /: the root of a server cannot be replicated"));
    }
    let path = text.strip_suffix('/').unwrap_or(text);
    let Some(relative) = path.strip_prefix('/') else {
        return Err(value.wrong("an absolute path such as /srv/data"));
    };
    if path.len() > PATH_BYTES_MAX || path.contains(char::is_control) {
        return Err(value.wrong("a path of at most 1024 bytes without control characters"));
    }
    if relative
        .split('/')
        .any(|part| part.is_empty() || part == "." || part == "..")
    {
        return Err(value.wrong("a path without empty parts, \".\" and \"..\""));
    }
    let path = Path::new(path);
    if KERNEL_DIRECTORIES
        .iter()
        .any(|kernel| path.starts_with(kernel))
    {
        return Err(value.wrong("a directory of a disk, not of the kernel"));
    }
    if SYSTEM_DIRECTORIES
        .iter()
        .any(|system| path == Path::new(system))
    {
        return Err(value.wrong("a directory that the system does not run from"));
    }
    Ok(path.to_owned())
}

fn overlap(one: &Path, other: &Path) -> bool {
    one.starts_with(other) || other.starts_with(one)
}
