//! Which inode number is shown for what the layers have, and which one a new inode gets. Nothing is found by these
//! numbers: they only have to differ.

use super::lower::{Found, LowerDir};
use super::lower_files::is_like;
use super::state::State;
use crate::attr::{InodeNo, LowerPath};
use crate::layer;

/// How many numbers in a row may be taken before the search goes on in the next range.
const MOST_TRIES: u64 = 1 << 20;

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
                || self.numbers.concerns(number);
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
        if let Some(alias) = self.numbers.alias_of(found) {
            return Some(alias);
        }
        let own = found.lower.attr.ino;
        let node = self.nodes.get(&own);
        let is_other = node.is_some_and(|node| {
            !node.lower.as_deref().is_some_and(|lower| lower.is_same(&found.lower))
        });
        let taken = is_other || self.tree.contains(own) || self.numbers.concerns(own);
        (!taken).then_some(own)
    }

    /// As [`State::number_of`], which from then on has an answer; `found` has the number from then on.
    pub fn give_number(&mut self, found: &mut Found) {
        let ino = self.number_of(found).unwrap_or_else(|| {
            let alias = self.free_number();
            self.numbers.add_alias(found, alias);
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
        // Where there are no birth times, a number may have gone to another file.
        let is_it = origin.image.several_names && is_like(&found.lower.attr, origin.image.stamp);
        is_it.then_some(ino)
    }

    /// The number that a look-up of a listed name shows, where the listing alone tells.
    pub fn number_of_listed(&self, dir: &LowerDir, entry: &layer::Entry<'_>) -> Option<InodeNo> {
        let own = entry.ino?;
        if self.tree.contains(own) || self.numbers.concerns(own) {
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
