//! Open descriptors of lower files, a bounded number of them.

use super::Overlay;
use crate::attr::{InodeNo, LowerPath};
use crate::errno::Result;
use parking_lot::Mutex;
use rustc_hash::FxHashMap;
use std::os::fd::OwnedFd;
use std::sync::Arc;

const MOST: usize = 512;

#[derive(Default)]
pub(super) struct LowerFiles(Mutex<Files>);

#[derive(Default)]
struct Files {
    open: FxHashMap<InodeNo, (Arc<OwnedFd>, u64)>,
    clock: u64,
}

impl LowerFiles {
    fn get(&self, ino: InodeNo) -> Option<Arc<OwnedFd>> {
        let mut files = self.0.lock();
        files.clock += 1;
        let clock = files.clock;
        let (file, used) = files.open.get_mut(&ino)?;
        *used = clock;
        Some(file.clone())
    }

    fn keep(&self, ino: InodeNo, file: Arc<OwnedFd>) {
        let mut files = self.0.lock();
        if files.open.len() >= MOST {
            // The older half goes; those in use stay open until their reader is done.
            let mut ages: Vec<u64> = files.open.values().map(|(_, used)| *used).collect();
            let middle = ages.len() / 2;
            let (_, &mut median, _) = ages.select_nth_unstable(middle);
            files.open.retain(|_, (_, used)| *used > median);
        }
        let clock = files.clock;
        files.open.insert(ino, (file, clock));
    }

    pub fn forget(&self, ino: InodeNo) {
        self.0.lock().open.remove(&ino);
    }
}

impl Overlay {
    /// The lower file below an inode, opened read-only.
    pub(super) fn lower_file(&self, ino: InodeNo, at: &LowerPath) -> Result<Arc<OwnedFd>> {
        if let Some(file) = self.lower_files.get(ino) {
            return Ok(file);
        }
        let file = Arc::new(self.stack.open_file(at)?);
        self.lower_files.keep(ino, file.clone());
        Ok(file)
    }
}
