//! A directory of the upper: entries by name in O(1), and in a stable order for readdir.
//!
//! Entries lie in a vector in the order in which they came; each carries a cookie that only grows,
//! so that a reader which stopped at a cookie finds its place again whatever came or went in
//! between, also after the vector was compacted.

use crate::attr::InodeNo;
use hashbrown::HashTable;
use rustc_hash::FxHasher;
use std::hash::Hasher;
use std::sync::Arc;

/// What the upper says of a name. A name it says nothing of is as the lowers have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dentry {
    /// `hides_lower`: the layers had this name when the entry was made. Only reports use it.
    Inode {
        ino: InodeNo,
        hides_lower: bool,
    },
    Whiteout,
}

/// Cookies stay below this while fewer entries than that are in the directory.
const COOKIES: u64 = 1 << 29;

/// 24 bytes; the name's own lie in [`Dir::names`].
#[derive(Clone, Copy, Debug)]
struct Slot {
    /// Where the name lies << 8 | its length; length 0: vacant, until the next compaction.
    name: u64,
    /// 0 is a whiteout.
    ino: u64,
    /// Cookie << 1 | hides_lower.
    cookie: u64,
}

impl Slot {
    fn dentry(&self) -> Dentry {
        match self.ino {
            0 => Dentry::Whiteout,
            ino => Dentry::Inode { ino: InodeNo(ino), hides_lower: self.cookie & 1 == 1 },
        }
    }

    fn is_vacant(&self) -> bool {
        self.name & 0xff == 0
    }

    fn name<'a>(&self, names: &'a [u8]) -> &'a [u8] {
        &names[(self.name >> 8) as usize..][..(self.name & 0xff) as usize]
    }
}

/// What is merged beneath a directory of the upper. Which lower directories that is, if any, is found when the
/// directory is looked up.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Below {
    /// It was made here: nothing of the layers shows in it.
    #[default]
    Nothing,
    /// It was copied up in its place: what lies under its name beneath its parent.
    SameName,
    /// It was renamed: what lies at this path in the merged view of the layers alone. As an absolute
    /// `overlay.redirect`.
    Path(Arc<[u8]>),
}

/// The upper part of a directory.
#[derive(Debug, Default)]
pub struct Dir {
    table: HashTable<u32>,
    slots: Vec<Slot>,
    /// The names, one after the other.
    names: Vec<u8>,
    next_cookie: u64,
    whiteouts: u32,
    live: u32,
    /// Entries that are directories; the tree keeps it.
    pub(super) subdirs: u32,
    pub(super) below: Below,
    /// Copied up only to hold an entry; nothing about it was changed since.
    pub(super) untouched: bool,
}

fn hash(name: &[u8]) -> u64 {
    let mut hasher = FxHasher::default();
    hasher.write(name);
    // FxHash leaves its entropy in the high bits; the table takes its tag from the top 7 and its
    // index from the bottom ones.
    hasher.finish().rotate_left(26)
}

impl Dir {
    pub fn get(&self, name: &[u8]) -> Option<Dentry> {
        self.find(name).map(|index| self.slots[index].dentry())
    }

    fn find(&self, name: &[u8]) -> Option<usize> {
        let is_it = |i: &u32| self.slots[*i as usize].name(&self.names) == name;
        self.table.find(hash(name), is_it).map(|i| *i as usize)
    }

    /// Sets the entry, and returns what it replaces. A replaced entry keeps its place in the order
    /// unless it was a whiteout. The name has 1 to 255 bytes.
    pub fn set(&mut self, name: &[u8], dentry: Dentry) -> Option<Dentry> {
        let index = self.find(name);
        let old = index.map(|index| self.slots[index].dentry());
        let stays = matches!(
            (old, dentry),
            (Some(Dentry::Inode { .. }), Dentry::Inode { .. })
                | (Some(Dentry::Whiteout), Dentry::Whiteout)
        );
        if let Some(index) = index.filter(|_| stays) {
            fill(&mut self.slots[index], dentry);
            return old;
        }
        if old.is_some() {
            self.remove(name);
        }
        self.push(name, dentry);
        old
    }

    fn push(&mut self, name: &[u8], dentry: Dentry) {
        debug_assert!((1..=255).contains(&name.len()));
        if self.next_cookie == COOKIES {
            self.renumber();
        }
        let index = self.slots.len() as u32;
        let place = (self.names.len() as u64) << 8 | name.len() as u64;
        let mut slot = Slot { name: place, ino: 0, cookie: self.next_cookie << 1 };
        self.next_cookie += 1;
        fill(&mut slot, dentry);
        self.names.extend_from_slice(name);
        self.slots.push(slot);
        let (slots, names) = (&self.slots, &self.names);
        self.table.insert_unique(hash(name), index, |i| hash(slots[*i as usize].name(names)));
        match dentry {
            Dentry::Whiteout => self.whiteouts += 1,
            Dentry::Inode { .. } => self.live += 1,
        }
    }

    /// Removes the entry, and returns it.
    pub fn remove(&mut self, name: &[u8]) -> Option<Dentry> {
        let (slots, names) = (&self.slots, &self.names);
        let is_it = |i: &u32| slots[*i as usize].name(names) == name;
        let (index, _) = self.table.find_entry(hash(name), is_it).ok()?.remove();
        let slot = &mut self.slots[index as usize];
        let old = slot.dentry();
        slot.name = 0;
        match old {
            Dentry::Whiteout => self.whiteouts -= 1,
            Dentry::Inode { .. } => self.live -= 1,
        }
        if self.slots.len() > 2 * self.table.len() + 16 {
            self.compact();
        }
        Some(old)
    }

    /// Gives the entries the first cookies again, in their order. A reader of this moment may miss some or meet some
    /// twice, once in 2^29 new entries.
    fn renumber(&mut self) {
        self.compact();
        for (slot, cookie) in self.slots.iter_mut().zip(0..) {
            slot.cookie = cookie << 1 | slot.cookie & 1;
        }
        self.next_cookie = self.slots.len() as u64;
    }

    /// Drops vacant slots and their names; order and cookies stay.
    fn compact(&mut self) {
        let old_names = std::mem::take(&mut self.names);
        self.slots.retain(|slot| !slot.is_vacant());
        for slot in &mut self.slots {
            let name = slot.name(&old_names);
            slot.name = (self.names.len() as u64) << 8 | name.len() as u64;
            self.names.extend_from_slice(name);
        }
        self.slots.shrink_to(self.slots.len() + self.slots.len() / 4);
        let (slots, names) = (&self.slots, &self.names);
        let name_hash = |i: &u32| hash(slots[*i as usize].name(names));
        self.table.clear();
        self.table.shrink_to(slots.len(), name_hash);
        for i in 0..slots.len() as u32 {
            self.table.insert_unique(name_hash(&i), i, name_hash);
        }
    }

    /// Entries from cookie `from` on, in order, each with its cookie.
    pub fn entries_from(&self, from: u64) -> impl Iterator<Item = (u64, &[u8], Dentry)> {
        let start = self.slots.partition_point(|slot| slot.cookie >> 1 < from);
        let live = self.slots[start..].iter().filter(|slot| !slot.is_vacant());
        live.map(|slot| (slot.cookie >> 1, slot.name(&self.names), slot.dentry()))
    }

    /// The cookie that the next new entry gets.
    pub fn end(&self) -> u64 {
        self.next_cookie
    }

    /// Names of this directory that are present in the upper.
    pub fn live(&self) -> usize {
        self.live as usize
    }

    pub fn whiteouts(&self) -> usize {
        self.whiteouts as usize
    }

    /// What is merged beneath it.
    pub fn below(&self) -> &Below {
        &self.below
    }

    /// Whether it was copied up only to hold an entry, and nothing about it was changed since.
    pub fn is_untouched(&self) -> bool {
        self.untouched
    }
}

fn fill(slot: &mut Slot, dentry: Dentry) {
    match dentry {
        Dentry::Whiteout => slot.ino = 0,
        Dentry::Inode { ino, hides_lower } => {
            slot.ino = ino.0;
            slot.cookie = slot.cookie & !1 | u64::from(hides_lower);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inode(n: u64) -> Dentry {
        Dentry::Inode { ino: InodeNo(n), hides_lower: n % 2 == 0 }
    }

    #[test]
    fn a_reader_keeps_its_place_while_entries_come_and_go() {
        let mut dir = Dir::default();
        let name = |i: u64| format!("f{i}").into_bytes();
        (1..=1000).for_each(|i| {
            dir.set(&name(i), inode(i));
        });
        let first: Vec<_> =
            dir.entries_from(0).take(500).map(|(c, n, _)| (c, n.to_vec())).collect();
        let next = first.last().map(|(c, _)| c + 1).expect("entries");
        // Remove almost all (which compacts), add others.
        (1..=990).for_each(|i| {
            dir.remove(&name(i));
        });
        (2000..2010).for_each(|i| {
            dir.set(&name(i), inode(i));
        });
        let rest: Vec<_> = dir.entries_from(next).map(|(_, n, _)| n.to_vec()).collect();
        let want: Vec<_> = (991..=1000).chain(2000..2010).map(name).collect();
        assert_eq!(rest, want);
        assert_eq!(dir.live(), 20);
    }

    #[test]
    fn counts_follow_replacement() {
        let mut dir = Dir::default();
        assert_eq!(dir.set(b"a", Dentry::Whiteout), None);
        assert_eq!(dir.set(b"a", inode(2)), Some(Dentry::Whiteout));
        assert_eq!((dir.live(), dir.whiteouts()), (1, 0));
        assert_eq!(dir.set(b"a", inode(4)), Some(inode(2)));
        assert_eq!(dir.set(b"a", Dentry::Whiteout), Some(inode(4)));
        assert_eq!((dir.live(), dir.whiteouts()), (0, 1));
        assert_eq!(dir.remove(b"a"), Some(Dentry::Whiteout));
        assert_eq!(dir.get(b"a"), None);
    }

    #[test]
    fn cookies_are_given_out_anew_before_they_are_too_large() {
        let mut dir = Dir::default();
        dir.set(b"a", inode(1));
        dir.set(b"b", inode(2));
        dir.next_cookie = COOKIES - 1;
        dir.remove(b"a");
        (3..6).for_each(|i| {
            dir.set(format!("n{i}").as_bytes(), inode(i));
        });
        let all: Vec<_> = dir.entries_from(0).map(|(c, n, d)| (c, n.to_vec(), d)).collect();
        let want = [(0, b"b".to_vec(), inode(2)), (1, b"n3".to_vec(), inode(3))];
        assert_eq!(all[..2], want);
        assert_eq!(all[3], (3, b"n5".to_vec(), inode(5)));
        assert_eq!(dir.end(), 4);
        assert_eq!(dir.get(b"n4"), Some(inode(4)));
    }
}
