//! Open lower files, a bounded number of them.

use super::Overlay;
use crate::attr::{InodeNo, LowerPath};
use crate::errno::{Errno, Result};
use crate::layer::{LowerFile, NoHostCalls, OpenFile, forbid_host_calls};
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::FxHashMap;
use std::sync::Arc;

const MOST: usize = 512;

#[derive(Default)]
pub(super) struct LowerFiles(Mutex<Files>);

#[derive(Default)]
struct Files {
    open: FxHashMap<InodeNo, (Arc<dyn LowerFile>, u64)>,
    clock: u64,
}

impl LowerFiles {
    /// Nothing is opened or closed under the lock: both may wait for the host.
    fn lock(&self) -> (MutexGuard<'_, Files>, NoHostCalls) {
        (self.0.lock(), forbid_host_calls())
    }

    fn get(&self, ino: InodeNo) -> Option<Arc<dyn LowerFile>> {
        let (mut files, _quiet) = self.lock();
        files.clock += 1;
        let clock = files.clock;
        let (file, used) = files.open.get_mut(&ino)?;
        *used = clock;
        Some(file.clone())
    }

    fn keep(&self, ino: InodeNo, file: Arc<dyn LowerFile>) {
        let mut closed: Vec<Arc<dyn LowerFile>> = Vec::new();
        let (mut files, quiet) = self.lock();
        if files.open.len() >= MOST {
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
        drop((files, quiet));
        drop(closed);
    }

    pub fn forget(&self, ino: InodeNo) {
        let (mut files, quiet) = self.lock();
        let closed = files.open.remove(&ino);
        drop((files, quiet));
        drop(closed);
    }
}

impl Overlay {
    /// The lower file whose bytes are, and nothing else is, the data of `ino`, opened read-only and with a descriptor for
    /// passthrough; reading it changes no access time. `None` where there is none such, or where the
    /// file has several names, unless nothing ever changes.
    pub fn untouched_file(&self, ino: InodeNo) -> Option<Arc<dyn LowerFile>> {
        let at = self.untouched(ino).ok()??;
        if !self.stack.keeps_atime(at.layer) {
            return None;
        }
        self.lower_file(ino, &at).ok().filter(|file| file.passthrough_fd().is_some())
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

    /// Whether an operation on `ino`, or on a name in it, may wait for something other than a local disk, for any time:
    /// a layer beneath lies on FUSE, on a network, or on what is not known. Such an operation must not run where others
    /// wait for their turn behind it.
    #[expect(dead_code, reason = "the transports do not ask yet")]
    pub fn may_block(&self, ino: InodeNo) -> bool {
        if !self.stack.any_may_block() {
            return false;
        }
        let st = self.state.read();
        let blocks = |at: &LowerPath| self.stack.may_block(at.layer);
        let lower = st.nodes.get(&ino).and_then(|node| node.lower.as_deref());
        let node_blocks = lower.is_some_and(|lower| {
            blocks(&lower.at) || lower.dirs.iter().flat_map(|dirs| dirs.iter()).any(blocks)
        });
        let upper_blocks = st.tree.get(ino).is_some_and(|inode| {
            inode.origin().is_some_and(|origin| blocks(&origin.at))
                || inode.dir().is_some_and(|dir| dir.lowers().iter().any(blocks))
        });
        node_blocks || upper_blocks
    }

    /// Whether the kernel still holds `ino`.
    pub fn knows(&self, ino: InodeNo) -> bool {
        self.state.read().nodes.contains_key(&ino)
    }

    /// The lower file below an inode, opened read-only.
    ///
    /// # Errors
    /// As [`crate::layer::Stack::open_file`].
    pub(super) fn lower_file(&self, ino: InodeNo, at: &LowerPath) -> Result<Arc<dyn LowerFile>> {
        if let Some(file) = self.lower_files.get(ino) {
            return Ok(file);
        }
        let OpenFile { file, no_xattrs, .. } = self.stack.open_file(at)?;
        self.note_bare(ino, no_xattrs);
        self.lower_files.keep(ino, file.clone());
        Ok(file)
    }
}
