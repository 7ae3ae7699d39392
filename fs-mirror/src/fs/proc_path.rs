//! Names of descriptors in `/proc/self/fd`: the way to open an `O_PATH` descriptor for reading or writing, and to change
//! mode and extended attributes through one.

use std::ffi::CStr;
use std::os::fd::{AsFd, AsRawFd};

const PREFIX: &[u8] = b"/proc/self/fd/";

/// `/proc/self/fd/N` on the stack.
pub(crate) struct ProcPath {
    bytes: [u8; 32],
    length: usize,
}

impl ProcPath {
    pub(crate) fn of(fd: impl AsFd) -> ProcPath {
        let mut bytes = [0; 32];
        bytes[..PREFIX.len()].copy_from_slice(PREFIX);
        let mut digits = [0; 10];
        let mut number = fd.as_fd().as_raw_fd().unsigned_abs();
        let mut first = digits.len();
        loop {
            first -= 1;
            digits[first] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                break;
            }
        }
        let length = PREFIX.len() + digits.len() - first;
        bytes[PREFIX.len()..length].copy_from_slice(&digits[first..]);
        ProcPath { bytes, length }
    }

    pub(crate) fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_with_nul(&self.bytes[..=self.length])
            .expect("digits hold no NUL and one follows them")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn leads_to_the_descriptor() {
        let file = tempfile::tempfile().unwrap();
        let expected = format!("/proc/self/fd/{}", file.as_raw_fd());
        assert_eq!(ProcPath::of(&file).as_c_str().to_str().unwrap(), expected);
    }
}
