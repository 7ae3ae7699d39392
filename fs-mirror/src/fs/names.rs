//! What may be a name in a directory.

use super::errno::Errno;

/// Longest name, in bytes.
pub(crate) const NAME_BYTES_MAX: usize = 255;

/// The kernel sends single names only; this keeps it so whoever calls, since names go straight to system calls that
/// would follow a path.
pub(crate) fn check(name: &[u8]) -> Result<&[u8], Errno> {
    if name.len() > NAME_BYTES_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let is_name = !name.is_empty()
        && name != b"."
        && name != b".."
        && !name.contains(&b'/')
        && !name.contains(&0);
    if is_name { Ok(name) } else { Err(Errno::INVAL) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn single_names_only() {
        for name in [&b"a"[..], b"..a", b"\xff\xfe", b" ", b"a b", &[b'x'; 255]] {
            assert_eq!(check(name), Ok(name));
        }
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
            assert_eq!(check(name), Err(Errno::INVAL));
        }
        assert_eq!(check(&[b'x'; 256]), Err(Errno::NAMETOOLONG));
    }
}
