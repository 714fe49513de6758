//! Which inode number is shown for what the layers have, and which one a new inode gets. Nothing is found by these
//! numbers: they only have to differ.

use super::state::{Found, LowerDir, State};
use crate::attr::{InodeNo, LowerPath};
use crate::layer::{self, FileKey};
use rustc_hash::{FxHashMap, FxHashSet};

/// How many numbers in a row may be taken before the search goes on in the next range.
const MOST_TRIES: u64 = 1 << 20;

/// What a number of its own was given to.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Whose {
    Place(LowerPath),
    /// A file with several names.
    File(FileKey),
}

impl Whose {
    fn of(found: &Found) -> Whose {
        match found.has_several_names() {
            true => Whose::File(found.key),
            false => Whose::Place(found.lower.at.clone()),
        }
    }
}

/// Numbers that were given out in this mount.
#[derive(Debug)]
pub(super) struct Numbers {
    /// Where the search for a free number goes on.
    next: u64,
    /// Lower objects whose own number was taken, and the one that is shown instead. Kept while mounted.
    aliases: FxHashMap<Whose, InodeNo>,
    /// The numbers that these would have had, and those that they got.
    aliased: FxHashSet<InodeNo>,
}

impl Numbers {
    pub fn after(next: InodeNo) -> Numbers {
        Numbers { next: next.0, aliases: FxHashMap::default(), aliased: FxHashSet::default() }
    }
}

impl State {
    /// A number that nothing in the mount has.
    pub fn free_number(&mut self) -> InodeNo {
        let (first, more) = (InodeNo::MADE_HERE, InodeNo::MADE_HERE_TOO);
        let mut tries = 0;
        loop {
            let number = InodeNo(self.numbers.next);
            self.numbers.next = match number.0 + 1 {
                next if next == first.end => first.start,
                next if next == more.end => more.start,
                _ if tries == MOST_TRIES => more.start,
                next => next,
            };
            tries += 1;
            let taken = self.tree.contains(number)
                || self.nodes.contains_key(&number)
                || self.numbers.aliased.contains(&number);
            if !taken {
                return number;
            }
        }
    }

    /// The number that is shown for what the layers have under a name that the upper says nothing of. `None`: its own
    /// number is taken, so [`State::give_number`] must find another.
    pub fn number_of(&self, found: &Found) -> Option<InodeNo> {
        if let Some(ino) = self.upper_of(found) {
            return Some(ino);
        }
        if !self.numbers.aliases.is_empty() {
            if let Some(alias) = self.numbers.aliases.get(&Whose::of(found)) {
                return Some(*alias);
            }
        }
        let own = found.lower.attr.ino;
        let node = self.nodes.get(&own);
        let is_other = node.is_some_and(|node| {
            !node.lower.as_deref().is_some_and(|lower| lower.is_same(&found.lower))
        });
        let taken = is_other || self.tree.contains(own) || self.numbers.aliased.contains(&own);
        (!taken).then_some(own)
    }

    /// As [`State::number_of`], which from then on has an answer; `found` has the number from then on.
    pub fn give_number(&mut self, found: &mut Found) {
        let ino = self.number_of(found).unwrap_or_else(|| {
            let alias = self.free_number();
            self.numbers.aliases.insert(Whose::of(found), alias);
            self.numbers.aliased.extend([found.lower.attr.ino, alias]);
            alias
        });
        found.lower.attr.ino = ino;
    }

    /// The inode of the upper that is another name of the same lower file.
    fn upper_of(&self, found: &Found) -> Option<InodeNo> {
        if !found.has_several_names() {
            return None;
        }
        let ino = *self.links.get(&found.key)?;
        let origin = self.tree.get(ino)?.origin()?;
        origin.image.several_names.then_some(ino)
    }

    /// The number that a look-up of a listed name shows, where the listing alone tells.
    pub fn number_of_listed(&self, dir: &LowerDir, entry: &layer::Entry<'_>) -> Option<InodeNo> {
        let own = entry.ino?;
        if self.tree.contains(own) || self.numbers.aliased.contains(&own) {
            return None;
        }
        let Some(node) = self.nodes.get(&own) else { return Some(own) };
        let at = &node.lower.as_deref()?.at;
        let is_here = |dir: &LowerPath| {
            let rest = at.path.strip_prefix(&dir.path[..]).filter(|_| dir.layer == at.layer);
            rest.is_some_and(|rest| match dir.path.is_empty() {
                true => rest == entry.name,
                false => rest.strip_prefix(b"/") == Some(entry.name),
            })
        };
        dir.dirs.iter().any(is_here).then_some(own)
    }
}
