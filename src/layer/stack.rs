//! The layers of one mount, topmost first.

use super::cache::DirCache;
use super::dir::Dir;
use super::error::LayerError;
use super::identity::LayerIdentity;
use super::number::{Devices, Numbering};
use super::owner::Owners;
use super::tree::{Layer, device, stat_fd};
use crate::attr::{Attr, InodeNo, LayerId, LowerPath, Time};
use crate::config::IdMap;
use crate::errno::{Errno, Result};
use rustix::fs::{Statx, StatxFlags, StatxTimestamp};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Layers that can be numbered besides the host's upperdir.
const MOST_LOWERS: usize = LayerId::HOST_UPPER.0 as usize - 1;

/// How the stacks of this version number inodes.
const NUMBERING: fn(Devices) -> Numbering = |_| Numbering::ByLayer;

/// What tells one file of the host from every other while the host runs. Names of one inode have one key; a number
/// that the host gives to another file later has another birth time (where the file system keeps birth times).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileKey {
    /// As major << 32 | minor. It may change when the host starts anew.
    pub dev: u64,
    pub ino: u64,
    /// Zero where the file system keeps none.
    pub btime: Time,
}

impl FileKey {
    pub(super) fn of(st: &Statx) -> FileKey {
        let has_btime = st.stx_mask & StatxFlags::BTIME.bits() != 0;
        let btime = if has_btime { time(st.stx_btime) } else { Time::default() };
        FileKey { dev: device(st), ino: st.stx_ino, btime }
    }
}

/// An object of the merged view.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LowerNode {
    /// With the number in the merged view: a directory has that of its lowest merged directory, so
    /// that it keeps it when layers are added on top; everything else that of the layer it lies in.
    pub attr: Attr,
    /// Where attributes and data come from: the topmost place.
    pub at: LowerPath,
    /// Of the object at `at`.
    pub key: FileKey,
    /// Of a directory: all merged directories, topmost first, `at` included. Empty for the rest.
    pub dirs: Vec<LowerPath>,
}

/// Read-only layers, merged. All methods may be called from any thread at once; none takes a lock
/// that is held while the host is asked.
#[derive(Debug)]
pub struct Stack {
    /// Topmost first; immutable.
    pub(super) layers: Vec<Layer>,
    /// The roots that show in the merged root, topmost first; immutable.
    pub(super) roots: Vec<LowerPath>,
    pub(super) owners: Owners,
    numbering: Numbering,
    dirs: DirCache,
}

impl Stack {
    /// Opens `host_upper` as the topmost layer and `lowers` below, topmost first; a filestore at the
    /// root of any of them is left out. Relative paths and symbolic links among them are resolved now.
    ///
    /// # Errors
    /// One for the first directory that is missing, no directory, or unreadable.
    pub fn open(
        host_upper: Option<&Path>,
        lowers: &[PathBuf],
        idmap: &IdMap,
    ) -> std::result::Result<Stack, LayerError> {
        if lowers.len() > MOST_LOWERS {
            return Err(LayerError::TooMany { given: lowers.len(), limit: MOST_LOWERS });
        }
        rustix::fs::stat(c"/proc/self/fd").map_err(LayerError::NoProc)?;
        let upper = host_upper.map(|path| Layer::open(LayerId::HOST_UPPER, path, "upperdir"));
        let from_bottom = (1..=lowers.len() as u16).rev().map(LayerId);
        let below =
            lowers.iter().zip(from_bottom).map(|(path, id)| Layer::open(id, path, "lowerdir"));
        let layers: Vec<Layer> =
            upper.into_iter().chain(below).collect::<std::result::Result<_, _>>()?;
        if layers.is_empty() {
            return Err(LayerError::Empty);
        }
        Ok(Stack::of(layers, idmap))
    }

    fn of(layers: Vec<Layer>, idmap: &IdMap) -> Stack {
        let showing = layers.iter().position(|l| l.root_dir.opaque).map_or(layers.len(), |i| i + 1);
        let root: Arc<[u8]> = Arc::from(&b""[..]);
        let at_root = |l: &Layer| LowerPath { layer: l.id, path: root.clone() };
        let roots = layers[..showing].iter().map(at_root).collect();
        let dirs = DirCache::new(layers.len());
        let numbering = NUMBERING(Devices::new(layers.iter().rev().map(|l| l.dev)));
        Stack { layers, roots, owners: Owners::new(idmap), numbering, dirs }
    }

    /// The merged root, with the topmost root's attributes. As everywhere, nothing shows from below
    /// a root that is marked opaque.
    ///
    /// # Errors
    /// The host's.
    pub fn root(&self) -> Result<LowerNode> {
        let top = &self.layers[0];
        let st = stat_fd(top.root())?;
        let mut attr = self.attr(top, &st);
        attr.ino = InodeNo::ROOT;
        if self.roots.len() > 1 {
            attr.nlink = 1;
        }
        let key = FileKey::of(&st);
        Ok(LowerNode { attr, at: self.roots[0].clone(), key, dirs: self.roots.clone() })
    }

    /// The layers of the stack, topmost first, and what each is known by. Two layers may have the same identity: see
    /// [`LayerIdentity`].
    pub fn identities(&self) -> impl ExactSizeIterator<Item = (LayerId, LayerIdentity)> {
        self.layers.iter().map(|layer| (layer.id, layer.identity))
    }

    /// Can data of this layer be read by others (FUSE passthrough, `O_NOATIME` or not) with no
    /// access time changing?
    pub fn keeps_atime(&self, layer: LayerId) -> bool {
        self.layer(layer).is_ok_and(|l| l.keeps_atime)
    }

    /// Closes the directories that are kept open to look names up in.
    #[cfg(test)]
    pub fn shrink(&self) {
        self.dirs.clear();
    }

    /// The layer of this id; `ESTALE` where the stack has none.
    pub(super) fn layer(&self, id: LayerId) -> Result<&Layer> {
        let top = self.layers.first().filter(|l| l.id == LayerId::HOST_UPPER);
        let index = match (id, top) {
            (LayerId::HOST_UPPER, Some(_)) => Some(0),
            (id, _) => self.layers.len().checked_sub(usize::from(id.0)),
        };
        index.and_then(|i| self.layers.get(i)).filter(|l| l.id == id).ok_or(Errno::STALE)
    }

    /// The open directory at a place, from the cache or into it.
    pub(super) fn dir(&self, at: &LowerPath) -> Result<Arc<Dir>> {
        let layer = self.layer(at.layer)?;
        if at.path.is_empty() {
            return Ok(layer.root_dir.clone());
        }
        self.dir_by(at, || Dir::open(layer, &at.path))
    }

    /// As [`Stack::dir`] for `at`, which is `name` in the directory `parent`.
    pub(super) fn child_dir(&self, parent: &Dir, name: &[u8], at: &LowerPath) -> Result<Arc<Dir>> {
        let layer = self.layer(at.layer)?;
        self.dir_by(at, || parent.open_child(layer, name))
    }

    fn dir_by(&self, at: &LowerPath, open: impl Fn() -> Result<Dir>) -> Result<Arc<Dir>> {
        if let Some(dir) = self.dirs.get(at) {
            return Ok(dir);
        }
        let dir = Arc::new(self.with_descriptors(open)?);
        self.dirs.insert(at.clone(), dir.clone());
        Ok(dir)
    }

    /// Does `open`; if descriptors have run out, once more after giving up those kept open.
    pub(super) fn with_descriptors<T>(&self, open: impl Fn() -> Result<T>) -> Result<T> {
        match open() {
            Err(Errno::MFILE) => {
                self.dirs.clear();
                open()
            }
            other => other,
        }
    }

    /// The number of host inode `ino` on device `dev` in `layer`.
    pub(super) fn number(&self, layer: &Layer, dev: u64, ino: u64) -> InodeNo {
        self.numbering.number(layer.id, layer.dev, dev, ino)
    }

    /// Attributes as the mount shows them; the number is the object's own in its layer.
    pub(super) fn attr(&self, layer: &Layer, st: &Statx) -> Attr {
        let (mtime, ctime) = (time(st.stx_mtime), time(st.stx_ctime));
        let has_btime = st.stx_mask & StatxFlags::BTIME.bits() != 0;
        Attr {
            ino: self.number(layer, device(st), st.stx_ino),
            size: st.stx_size,
            blocks: st.stx_blocks,
            mode: u32::from(st.stx_mode),
            nlink: st.stx_nlink,
            uid: self.owners.uid(st.stx_uid),
            gid: self.owners.gid(st.stx_gid),
            rdev: encode_rdev(st.stx_rdev_major, st.stx_rdev_minor),
            atime: time(st.stx_atime),
            mtime,
            ctime,
            // Where the host keeps no time of birth: it cannot be later than these.
            btime: if has_btime { time(st.stx_btime) } else { mtime.min(ctime) },
        }
    }
}

fn time(t: StatxTimestamp) -> Time {
    Time { sec: t.tv_sec, nsec: t.tv_nsec }
}

/// The form of [`Attr::rdev`].
fn encode_rdev(major: u32, minor: u32) -> u32 {
    (minor & 0xff) | major << 8 | (minor & !0xff) << 12
}
