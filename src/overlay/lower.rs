//! What the layers say of an inode.

use crate::attr::{Attr, LowerPath};
use crate::layer::{FileKey, LowerNode};
use std::sync::Arc;

/// What the layers say of an inode. Immutable but for `attr.nlink` and the times of a file
/// that was unlinked while the kernel still holds it.
#[derive(Debug)]
pub(super) struct Lower {
    /// With the number that the mount shows.
    pub attr: Attr,
    /// Where the attributes and data come from. Of a file with several names: the place it was first found at.
    pub at: LowerPath,
    /// `None` for what is no directory.
    pub dir: Option<LowerDir>,
}

/// What the layers say of a directory.
#[derive(Clone, Debug)]
pub(super) struct LowerDir {
    /// Everything merged, topmost first; not empty.
    pub dirs: Arc<[LowerPath]>,
    /// Its path in the merged view of the layers alone.
    pub view: Arc<[u8]>,
}

/// What the layers have under a name, not yet known by a number of this mount.
#[derive(Debug)]
pub(super) struct Found {
    /// With the number that the layer gives.
    pub lower: Lower,
    pub key: FileKey,
}

impl Found {
    /// `view`: as in [`LowerDir`].
    pub fn new(node: LowerNode, view: impl FnOnce() -> Arc<[u8]>) -> Found {
        let LowerNode { attr, at, key, dirs } = node;
        let dir = (!dirs.is_empty()).then(|| {
            let view = view();
            // Mostly the same as the path in the topmost layer.
            let view = if view == at.path { at.path.clone() } else { view };
            LowerDir { dirs: dirs.into(), view }
        });
        Found { lower: Lower { attr, at, dir }, key }
    }

    pub fn has_several_names(&self) -> bool {
        self.lower.has_several_names()
    }
}

impl Lower {
    pub fn has_several_names(&self) -> bool {
        !self.attr.is_dir() && self.attr.nlink > 1
    }

    /// Whether `other`, which has the same number, is the same file: at the same place, or another name of it.
    pub fn is_same(&self, other: &Lower) -> bool {
        let stamps = |lower: &Lower| (lower.attr.btime, lower.attr.mtime, lower.attr.size);
        let linked = self.has_several_names() && other.has_several_names();
        self.at == other.at || linked && stamps(self) == stamps(other)
    }
}
