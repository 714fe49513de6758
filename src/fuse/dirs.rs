//! Open directories: where the listing that each is reading ends.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustc_hash::FxHashMap;

/// A listing ends with what was there when it began. Otherwise who renames the entries as they come
/// meets them again and again, as a new name is the directory's last.
#[derive(Debug, Default)]
pub struct OpenDirs {
    next: AtomicU64,
    /// By handle. A leaf lock, held for a few instructions.
    ends: Mutex<FxHashMap<u64, u64>>,
}

impl OpenDirs {
    /// A handle; 0 is none.
    pub fn open(&self) -> u64 {
        self.next.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Where the listing of `handle` that is read from `offset` ends: `now`, where it begins.
    pub fn end(&self, handle: u64, offset: u64, now: u64) -> u64 {
        if handle == 0 {
            return now;
        }
        let mut ends = self.ends.lock();
        let end = ends.entry(handle).or_insert(now);
        if offset == 0 {
            *end = now;
        }
        *end
    }

    pub fn close(&self, handle: u64) {
        self.ends.lock().remove(&handle);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_ends_where_it_did_when_it_began() {
        let dirs = OpenDirs::default();
        let (one, two) = (dirs.open(), dirs.open());
        assert_eq!(dirs.end(one, 0, 10), 10);
        assert_eq!(dirs.end(one, 5, 20), 10);
        assert_eq!(dirs.end(two, 5, 20), 20, "begun in the kernel's cache");
        assert_eq!(dirs.end(one, 0, 30), 30, "rewound");
        dirs.close(one);
        assert_eq!(dirs.end(one, 5, 40), 40);
        assert_eq!(dirs.end(0, 5, 50), 50, "opened without asking");
    }
}
