//! What is mounted, as proc_pid_mountinfo(5) tells it. Names are bytes, which is why no crate reads it.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

/// One mount of a process's mount namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MountPoint {
    /// Major and minor number of the file system, as `stat` shows them.
    pub device: (u32, u32),
    pub path: PathBuf,
    /// The type, for FUSE with its subtype: `fuse.overcoat`.
    pub kind: Vec<u8>,
    /// Options of the file system, separated by commas.
    pub options: Vec<u8>,
}

impl MountPoint {
    /// The value of the file system's option `name`.
    pub fn option(&self, name: &str) -> Option<&str> {
        let options = self.options.split(|&byte| byte == b',');
        let mut values =
            options.filter_map(|option| option.strip_prefix(name.as_bytes())?.strip_prefix(b"="));
        values.next().and_then(|value| std::str::from_utf8(value).ok())
    }
}

/// The mounts that this process sees, the oldest first.
///
/// # Errors
/// Of reading /proc/self/mountinfo.
pub fn mounts() -> io::Result<Vec<MountPoint>> {
    std::fs::read("/proc/self/mountinfo").map(|text| parse(&text))
}

/// The mounts that another process sees.
///
/// # Errors
/// Of reading its mountinfo: `ENOENT` where it is gone, `EACCES` where this process may not look at it.
pub fn mounts_of(pid: u32) -> io::Result<Vec<MountPoint>> {
    std::fs::read(format!("/proc/{pid}/mountinfo")).map(|text| parse(&text))
}

fn parse(text: &[u8]) -> Vec<MountPoint> {
    text.split(|&byte| byte == b'\n').filter_map(parse_line).collect()
}

fn parse_line(line: &[u8]) -> Option<MountPoint> {
    let mut fields = line.split(|&byte| byte == b' ');
    let (major, minor) = std::str::from_utf8(fields.nth(2)?).ok()?.split_once(':')?;
    let device = (major.parse().ok()?, minor.parse().ok()?);
    let path = PathBuf::from(unescape(fields.nth(1)?));
    // Behind any number of optional fields.
    let kind = fields.by_ref().skip_while(|field| *field != b"-").nth(1)?.to_vec();
    let options = fields.nth(1).unwrap_or_default().to_vec();
    Some(MountPoint { device, path, kind, options })
}

/// A blank, a tab, a newline and a backslash are written as three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut plain = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        rest = tail;
        let octal = tail.get(..3).filter(|_| *first == b'\\');
        let byte = octal
            .and_then(|digits| std::str::from_utf8(digits).ok())
            .and_then(|digits| u8::from_str_radix(digits, 8).ok());
        plain.push(byte.unwrap_or(*first));
        if byte.is_some() {
            rest = tail.get(3..).unwrap_or_default();
        }
    }
    OsString::from_vec(plain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn lines_are_taken_apart() {
        let text = b"22 27 0:21 / /proc rw - proc proc rw\n\
            40 27 0:57 / /home/a\\040b\\134\xff rw,nosuid shared:1 master:2 - fuse.overcoat over,coat \
            rw,user_id=1000,group_id=5\nnonsense\n";
        let found = parse(text);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].path, Path::new("/proc"));
        assert_eq!((found[1].device, found[1].kind.as_slice()), ((0, 57), &b"fuse.overcoat"[..]));
        assert_eq!(found[1].path.as_os_str().as_encoded_bytes(), b"/home/a b\\\xff");
        assert_eq!(found[1].option("user_id"), Some("1000"));
        assert_eq!(found[1].option("id"), None);
    }
}
