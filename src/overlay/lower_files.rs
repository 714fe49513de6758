//! The lower files that data are read from: which one an inode's is.

use super::Overlay;
use super::copy_up::last_name;
use super::state::State;
use crate::attr::{Attr, InodeNo, LowerPath, Time};
use crate::errno::{Errno, Result};
use crate::journal::Urgency;
use crate::journal::record::{InodeImage, OriginImage, Record, Stamp};
use crate::layer::{LowerFile, LowerNode, OpenFile};
use crate::upper::{Inode, Origin};
use parking_lot::Mutex;
use rustc_hash::FxHashSet;
use std::sync::Arc;

/// Where a file's data are that the upper does not have.
#[derive(Clone, Debug)]
pub(super) enum LowerData {
    /// Of a file that the upper does not have: where it was found.
    Place(LowerPath),
    /// Of a file that was copied up: where it was then. What is there now may be another file.
    Origin(Origin),
}

/// Names that another file, or none, is under on the host than the kernel was told: parent and name. Those that the
/// kernel is to look up anew.
#[derive(Debug, Default)]
pub(super) struct ReplacedNames(Mutex<Vec<(InodeNo, Vec<u8>)>>);

impl ReplacedNames {
    const MOST: usize = 256;

    fn add(&self, parent: InodeNo, name: &[u8]) {
        let mut names = self.0.lock();
        let is_known = names.iter().any(|(of, known)| *of == parent && known == name);
        if !is_known && names.len() < ReplacedNames::MOST {
            names.push((parent, name.to_vec()));
        }
    }
}

/// Files whose origin is gone, which was logged.
#[derive(Debug, Default)]
pub(super) struct LostOrigins(Mutex<FxHashSet<InodeNo>>);

impl LostOrigins {
    /// Logs, once, that data of a file cannot be had any more.
    fn report(&self, ino: InodeNo, origin: &Origin) {
        if self.0.lock().insert(ino) {
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

/// Whether the file that was opened is the one that was found under the same path before. It may have been written
/// meanwhile, or have got another number (on FUSE).
fn is_same_file(before: &Attr, now: &OpenFile) -> bool {
    let stamps = |attr: &Attr| (attr.size, attr.mtime, attr.btime);
    let keeps_btime = now.key.btime != Time::default();
    stamps(before) == stamps(&now.attr)
        || before.ino == now.attr.ino && (before.btime == now.attr.btime || !keeps_btime)
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
        self.lower_file(ino, &data).ok().filter(|file| file.passthrough_fd().is_some())
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

    /// Whether the kernel still holds `ino`.
    pub fn knows(&self, ino: InodeNo) -> bool {
        self.state.read().nodes.contains_key(&ino)
    }

    /// The lower file that has the data of an inode, opened read-only.
    ///
    /// # Errors
    /// `EIO` where the file that was copied up is gone or has other data now; `ESTALE` where another file, or none, is
    /// where a file was found that the upper does not have; what the host says.
    pub(super) fn lower_file(&self, ino: InodeNo, data: &LowerData) -> Result<Arc<dyn LowerFile>> {
        if let Some(file) = self.stack.kept_file(ino) {
            return Ok(file);
        }
        let opened = match data {
            LowerData::Place(at) => self.open_place(ino, at)?,
            LowerData::Origin(origin) => match self.open_origin(origin)? {
                Some(opened) => opened,
                None => {
                    self.lost_origins.report(ino, origin);
                    return Err(Errno::IO);
                }
            },
        };
        self.note_no_xattrs(ino, opened.no_xattrs);
        self.stack.keep_file(ino, opened.file.clone());
        Ok(opened.file)
    }

    /// Opens the file that a node was found at, if it is still the same file.
    fn open_place(&self, ino: InodeNo, at: &LowerPath) -> Result<OpenFile> {
        let opened = match self.stack.open_file(at) {
            Err(err) if is_absence(err) => None,
            opened => Some(opened?),
        };
        let parent = {
            let st = self.state.read();
            let Some(node) = st.nodes.get(&ino) else { return opened.ok_or(Errno::STALE) };
            let lower = node.lower.as_deref();
            let is_same = |now: &OpenFile| lower.is_none_or(|lower| is_same_file(&lower.attr, now));
            match opened {
                Some(opened) if is_same(&opened) => return Ok(opened),
                _ => node.parent,
            }
        };
        self.replaced_names.add(parent, last_name(&at.path));
        Err(Errno::STALE)
    }

    /// Names in the layers that were found to be of other files than the kernel was told, since this was last asked.
    pub fn take_replaced_names(&self) -> Vec<(InodeNo, Vec<u8>)> {
        std::mem::take(&mut *self.replaced_names.0.lock())
    }

    /// Opens the file that was copied up, wherever it is now; `None` where no layer has it any more. Judged by what
    /// was opened.
    fn open_origin(&self, origin: &Origin) -> Result<Option<OpenFile>> {
        let mut failed = Ok(None);
        let mut second_best = None;
        for layer in self.layers.candidates(origin.image.layer) {
            let at = LowerPath { layer, path: origin.path.clone() };
            match self.stack.open_file(&at) {
                Ok(opened) => {
                    match likeness(opened.attr.size, opened.attr.mtime, origin.image.stamp) {
                        Likeness::Same => return Ok(Some(opened)),
                        Likeness::SameInSeconds if second_best.is_none() => {
                            second_best = Some(opened);
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Config, Durability, IdMap, Medium};
    use std::ffi::OsStr;

    #[test]
    fn a_file_replaced_on_the_host_shows_no_other_s_bytes_until_it_is_looked_up_anew() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        std::fs::write(at("a"), "old and long").unwrap();
        std::fs::write(at("b"), "new").unwrap();
        std::fs::write(at("c"), "grows").unwrap();
        let overlay = Overlay::new(&Config {
            lowers: vec![dir.path().to_owned()],
            upper: None,
            medium: Medium::Memory,
            size_limit: None,
            inode_limit: None,
            durability: Durability::Volatile,
            idmap: IdMap::default(),
        })
        .unwrap();
        let look_up = |name: &str| {
            let found = overlay.lookup(InodeNo::ROOT, OsStr::new(name)).unwrap();
            found.unwrap().attr
        };
        let read = |ino| {
            let mut buf = [0; 100];
            overlay.read(ino, 0, &mut buf).map(|len| buf[..len].to_vec())
        };
        let (old, gone, grown) = (look_up("a").ino, look_up("b").ino, look_up("c").ino);
        std::fs::rename(at("b"), at("a")).unwrap();
        assert_eq!(read(old), Err(Errno::STALE));
        assert_eq!(read(gone), Err(Errno::STALE));
        assert!(overlay.untouched_file(old).is_none());
        let replaced = overlay.take_replaced_names();
        let name = |name: &str| (InodeNo::ROOT, name.as_bytes().to_vec());
        assert_eq!(replaced, [name("a"), name("b")]);
        overlay.forget(gone, 1);
        let new = look_up("a");
        assert_ne!(new.ino, old);
        assert_eq!((new.size, read(new.ino)), (3, Ok(b"new".to_vec())));
        // What is written to on the host stays the file it was.
        std::fs::write(at("c"), "grown").unwrap();
        assert_eq!(read(grown), Ok(b"grown".to_vec()));
        overlay.destroy();
    }
}
