//! POSIX ACLs in their xattr form: a version word and 8-byte entries, sorted by tag
//! (include/uapi/linux/posix_acl_xattr.h). The kernel checks access; a FUSE server keeps mode and
//! ACL in step and hands default ACLs on.

pub(super) const ACCESS: &[u8] = b"system.posix_acl_access";
pub(super) const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const USER_OBJ: u16 = 0x01;
const GROUP_OBJ: u16 = 0x04;
const MASK: u16 = 0x10;
const OTHER: u16 = 0x20;

#[derive(Clone, Copy)]
struct Entry {
    tag: u16,
    perm: u16,
    id: u32,
}

fn parse(bytes: &[u8]) -> Option<Vec<Entry>> {
    let (version, entries) = bytes.split_first_chunk::<4>()?;
    if u32::from_le_bytes(*version) != VERSION || entries.len() % 8 != 0 {
        return None;
    }
    let entry = |bytes: &[u8]| {
        let &[a, b, c, d, e, f, g, h] = bytes else { return None };
        Some(Entry {
            tag: u16::from_le_bytes([a, b]),
            perm: u16::from_le_bytes([c, d]),
            id: u32::from_le_bytes([e, f, g, h]),
        })
    };
    entries.chunks_exact(8).map(entry).collect()
}

fn build(entries: &[Entry]) -> Vec<u8> {
    let mut out = VERSION.to_le_bytes().to_vec();
    for e in entries {
        out.extend_from_slice(&e.tag.to_le_bytes());
        out.extend_from_slice(&e.perm.to_le_bytes());
        out.extend_from_slice(&e.id.to_le_bytes());
    }
    out
}

/// The tag whose permissions are the mode's group bits: the mask where there is one.
fn group_tag(entries: &[Entry]) -> u16 {
    if entries.iter().any(|e| e.tag == MASK) { MASK } else { GROUP_OBJ }
}

/// Entries beyond owner, group and others: what a mode cannot say.
fn is_extended(entries: &[Entry]) -> bool {
    entries.iter().any(|e| !matches!(e.tag, USER_OBJ | GROUP_OBJ | OTHER))
}

/// `mode` with the permissions that an access ACL gives it, and whether the ACL says more than that
/// (else it need not be kept). `None` for malformed bytes. As `posix_acl_update_mode`.
pub(super) fn mode_from(acl: &[u8], mode: u32) -> Option<(u32, bool)> {
    let entries = parse(acl)?;
    let group = group_tag(&entries);
    let mut bits = 0;
    for e in &entries {
        let perm = u32::from(e.perm & 7);
        match e.tag {
            USER_OBJ => bits |= perm << 6,
            OTHER => bits |= perm,
            tag if tag == group => bits |= perm << 3,
            _ => {}
        }
    }
    Some((mode & !0o777 | bits, is_extended(&entries)))
}

/// An access ACL after chmod to `mode`. As `__posix_acl_chmod_masq`.
pub(super) fn chmod(acl: &[u8], mode: u32) -> Option<Vec<u8>> {
    let mut entries = parse(acl)?;
    let group = group_tag(&entries);
    for e in &mut entries {
        match e.tag {
            USER_OBJ => e.perm = (mode >> 6 & 7) as u16,
            OTHER => e.perm = (mode & 7) as u16,
            tag if tag == group => e.perm = (mode >> 3 & 7) as u16,
            _ => {}
        }
    }
    Some(build(&entries))
}

/// What a new inode made with `mode` gets from its directory's default ACL: its own access ACL
/// where a mode cannot say it, and its mode. As `posix_acl_create_masq`.
pub(super) fn inherit(default: &[u8], mode: u32) -> (Option<Vec<u8>>, u32) {
    let Some(mut entries) = parse(default) else { return (None, mode) };
    let group = group_tag(&entries);
    let mut allowed = mode;
    for e in &mut entries {
        let shift = match e.tag {
            USER_OBJ => 6,
            OTHER => 0,
            tag if tag == group => 3,
            _ => continue,
        };
        e.perm &= (mode >> shift & 7) as u16;
        allowed &= !(0o7 << shift) | u32::from(e.perm) << shift;
    }
    let access = is_extended(&entries).then(|| build(&entries));
    (access, allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const USER: u16 = 0x02;

    fn acl(entries: &[(u16, u16)]) -> Vec<u8> {
        let list: Vec<_> = entries.iter().map(|&(tag, perm)| Entry { tag, perm, id: 7 }).collect();
        build(&list)
    }

    #[test]
    fn a_default_acl_masks_the_mode() {
        let default = acl(&[(USER_OBJ, 7), (USER, 7), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 0)]);
        let (access, mode) = inherit(&default, 0o100664);
        assert_eq!(mode, 0o100660);
        let want = acl(&[(USER_OBJ, 6), (USER, 7), (GROUP_OBJ, 5), (MASK, 6), (OTHER, 0)]);
        assert_eq!(access, Some(want));
    }

    #[test]
    fn a_plain_acl_is_just_a_mode() {
        let plain = acl(&[(USER_OBJ, 6), (GROUP_OBJ, 4), (OTHER, 4)]);
        assert_eq!(mode_from(&plain, 0o100777), Some((0o100644, false)));
        assert_eq!(inherit(&plain, 0o100600), (None, 0o100600));
        assert_eq!(mode_from(b"junk", 0), None);
    }

    #[test]
    fn chmod_sets_the_mask() {
        let own = acl(&[(USER_OBJ, 7), (USER, 7), (GROUP_OBJ, 5), (MASK, 7), (OTHER, 0)]);
        let want = acl(&[(USER_OBJ, 6), (USER, 7), (GROUP_OBJ, 5), (MASK, 4), (OTHER, 4)]);
        assert_eq!(chmod(&own, 0o644), Some(want));
    }
}
