//! Whether a watchdog can be disarmed. It is asked before the device is opened, since opening arms it.

use std::path::{Path, PathBuf};

use super::WatchdogError;

/// Where the drivers describe themselves.
const CLASS: &str = "/sys/class/watchdog";

/// # Errors
/// `NoWayOut`. A device that says nothing of the kind is taken for one that can be disarmed.
pub(super) fn verify(device: &Path) -> Result<(), WatchdogError> {
    verify_below(Path::new(CLASS), device)
}

fn verify_below(class: &Path, device: &Path) -> Result<(), WatchdogError> {
    let Some(attribute) = attribute(class, device) else {
        return Ok(());
    };
    match std::fs::read_to_string(&attribute) {
        Ok(text) if text.trim() == "1" => Err(WatchdogError::NoWayOut {
            path: device.to_owned(),
            attribute,
        }),
        Ok(_) | Err(_) => Ok(()),
    }
}

/// `/dev/watchdog` is another name of the first one (`Documentation/watchdog` of the kernel).
fn attribute(class: &Path, device: &Path) -> Option<PathBuf> {
    let name = device.file_name()?.to_str()?;
    let name = if name == "watchdog" {
        "watchdog0"
    } else {
        name
    };
    Some(class.join(name).join("nowayout"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_disarmed_is_armed() {
        let class = tempfile::tempdir().unwrap();
        for (name, nowayout) in [("watchdog0", "1\n"), ("watchdog1", "0\n")] {
            std::fs::create_dir(class.path().join(name)).unwrap();
            std::fs::write(class.path().join(name).join("nowayout"), nowayout).unwrap();
        }
        let verify = |device: &str| verify_below(class.path(), Path::new(device));
        for device in ["/dev/watchdog", "/dev/watchdog0"] {
            let error = verify(device).unwrap_err();
            assert!(matches!(error, WatchdogError::NoWayOut { .. }), "{error}");
        }
        verify("/dev/watchdog1").unwrap();
        verify("/srv/fifo").unwrap();
    }
}
