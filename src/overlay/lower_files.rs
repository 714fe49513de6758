//! Open descriptors of lower files, a bounded number of them.

use super::Overlay;
use crate::attr::{InodeNo, LowerPath};
use crate::errno::{Errno, Result};
use crate::layer::OpenFile;
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
    /// The lower file whose bytes are, and nothing else is, the data of `ino`, opened read-only;
    /// reading it changes no access time. `None` where there is none such, or where the
    /// file has several names, unless nothing ever changes.
    pub fn untouched_file(&self, ino: InodeNo) -> Option<Arc<OwnedFd>> {
        let at = self.untouched(ino).ok()??;
        if !self.stack.keeps_atime(at.layer) {
            return None;
        }
        self.lower_file(ino, &at).ok()
    }

    /// As [`Overlay::untouched_file`], with no question to the host.
    pub fn is_untouched(&self, ino: InodeNo) -> bool {
        self.untouched(ino).is_ok_and(|found| found.is_some())
    }

    fn untouched(&self, ino: InodeNo) -> Result<Option<LowerPath>> {
        let st = self.state.read();
        let lower = st.node(ino)?.lower.as_deref();
        let (nlink, found) = match st.tree.get(ino) {
            Some(inode) => {
                let (map, origin) = inode.file().ok_or(Errno::INVAL)?;
                let size = inode.image().size;
                // The upper tells how much of the origin counts, its layer how much there is.
                let whole = origin.filter(|o| {
                    let real = lower.filter(|l| l.at == o.at).map(|l| l.attr.size);
                    map.runs() == 0 && o.len == size && real == Some(size)
                });
                (inode.image().nlink, whole.map(|o| o.at.clone()))
            }
            None => {
                let lower = lower.filter(|lower| lower.attr.is_regular()).ok_or(Errno::INVAL)?;
                (lower.attr.nlink, Some(lower.at.clone()))
            }
        };
        Ok(found.filter(|_| self.read_only || nlink <= 1))
    }

    /// Whether the kernel still holds `ino`.
    pub fn knows(&self, ino: InodeNo) -> bool {
        self.state.read().nodes.contains_key(&ino)
    }

    /// The lower file below an inode, opened read-only.
    pub(super) fn lower_file(&self, ino: InodeNo, at: &LowerPath) -> Result<Arc<OwnedFd>> {
        if let Some(file) = self.lower_files.get(ino) {
            return Ok(file);
        }
        let OpenFile { file, no_xattrs, .. } = self.stack.open_file(at)?;
        self.note_bare(ino, no_xattrs);
        let file = Arc::new(file);
        self.lower_files.keep(ino, file.clone());
        Ok(file)
    }
}
