//! `<heart>`: the LANs over which the servers of a module hear each other.
//!
//! In Sidekick servers hear each other once, for all modules: a timeout asks for a shorter lease of the module's servers, a
//! pulse for nothing.

use super::reading::{Reading, not_yet};
use crate::error::{ConfigError, Problem};
use crate::xml::Element;
use serde::Serialize;
use std::time::Duration;

/// `<heart>`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Heart {
    /// How soon a server that is not heard over any LAN shall count as lost: the longest of the LANs' timeouts, since all
    /// of them must be silent. `None`: the module asks for nothing, for at least one LAN.
    pub timeout: Option<Duration>,
    /// Some pulse or timeout is given, here or for one LAN: whoever knows the cluster says what its lease is.
    pub has_times: bool,
    /// One per LAN, in the order of the file.
    pub heartbeats: Vec<Heartbeat>,
}

/// `<heartbeat>`: one LAN.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Heartbeat {
    /// Name of the LAN.
    pub lan: String,
    /// Name of its resource.
    pub ident: String,
    /// Replication prefers this LAN.
    pub is_flow: bool,
}

/// Attributes that ask for a time.
const TIMES: [&str; 2] = ["pulse", "timeout"];
/// Most heartbeats: one per LAN of the cluster.
const HEARTBEATS_MAX: usize = 8;

const PULSE_FOLLOWS: &str = "heartbeats are sent six times in a lease, and every 150ms at least";
const TIMEOUT_LOWERS: &str = "lowers the lease of the module's servers where it is shorter than that of the cluster, to 500ms at the \
                              least; skcli module install says which lease is in force";

impl Heart {
    pub(super) fn read(element: &Element, reading: &mut Reading) -> Result<Heart, ConfigError> {
        reading.attributes(element, &["port", "pulse", "timeout", "permanent_arp"])?;
        reading.children(element, &["heartbeat"], &[])?;
        let of_all = read_times(element, reading)?;
        if let Some(port) = reading.value(element, "port")? {
            port.number(1..=65535)?;
            reading.without_effect(element, "port", "all traffic between servers uses one port");
        }
        if let Some(arp) = reading.value(element, "permanent_arp")? {
            arp.on_off()?;
            reading.without_effect(element, "permanent_arp", "no static ARP entries are needed");
        }
        let mut heart = Heart {
            timeout: of_all,
            has_times: has_times(element)
                || reading.all(element, "heartbeat").into_iter().any(has_times),
            heartbeats: Vec::new(),
        };
        let mut seen: Vec<(String, u32)> = Vec::new();
        let mut timeouts = Vec::new();
        for beat in reading.all(element, "heartbeat") {
            if seen.len() == HEARTBEATS_MAX {
                let limit = HEARTBEATS_MAX.to_string();
                let problem = Problem::Limit {
                    what: "the number of heartbeats",
                    limit,
                };
                return Err(ConfigError {
                    at: beat.at,
                    problem,
                });
            }
            let (heartbeat, timeout) = Heartbeat::read(beat, reading)?;
            timeouts.push(timeout.or(of_all));
            if let Some((name, first_line)) = seen.iter().find(|(name, _)| *name == heartbeat.ident)
            {
                let problem = Problem::Duplicate {
                    what: "heartbeat ident",
                    name: name.clone(),
                    first_line: *first_line,
                };
                return Err(ConfigError {
                    at: beat.at,
                    problem,
                });
            }
            seen.push((heartbeat.ident.clone(), beat.at.line));
            heart.heartbeats.push(heartbeat);
        }
        if !timeouts.is_empty() {
            let all_given: Option<Vec<Duration>> = timeouts.into_iter().collect();
            heart.timeout = all_given.and_then(|timeouts| timeouts.into_iter().max());
        }
        Ok(heart)
    }
}

impl Heartbeat {
    /// And its own timeout.
    fn read(
        element: &Element,
        reading: &mut Reading,
    ) -> Result<(Heartbeat, Option<Duration>), ConfigError> {
        reading.attributes(element, &["name", "ident", "pulse", "timeout"])?;
        let named_hosts = [(
            "node",
            "servers and their addresses are those of the cluster (skcli cluster state)",
        )];
        reading.children(element, &[], &named_hosts)?;
        let timeout = read_times(element, reading)?;
        let name = reading.needed(element, "name")?;
        check_name(&name)?;
        let ident = match reading.value(element, "ident")? {
            Some(ident) => {
                check_name(&ident)?;
                ident.text
            }
            None => name.text.clone(),
        };
        if ident == "flow" {
            reading.notice(
                element.at,
                "replication uses the first LAN that works; \"flow\" is only a name for now",
            );
        }
        if name.text.contains('.') {
            // An address instead of a LAN name: the oldest form of the language.
            return Err(not_yet(
                name.at,
                format!("name=\"{}\" of <heartbeat>", name.text),
                "name a LAN, not an address",
            ));
        }
        let is_flow = ident == "flow";
        let heartbeat = Heartbeat {
            lan: name.text,
            ident,
            is_flow,
        };
        Ok((heartbeat, timeout))
    }
}

fn check_name(value: &super::value::Value) -> Result<(), ConfigError> {
    let fits = |byte: u8| byte.is_ascii_alphanumeric() || b"_-.".contains(&byte);
    let is_name = !value.text.is_empty() && value.text.len() <= 32 && value.text.bytes().all(fits);
    if is_name {
        Ok(())
    } else {
        Err(value.wrong("a name of at most 32 letters, digits, _, - and ."))
    }
}

fn has_times(element: &Element) -> bool {
    element
        .attributes
        .iter()
        .any(|attribute| TIMES.contains(&attribute.name.as_str()))
}

/// `pulse` and `timeout`, of `<heart>` or of one heartbeat.
fn read_times(element: &Element, reading: &mut Reading) -> Result<Option<Duration>, ConfigError> {
    let pulse = reading
        .value(element, "pulse")?
        .map(|value| value.duration("ms"))
        .transpose()?;
    let timeout = reading.value(element, "timeout")?;
    let read = timeout
        .as_ref()
        .map(|value| value.duration("ms"))
        .transpose()?;
    if let (Some(pulse), Some(timeout), Some(value)) = (pulse, read, &timeout)
        && timeout <= pulse
    {
        return Err(value.wrong("a timeout longer than the pulse"));
    }
    reading.without_effect(element, "pulse", PULSE_FOLLOWS);
    if let Some(value) = timeout {
        let text = format!("timeout of <{}> {TIMEOUT_LOWERS}", element.name);
        reading.notice(value.at, text);
    }
    Ok(read)
}
