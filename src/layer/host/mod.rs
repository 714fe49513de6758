//! A layer that is a directory of the host. Nothing outside this directory knows the host's paths, descriptors and
//! spellings of whiteouts.
//!
//! Nothing in a layer is ever changed: every descriptor is read-only, and access times are kept (`O_NOATIME` where the
//! host allows it, and a private `noatime` copy of the mount where it can be had). Names go below a layer's root one
//! way only (`tree.rs`): never through a symbolic link, never above the root, never into a directory mounted inside.

mod dir;
mod file;
mod fs_kind;
mod identity;
mod tree;
mod whiteout;
mod xattr;

#[cfg(test)]
pub(super) use tree::Walk;

use super::source::{Directory, Facts, Layer};
use crate::errno::Result;
use dir::{Dir, Site};
use fs_kind::FsKind;
use rustix::fd::AsFd;
use std::path::Path;
use std::sync::Arc;
use tree::Tree;

/// A directory of the host as a layer.
#[derive(Debug)]
pub(super) struct HostLayer {
    site: Arc<Site>,
    facts: Facts,
    root: Arc<Dir>,
}

impl HostLayer {
    /// Opens the directory at `path` and reads its root's marks. `is_bottom`: no layer lies below, so what would hide
    /// something there need not be looked for.
    ///
    /// # Errors
    /// The host's.
    pub fn open(path: &Path, is_bottom: bool) -> Result<HostLayer> {
        HostLayer::of(Tree::open(path)?, is_bottom)
    }

    /// For tests: behaves as on kernels and for users that cannot do better.
    #[cfg(test)]
    pub fn open_degraded(path: &Path, is_bottom: bool, walk: Walk) -> Result<HostLayer> {
        HostLayer::of(Tree::open_degraded(path, walk)?, is_bottom)
    }

    fn of(tree: Tree, is_bottom: bool) -> Result<HostLayer> {
        // A root that cannot be read is an error now rather than an empty view later.
        let readable = tree.open_for_reading(tree.root())?;
        let kind = FsKind::of(readable.as_fd());
        let facts = Facts {
            root_dev: tree.dev,
            identity: identity::identity(readable.as_fd(), &tree::stat_fd(tree.root())?),
            #[cfg(test)]
            keeps_atime: tree.keeps_atime,
            lists_all_xattrs: kind.lists_all_xattrs,
            may_block: !kind.is_local,
        };
        drop(readable);
        let site = Arc::new(Site { tree, kind, is_bottom });
        let root = Arc::new(Dir::of_root(&site)?);
        Ok(HostLayer { site, facts, root })
    }
}

impl Layer for HostLayer {
    fn facts(&self) -> &Facts {
        &self.facts
    }

    fn root(&self) -> Arc<dyn Directory> {
        self.root.clone()
    }

    fn open_dir(&self, path: &[u8]) -> Result<Arc<dyn Directory>> {
        Ok(Arc::new(Dir::open(&self.site, path)?))
    }
}
