//! Looking a name up in a merged directory: the topmost wins, directories merge down to the first
//! thing that is none or lets nothing show through.

use super::source::{Directory, FileKey, Redirect, Seen};
use super::stack::{LowerNode, Stack};
use crate::attr::{Attr, InodeNo, LayerId, LowerPath};
use crate::errno::{Errno, Result};
use crate::name::check_name;
use std::borrow::Cow;
use std::sync::Arc;

/// Where the search goes on after one layer.
enum Next {
    Stop,
    Below,
    Redirected(Redirect),
}

/// What has been found so far.
#[derive(Default)]
struct Found {
    /// The topmost object.
    top: Option<(Attr, FileKey, LowerPath)>,
    /// Merged directories, topmost first, and the number of the last.
    dirs: Vec<LowerPath>,
    lowest: Option<InodeNo>,
    /// The last path made, shared by layers that have the same.
    joined: Option<Joined>,
}

struct Joined {
    parent: Arc<[u8]>,
    path: Arc<[u8]>,
}

impl Found {
    /// The place of `name` in `parent`. `name` is the same for equal parents, until
    /// [`Found::forget_path`].
    fn child(&mut self, parent: &LowerPath, name: &[u8]) -> LowerPath {
        let path = match &self.joined {
            Some(joined) if joined.parent == parent.path => joined.path.clone(),
            _ => join(&parent.path, name),
        };
        self.joined = Some(Joined { parent: parent.path.clone(), path: path.clone() });
        LowerPath { layer: parent.layer, path }
    }

    fn forget_path(&mut self) {
        self.joined = None;
    }

    fn node(self) -> Option<LowerNode> {
        let (mut attr, key, at) = self.top?;
        attr.ino = self.lowest.unwrap_or(attr.ino);
        if self.dirs.len() > 1 {
            attr.nlink = 1;
        }
        Some(LowerNode { attr, at, key, dirs: self.dirs })
    }
}

impl Stack {
    /// Looks `name` up in the merged directory made of `dirs`, topmost first; `None` where it shows
    /// no such name.
    ///
    /// # Errors
    /// `EINVAL` and `ENAMETOOLONG` for what is no name; `ESTALE` where one of `dirs` is gone; `EIO`
    /// for a directory whose redirect mark is malformed; the host's.
    pub fn lookup(&self, dirs: &[LowerPath], name: &[u8]) -> Result<Option<LowerNode>> {
        check_name(name)?;
        self.with_descriptors(|| self.look_up(dirs, name))
    }

    fn look_up(&self, dirs: &[LowerPath], name: &[u8]) -> Result<Option<LowerNode>> {
        let mut found = Found::default();
        let mut name = Cow::Borrowed(name);
        for (i, parent) in dirs.iter().enumerate() {
            match self.visit(&mut found, parent, &name, i + 1 < dirs.len())? {
                Next::Below => {}
                Next::Stop => break,
                Next::Redirected(Redirect::Sibling(other)) => {
                    name = Cow::Owned(other);
                    found.forget_path();
                }
                Next::Redirected(Redirect::Absolute(path)) => {
                    self.follow(&mut found, parent.layer, path)?;
                    break;
                }
                Next::Redirected(Redirect::Malformed) => return Err(malformed(parent, &name)),
            }
        }
        Ok(found.node())
    }

    /// The object at `path` in the merged view of the layers alone: names separated by single slashes, from the
    /// merged root; the empty path is the root. `None` where there is none. Symbolic links are not followed.
    ///
    /// # Errors
    /// As [`Stack::lookup`], for each name; a name below something that is no directory is `None`, not `ENOTDIR`.
    pub fn resolve(&self, path: &[u8]) -> Result<Option<LowerNode>> {
        let mut node = self.root()?;
        let mut rest = path;
        while !rest.is_empty() {
            let (name, tail) = split_first(rest);
            match self.lookup(&node.dirs, name)? {
                Some(child) => node = child,
                None => return Ok(None),
            }
            rest = tail;
        }
        Ok(Some(node))
    }

    /// Adds what `name` is in one directory. `more`: the merged directory has others below.
    fn visit(
        &self,
        found: &mut Found,
        parent: &LowerPath,
        name: &[u8],
        more: bool,
    ) -> Result<Next> {
        let layer = self.layer(parent.layer)?;
        let dir = self.dir(parent)?;
        let object = match dir.look_up(name)? {
            Some(Seen::Object(object)) => object,
            Some(Seen::Whiteout) => return Ok(Next::Stop),
            None if more && dir.hides_below(name)? => return Ok(Next::Stop),
            None => return Ok(Next::Below),
        };
        if !object.attr.is_dir() {
            if found.top.is_none() {
                let at = found.child(parent, name);
                found.top = Some((self.attr(&object), object.key, at));
            }
            return Ok(Next::Stop);
        }
        let at = found.child(parent, name);
        let attr = self.attr(&object);
        found.lowest = Some(attr.ino);
        found.dirs.push(at.clone());
        if found.top.is_none() {
            found.top = Some((attr, object.key, at.clone()));
        }
        // An absolute redirect may lead into layers that the parent is not merged with.
        if layer.is_bottom() {
            return Ok(Next::Stop);
        }
        let child = self.child_dir(&*dir, name, &at)?;
        below_directory(&*dir, name, &*child, more)
    }

    /// Goes on at `path` in the layers below `from`.
    fn follow(&self, found: &mut Found, from: LayerId, mut path: Vec<u8>) -> Result<()> {
        for root in self.roots.iter().filter(|root| root.layer.0 < from.0) {
            found.forget_path();
            match self.walk(found, root, &path)? {
                Some(below) => path = below,
                None => break,
            }
        }
        Ok(())
    }

    /// Walks `path` in one layer and adds what it leads to. Returns the path to look for in the
    /// next layer (directories on the way may have been renamed), or `None` to stop.
    fn walk(&self, found: &mut Found, root: &LowerPath, path: &[u8]) -> Result<Option<Vec<u8>>> {
        let layer = self.layer(root.layer)?;
        let mut parent = root.clone();
        let mut below: Vec<u8> = Vec::with_capacity(path.len());
        let mut opaque = false;
        let mut rest = path;
        loop {
            let (name, tail) = split_first(rest);
            let next = if tail.is_empty() {
                self.visit(found, &parent, name, !layer.is_bottom())?
            } else {
                let dir = self.dir(&parent)?;
                match dir.look_up(name)? {
                    Some(Seen::Object(object)) if object.attr.is_dir() => {
                        let at = LowerPath { path: join(&parent.path, name), ..parent.clone() };
                        let child = self.child_dir(&*dir, name, &at)?;
                        let next = below_directory(&*dir, name, &*child, true)?;
                        parent = at;
                        next
                    }
                    Some(_) => return Ok(None),
                    None if dir.hides_below(name)? => return Ok(None),
                    None => {
                        push(&mut below, rest);
                        return Ok((!opaque).then_some(below));
                    }
                }
            };
            match next {
                Next::Stop => opaque = true,
                Next::Below => push(&mut below, name),
                Next::Redirected(Redirect::Sibling(other)) => push(&mut below, &other),
                Next::Redirected(Redirect::Absolute(other)) => below = other,
                Next::Redirected(Redirect::Malformed) => return Err(malformed(&parent, name)),
            }
            if tail.is_empty() {
                return Ok((!opaque).then_some(below));
            }
            rest = tail;
        }
    }
}

/// Where the search goes on below the directory `child`, which is `name` in `dir`.
fn below_directory(
    dir: &dyn Directory,
    name: &[u8],
    child: &dyn Directory,
    more: bool,
) -> Result<Next> {
    if child.is_opaque() || (more && dir.hides_below(name)?) {
        return Ok(Next::Stop);
    }
    Ok(child.redirect().cloned().map_or(Next::Below, Next::Redirected))
}

fn join(parent: &[u8], name: &[u8]) -> Arc<[u8]> {
    if parent.is_empty() {
        return Arc::from(name);
    }
    [parent, b"/", name].concat().into()
}

fn push(path: &mut Vec<u8>, names: &[u8]) {
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(names);
}

fn split_first(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().position(|&b| b == b'/') {
        Some(i) => (&path[..i], &path[i + 1..]),
        None => (path, &[]),
    }
}

fn malformed(parent: &LowerPath, name: &[u8]) -> Errno {
    tracing::warn!(
        layer = parent.layer.0,
        directory = %String::from_utf8_lossy(&parent.path),
        name = %String::from_utf8_lossy(name),
        "malformed overlay.redirect in a layer"
    );
    Errno::IO
}
