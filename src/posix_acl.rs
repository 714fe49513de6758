//! The value of a `system.posix_acl_*` extended attribute: a version word, then entries of eight bytes, sorted
//! by tag (include/uapi/linux/posix_acl_xattr.h).

/// The attribute of the ACL that decides access.
pub const ACCESS: &[u8] = b"system.posix_acl_access";
/// The attribute of the ACL that a directory hands on to what is made in it.
pub const DEFAULT: &[u8] = b"system.posix_acl_default";

const VERSION: u32 = 2;
const HEADER_SIZE: usize = 4;
const ENTRY_SIZE: usize = 8;

/// Whom an entry is about. Any other value is kept as it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tag(u16);

impl Tag {
    pub const USER_OBJ: Tag = Tag(0x01);
    /// The user whose id the entry has.
    pub const USER: Tag = Tag(0x02);
    pub const GROUP_OBJ: Tag = Tag(0x04);
    /// The group whose id the entry has.
    pub const GROUP: Tag = Tag(0x08);
    pub const MASK: Tag = Tag(0x10);
    pub const OTHER: Tag = Tag(0x20);
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    pub tag: Tag,
    /// Read 4, write 2, execute 1.
    pub perm: u16,
    /// Of [`Tag::USER`] and [`Tag::GROUP`].
    pub id: u32,
}

impl Entry {
    fn decode(bytes: &[u8]) -> Option<Entry> {
        let &[a, b, c, d, e, f, g, h] = bytes else { return None };
        Some(Entry {
            tag: Tag(u16::from_le_bytes([a, b])),
            perm: u16::from_le_bytes([c, d]),
            id: u32::from_le_bytes([e, f, g, h]),
        })
    }

    fn encode(self) -> [u8; ENTRY_SIZE] {
        let ([a, b], [c, d]) = (self.tag.0.to_le_bytes(), self.perm.to_le_bytes());
        let [e, f, g, h] = self.id.to_le_bytes();
        [a, b, c, d, e, f, g, h]
    }
}

/// The entries of a value; `None` for what is no ACL of this version.
pub fn decode(value: &[u8]) -> Option<Vec<Entry>> {
    let (version, entries) = value.split_first_chunk::<HEADER_SIZE>()?;
    if u32::from_le_bytes(*version) != VERSION || entries.len() % ENTRY_SIZE != 0 {
        return None;
    }
    entries.chunks_exact(ENTRY_SIZE).map(Entry::decode).collect()
}

/// The value of an ACL with these entries.
pub fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut value = VERSION.to_le_bytes().to_vec();
    entries.iter().for_each(|entry| value.extend_from_slice(&entry.encode()));
    value
}

/// Replaces the id of each entry that has one. What is no whole entry stays as it is.
pub fn map_ids(value: &mut [u8], user: impl Fn(u32) -> u32, group: impl Fn(u32) -> u32) {
    let Some((_, entries)) = value.split_at_mut_checked(HEADER_SIZE) else { return };
    for bytes in entries.chunks_exact_mut(ENTRY_SIZE) {
        let Some(mut entry) = Entry::decode(bytes) else { continue };
        entry.id = match entry.tag {
            Tag::USER => user(entry.id),
            Tag::GROUP => group(entry.id),
            _ => continue,
        };
        bytes.copy_from_slice(&entry.encode());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_acl_comes_back_and_what_is_none_is_refused() {
        let entries = [
            Entry { tag: Tag::USER_OBJ, perm: 7, id: u32::MAX },
            Entry { tag: Tag::USER, perm: 5, id: 1000 },
            Entry { tag: Tag(0x8000), perm: 0xffff, id: 3 },
        ];
        let value = encode(&entries);
        assert_eq!(value[..4], [2, 0, 0, 0]);
        assert_eq!(value[12..20], [2, 0, 5, 0, 0xe8, 3, 0, 0]);
        assert_eq!(decode(&value).as_deref(), Some(&entries[..]));
        for len in 0..value.len() {
            assert_eq!(decode(&value[..len]).is_some(), len >= 4 && len % 8 == 4, "{len}");
        }
        assert_eq!(decode(&[&[1, 0, 0, 0], &value[4..]].concat()), None);
    }

    #[test]
    fn ids_are_replaced_in_whole_entries_only() {
        let acl = |user, group| {
            let entry = |tag, id| Entry { tag, perm: 7, id };
            encode(&[entry(Tag::USER, user), entry(Tag::GROUP, group), entry(Tag::MASK, 9)])
        };
        let mut value = acl(1, 2);
        map_ids(&mut value, |id| id + 10, |id| id + 20);
        assert_eq!(value, acl(11, 22));
        for len in 0..value.len() {
            let mut cut = value[..len].to_vec();
            map_ids(&mut cut, |id| id, |id| id);
            assert_eq!(cut, value[..len]);
        }
    }
}
