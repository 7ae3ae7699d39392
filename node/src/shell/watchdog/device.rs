//! The device: opening it arms it, each write is a sign of life, `V` before closing disarms it. A file or a fifo will do for
//! tests, since everything but the time-out is a write.
#![expect(unsafe_code, reason = "the time-out of a watchdog is set by an ioctl")]

use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

use rustix::ioctl::{Updater, ioctl, opcode};

/// Any other byte than `V` would do.
const SIGN_OF_LIFE: &[u8] = b"1";
/// The "magic close" of the kernel's watchdog interface.
const DISARM: &[u8] = b"V";

/// An armed watchdog.
#[derive(Debug)]
pub(super) struct Device(File);

impl Device {
    /// Opens, and thereby arms, the device, with a time-out of about `timeout_s` where it lets itself be told.
    pub(super) fn open(path: &Path, timeout_s: i32) -> io::Result<Device> {
        // Never blocks: a fifo without a reader is refused instead.
        let file = OpenOptions::new()
            .write(true)
            .custom_flags(libc::O_NONBLOCK)
            .open(path)?;
        if let Err(error) = set_timeout(&file, timeout_s) {
            tracing::info!(device = %path.display(), %error, "the watchdog keeps its own time-out");
        }
        let mut device = Device(file);
        device.pet()?;
        Ok(device)
    }

    pub(super) fn pet(&mut self) -> io::Result<()> {
        self.0.write_all(SIGN_OF_LIFE)
    }

    pub(super) fn disarm(mut self) -> io::Result<()> {
        self.0.write_all(DISARM)
    }
}

/// `WDIOC_SETTIMEOUT` of `linux/watchdog.h`; the device may round.
fn set_timeout(file: &File, mut seconds: i32) -> io::Result<()> {
    const SET_TIMEOUT: rustix::ioctl::Opcode = opcode::read_write::<i32>(b'W', 6);
    // SAFETY: the opcode reads and writes one int, which `seconds` is; a file that is no watchdog answers ENOTTY.
    unsafe { ioctl(file, Updater::<SET_TIMEOUT, i32>::new(&mut seconds)) }?;
    Ok(())
}
