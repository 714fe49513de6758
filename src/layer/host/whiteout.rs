//! Every way in which a layer on disk says "this name is gone" or "nothing below shows through",
//! and the other marks that overlay file systems leave. Nothing else in the code base knows them.
//!
//! | spelling | meaning |
//! |---|---|
//! | character device 0:0 | its name is gone |
//! | empty file with `{trusted,user}.overlay.whiteout`, in a directory whose `overlay.opaque` is `x` | its name is gone |
//! | `.wh.NAME` | NAME is gone from the layers below |
//! | `{trusted,user}.overlay.opaque` = `y` on a directory | nothing below shows through |
//! | `.wh..wh..opq` in a directory | nothing below shows through |
//! | `.wh..wh.*` | bookkeeping of AUFS; never shown |
//! | `{trusted,user}.overlay.redirect` on a directory | it merges with another name in the layers below |
//! | `{trusted,user}.overlay.metacopy` on a file | its data lie elsewhere |
//!
//! As in the kernel, a mark that was meant for an overlay inside an overlay has one more
//! `overlay.` in its name, which is taken off when it is shown.

use super::super::source::Redirect;
use crate::name::{NAME_MAX, check_name};
use std::borrow::Cow;

/// The mark inside a directory that hides everything below it.
pub(super) const AUFS_OPAQUE: &[u8] = b".wh..wh..opq";
const AUFS_WHITEOUT: &[u8] = b".wh.";
const AUFS_METADATA: &[u8] = b".wh..wh.";

/// The namespaces the marks live in: the kernel's own, and the one for unprivileged mounts.
const NAMESPACES: [&[u8]; 2] = [b"trusted.overlay.", b"user.overlay."];
const ESCAPE: &[u8] = b"overlay.";

/// What a name in a directory of a layer is, in the eyes of AUFS.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum AufsName<'a> {
    Ordinary,
    /// `.wh.NAME`: hides NAME in the layers below.
    Hides(&'a [u8]),
    /// `.wh..wh..opq`.
    Opaque,
    /// Any other `.wh..wh.*`.
    Metadata,
}

pub(super) fn aufs_name(name: &[u8]) -> AufsName<'_> {
    if name == AUFS_OPAQUE {
        AufsName::Opaque
    } else if name.starts_with(AUFS_METADATA) {
        AufsName::Metadata
    } else {
        name.strip_prefix(AUFS_WHITEOUT).map_or(AufsName::Ordinary, AufsName::Hides)
    }
}

/// The name that would hide `name`; `None` where that is longer than a name can be.
pub(super) fn aufs_whiteout_for(name: &[u8]) -> Option<Vec<u8>> {
    let hidden = [AUFS_WHITEOUT, name].concat();
    (hidden.len() <= NAME_MAX).then_some(hidden)
}

/// Is this a whiteout by its type and device number alone?
pub(super) fn is_whiteout_device(mode: u32, major: u32, minor: u32) -> bool {
    mode & 0o170000 == 0o020000 && major == 0 && minor == 0
}

impl Redirect {
    fn parse(value: &[u8]) -> Redirect {
        let ordinary = |name: &[u8]| check_name(name).is_ok();
        match value.strip_prefix(b"/") {
            Some(path) if path.split(|&b| b == b'/').all(ordinary) => {
                Redirect::Absolute(path.to_vec())
            }
            None if ordinary(value) => Redirect::Sibling(value.to_vec()),
            _ => Redirect::Malformed,
        }
    }
}

/// The marks found in the extended attributes of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// `overlay.opaque` = `y`.
    pub opaque: bool,
    /// `overlay.opaque` = `x`: files in this directory may be whiteouts by attribute.
    pub xattr_whiteouts: bool,
    pub redirect: Option<Redirect>,
    /// `overlay.whiteout`, which counts on an empty file in a directory of `xattr_whiteouts`.
    pub whiteout: bool,
    pub metacopy: bool,
}

impl Marks {
    /// Reads the marks out of a list of attribute names (NUL-terminated each); `get` is asked for
    /// values only where one matters, and says `None` for an attribute that is gone by then.
    pub fn read<E>(
        names: &[u8],
        mut get: impl FnMut(&[u8]) -> Result<Option<Vec<u8>>, E>,
    ) -> Result<Marks, E> {
        let mut marks = Marks::default();
        for name in split_names(names) {
            let Some(mark) = mark_of(name) else { continue };
            match mark {
                b"opaque" => match get(name)?.as_deref() {
                    Some(b"y") => marks.opaque = true,
                    Some(b"x") => marks.xattr_whiteouts = true,
                    _ => {}
                },
                b"redirect" => marks.redirect = get(name)?.map(|v| Redirect::parse(&v)),
                b"whiteout" => marks.whiteout = true,
                b"metacopy" => marks.metacopy = true,
                _ => {}
            }
        }
        Ok(marks)
    }
}

/// The names in the result of a `listxattr`.
pub(super) fn split_names(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|&b| b == 0).filter(|name| !name.is_empty())
}

/// The part of an attribute's name behind `overlay.`, if it is a mark.
fn mark_of(name: &[u8]) -> Option<&[u8]> {
    NAMESPACES.iter().find_map(|prefix| name.strip_prefix(*prefix))
}

/// The name under which the mount shows the host's attribute `name`; `None` for a mark.
pub(super) fn shown_xattr(name: &[u8]) -> Option<Cow<'_, [u8]>> {
    for prefix in NAMESPACES {
        if let Some(rest) = name.strip_prefix(prefix) {
            return Some([prefix, rest.strip_prefix(ESCAPE)?].concat().into());
        }
    }
    Some(name.into())
}

/// The host's name of the attribute that the mount shows as `name`.
pub(super) fn host_xattr(name: &[u8]) -> Cow<'_, [u8]> {
    for prefix in NAMESPACES {
        if let Some(rest) = name.strip_prefix(prefix) {
            return [prefix, ESCAPE, rest].concat().into();
        }
    }
    name.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_aufs() {
        assert_eq!(aufs_name(b".wh.a"), AufsName::Hides(b"a"));
        assert_eq!(aufs_name(b".wh..wh..opq"), AufsName::Opaque);
        assert_eq!(aufs_name(b".wh..wh.plnk"), AufsName::Metadata);
        assert_eq!(aufs_name(b".wh..bashrc"), AufsName::Hides(b".bashrc"));
        for name in [&b".wh"[..], b"a.wh.", b".whb", b"wh.a"] {
            assert_eq!(aufs_name(name), AufsName::Ordinary);
        }
        assert_eq!(aufs_whiteout_for(b"a").as_deref(), Some(&b".wh.a"[..]));
        assert_eq!(aufs_whiteout_for(&[b'a'; 251]).map(|n| n.len()), Some(255));
        assert_eq!(aufs_whiteout_for(&[b'a'; 252]), None);
    }

    #[test]
    fn only_device_zero_is_a_whiteout() {
        assert!(is_whiteout_device(0o020000, 0, 0));
        assert!(!is_whiteout_device(0o020000, 1, 3));
        assert!(!is_whiteout_device(0o020000, 0, 1));
        assert!(!is_whiteout_device(0o060000, 0, 0));
    }

    #[test]
    fn redirects_are_validated() {
        let sibling = |s: &[u8]| Redirect::Sibling(s.to_vec());
        assert_eq!(Redirect::parse(b"old"), sibling(b"old"));
        assert_eq!(Redirect::parse(b"/a/b"), Redirect::Absolute(b"a/b".to_vec()));
        let bad: [&[u8]; 12] = [
            b"", b"/", b".", b"..", b"../a", b"a/b", b"/../a", b"/a/../b", b"/a//b", b"/a/",
            b"//a", b"a\0b",
        ];
        for value in bad {
            assert_eq!(Redirect::parse(value), Redirect::Malformed, "{value:?}");
        }
        assert_eq!(Redirect::parse(&[b'a'; 256]), Redirect::Malformed);
    }

    #[test]
    fn marks_in_both_namespaces() {
        let read = |names: &[u8], value: &[u8]| {
            Marks::read::<()>(names, |_| Ok(Some(value.to_vec()))).expect("readable")
        };
        for ns in ["trusted", "user"] {
            let opaque = format!("security.selinux\0{ns}.overlay.opaque\0").into_bytes();
            assert!(read(&opaque, b"y").opaque);
            assert!(read(&opaque, b"x").xattr_whiteouts);
            assert_eq!(read(&opaque, b"n"), Marks::default());
        }
        assert_eq!(read(b"user.overlay\0user.opaque\0", b"y"), Marks::default());
        assert_eq!(read(b"user.overlay.overlay.opaque\0", b"y"), Marks::default());
        assert!(read(b"trusted.overlay.metacopy\0", b"").metacopy);
        let gone = Marks::read::<()>(b"user.overlay.opaque\0", |_| Ok(None));
        assert_eq!(gone, Ok(Marks::default()));
    }

    #[test]
    fn marks_are_hidden_and_escaped_ones_shown() {
        assert_eq!(shown_xattr(b"trusted.overlay.opaque"), None);
        assert_eq!(shown_xattr(b"user.overlay.anything"), None);
        assert_eq!(shown_xattr(b"user.overlays").as_deref(), Some(&b"user.overlays"[..]));
        for name in [&b"user.x"[..], b"trusted.overlay.opaque", b"user.overlay.redirect"] {
            assert_eq!(shown_xattr(&host_xattr(name)).as_deref(), Some(name));
        }
    }
}
