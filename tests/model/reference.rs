//! What a file system is, as plainly as it can be said: maps of names to inodes, and vectors of bytes.
//! Owes nothing to the code under test but its vocabulary of attributes and errors.

use crate::attr::{Attr, Caller, FileType, SetAttr, SetTime, Time};
use crate::errno::Errno;
use std::collections::{BTreeMap, BTreeSet};

pub type Id = usize;
pub type Name = Vec<u8>;
type Result<T> = std::result::Result<T, Errno>;

pub const ROOT: Id = 0;
const CAPABILITY: &[u8] = b"security.capability";

/// A time stamp: known, or somewhere within the operation that set it until it is first looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    At(Time),
    Between(Time, Time),
}

impl When {
    /// Whether `seen` can be this time.
    pub fn fits(self, seen: Time) -> bool {
        match self {
            When::At(time) => time == seen,
            When::Between(from, to) => from <= seen && seen <= to,
        }
    }

    /// The same; from then on it is.
    fn settle(&mut self, seen: Time) -> bool {
        let fits = self.fits(seen);
        *self = When::At(seen);
        fits
    }
}

#[derive(Clone, Debug)]
pub enum Kind {
    File(Vec<u8>),
    /// `merged`: something lies below, so its link count means nothing.
    Dir {
        entries: BTreeMap<Name, Id>,
        parent: Id,
        merged: bool,
    },
    Symlink(Vec<u8>),
    Special,
}

#[derive(Clone, Debug)]
pub struct Inode {
    pub kind: Kind,
    /// Type and permission bits.
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub rdev: u32,
    /// Of a directory: 1 while it has a name.
    pub nlink: u32,
    pub atime: When,
    pub mtime: When,
    pub ctime: When,
    pub btime: When,
    pub xattrs: BTreeMap<Name, Vec<u8>>,
    /// Set when first seen; for life.
    pub ino: Option<u64>,
    /// Made by O_TMPFILE and not linked yet: the only kind without a name that may get one.
    pub linkable: bool,
}

impl Inode {
    pub fn entries(&self) -> Option<&BTreeMap<Name, Id>> {
        match &self.kind {
            Kind::Dir { entries, .. } => Some(entries),
            _ => None,
        }
    }

    pub fn is_dir(&self) -> bool {
        self.entries().is_some()
    }

    pub fn data(&self) -> Option<&[u8]> {
        match &self.kind {
            Kind::File(data) => Some(data),
            _ => None,
        }
    }
}

#[derive(Clone, Debug)]
pub struct Reference {
    /// Never shrinks; what has no name and is not held is forgotten by `live`.
    pub inodes: Vec<Inode>,
    /// The clock before and after the operation that is being told.
    pub window: (Time, Time),
}

/// A mode after a change by somebody without privilege and outside the group.
pub fn without_privilege(mode: u32) -> u32 {
    mode & !0o6000
}

impl Reference {
    pub fn dir(&self, id: Id) -> Result<&BTreeMap<Name, Id>> {
        self.inodes[id].entries().ok_or(Errno::NOTDIR)
    }

    fn entries(&mut self, id: Id) -> Result<&mut BTreeMap<Name, Id>> {
        match &mut self.inodes[id].kind {
            Kind::Dir { entries, .. } => Ok(entries),
            _ => Err(Errno::NOTDIR),
        }
    }

    fn now(&self) -> When {
        When::Between(self.window.0, self.window.1)
    }

    /// Entries of `id` changed.
    fn touch(&mut self, id: Id) {
        let now = self.now();
        (self.inodes[id].mtime, self.inodes[id].ctime) = (now, now);
    }

    /// Everything that has a name, root first, each with one path.
    pub fn walk(&self) -> Vec<(Id, Vec<Name>)> {
        let mut found = vec![(ROOT, Vec::new())];
        let mut seen = BTreeSet::from([ROOT]);
        let mut at = 0;
        while at < found.len() {
            let (id, path) = found[at].clone();
            for (name, child) in self.inodes[id].entries().into_iter().flatten() {
                if seen.insert(*child) {
                    found.push((*child, [path.clone(), vec![name.clone()]].concat()));
                }
            }
            at += 1;
        }
        found
    }

    /// Whether `dir` is `top` or lies below it.
    pub fn is_below(&self, mut dir: Id, top: Id) -> bool {
        loop {
            if dir == top {
                return true;
            }
            match &self.inodes[dir].kind {
                Kind::Dir { parent, .. } if dir != ROOT => dir = *parent,
                _ => return false,
            }
        }
    }

    /// A new inode as `inode_init_owner` makes it; no name yet.
    pub fn make(&mut self, dir: Id, kind: Kind, mode: u32, rdev: u32, who: &Caller) -> Id {
        let (now, above) = (self.now(), &self.inodes[dir]);
        let inherits = above.mode & 0o2000 != 0;
        let sgid = if inherits && matches!(kind, Kind::Dir { .. }) { 0o2000 } else { 0 };
        self.inodes.push(Inode {
            kind,
            mode: mode | sgid,
            uid: who.uid,
            gid: if inherits { above.gid } else { who.gid },
            rdev,
            nlink: 0,
            atime: now,
            mtime: now,
            ctime: now,
            btime: now,
            xattrs: BTreeMap::new(),
            ino: None,
            linkable: false,
        });
        self.inodes.len() - 1
    }

    pub fn new_dir(&self, parent: Id) -> Kind {
        Kind::Dir { entries: BTreeMap::new(), parent, merged: false }
    }

    /// Whether `name` could be made in `dir`.
    pub fn may_make(&self, dir: Id, name: &[u8]) -> Result<()> {
        if self.dir(dir)?.contains_key(name) {
            return Err(Errno::EXIST);
        }
        if self.inodes[dir].nlink == 0 { Err(Errno::NOENT) } else { Ok(()) }
    }

    /// Gives `id` the name `name`, which is free.
    pub fn enter(&mut self, dir: Id, name: &[u8], id: Id) -> Result<()> {
        self.may_make(dir, name)?;
        self.entries(dir)?.insert(name.to_vec(), id);
        self.inodes[id].nlink += 1;
        self.touch(dir);
        Ok(())
    }

    pub fn link(&mut self, id: Id, dir: Id, name: &[u8]) -> Result<()> {
        self.enter(dir, name, id)?;
        let now = self.now();
        let inode = &mut self.inodes[id];
        (inode.ctime, inode.linkable) = (now, false);
        Ok(())
    }

    fn lose_name(&mut self, id: Id) {
        let now = self.now();
        let inode = &mut self.inodes[id];
        (inode.nlink, inode.ctime) = (inode.nlink - 1, now);
    }

    pub fn remove(&mut self, dir: Id, name: &[u8], want_dir: bool) -> Result<Id> {
        let id = *self.dir(dir)?.get(name).ok_or(Errno::NOENT)?;
        match (want_dir, self.inodes[id].entries()) {
            (true, None) => return Err(Errno::NOTDIR),
            (false, Some(_)) => return Err(Errno::ISDIR),
            (true, Some(entries)) if !entries.is_empty() => return Err(Errno::NOTEMPTY),
            _ => {}
        }
        self.entries(dir)?.remove(name);
        self.touch(dir);
        self.lose_name(id);
        Ok(id)
    }

    /// `flags`: 1 NOREPLACE, 2 EXCHANGE, 4 WHITEOUT.
    pub fn rename(
        &mut self,
        (dir, name): (Id, &[u8]),
        (new_dir, new_name): (Id, &[u8]),
        flags: u32,
        who: &Caller,
    ) -> Result<()> {
        let source = *self.dir(dir)?.get(name).ok_or(Errno::NOENT)?;
        let victim = self.dir(new_dir)?.get(new_name).copied();
        if flags & 1 != 0 && victim.is_some() {
            return Err(Errno::EXIST);
        }
        if victim == Some(source) {
            return Ok(());
        }
        if self.inodes[new_dir].nlink == 0 {
            return Err(Errno::NOENT);
        }
        if flags & 2 != 0 {
            let victim = victim.ok_or(Errno::NOENT)?;
            self.entries(dir)?.insert(name.to_vec(), victim);
            self.moved(victim, dir);
        } else {
            if let Some(victim) = victim {
                match (self.inodes[source].is_dir(), self.inodes[victim].entries()) {
                    (true, None) => return Err(Errno::NOTDIR),
                    (false, Some(_)) => return Err(Errno::ISDIR),
                    (true, Some(entries)) if !entries.is_empty() => return Err(Errno::NOTEMPTY),
                    _ => {}
                }
                self.lose_name(victim);
            }
            self.entries(dir)?.remove(name);
            if flags & 4 != 0 {
                let mode = FileType::Char.mode_bits();
                let id = self.make(dir, Kind::Special, mode, 0, who);
                // A whiteout belongs to its caller, whatever the directory is.
                (self.inodes[id].gid, self.inodes[id].nlink) = (who.gid, 1);
                self.entries(dir)?.insert(name.to_vec(), id);
            }
        }
        self.entries(new_dir)?.insert(new_name.to_vec(), source);
        self.moved(source, new_dir);
        self.touch(dir);
        self.touch(new_dir);
        Ok(())
    }

    fn moved(&mut self, id: Id, to: Id) {
        let now = self.now();
        let inode = &mut self.inodes[id];
        inode.ctime = now;
        if let Kind::Dir { parent, .. } = &mut inode.kind {
            *parent = to;
        }
    }

    fn file(&mut self, id: Id) -> Result<&mut Vec<u8>> {
        match &mut self.inodes[id].kind {
            Kind::File(data) => Ok(data),
            _ => Err(Errno::INVAL),
        }
    }

    /// The data of a file changed.
    fn written(&mut self, id: Id, kill: bool) {
        self.touch(id);
        let inode = &mut self.inodes[id];
        inode.xattrs.remove(CAPABILITY);
        if kill {
            inode.mode = without_privilege(inode.mode);
        }
    }

    pub fn write(&mut self, id: Id, at: u64, data: &[u8], kill: bool) -> Result<usize> {
        let (start, end) = (at as usize, at as usize + data.len());
        let file = self.file(id)?;
        if data.is_empty() {
            return Ok(0);
        }
        file.resize(file.len().max(end), 0);
        file[start..end].copy_from_slice(data);
        self.written(id, kill);
        Ok(data.len())
    }

    pub fn read(&self, id: Id, at: u64, len: u64) -> Result<&[u8]> {
        let data = self.inodes[id].data().ok_or(Errno::INVAL)?;
        let start = (at as usize).min(data.len());
        Ok(&data[start..(start + len as usize).min(data.len())])
    }

    pub fn fallocate(&mut self, id: Id, at: u64, len: u64, mode: u32) -> Result<()> {
        let keep = mode & 1 != 0;
        let zeroes = match mode & !1 {
            0 => false,
            0x02 if keep => true,
            0x10 => true,
            _ => return Err(Errno::OPNOTSUPP),
        };
        if len == 0 {
            return Err(Errno::INVAL);
        }
        let (start, end) = (at as usize, (at + len) as usize);
        let file = self.file(id)?;
        if zeroes && start < file.len() {
            let end = end.min(file.len());
            file[start..end].fill(0);
        }
        if !keep {
            file.resize(file.len().max(end), 0);
        }
        self.written(id, false);
        Ok(())
    }

    pub fn copy(&mut self, from: (Id, u64), to: (Id, u64), len: u64) -> Result<usize> {
        let data = self.read(from.0, from.1, len)?.to_vec();
        self.write(to.0, to.1, &data, false)
    }

    pub fn setattr(&mut self, id: Id, set: &SetAttr) -> Result<()> {
        let now = self.now();
        if let Some(size) = set.size {
            self.file(id)?.resize(size as usize, 0);
            self.written(id, set.kill_suidgid);
        }
        let inode = &mut self.inodes[id];
        if set.uid.is_some() || set.gid.is_some() {
            if !inode.is_dir() {
                inode.mode = without_privilege(inode.mode);
            }
            inode.xattrs.remove(CAPABILITY);
        }
        if let Some(mode) = set.mode {
            inode.mode = inode.mode & 0o170000 | mode & 0o7777;
        }
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        for (given, time) in [(set.atime, &mut inode.atime), (set.mtime, &mut inode.mtime)] {
            match given {
                None => {}
                Some(SetTime::Now) => *time = now,
                Some(SetTime::At(at)) => *time = When::At(at),
            }
        }
        inode.ctime = set.ctime.map_or(now, When::At);
        Ok(())
    }

    /// `flags`: 1 CREATE, 2 REPLACE.
    pub fn set_xattr(&mut self, id: Id, name: &[u8], value: &[u8], flags: u32) -> Result<()> {
        let (now, inode) = (self.now(), &mut self.inodes[id]);
        match inode.xattrs.contains_key(name) {
            true if flags & 1 != 0 => return Err(Errno::EXIST),
            false if flags & 2 != 0 => return Err(Errno::NODATA),
            _ => {}
        }
        inode.xattrs.insert(name.to_vec(), value.to_vec());
        inode.ctime = now;
        Ok(())
    }

    pub fn remove_xattr(&mut self, id: Id, name: &[u8]) -> Result<()> {
        let (now, inode) = (self.now(), &mut self.inodes[id]);
        inode.xattrs.remove(name).ok_or(Errno::NODATA)?;
        inode.ctime = now;
        Ok(())
    }

    /// Whether `seen` are the attributes of `id`; what was not known yet is taken over.
    pub fn check_attr(&mut self, id: Id, seen: &Attr) -> std::result::Result<(), String> {
        let subdirs = self.inodes[id].entries().map_or(0, |entries| {
            entries.values().filter(|child| self.inodes[**child].is_dir()).count() as u32
        });
        let inode = &mut self.inodes[id];
        let nlink = match &inode.kind {
            Kind::Dir { merged: true, .. } if inode.nlink > 0 => seen.nlink.max(1),
            Kind::Dir { .. } if inode.nlink > 0 => 2 + subdirs,
            _ => inode.nlink,
        };
        let size = match &inode.kind {
            Kind::File(data) => data.len() as u64,
            Kind::Symlink(target) => target.len() as u64,
            Kind::Special => 0,
            Kind::Dir { .. } => seen.size,
        };
        let ino = *inode.ino.get_or_insert(seen.ino.0);
        let want = (inode.mode, inode.uid, inode.gid, inode.rdev, nlink, size, ino);
        let got = (seen.mode, seen.uid, seen.gid, seen.rdev, seen.nlink, seen.size, seen.ino.0);
        if want != got {
            return Err(format!("mode uid gid rdev nlink size ino: {want:?} but got {got:?}"));
        }
        for (what, time, seen) in [
            ("atime", &mut inode.atime, seen.atime),
            ("mtime", &mut inode.mtime, seen.mtime),
            ("ctime", &mut inode.ctime, seen.ctime),
            ("btime", &mut inode.btime, seen.btime),
        ] {
            let want = *time;
            if !time.settle(seen) {
                return Err(format!("{what}: {want:?} but got {seen:?}"));
            }
        }
        Ok(())
    }
}
