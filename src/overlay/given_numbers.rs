//! Inode numbers that were given out in this mount.

use super::lower::Found;
use crate::attr::{InodeNo, LowerPath};
use crate::layer::FileKey;
use rustc_hash::{FxHashMap, FxHashSet};

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
pub(super) struct GivenNumbers {
    /// Where the search for a free number goes on.
    pub next: u64,
    /// Lower objects whose own number was taken, and the one that is shown instead. Kept while mounted.
    aliases: FxHashMap<Whose, InodeNo>,
    /// The numbers that these would have had, and those that they got.
    aliased: FxHashSet<InodeNo>,
}

impl GivenNumbers {
    pub fn after(next: InodeNo) -> GivenNumbers {
        GivenNumbers { next: next.0, aliases: FxHashMap::default(), aliased: FxHashSet::default() }
    }

    /// The number that a lower object is shown under instead of its own.
    pub fn alias_of(&self, found: &Found) -> Option<InodeNo> {
        if self.aliases.is_empty() {
            return None;
        }
        self.aliases.get(&Whose::of(found)).copied()
    }

    pub fn add_alias(&mut self, found: &Found, alias: InodeNo) {
        self.aliases.insert(Whose::of(found), alias);
        self.aliased.extend([found.lower.attr.ino, alias]);
    }

    /// Whether the number is an alias, or one that an alias stands for.
    pub fn concerns(&self, ino: InodeNo) -> bool {
        self.aliased.contains(&ino)
    }
}
