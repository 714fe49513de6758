//! File names: the one check of what a directory entry can be called.

use crate::errno::{Errno, Result};

/// Bytes in a file name (NAME_MAX of limits.h).
pub const NAME_MAX: usize = 255;

/// Checks that `name` is a single component that a directory can have.
///
/// # Errors
/// `ENAMETOOLONG` beyond [`NAME_MAX`] bytes; `EINVAL` for an empty name, `.`, `..`, and a name with `/` or NUL.
pub fn check_name(name: &[u8]) -> Result<()> {
    if name.len() > NAME_MAX {
        return Err(Errno::NAMETOOLONG);
    }
    let bad = matches!(name, b"" | b"." | b"..") || name.iter().any(|b| matches!(b, b'/' | 0));
    if bad { Err(Errno::INVAL) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_single_components_are_names() {
        for name in [&b"a"[..], b"...", b"\xff\n", &[b'x'; NAME_MAX]] {
            assert_eq!(check_name(name), Ok(()), "{name:?}");
        }
        for name in [&b""[..], b".", b"..", b"a/b", b"/", b"a\0b"] {
            assert_eq!(check_name(name), Err(Errno::INVAL), "{name:?}");
        }
        assert_eq!(check_name(&[b'x'; NAME_MAX + 1]), Err(Errno::NAMETOOLONG));
    }
}
