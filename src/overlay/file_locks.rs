//! A lock for each file: what changes the data of one file does so alone.

use crate::attr::InodeNo;
use parking_lot::{Condvar, Mutex};
use smallvec::SmallVec;

/// Groups that files are spread over by number, so that taking locks of different files is not one queue.
const GROUPS: usize = 64;

/// Locks by inode number. A lock may be held while a layer is read, which may hang; only those wait for it then that
/// change the same file.
#[derive(Debug)]
pub(super) struct FileLocks([Group; GROUPS]);

#[derive(Debug, Default)]
struct Group {
    /// The files that are locked. Held for moments only.
    locked: Mutex<SmallVec<[InodeNo; 4]>>,
    freed: Condvar,
}

/// A held lock.
#[derive(Debug)]
#[must_use]
pub(super) struct FileLock<'a> {
    group: &'a Group,
    ino: InodeNo,
}

impl Default for FileLocks {
    fn default() -> FileLocks {
        FileLocks(std::array::from_fn(|_| Group::default()))
    }
}

impl FileLocks {
    /// Waits until nobody else has the lock of `ino`. A thread holds no more than one.
    pub fn lock(&self, ino: InodeNo) -> FileLock<'_> {
        let group = &self.0[(ino.0 % GROUPS as u64) as usize];
        let mut locked = group.locked.lock();
        while locked.contains(&ino) {
            group.freed.wait(&mut locked);
        }
        locked.push(ino);
        FileLock { group, ino }
    }
}

impl Drop for FileLock<'_> {
    fn drop(&mut self) {
        let mut locked = self.group.locked.lock();
        if let Some(place) = locked.iter().position(|&ino| ino == self.ino) {
            locked.swap_remove(place);
        }
        drop(locked);
        // Those who wait in one group may wait for different files.
        self.group.freed.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicU32, Ordering};

    #[test]
    fn files_of_one_group_do_not_wait_for_each_other() {
        let locks = FileLocks::default();
        let (a, b) = (InodeNo(1), InodeNo(1 + GROUPS as u64));
        let _a = locks.lock(a);
        // Would wait for ever.
        drop(locks.lock(b));
    }

    #[test]
    fn one_file_is_changed_by_one_at_a_time() {
        let (locks, inside, total) =
            (FileLocks::default(), [AtomicU32::new(0), AtomicU32::new(0)], AtomicU32::new(0));
        std::thread::scope(|scope| {
            for thread in 0..8 {
                let (locks, inside, total) = (&locks, &inside[thread % 2], &total);
                scope.spawn(move || {
                    let ino = InodeNo(7 + (thread as u64 % 2) * GROUPS as u64);
                    for _ in 0..2000 {
                        let _lock = locks.lock(ino);
                        assert_eq!(inside.fetch_add(1, Ordering::Relaxed), 0);
                        total.fetch_add(1, Ordering::Relaxed);
                        inside.fetch_sub(1, Ordering::Relaxed);
                    }
                });
            }
        });
        assert_eq!(total.into_inner(), 16_000);
    }
}
