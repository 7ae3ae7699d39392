//! What is mounted where, from `/proc/self/mountinfo`: reading it never touches a mount, dead ones included.

use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

/// `fsname` of our mounts, as shown by `mount` and `df`.
pub(crate) const SOURCE: &str = "sidekick";

/// Whether the topmost mount on `directory` (canonical) is a mirror of this or another process.
pub(crate) fn is_mirror(directory: &Path) -> bool {
    topmost(directory).is_some_and(|mount| mount.is_mirror)
}

/// Whether another file system than our mirrors is mounted on `directory` (canonical), whatever is mounted over it.
pub(crate) fn is_foreign_mount(directory: &Path) -> bool {
    let text = std::fs::read("/proc/self/mountinfo").unwrap_or_default();
    text.split(|b| *b == b'\n')
        .filter_map(parse)
        .any(|mount| mount.point == directory && !mount.is_mirror)
}

/// Number of the FUSE connection behind our mount on `directory`.
pub(crate) fn connection_of(directory: &Path) -> Option<u32> {
    topmost(directory)
        .filter(|mount| mount.is_mirror)
        .map(|mount| mount.minor)
}

fn topmost(directory: &Path) -> Option<Mounted> {
    let text = std::fs::read("/proc/self/mountinfo").ok()?;
    text.split(|b| *b == b'\n')
        .filter_map(parse)
        .rfind(|mount| mount.point == directory)
}

#[derive(Debug, PartialEq)]
struct Mounted {
    point: PathBuf,
    is_mirror: bool,
    /// Of the device; file systems without one have the major number 0.
    minor: u32,
}

/// `36 35 98:0 / /mnt rw,noatime master:1 - ext3 /dev/root rw`: the fifth field, and the two after the lone hyphen.
fn parse(line: &[u8]) -> Option<Mounted> {
    let mut fields = line.split(|b| *b == b' ');
    let (_, minor) = std::str::from_utf8(fields.nth(2)?).ok()?.split_once(':')?;
    let minor = minor.parse().ok()?;
    let point = unescape(fields.nth(1)?);
    let mut rest = fields.skip_while(|field| *field != b"-").skip(1);
    let (kind, source) = (rest.next()?, rest.next()?);
    Some(Mounted {
        point,
        is_mirror: kind.starts_with(b"fuse") && source == SOURCE.as_bytes(),
        minor,
    })
}

/// The kernel writes blank, tab, newline and backslash as three octal digits.
fn unescape(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let octal = tail
            .get(..3)
            .filter(|_| first == b'\\')
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    PathBuf::from(std::ffi::OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_mountinfo() {
        let cases: [(&[u8], Option<Mounted>); 4] = [
            (
                b"36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 - ext3 /dev/root rw,errors=continue",
                Some(Mounted {
                    point: "/mnt2".into(),
                    is_mirror: false,
                    minor: 0,
                }),
            ),
            (
                b"40 35 0:52 / /srv/my\\040data rw - fuse sidekick rw,user_id=0",
                Some(Mounted {
                    point: "/srv/my data".into(),
                    is_mirror: true,
                    minor: 52,
                }),
            ),
            (
                b"40 35 0:52 / /srv/x\\ rw shared:1 master:2 - fuse other rw",
                Some(Mounted {
                    point: "/srv/x\\".into(),
                    is_mirror: false,
                    minor: 52,
                }),
            ),
            (b"", None),
        ];
        for (line, expected) in cases {
            assert_eq!(parse(line), expected);
        }
    }
}
