//! What POSIX ACLs mean for modes. The kernel checks access; a FUSE server keeps mode and ACL in step and hands
//! default ACLs on.

use crate::posix_acl::{Entry, Tag, decode, encode};

pub(super) use crate::posix_acl::{ACCESS, DEFAULT};

/// The tag whose permissions are the mode's group bits: the mask where there is one.
fn group_tag(entries: &[Entry]) -> Tag {
    if entries.iter().any(|e| e.tag == Tag::MASK) { Tag::MASK } else { Tag::GROUP_OBJ }
}

/// Entries beyond owner, group and others: what a mode cannot say.
fn is_extended(entries: &[Entry]) -> bool {
    entries.iter().any(|e| !matches!(e.tag, Tag::USER_OBJ | Tag::GROUP_OBJ | Tag::OTHER))
}

/// `mode` with the permissions that an access ACL gives it, and whether the ACL says more than that
/// (else it need not be kept). `None` for malformed bytes. As `posix_acl_update_mode`.
pub(super) fn mode_from(acl: &[u8], mode: u32) -> Option<(u32, bool)> {
    let entries = decode(acl)?;
    let group = group_tag(&entries);
    let mut bits = 0;
    for e in &entries {
        let perm = u32::from(e.perm & 7);
        match e.tag {
            Tag::USER_OBJ => bits |= perm << 6,
            Tag::OTHER => bits |= perm,
            tag if tag == group => bits |= perm << 3,
            _ => {}
        }
    }
    Some((mode & !0o777 | bits, is_extended(&entries)))
}

/// An access ACL after chmod to `mode`. As `__posix_acl_chmod_masq`.
pub(super) fn chmod(acl: &[u8], mode: u32) -> Option<Vec<u8>> {
    let mut entries = decode(acl)?;
    let group = group_tag(&entries);
    for e in &mut entries {
        match e.tag {
            Tag::USER_OBJ => e.perm = (mode >> 6 & 7) as u16,
            Tag::OTHER => e.perm = (mode & 7) as u16,
            tag if tag == group => e.perm = (mode >> 3 & 7) as u16,
            _ => {}
        }
    }
    Some(encode(&entries))
}

/// What a new inode made with `mode` gets from its directory's default ACL: its own access ACL
/// where a mode cannot say it, and its mode. As `posix_acl_create_masq`.
pub(super) fn inherit(default: &[u8], mode: u32) -> (Option<Vec<u8>>, u32) {
    let Some(mut entries) = decode(default) else { return (None, mode) };
    let group = group_tag(&entries);
    let mut allowed = mode;
    for e in &mut entries {
        let shift = match e.tag {
            Tag::USER_OBJ => 6,
            Tag::OTHER => 0,
            tag if tag == group => 3,
            _ => continue,
        };
        e.perm &= (mode >> shift & 7) as u16;
        allowed &= !(0o7 << shift) | u32::from(e.perm) << shift;
    }
    let access = is_extended(&entries).then(|| encode(&entries));
    (access, allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn acl(entries: &[(Tag, u16)]) -> Vec<u8> {
        let list: Vec<_> = entries.iter().map(|&(tag, perm)| Entry { tag, perm, id: 7 }).collect();
        encode(&list)
    }

    #[test]
    fn a_default_acl_masks_the_mode() {
        let default = acl(&[
            (Tag::USER_OBJ, 7),
            (Tag::USER, 7),
            (Tag::GROUP_OBJ, 5),
            (Tag::MASK, 7),
            (Tag::OTHER, 0),
        ]);
        let (access, mode) = inherit(&default, 0o100664);
        assert_eq!(mode, 0o100660);
        let want = acl(&[
            (Tag::USER_OBJ, 6),
            (Tag::USER, 7),
            (Tag::GROUP_OBJ, 5),
            (Tag::MASK, 6),
            (Tag::OTHER, 0),
        ]);
        assert_eq!(access, Some(want));
    }

    #[test]
    fn a_plain_acl_is_just_a_mode() {
        let plain = acl(&[(Tag::USER_OBJ, 6), (Tag::GROUP_OBJ, 4), (Tag::OTHER, 4)]);
        assert_eq!(mode_from(&plain, 0o100777), Some((0o100644, false)));
        assert_eq!(inherit(&plain, 0o100600), (None, 0o100600));
        assert_eq!(mode_from(b"junk", 0), None);
    }

    #[test]
    fn chmod_sets_the_mask() {
        let own = acl(&[
            (Tag::USER_OBJ, 7),
            (Tag::USER, 7),
            (Tag::GROUP_OBJ, 5),
            (Tag::MASK, 7),
            (Tag::OTHER, 0),
        ]);
        let want = acl(&[
            (Tag::USER_OBJ, 6),
            (Tag::USER, 7),
            (Tag::GROUP_OBJ, 5),
            (Tag::MASK, 4),
            (Tag::OTHER, 4),
        ]);
        assert_eq!(chmod(&own, 0o644), Some(want));
    }
}
