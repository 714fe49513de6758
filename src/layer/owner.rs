//! Owners as the mount shows them: the host's ids through the id mapping.

use crate::config::{IdMap, IdRange};
use crate::posix_acl;

/// What an id outside every range is shown as (the kernel's overflow id).
const NOBODY: u32 = 65534;

/// Translates ids from the host's disk into the mount's.
#[derive(Debug)]
pub(super) struct Owners(IdMap);

impl Owners {
    pub fn new(map: &IdMap) -> Owners {
        Owners(map.clone())
    }

    pub fn uid(&self, host: u32) -> u32 {
        self.0.squash_uid.unwrap_or_else(|| shown(&self.0.uid, host))
    }

    pub fn gid(&self, host: u32) -> u32 {
        self.0.squash_gid.unwrap_or_else(|| shown(&self.0.gid, host))
    }

    /// Translates the ids inside the value of a `system.posix_acl_*` attribute. Ranges apply,
    /// squashing does not: it would make several entries for one id.
    pub fn translate_acl(&self, value: &mut [u8]) {
        posix_acl::map_ids(value, |id| shown(&self.0.uid, id), |id| shown(&self.0.gid, id));
    }
}

/// Host id → shown id; no ranges: the same.
fn shown(ranges: &[IdRange], host: u32) -> u32 {
    if ranges.is_empty() {
        return host;
    }
    let hit = ranges.iter().find_map(|r| {
        let offset = host.checked_sub(r.outside).filter(|&o| o < r.count)?;
        r.inside.checked_add(offset)
    });
    hit.unwrap_or(NOBODY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map() -> IdMap {
        let uid = vec![
            IdRange { inside: 0, outside: 1000, count: 1 },
            IdRange { inside: 1, outside: 100_000, count: 65535 },
        ];
        IdMap { uid, ..IdMap::default() }
    }

    #[test]
    fn identity_without_ranges() {
        let owners = Owners::new(&IdMap::default());
        assert_eq!((owners.uid(5), owners.gid(u32::MAX)), (5, u32::MAX));
    }

    #[test]
    fn ranges_and_what_lies_outside_of_them() {
        let owners = Owners::new(&map());
        let got = [1000, 100_000, 165_534, 165_535, 0, u32::MAX].map(|id| owners.uid(id));
        assert_eq!(got, [0, 1, 65535, NOBODY, NOBODY, NOBODY]);
        assert_eq!(owners.gid(7), 7);
    }

    #[test]
    fn squashing_overrides_ranges() {
        let owners = Owners::new(&IdMap { squash_uid: Some(3), squash_gid: Some(4), ..map() });
        assert_eq!((owners.uid(1000), owners.gid(0)), (3, 4));
    }

    #[test]
    fn a_range_at_the_end_of_the_ids_does_not_overflow() {
        let uid = vec![IdRange { inside: u32::MAX, outside: 0, count: 10 }];
        let owners = Owners::new(&IdMap { uid, ..IdMap::default() });
        assert_eq!((owners.uid(0), owners.uid(1)), (u32::MAX, NOBODY));
    }

    #[test]
    fn ids_in_acls_are_translated() {
        use posix_acl::{Entry, Tag, encode};
        let owners = Owners::new(&map());
        let acl = |user, group| {
            let entry = |tag, id| Entry { tag, perm: 7, id };
            encode(&[entry(Tag::USER, user), entry(Tag::GROUP, group)])
        };
        let mut value = acl(1000, 1000);
        owners.translate_acl(&mut value);
        assert_eq!(value, acl(0, 1000));
    }
}
