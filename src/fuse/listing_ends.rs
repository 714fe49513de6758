//! ListingEnds that are being read: where each ends.

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

use crate::attr::{DirCookie, InodeNo};

/// How many are remembered. Of more than these some end later than they would have.
const MOST: usize = 1024;

/// A listing ends with what was there when it began. Otherwise who renames the entries as they come
/// meets them again and again, as a new name is the directory's last.
///
/// Directories are opened and closed without asking, so readers of one directory are not told apart:
/// their ends_of end where that of the last to begin does.
#[derive(Debug, Default)]
pub struct ListingEnds {
    /// By directory. A leaf lock, held for a few instructions.
    ends: Mutex<FxHashMap<InodeNo, DirCookie>>,
}

impl ListingEnds {
    /// Where the listing of `dir` that is read from `offset` ends: `now`, where it begins.
    pub fn end(&self, dir: InodeNo, offset: DirCookie, now: DirCookie) -> DirCookie {
        let mut ends = self.ends.lock();
        if ends.len() >= MOST && !ends.contains_key(&dir) {
            // What goes on being read gets a new end, and keeps that.
            ends.clear();
        }
        let end = ends.entry(dir).or_insert(now);
        if offset == DirCookie::START {
            *end = now;
        }
        *end
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn end(ends: &ListingEnds, dir: InodeNo, offset: u64, now: u64) -> u64 {
        ends.end(dir, DirCookie(offset), DirCookie(now)).0
    }

    const ONE: InodeNo = InodeNo(1);

    #[test]
    fn a_listing_ends_where_it_did_when_it_began() {
        let ends_of = ListingEnds::default();
        assert_eq!(end(&ends_of, ONE, 0, 10), 10);
        assert_eq!(end(&ends_of, InodeNo(2), 0, 15), 15);
        assert_eq!(end(&ends_of, ONE, 5, 20), 10);
        assert_eq!(end(&ends_of, ONE, 0, 30), 30, "rewound, or begun by another reader");
        assert_eq!(end(&ends_of, InodeNo(3), 5, 20), 20, "begun in the kernel's cache");
        assert_eq!(end(&ends_of, InodeNo(3), 9, 25), 20);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let ends_of = ListingEnds::default();
        assert_eq!(end(&ends_of, ONE, 0, 10), 10);
        for dir in 2..10 * MOST as u64 {
            end(&ends_of, InodeNo(dir), 0, 1);
        }
        assert!(ends_of.ends.lock().len() <= MOST);
        assert_eq!(end(&ends_of, ONE, 5, 20), 20);
        assert_eq!(end(&ends_of, ONE, 6, 30), 20);
    }
}
