//! An upper of format 1 becomes one of format 2: what was copied up in its place gets its entry, and directories say
//! where they lie instead of listing what is merged beneath them. In memory: a checkpoint then writes it as format 2.

use super::clock;
use super::copy_up::{image_of, last_name};
use crate::attr::{Attr, FileType, InodeNo, LayerId, LowerPath, RecordedLayer};
use crate::errno::{Errno, Result};
use crate::journal::record::{BelowImage, InodeImage, OriginImage, Record, Stamp};
use crate::layer::Stack;
use crate::upper::{Dentry, Format1, Inode, Origin, Tree};
use rustc_hash::{FxHashMap, FxHashSet};

struct Upgrade<'a> {
    tree: Tree,
    stack: &'a Stack,
    /// Directories of the upper by the path that they have in the merged view of the layers alone.
    dirs: FxHashMap<Vec<u8>, InodeNo>,
}

/// The same upper in format 2, over the layers that it was made over.
///
/// # Errors
/// What the host says of a layer; `EIO` for a tree that no program wrote.
pub(super) fn upgrade(old: Format1, stack: &Stack) -> Result<Tree> {
    let Format1 { tree, lowers } = old;
    let mut up = Upgrade { tree, stack, dirs: FxHashMap::default() };
    for (place, identity) in stack.identities() {
        let id = RecordedLayer(place.0.into());
        up.put(Record::Layer { id, identity: identity.0, place })?;
    }
    let named = named(&up.tree);
    let mut dirs: Vec<(Vec<u8>, InodeNo)> =
        lowers.into_iter().filter_map(|(ino, at)| Some((at.first()?.path.to_vec(), ino))).collect();
    dirs.sort();
    up.dirs = dirs.iter().cloned().collect();
    for (path, ino) in dirs {
        up.add_directory(ino, &path, named.contains(&ino))?;
    }
    let mut files: Vec<(Origin, InodeNo)> =
        up.tree.inodes().filter_map(|(ino, inode)| Some((inode.origin()?.clone(), ino))).collect();
    files.sort_by(|(a, _), (b, _)| a.path.cmp(&b.path));
    for (origin, ino) in files {
        up.add_file(ino, &origin, named.contains(&ino))?;
    }
    Ok(up.tree)
}

/// Inodes that an entry refers to.
fn named(tree: &Tree) -> FxHashSet<InodeNo> {
    let dirs = tree.inodes().filter_map(|(_, inode)| inode.dir());
    dirs.flat_map(|dir| dir.entries_from(0))
        .filter_map(|(_, _, dentry)| match dentry {
            Dentry::Inode { ino, .. } => Some(ino),
            Dentry::Whiteout => None,
        })
        .collect()
}

impl Upgrade<'_> {
    fn put(&mut self, record: Record<'_>) -> Result<()> {
        self.tree.apply(&record, &mut Vec::new()).map_err(|broken| {
            tracing::error!(%broken, "cannot convert the filestore");
            Errno::IO
        })
    }

    /// A directory that was copied up: `path` is where it lay.
    fn add_directory(&mut self, ino: InodeNo, path: &[u8], was_moved: bool) -> Result<()> {
        let Some(image) = self.tree.get(ino).map(|inode| *inode.image()) else { return Ok(()) };
        if was_moved {
            return self.put(Record::Below {
                ino,
                below: BelowImage::Path(path),
                untouched: false,
            });
        }
        self.put(Record::Below { ino, below: BelowImage::SameName, untouched: false })?;
        if ino == InodeNo::ROOT || image.nlink == 0 || self.link(ino, path)? {
            return Ok(());
        }
        // Nobody can have seen it.
        self.put(Record::Inode { ino, image: InodeImage { nlink: 0, ..image } })
    }

    /// A file that was copied up.
    fn add_file(&mut self, ino: InodeNo, origin: &Origin, has_name: bool) -> Result<()> {
        let Some(image) = self.tree.get(ino).map(|inode| *inode.image()) else { return Ok(()) };
        let is_linked = has_name || image.nlink == 0 || self.link(ino, &origin.path)?;
        let found = self.stat(origin)?;
        let mut new = OriginImage {
            stamp: Stamp { size: origin.image.len, mtime: image.mtime },
            several_names: image.nlink > 1,
            ..origin.image
        };
        if let Some((attr, is_same)) = found {
            new.blocks = u32::try_from(attr.blocks).unwrap_or(u32::MAX);
            if is_same {
                new.stamp = Stamp { size: attr.size, mtime: attr.mtime };
                new.several_names |= attr.nlink > 1;
            }
        }
        new.several_names |= !is_linked;
        self.put(Record::Origin { ino, origin: new, path: &origin.path })
    }

    /// What lies where a file was copied up from, and whether format 1 would take it for that file.
    fn stat(&self, origin: &Origin) -> Result<Option<(Attr, bool)>> {
        let Ok(layer) = u16::try_from(origin.image.layer.0).map(LayerId) else { return Ok(None) };
        let at = LowerPath { layer, path: origin.path.clone() };
        match self.stack.stat_with_key(&at) {
            Ok((attr, key)) => {
                let number = self.stack.number_in_format1(layer, &key);
                Ok(Some((attr, number.is_some_and(|number| self.is_number_of(number, origin)))))
            }
            Err(Errno::NOENT | Errno::NOTDIR | Errno::STALE | Errno::LOOP) => Ok(None),
            Err(err) => Err(err),
        }
    }

    fn is_number_of(&self, number: InodeNo, origin: &Origin) -> bool {
        self.tree.get(number).and_then(Inode::origin) == Some(origin)
    }

    /// Gives an inode the name that it had in the layers. False where that name is something else's now.
    fn link(&mut self, ino: InodeNo, path: &[u8]) -> Result<bool> {
        let name = last_name(path);
        let parent_path = &path[..path.len() - name.len()];
        let Some(parent) = self.directory(parent_path.strip_suffix(b"/").unwrap_or_default())?
        else {
            return Ok(false);
        };
        if self.tree.dentry(parent, name).is_some() {
            return Ok(false);
        }
        self.put(Record::Link { parent, ino, hides_lower: true, name })?;
        Ok(true)
    }

    /// The directory that lay at `path`, copied up where it was not. `None` where the upper has hidden it.
    fn directory(&mut self, path: &[u8]) -> Result<Option<InodeNo>> {
        let mut at = self.root()?;
        let mut end = 0;
        while end < path.len() {
            let start = if end == 0 { 0 } else { end + 1 };
            let name = path[start..].split(|b| *b == b'/').next().unwrap_or_default();
            end = start + name.len();
            if let Some(ino) = self.dirs.get(&path[..end]) {
                at = *ino;
                continue;
            }
            if self.tree.dentry(at, name).is_some() {
                return Ok(None);
            }
            let ino = self.copy_directory(&path[..end])?;
            self.put(Record::Link { parent: at, ino, hides_lower: true, name })?;
            at = ino;
        }
        Ok(Some(at))
    }

    fn root(&mut self) -> Result<InodeNo> {
        if !self.tree.contains(InodeNo::ROOT) {
            self.copy_directory(b"")?;
        }
        Ok(InodeNo::ROOT)
    }

    fn copy_directory(&mut self, path: &[u8]) -> Result<InodeNo> {
        let node = self.stack.resolve(path)?.filter(|node| node.attr.is_dir());
        let (number, image, xattrs) = match &node {
            Some(node) => (node.attr.ino, image_of(&node.attr), self.stack.xattrs(&node.at)?),
            None => (InodeNo::ROOT, missing_directory(), Vec::new()),
        };
        let ino = match path.is_empty() {
            true => InodeNo::ROOT,
            false => self.free_number(number),
        };
        self.put(Record::Inode { ino, image })?;
        for (name, value) in &xattrs {
            self.put(Record::SetXattr { ino, name, value })?;
        }
        self.put(Record::Below { ino, below: BelowImage::SameName, untouched: true })?;
        self.dirs.insert(path.to_vec(), ino);
        Ok(ino)
    }

    fn free_number(&self, wanted: InodeNo) -> InodeNo {
        let is_free = |ino: &InodeNo| *ino != InodeNo::ROOT && !self.tree.contains(*ino);
        let others = (self.tree.next_number().0..).map(InodeNo);
        std::iter::once(wanted).chain(others).find(is_free).unwrap_or(wanted)
    }
}

/// Of a directory that the layers no longer have.
fn missing_directory() -> InodeImage {
    let now = clock::coarse();
    InodeImage {
        mode: FileType::Directory.mode_bits() | 0o755,
        uid: 0,
        gid: 0,
        nlink: 1,
        rdev: 0,
        size: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
    }
}
