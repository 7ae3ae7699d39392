//! `<service>`: behaviour of the module as a whole.

use super::reading::Reading;
use crate::error::ConfigError;
use crate::xml::Element;
use serde::Serialize;

/// Kind of module.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// One primary, one secondary, replicated directories.
    Mirror,
}

/// `<service>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Service {
    /// Whether the secondary takes over by itself. Always true for now: `off` is refused.
    pub failover: bool,
}

const ATTRIBUTES: &[&str] = &[
    "mode",
    "boot",
    "boot_delay",
    "failover",
    "defaultprim",
    "maxloop",
    "loop_interval",
    "automatic_reboot",
];

impl Service {
    /// Reads the attributes; the sections within are read by the caller.
    pub(super) fn read(
        element: &Element,
        reading: &mut Reading,
    ) -> Result<(Mode, Service), ConfigError> {
        reading.attributes(element, ATTRIBUTES)?;
        let mode = read_mode(element, reading)?;
        read_boot(element, reading)?;
        if let Some(failover) = reading.value(element, "failover")?
            && !failover.on_off()?
        {
            return Err(
                failover.later("the secondary always takes over; stop it where it must not")
            );
        }
        read_default_primary(element, reading)?;
        read_loop(element, reading)?;
        if let Some(reboot) = reading.value(element, "automatic_reboot")?
            && reboot.on_off()?
        {
            return Err(reboot.later("Sidekick does not reboot servers"));
        }
        Ok((mode, Service { failover: true }))
    }
}

fn read_mode(element: &Element, reading: &Reading) -> Result<Mode, ConfigError> {
    let mode = reading.needed(element, "mode")?;
    match mode.word(&["mirror", "farm", "light"])? {
        "farm" => Err(mode.later("farm modules come in a later version")),
        "light" => Err(mode.later("light modules come in a later version")),
        _mirror => Ok(Mode::Mirror),
    }
}

/// Sidekick keeps per server whether the module is wanted, in the cluster: that is `auto`.
fn read_boot(element: &Element, reading: &mut Reading) -> Result<(), ConfigError> {
    if let Some(boot) = reading.value(element, "boot")? {
        let boot = boot.word(&["on", "off", "auto", "ignore"])?;
        if boot != "auto" {
            let because = "after a boot the module is as the cluster wants it (skcli module start, stop), which is \"auto\"";
            reading.without_effect(element, "boot", because);
        }
    }
    if let Some(delay) = reading.value(element, "boot_delay")?
        && !delay.duration_or_zero("s")?.is_zero()
    {
        return Err(delay.later("modules start as soon as the daemon does"));
    }
    Ok(())
}

fn read_default_primary(element: &Element, reading: &Reading) -> Result<(), ConfigError> {
    match reading.value(element, "defaultprim")? {
        Some(value) if value.text != "alone" => {
            Err(value
                .later("only \"alone\": the primary stays where it is until skcli module swap"))
        }
        Some(_) | None => Ok(()),
    }
}

fn read_loop(element: &Element, reading: &mut Reading) -> Result<(), ConfigError> {
    if let Some(maxloop) = reading.value(element, "maxloop")? {
        maxloop.number(0..=1000)?;
    }
    if let Some(interval) = reading.value(element, "loop_interval")? {
        interval.duration_or_zero("h")?;
    }
    for name in ["maxloop", "loop_interval"] {
        reading.without_effect(
            element,
            name,
            "it counts the actions of checkers, which come in a later version",
        );
    }
    Ok(())
}
