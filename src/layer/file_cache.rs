//! Open files of layers, a bounded number of them.

use super::host_calls::{NoHostCalls, forbid};
use super::source::LowerFile;
use crate::attr::InodeNo;
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use std::sync::{Arc, mpsc};

/// Open files by the inode whose data they are. Its lock is taken last, and not held while a file is opened, closed or
/// read.
#[derive(Debug)]
pub(super) struct FileCache {
    files: Mutex<Files>,
    /// Files that are kept open, those excepted that are being read.
    limit: usize,
    /// Where there are such layers: to the thread that closes files whose close may wait, as on FUSE.
    closer: Option<mpsc::Sender<Arc<dyn LowerFile>>>,
}

type Map = FxHashMap<InodeNo, (Arc<dyn LowerFile>, u64)>;

#[derive(Debug, Default)]
struct Files {
    /// With the time of last use.
    open: Map,
    clock: u64,
}

impl FileCache {
    /// `may_block`: a close of some files may wait. They are closed in a thread that nothing waits for, and that ends with
    /// the cache.
    pub fn new(limit: usize, may_block: bool) -> FileCache {
        let closer = may_block.then(|| {
            let (closer, files) = mpsc::channel::<Arc<dyn LowerFile>>();
            let thread = std::thread::Builder::new().name("closer".into());
            if let Err(error) = thread.spawn(move || files.into_iter().for_each(drop)) {
                tracing::warn!(%error, "no thread that closes files of layers");
            }
            closer
        });
        FileCache { files: Mutex::default(), limit, closer }
    }

    /// Closes what nobody else holds. Takes no lock.
    fn close(&self, files: impl IntoIterator<Item = Arc<dyn LowerFile>>) {
        for file in files {
            // Without its thread, what is sent comes back and is closed here.
            match self.closer.as_ref().filter(|_| file.may_block()) {
                Some(closer) => drop(closer.send(file)),
                None => drop(file),
            }
        }
    }

    fn lock(&self) -> (MutexGuard<'_, Files>, NoHostCalls) {
        (self.files.lock(), forbid())
    }

    pub fn get(&self, ino: InodeNo) -> Option<Arc<dyn LowerFile>> {
        let (mut files, _no_host_calls) = self.lock();
        files.clock += 1;
        let clock = files.clock;
        let (file, used) = files.open.get_mut(&ino)?;
        *used = clock;
        Some(file.clone())
    }

    pub fn insert(&self, ino: InodeNo, file: Arc<dyn LowerFile>) {
        let mut closed: Vec<Arc<dyn LowerFile>> = Vec::new();
        let (mut files, no_host_calls) = self.lock();
        if files.open.len() >= self.limit {
            // The older half goes; those in use stay open until their reader is done.
            let mut ages: Vec<u64> = files.open.values().map(|(_, used)| *used).collect();
            let middle = ages.len() / 2;
            let (_, &mut median, _) = ages.select_nth_unstable(middle);
            files.open.retain(|_, (file, used)| {
                let keep = *used > median;
                if !keep {
                    closed.push(file.clone());
                }
                keep
            });
        }
        let clock = files.clock;
        closed.extend(files.open.insert(ino, (file, clock)).map(|(file, _)| file));
        drop((files, no_host_calls));
        self.close(closed);
    }

    pub fn remove(&self, ino: InodeNo) {
        let (mut files, no_host_calls) = self.lock();
        let closed = files.open.remove(&ino);
        drop((files, no_host_calls));
        self.close(closed.map(|(file, _)| file));
    }

    /// Closes all files that nobody is reading.
    pub fn clear(&self) {
        let (mut files, no_host_calls) = self.lock();
        let closed = std::mem::take(&mut files.open);
        drop((files, no_host_calls));
        self.close(closed.into_values().map(|(file, _)| file));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::errno::Result;
    use crate::layer::Want;
    use rustix::fd::BorrowedFd;
    use std::sync::Weak;
    use std::time::{Duration, Instant};

    #[derive(Debug)]
    struct Nothing {
        may_block: bool,
    }

    impl LowerFile for Nothing {
        fn read_at(&self, _buf: &mut [u8], _offset: u64) -> Result<usize> {
            Ok(0)
        }

        fn seek(&self, _want: Want, _offset: u64) -> Result<Option<u64>> {
            Ok(None)
        }

        fn passthrough_fd(&self) -> Option<BorrowedFd<'_>> {
            None
        }

        fn may_block(&self) -> bool {
            self.may_block
        }
    }

    #[test]
    fn a_bounded_number_is_kept_and_what_was_used_last_stays() {
        const LIMIT: usize = 16;
        let cache = FileCache::new(LIMIT, false);
        let mut all: Vec<Weak<dyn LowerFile>> = Vec::new();
        for ino in 0..200 {
            let file: Arc<dyn LowerFile> = Arc::new(Nothing { may_block: false });
            all.push(Arc::downgrade(&file));
            cache.insert(InodeNo(ino), file);
            assert!(cache.get(InodeNo(0)).is_some(), "used all the time, and closed after {ino}");
            let open = all.iter().filter(|file| file.strong_count() > 0).count();
            assert!(open <= LIMIT, "{open} files are open");
        }
        cache.clear();
        assert!(all.iter().all(|file| file.strong_count() == 0));
    }

    #[test]
    fn where_a_close_may_block_all_is_closed_beside() {
        let cache = FileCache::new(4, true);
        let file: Arc<dyn LowerFile> = Arc::new(Nothing { may_block: true });
        let weak = Arc::downgrade(&file);
        cache.insert(InodeNo(1), file);
        cache.remove(InodeNo(1));
        assert!(cache.get(InodeNo(1)).is_none());
        let start = Instant::now();
        while weak.strong_count() > 0 {
            assert!(start.elapsed() < Duration::from_secs(60), "never closed");
            std::thread::yield_now();
        }
    }
}
