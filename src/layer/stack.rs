//! The layers of one mount, topmost first.

use super::descriptors::Budget;
use super::dir_cache::DirCache;
use super::error::LayerError;
use super::file_cache::FileCache;
use super::host::HostLayer;
use super::number::{Devices, number_in_format1};
use super::owner::Owners;
use super::source::{Directory, FileKey, Layer, LayerAttr, LayerIdentity};
use crate::attr::{Attr, InodeNo, LayerId, LowerPath};
use crate::config::IdMap;
use crate::errno::{Errno, Result};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Layers that can be numbered besides the host's upperdir.
const MOST_LOWERS: usize = LayerId::HOST_UPPER.0 as usize - 1;

/// The lowest of the lower directories.
const BOTTOM: LayerId = LayerId(1);

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

/// A layer and its place.
#[derive(Debug)]
pub(super) struct StackedLayer {
    pub id: LayerId,
    pub layer: Box<dyn Layer>,
}

impl StackedLayer {
    fn open(
        id: LayerId,
        path: &Path,
        option: &'static str,
    ) -> std::result::Result<StackedLayer, LayerError> {
        match HostLayer::open(path, id == BOTTOM) {
            Ok(layer) => Ok(StackedLayer { id, layer: Box::new(layer) }),
            Err(error) => Err(LayerError::Open { option, path: path.to_owned(), error }),
        }
    }

    /// Whether this is the lowest of the lower directories.
    pub fn is_bottom(&self) -> bool {
        self.id == BOTTOM
    }
}

/// Read-only layers, merged. All methods may be called from any thread at once; none takes a lock
/// that is held while the host is asked.
#[derive(Debug)]
pub struct Stack {
    /// Topmost first; immutable.
    pub(super) layers: Vec<StackedLayer>,
    /// The roots that show in the merged root, topmost first; immutable.
    pub(super) roots: Vec<LowerPath>,
    pub(super) owners: Owners,
    devices: Devices,
    any_may_block: bool,
    dirs: DirCache,
    pub(super) files: FileCache,
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
        let upper =
            host_upper.map(|path| StackedLayer::open(LayerId::HOST_UPPER, path, "upperdir"));
        let from_bottom = (1..=lowers.len() as u16).rev().map(LayerId);
        let below = lowers
            .iter()
            .zip(from_bottom)
            .map(|(path, id)| StackedLayer::open(id, path, "lowerdir"));
        let layers: Vec<StackedLayer> =
            upper.into_iter().chain(below).collect::<std::result::Result<_, _>>()?;
        if layers.is_empty() {
            return Err(LayerError::Empty);
        }
        Ok(Stack::of(layers, idmap))
    }

    pub(super) fn of(layers: Vec<StackedLayer>, idmap: &IdMap) -> Stack {
        let opaque = layers.iter().position(|l| l.layer.root().is_opaque());
        let showing = opaque.map_or(layers.len(), |i| i + 1);
        let root: Arc<[u8]> = Arc::from(&b""[..]);
        let at_root = |l: &StackedLayer| LowerPath { layer: l.id, path: root.clone() };
        let roots = layers[..showing].iter().map(at_root).collect();
        let budget = Budget::of_process(layers.len());
        let any_may_block = layers.iter().any(|l| l.layer.facts().may_block);
        let dirs = DirCache::new(budget.dirs);
        let files = FileCache::new(budget.files, any_may_block);
        let devices = Devices::new(layers.iter().rev().map(|l| l.layer.facts().root_dev));
        Stack { layers, roots, owners: Owners::new(idmap), devices, any_may_block, dirs, files }
    }

    /// The merged root, with the topmost root's attributes. As everywhere, nothing shows from below
    /// a root that is marked opaque.
    ///
    /// # Errors
    /// The host's.
    pub fn root(&self) -> Result<LowerNode> {
        let top = &self.layers[0];
        let found = self.with_descriptors(|| top.layer.root().stat(None))?;
        let mut attr = self.attr(&found);
        attr.ino = InodeNo::ROOT;
        if self.roots.len() > 1 {
            attr.nlink = 1;
        }
        Ok(LowerNode { attr, at: self.roots[0].clone(), key: found.key, dirs: self.roots.clone() })
    }

    /// The layers of the stack, topmost first, and what each is known by. Two layers may have the same identity: see
    /// [`LayerIdentity`].
    pub fn identities(&self) -> impl ExactSizeIterator<Item = (LayerId, LayerIdentity)> {
        self.layers.iter().map(|l| (l.id, l.layer.facts().identity))
    }

    /// Can data of this layer be read by others (FUSE passthrough, `O_NOATIME` or not) with no
    /// access time changing?
    #[cfg(test)]
    pub fn keeps_atime(&self, layer: LayerId) -> bool {
        self.layer(layer).is_ok_and(|l| l.layer.facts().keeps_atime)
    }

    /// Whether an operation on this layer may wait for something other than a local disk.
    pub fn may_block(&self, layer: LayerId) -> bool {
        self.layer(layer).is_ok_and(|l| l.layer.facts().may_block)
    }

    /// Whether [`Stack::may_block`] is true of any layer.
    pub fn any_may_block(&self) -> bool {
        self.any_may_block
    }

    /// Closes the directories and files that are kept open.
    pub fn shrink(&self) {
        self.dirs.clear();
        self.files.clear();
    }

    /// The layer of this id; `ESTALE` where the stack has none.
    pub(super) fn layer(&self, id: LayerId) -> Result<&StackedLayer> {
        let top = self.layers.first().filter(|l| l.id == LayerId::HOST_UPPER);
        let index = match (id, top) {
            (LayerId::HOST_UPPER, Some(_)) => Some(0),
            (id, _) => self.layers.len().checked_sub(usize::from(id.0)),
        };
        index.and_then(|i| self.layers.get(i)).filter(|l| l.id == id).ok_or(Errno::STALE)
    }

    /// The open directory at a place, from the cache or into it.
    pub(super) fn dir(&self, at: &LowerPath) -> Result<Arc<dyn Directory>> {
        let layer = &self.layer(at.layer)?.layer;
        if at.path.is_empty() {
            return Ok(layer.root());
        }
        self.dir_by(at, || layer.open_dir(&at.path))
    }

    /// As [`Stack::dir`] for `at`, which is `name` in the directory `parent`.
    pub(super) fn child_dir(
        &self,
        parent: &dyn Directory,
        name: &[u8],
        at: &LowerPath,
    ) -> Result<Arc<dyn Directory>> {
        self.dir_by(at, || parent.open_child(name))
    }

    fn dir_by(
        &self,
        at: &LowerPath,
        open: impl Fn() -> Result<Arc<dyn Directory>>,
    ) -> Result<Arc<dyn Directory>> {
        if let Some(dir) = self.dirs.get(at) {
            return Ok(dir);
        }
        let dir = open()?;
        self.dirs.insert(at.clone(), dir.clone());
        Ok(dir)
    }

    /// Does `ask`, which changes nothing; if descriptors have run out, once more after giving up those kept open.
    /// Everything that asks a layer goes through here.
    pub(super) fn with_descriptors<T>(&self, ask: impl Fn() -> Result<T>) -> Result<T> {
        match ask() {
            Err(Errno::MFILE | Errno::NFILE) => {
                self.shrink();
                ask()
            }
            other => other,
        }
    }

    /// The number of host inode `ino` on device `dev`.
    pub(super) fn number(&self, dev: u64, ino: u64) -> InodeNo {
        self.devices.number(dev, ino)
    }

    /// The number that an upper of format 1 has for a file of a layer; `None` where there is no such layer.
    pub fn number_in_format1(&self, layer: LayerId, key: &FileKey) -> Option<InodeNo> {
        let root_dev = self.layer(layer).ok()?.layer.facts().root_dev;
        Some(number_in_format1(layer, root_dev, key.dev, key.ino))
    }

    /// Attributes as the mount shows them; the number is the object's own in its layer.
    pub(super) fn attr(&self, found: &LayerAttr) -> Attr {
        Attr {
            ino: self.number(found.key.dev, found.key.ino),
            uid: self.owners.uid(found.attr.uid),
            gid: self.owners.gid(found.attr.gid),
            ..found.attr
        }
    }
}
