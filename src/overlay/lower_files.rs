//! The lower files that data are read from: which one an inode's is, and a bounded number of open descriptors.

use super::Overlay;
use super::state::State;
use crate::attr::{Attr, InodeNo, LayerId, LowerPath, Time};
use crate::errno::{Errno, Result};
use crate::journal::Urgency;
use crate::journal::record::{InodeImage, OriginImage, Record, Stamp};
use crate::layer::{LowerFile, LowerNode, NoHostCalls, OpenFile, forbid_host_calls};
use crate::upper::{Inode, Origin};
use parking_lot::{Mutex, MutexGuard};
use rustc_hash::{FxHashMap, FxHashSet};
use std::sync::{Arc, mpsc};

const MOST: usize = 512;

/// Where a file's data are that the upper does not have.
#[derive(Clone, Debug)]
pub(super) enum LowerData {
    /// Of a file that the upper does not have: where it was found.
    Place(LowerPath),
    /// Of a file that was copied up: where it was then. What is there now may be another file.
    Origin(Origin),
}

#[derive(Clone, Debug)]
struct OpenLower {
    file: Arc<dyn LowerFile>,
    layer: LayerId,
}

pub(super) struct LowerFiles {
    files: Mutex<Files>,
    /// Where layers may not answer for long: to the thread that closes, as a close of a FUSE file asks its daemon.
    closer: Option<mpsc::Sender<Arc<dyn LowerFile>>>,
}

#[derive(Default)]
struct Files {
    open: FxHashMap<InodeNo, (OpenLower, u64)>,
    clock: u64,
    /// Files whose origin is gone, which was logged.
    reported: FxHashSet<InodeNo>,
}

impl LowerFiles {
    /// `may_block`: files are closed in a thread that nothing waits for.
    pub fn new(may_block: bool) -> LowerFiles {
        let closer = may_block.then(|| {
            let (closer, files) = mpsc::channel::<Arc<dyn LowerFile>>();
            let thread = std::thread::Builder::new().name("closer".into());
            if let Err(error) = thread.spawn(move || files.into_iter().for_each(drop)) {
                tracing::warn!(%error, "no thread that closes files of layers");
            }
            closer
        });
        LowerFiles { files: Mutex::default(), closer }
    }

    /// Takes no lock.
    fn close(&self, file: Arc<dyn LowerFile>) {
        match &self.closer {
            Some(closer) => {
                // Without its thread, what is sent is closed here.
                if let Err(mpsc::SendError(file)) = closer.send(file) {
                    drop(file);
                }
            }
            None => drop(file),
        }
    }

    /// Nothing is opened or closed under the lock: both may wait for the host.
    fn lock(&self) -> (MutexGuard<'_, Files>, NoHostCalls) {
        (self.files.lock(), forbid_host_calls())
    }

    fn get(&self, ino: InodeNo) -> Option<OpenLower> {
        let (mut files, _quiet) = self.lock();
        files.clock += 1;
        let clock = files.clock;
        let (file, used) = files.open.get_mut(&ino)?;
        *used = clock;
        Some(file.clone())
    }

    fn keep(&self, ino: InodeNo, file: OpenLower) {
        let mut closed: Vec<OpenLower> = Vec::new();
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
        closed.into_iter().for_each(|open| self.close(open.file));
    }

    pub fn forget(&self, ino: InodeNo) {
        let (mut files, quiet) = self.lock();
        let closed = files.open.remove(&ino);
        drop((files, quiet));
        if let Some((open, _)) = closed {
            self.close(open.file);
        }
    }

    /// Logs, once, that data of a file cannot be had any more.
    fn report(&self, ino: InodeNo, origin: &Origin) {
        let first = self.lock().0.reported.insert(ino);
        if first {
            tracing::error!(
                file = %String::from_utf8_lossy(&origin.path),
                "the layers no longer have the file that this one was copied up from: what was not written is EIO"
            );
        }
    }
}

/// How alike a file and a stamp are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Likeness {
    Same,
    /// The nanoseconds are lost: tar keeps seconds only.
    SameInSeconds,
    Other,
}

fn likeness(size: u64, mtime: Time, stamp: Stamp) -> Likeness {
    let at = stamp.mtime;
    match size == stamp.size {
        true if mtime == at => Likeness::Same,
        true if mtime == (Time { nsec: 0, ..at }) => Likeness::SameInSeconds,
        _ => Likeness::Other,
    }
}

/// Whether a lower file can be the one that was copied up.
pub(super) fn is_like(attr: &Attr, stamp: Stamp) -> bool {
    likeness(attr.size, attr.mtime, stamp) != Likeness::Other
}

/// Whether nothing usable is at a place, in contrast to a host that fails.
pub(super) fn is_absence(err: Errno) -> bool {
    matches!(
        err,
        Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::ISDIR | Errno::LOOP | Errno::NXIO
    )
}

impl Overlay {
    /// The lower file whose bytes are, and nothing else is, the data of `ino`, opened read-only and with a descriptor
    /// for passthrough; reading it changes no access time. `None` where there is none such, or where the
    /// file has several names, unless nothing ever changes.
    pub fn untouched_file(&self, ino: InodeNo) -> Option<Arc<dyn LowerFile>> {
        let data = self.untouched(ino).ok()??;
        let OpenLower { file, layer } = self.find_lower_file(ino, &data).ok()?;
        let is_fit = self.stack.keeps_atime(layer) && file.passthrough_fd().is_some();
        is_fit.then_some(file)
    }

    /// As [`Overlay::untouched_file`], with no question to the host.
    pub fn is_untouched(&self, ino: InodeNo) -> bool {
        self.untouched(ino).is_ok_and(|found| found.is_some())
    }

    fn untouched(&self, ino: InodeNo) -> Result<Option<LowerData>> {
        let st = self.state.read();
        let (nlink, found) = match st.tree.get(ino) {
            Some(inode) => {
                inode.file().ok_or(Errno::INVAL)?;
                let whole = inode.origin().filter(|_| inode.has_only_origin_data());
                (inode.image().nlink, whole.map(|origin| LowerData::Origin(origin.clone())))
            }
            None => {
                let lower = st.node(ino)?.lower.as_deref();
                let lower = lower.filter(|lower| lower.attr.is_regular()).ok_or(Errno::INVAL)?;
                (lower.attr.nlink, Some(LowerData::Place(lower.at.clone())))
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
        let blocks = |place: LayerId| self.stack.may_block(place);
        let lower = st.nodes.get(&ino).and_then(|node| node.lower.as_deref());
        let node_blocks = lower.is_some_and(|lower| {
            let mut dirs = lower.dir.iter().flat_map(|dir| dir.dirs.iter());
            blocks(lower.at.layer) || dirs.any(|dir| blocks(dir.layer))
        });
        // Where an origin is found is not known before it is looked for.
        let has_origin = |inode: &Inode| inode.origin().is_some_and(|origin| origin.image.len > 0);
        node_blocks || st.tree.get(ino).is_some_and(has_origin)
    }

    /// Whether the kernel still holds `ino`.
    pub fn knows(&self, ino: InodeNo) -> bool {
        self.state.read().nodes.contains_key(&ino)
    }

    /// The lower file that has the data of an inode, opened read-only.
    ///
    /// # Errors
    /// `EIO` where the file that was copied up is gone or has other data now; what the host says.
    pub(super) fn lower_file(&self, ino: InodeNo, data: &LowerData) -> Result<Arc<dyn LowerFile>> {
        self.find_lower_file(ino, data).map(|found| found.file)
    }

    fn find_lower_file(&self, ino: InodeNo, data: &LowerData) -> Result<OpenLower> {
        if let Some(file) = self.lower_files.get(ino) {
            return Ok(file);
        }
        let (opened, layer) = match data {
            LowerData::Place(at) => (self.stack.open_file(at)?, at.layer),
            LowerData::Origin(origin) => match self.open_origin(origin)? {
                Some(opened) => opened,
                None => {
                    self.lower_files.report(ino, origin);
                    return Err(Errno::IO);
                }
            },
        };
        self.note_bare(ino, opened.no_xattrs);
        let file = OpenLower { file: opened.file, layer };
        self.lower_files.keep(ino, file.clone());
        Ok(file)
    }

    /// Opens the file that was copied up, wherever it is now; `None` where no layer has it any more. Judged by what
    /// was opened.
    fn open_origin(&self, origin: &Origin) -> Result<Option<(OpenFile, LayerId)>> {
        let mut failed = Ok(None);
        let mut second_best = None;
        for layer in self.layers.candidates(origin.image.layer) {
            let at = LowerPath { layer, path: origin.path.clone() };
            match self.stack.open_file(&at) {
                Ok(opened) => {
                    match likeness(opened.attr.size, opened.attr.mtime, origin.image.stamp) {
                        Likeness::Same => return Ok(Some((opened, layer))),
                        Likeness::SameInSeconds if second_best.is_none() => {
                            second_best = Some((opened, layer));
                        }
                        Likeness::SameInSeconds | Likeness::Other => {}
                    }
                }
                Err(err) if is_absence(err) => {}
                Err(err) => failed = Err(err),
            }
        }
        match second_best {
            Some(found) => Ok(Some(found)),
            None => failed,
        }
    }

    /// Whether a layer still has the file that was copied up.
    ///
    /// # Errors
    /// What the host says, where that leaves the question open.
    fn has_origin(&self, origin: &Origin) -> Result<bool> {
        let mut failed = Ok(false);
        for layer in self.layers.candidates(origin.image.layer) {
            match self.stack.stat(&LowerPath { layer, path: origin.path.clone() }) {
                Ok(attr) if attr.is_regular() && is_like(&attr, origin.image.stamp) => {
                    return Ok(true);
                }
                Ok(_) => {}
                Err(err) if is_absence(err) => {}
                Err(err) => failed = Err(err),
            }
        }
        failed
    }

    /// A file with metadata of its own only, whose lower file was replaced, has the data of the new one from now on
    /// (as overlayfs with metacopy=on has). Asked when the kernel looks the file up. Where the change
    /// cannot be journalled, the file keeps its size, and reading it is EIO.
    ///
    /// # Errors
    /// What the host says of a layer.
    pub(super) fn follow_origin(&self, ino: InodeNo) -> Result<()> {
        let origin = {
            let st = self.state.read();
            let Some(origin) = st.tree.get(ino).and_then(Inode::origin) else { return Ok(()) };
            origin.clone()
        };
        // A layer that fails now may have the file: nothing is changed.
        if self.has_origin(&origin).unwrap_or(true) {
            return Ok(());
        }
        let Some(now) = self.stack.resolve(&origin.path)? else { return Ok(()) };
        if now.attr.is_regular() {
            if let Err(err) = self.replace_origin(ino, &origin, &now) {
                tracing::debug!(%err, ino = ino.0, "a file cannot follow its lower file");
            }
        }
        Ok(())
    }

    fn replace_origin(&self, ino: InodeNo, old: &Origin, now: &LowerNode) -> Result<()> {
        let mut tx = self.begin()?;
        let is_as_before =
            |inode: &Inode| inode.origin() == Some(old) && inode.has_only_origin_data();
        let Some(image) = tx.committed(ino).filter(|inode| is_as_before(inode)).map(|i| *i.image())
        else {
            return Ok(());
        };
        let (size, mtime) = (now.attr.size, now.attr.mtime);
        let layer = tx.recorded_layer(now.at.layer)?;
        let origin = OriginImage {
            layer,
            len: size,
            stamp: Stamp { size, mtime },
            blocks: u32::try_from(now.attr.blocks).unwrap_or(u32::MAX),
            ..old.image
        };
        // A time that somebody has set stays.
        let mtime = if image.mtime == old.image.stamp.mtime { mtime } else { image.mtime };
        let image = InodeImage { size, mtime, ctime: tx.now, ..image };
        tx.put(Record::Inode { ino, image });
        tx.put(Record::Origin { ino, origin, path: &now.at.path });
        tx.commit(Urgency::Normal).map(drop)
    }
}

impl State {
    /// Whether a file of the upper has no data of its own, and the kernel does not hold it.
    pub(super) fn may_follow_origin(&self, ino: InodeNo) -> bool {
        let borrows = |inode: &Inode| inode.has_only_origin_data() && inode.image().size > 0;
        !self.nodes.contains_key(&ino) && self.tree.get(ino).is_some_and(borrows)
    }
}
