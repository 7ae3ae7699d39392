//! What checking and packing found, for people.

use crate::local::Checked;
use module::{AckMode, Mode, VirtualAddress};
use std::path::Path;
use std::time::Duration;

pub(crate) fn checked(file: &Path, checked: &Checked) -> String {
    let configuration = &checked.configuration;
    let mut text = format!("{} is good\n", file.display());
    let mut line = |name: &str, value: String| text.push_str(&format!("  {name:<13}{value}\n"));
    line("mode", mode_word(configuration.mode).to_owned());
    for directory in &configuration.rfs.directories {
        line("replicated", directory.display().to_string());
    }
    line(
        "acknowledges",
        acknowledgement(configuration.rfs.ack).to_owned(),
    );
    for address in &configuration.virtual_addresses {
        line("address", virtual_address(address));
    }
    match &configuration.user {
        Some(user) => {
            if let Some(scripts) = &checked.scripts {
                line("scripts", scripts.join(" "));
            }
            line(
                "deadlines",
                format!(
                    "start {}, stop {}, forced stop {}",
                    seconds(user.start_timeout),
                    seconds(user.nice_stop_timeout),
                    seconds(user.force_stop_timeout)
                ),
            );
            if !user.variables.is_empty() {
                let names: Vec<&str> = user.variables.keys().map(String::as_str).collect();
                line("variables", names.join(" "));
            }
        }
        None => line("scripts", "none run: there is no <user>".to_owned()),
    }
    for notice in &checked.notices {
        let (at, file) = (notice.at, checked.file.display());
        text.push_str(&format!(
            "notice: {file}:{}:{}: {}\n",
            at.line, at.column, notice.text
        ));
    }
    text
}

fn mode_word(mode: Mode) -> &'static str {
    match mode {
        Mode::Mirror => "mirror",
    }
}

fn acknowledgement(ack: AckMode) -> &'static str {
    match ack {
        AckMode::Disk => "after the disk of both servers (async=\"none\")",
        AckMode::Receipt => "when the secondary has received it (async=\"second\")",
    }
}

fn virtual_address(address: &VirtualAddress) -> String {
    match &address.interface {
        Some(interface) => format!("{} on {interface}", address.addr),
        None => format!("{} on the interface of its subnet", address.addr),
    }
}

fn seconds(time: Duration) -> String {
    format!("{} s", time.as_secs_f64())
}

pub(crate) fn packed(to: &Path, bytes: usize, hash: &[u8; 32]) -> String {
    format!("{}: {bytes} bytes\npackage {}\n", to.display(), hex(hash))
}

pub(crate) fn hex(hash: &[u8; 32]) -> String {
    hash.iter().map(|byte| format!("{byte:02x}")).collect()
}
