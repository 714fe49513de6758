//! Plays the kernel's part: looks names up, counts its look-ups, refuses what the kernel refuses,
//! and compares everything the overlay says with the reference.

use super::lowers::name;
use super::op::{At, Make, Op, Pick, Set};
use super::reference::{Id, Kind, Name, ROOT, Reference, When, without_privilege};
use overcoat::attr::{Attr, Caller, FileType, InodeNo, SetAttr, SetTime, Time};
use overcoat::errno::Errno;
use overcoat::overlay::{DirEntry, Entry, Overlay, Writer};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fmt::Debug;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

/// What is wrong, or nothing.
pub type Verdict<T = ()> = Result<T, String>;

/// Where an overlay comes from and goes to.
pub trait Host {
    fn open(&mut self) -> Verdict<Arc<Overlay>>;
    /// Ends the mount, in order or as a kill would, and checks what is left.
    fn close(&mut self, overlay: Arc<Overlay>, kill: bool) -> Verdict;
    /// Whether an operation may fail with `err` although the reference succeeds.
    fn tolerates(&self, err: Errno) -> bool;
    /// Whether operations are still worth trying.
    fn is_alive(&self) -> bool {
        true
    }
}

/// An inode the kernel knows.
#[derive(Clone, Debug, Default)]
struct Held {
    count: u64,
    /// The directories that its names in the kernel's cache lie in.
    parents: BTreeSet<Id>,
}

/// A directory being read while it changes.
#[derive(Debug)]
struct Cursor {
    dir: Id,
    cookie: u64,
    /// Names that were there all the time.
    must: BTreeSet<Name>,
    seen: Vec<Name>,
}

pub struct Harness<H> {
    pub host: H,
    /// `None` between two mounts.
    overlay: Option<Arc<Overlay>>,
    pub model: Reference,
    /// As it was before the last operation, for those that were cut short.
    pub before: Reference,
    /// As the last operation that was cut short would have left it.
    pub after: Reference,
    /// Whether the last operation was cut short.
    cut: bool,
    held: BTreeMap<Id, Held>,
    cursors: Vec<Cursor>,
    numbers: BTreeMap<u64, Id>,
    seed: u64,
}

fn os(name: &[u8]) -> &OsStr {
    OsStr::from_bytes(name)
}

fn same<T: PartialEq + Debug>(what: &str, got: T, want: T) -> Verdict {
    if got == want { Ok(()) } else { Err(format!("{what}: want {want:?} but got {got:?}")) }
}

fn caller(id: u32) -> Caller {
    Caller { uid: id, gid: id + 10, pid: 1 }
}

/// Somebody of whom /proc knows nothing, and who therefore has no privilege.
const STRANGER: Caller = Caller { uid: 1000, gid: 1000, pid: 0 };

fn xattr_name(n: u8) -> Vec<u8> {
    match n {
        4 => b"security.capability".to_vec(),
        n => format!("user.m{n}").into_bytes(),
    }
}

/// Bytes that are never zero.
fn bytes(seed: u64, len: u64) -> Vec<u8> {
    (0..len).map(|i| (seed.wrapping_mul(0x9e37_79b9) >> 3).wrapping_add(i * 13) as u8 | 1).collect()
}

impl<H: Host> Harness<H> {
    pub fn new(mut host: H, model: Reference) -> Verdict<Harness<H>> {
        let overlay = Some(host.open()?);
        let mut harness = Harness {
            host,
            overlay,
            before: model.clone(),
            after: model.clone(),
            cut: false,
            model,
            held: BTreeMap::new(),
            cursors: Vec::new(),
            numbers: BTreeMap::new(),
            seed: 0,
        };
        harness.hold_root();
        Ok(harness)
    }

    fn hold_root(&mut self) {
        self.held = BTreeMap::from([(ROOT, Held { count: 1, parents: BTreeSet::new() })]);
        self.cursors.clear();
    }

    pub fn overlay(&self) -> &Overlay {
        self.overlay.as_ref().expect("mounted")
    }

    /// Runs all operations, with comparisons between and a remount at the end.
    pub fn run(&mut self, ops: &[Op]) -> Verdict {
        for (n, op) in ops.iter().enumerate() {
            self.apply(op).map_err(|err| format!("operation {n} {op:?}: {err}"))?;
            if n % 5 == 4 && self.host.is_alive() {
                self.compare().map_err(|err| format!("after operation {n} {op:?}: {err}"))?;
            }
        }
        if self.host.is_alive() {
            self.compare()?;
            self.remount(false).map_err(|err| format!("at the end: {err}"))?;
        }
        Ok(())
    }

    // What there is to pick from.

    fn all(&self) -> Vec<Id> {
        let mut all: Vec<Id> = self.model.walk().into_iter().map(|(id, _)| id).collect();
        let named: BTreeSet<Id> = all.iter().copied().collect();
        all.extend(self.held.keys().filter(|id| !named.contains(id)));
        all
    }

    fn pick(&self, pick: Pick, fits: impl Fn(&Kind) -> bool) -> Option<Id> {
        let all: Vec<Id> =
            self.all().into_iter().filter(|id| fits(&self.model.inodes[*id].kind)).collect();
        (!all.is_empty()).then(|| all[usize::from(pick) % all.len()])
    }

    fn dir(&self, pick: Pick) -> Id {
        self.pick(pick, |kind| matches!(kind, Kind::Dir { .. })).unwrap_or(ROOT)
    }

    fn file(&self, pick: Pick) -> Option<Id> {
        self.pick(pick, |kind| matches!(kind, Kind::File(_)))
    }

    /// A place, mostly with a name that is there.
    fn there(&self, at: At) -> (Id, Name) {
        let dir = self.dir(at.dir);
        let names = self.model.inodes[dir].entries().into_iter().flat_map(BTreeMap::keys);
        let names: Vec<&Name> = names.collect();
        match names.len() {
            n if n > 0 && at.name < 200 => (dir, names[usize::from(at.name) % n].clone()),
            _ => (dir, name(at.name)),
        }
    }

    /// A place, with any name.
    fn anywhere(&self, at: At) -> (Id, Name) {
        (self.dir(at.dir), name(at.name))
    }

    // Look-ups.

    fn ino(&self, id: Id) -> InodeNo {
        if id == ROOT { InodeNo::ROOT } else { InodeNo(self.model.inodes[id].ino.unwrap_or(0)) }
    }

    fn check_attr(&mut self, id: Id, attr: &Attr) -> Verdict {
        let owner = *self.numbers.entry(attr.ino.0).or_insert(id);
        if owner != id {
            return Err(format!("number {:#x} is of two inodes, {owner} and {id}", attr.ino.0));
        }
        if id == ROOT {
            self.model.inodes[ROOT].ino = Some(attr.ino.0);
        }
        self.model.check_attr(id, attr).map_err(|err| format!("inode {id}: {err}"))
    }

    /// The overlay handed `id` out.
    fn entered(&mut self, id: Id, parent: Id, entry: &Entry) -> Verdict {
        self.check_attr(id, &entry.attr)?;
        let held = self.held.entry(id).or_default();
        held.count += 1;
        if self.model.inodes[id].is_dir() {
            held.parents.clear();
        }
        held.parents.insert(parent);
        Ok(())
    }

    fn look_up(&mut self, dir: Id, name: &[u8]) -> Verdict {
        let found = self.overlay().lookup(self.ino(dir), os(name));
        let want = self.model.dir(dir).map(|entries| entries.get(name).copied());
        let shown = found.as_ref().map(|entry| entry.is_some()).map_err(|err| *err);
        let what = format!("look-up of {:?} in {dir}", name.escape_ascii().to_string());
        same(&what, shown, want.map(|id| id.is_some()))?;
        match (found, want) {
            (Ok(Some(entry)), Ok(Some(id))) => self.entered(id, dir, &entry),
            _ => Ok(()),
        }
    }

    /// Looks `id` up by its path unless it is known; its number.
    fn hold(&mut self, id: Id) -> Verdict<InodeNo> {
        if !self.held.contains_key(&id) {
            let path = self.model.walk().into_iter().find(|(found, _)| *found == id);
            let (_, path) = path.ok_or("held by nobody and without a name")?;
            let mut dir = ROOT;
            for name in path {
                let child = self.model.dir(dir).map_err(|err| err.to_string())?[&name];
                if !self.held.contains_key(&child) || child == id {
                    self.look_up(dir, &name)?;
                }
                dir = child;
            }
        }
        Ok(self.ino(id))
    }

    fn is_pinned(&self, id: Id) -> bool {
        id == ROOT
            || self.cursors.iter().any(|cursor| cursor.dir == id)
            || self.held.values().any(|held| held.parents.contains(&id))
    }

    fn forget(&mut self, id: Id) {
        let count = self.held.remove(&id).map_or(0, |held| held.count);
        self.overlay().forget(self.ino(id), count);
    }

    fn forget_all(&mut self) {
        while let Some(id) = self.held.keys().copied().find(|id| !self.is_pinned(*id)) {
            self.forget(id);
        }
    }

    // Operations.

    /// Compares results; on success tells the reference's. `None`: the operation failed with an
    /// error that the host has a reason for, and must have changed nothing.
    fn judge<T: PartialEq + Debug, U>(
        &mut self,
        got: Result<U, Errno>,
        plain: impl Fn(&U) -> T,
        want: Result<T, Errno>,
    ) -> Verdict<Option<U>> {
        match got {
            Err(err) if self.host.tolerates(err) && want.as_ref().err() != Some(&err) => {
                self.cut_short();
                Ok(None)
            }
            got => {
                same("result", got.as_ref().map(plain).map_err(|err| *err), want)?;
                Ok(got.ok())
            }
        }
    }

    fn judge_plain<T: PartialEq + Debug + Clone>(
        &mut self,
        got: Result<T, Errno>,
        want: Result<T, Errno>,
    ) -> Verdict {
        self.judge(got, T::clone, want).map(drop)
    }

    fn cut_short(&mut self) {
        self.after = std::mem::replace(&mut self.model, self.before.clone());
        self.cut = true;
    }

    /// An operation that makes `id` known.
    fn judge_entry(&mut self, got: Result<Entry, Errno>, want: Result<(Id, Id), Errno>) -> Verdict {
        match self.judge(got, |_| (), want.map(|_| ()))? {
            Some(entry) => {
                let (id, parent) = want.map_err(|err| err.to_string())?;
                self.entered(id, parent, &entry)
            }
            None => Ok(()),
        }
    }

    /// A copy that is cut short may tell how far it came.
    fn judge_copy(&mut self, got: Result<usize, Errno>, want: Result<usize, Errno>) -> Verdict {
        let fails = self.host.tolerates(Errno::NOSPC) || self.host.tolerates(Errno::IO);
        match (got, want) {
            (Ok(got), Ok(want)) if got < want && fails => {
                self.cut_short();
                Ok(())
            }
            _ => self.judge_plain(got, want),
        }
    }

    /// Calls the overlay, and notes when.
    fn call<T>(&mut self, op: impl FnOnce(&Overlay) -> T) -> T {
        (self.before, self.cut) = (self.model.clone(), false);
        let from = Time::now();
        let got = op(self.overlay());
        self.model.window = (from, Time::now());
        self.before.window = self.model.window;
        got
    }

    pub fn apply(&mut self, op: &Op) -> Verdict {
        if !self.host.is_alive() {
            return Ok(());
        }
        self.seed += 1;
        match *op {
            Op::Lookup(at) => {
                let (dir, name) = self.anywhere(at);
                self.hold(dir)?;
                self.look_up(dir, &name)?;
            }
            Op::Make { at, what, mode, umask, who } => self.make(at, what, mode, umask, who)?,
            Op::Tmpfile { dir, mode } => {
                let dir = self.dir(dir);
                if self.model.inodes[dir].nlink == 0 {
                    return Ok(());
                }
                let (ino, who) = (self.hold(dir)?, caller(0));
                let got = self.call(|o| o.tmpfile(ino, 2, mode, 0o22, &who));
                let mode = mode & !0o22 | FileType::Regular.mode_bits();
                let id = self.model.make(dir, Kind::File(Vec::new()), mode, 0, &who);
                self.model.inodes[id].linkable = true;
                self.judge_entry(got, Ok((id, dir)))?;
            }
            Op::Link { what, to } => {
                let Some(id) = self.pick(what, |kind| !matches!(kind, Kind::Dir { .. })) else {
                    return Ok(());
                };
                let (dir, name) = self.anywhere(to);
                if self.model.inodes[id].nlink == 0 && !self.model.inodes[id].linkable {
                    return Ok(());
                }
                let (ino, new) = (self.hold(id)?, self.hold(dir)?);
                let got = self.call(|o| o.link(ino, new, os(&name)));
                let want = self.model.link(id, dir, &name).map(|()| (id, dir));
                self.judge_entry(got, want)?;
            }
            Op::Unlink(at) => self.remove(at, false)?,
            Op::Rmdir(at) => self.remove(at, true)?,
            Op::Rename { from, to, flags } => self.rename(from, to, flags)?,
            Op::Setattr { what, set } => {
                if let Some(id) = self.pick(what, |_| true) {
                    self.setattr(id, set)?;
                }
            }
            Op::SetXattr { what, name, len, flags } => {
                let Some(id) = self.pick(what, |_| true) else { return Ok(()) };
                let (ino, name) = (self.hold(id)?, xattr_name(name));
                let value = bytes(self.seed, u64::from(len));
                let got = self.call(|o| o.setxattr(ino, os(&name), &value, flags, false));
                let want = self.model.set_xattr(id, &name, &value, flags);
                self.judge_plain(got, want)?;
            }
            Op::RemoveXattr { what, name } => {
                let Some(id) = self.pick(what, |_| true) else { return Ok(()) };
                let (ino, name) = (self.hold(id)?, xattr_name(name));
                let got = self.call(|o| o.removexattr(ino, os(&name)));
                let want = self.model.remove_xattr(id, &name);
                self.judge_plain(got, want)?;
            }
            Op::ReadXattrs { what } => {
                if let Some(id) = self.pick(what, |_| true) {
                    self.hold(id)?;
                    self.compare_xattrs(id)?;
                }
            }
            Op::StartReading { dir } => {
                let dir = self.dir(dir);
                self.hold(dir)?;
                let must = self.model.inodes[dir].entries().into_iter().flat_map(BTreeMap::keys);
                let must = must.cloned().collect();
                self.cursors.push(Cursor { dir, cookie: 0, must, seen: Vec::new() });
            }
            Op::ReadOn { cursor, count, plus } => self.read_on(cursor, count, plus)?,
            Op::Forget(pick) => {
                let free: Vec<Id> =
                    self.held.keys().copied().filter(|id| !self.is_pinned(*id)).collect();
                if !free.is_empty() {
                    self.forget(free[usize::from(pick) % free.len()]);
                }
            }
            Op::ForgetAll => self.forget_all(),
            Op::Fsync(pick) => {
                if let Some(id) = self.pick(pick, |_| true) {
                    let ino = self.hold(id)?;
                    let got = self.call(|o| o.fsync(ino, pick % 2 == 0));
                    self.judge_plain(got, Ok(()))?;
                }
            }
            Op::Checkpoint => {
                let got = self.call(Overlay::checkpoint);
                if got != Err(Errno::BUSY) {
                    self.judge_plain(got, Ok(()))?;
                }
            }
            Op::Remount => self.remount(false)?,
            Op::Kill => self.remount(true)?,
            Op::Open { .. }
            | Op::Write { .. }
            | Op::Read { .. }
            | Op::Fallocate { .. }
            | Op::Seek { .. }
            | Op::Copy { .. } => self.data_op(op)?,
        }
        self.follow_changes();
        Ok(())
    }

    /// Names that have gone need not be seen any more by those who read directories.
    fn follow_changes(&mut self) {
        for cursor in &mut self.cursors {
            let entries = self.model.inodes[cursor.dir].entries();
            cursor.must.retain(|name| entries.is_some_and(|entries| entries.contains_key(name)));
        }
    }

    fn make(&mut self, at: At, what: Make, mode: u32, umask: u32, who: u32) -> Verdict {
        let (dir, name) = self.anywhere(at);
        let (ino, who) = (self.hold(dir)?, caller(who));
        let (kind, bits, rdev) = match what {
            Make::File | Make::Regular => (Kind::File(Vec::new()), FileType::Regular, 0),
            Make::Dir => (self.model.new_dir(dir), FileType::Directory, 0),
            Make::Symlink(len) => {
                (Kind::Symlink(vec![b's'; usize::from(len)]), FileType::Symlink, 0)
            }
            Make::Device(rdev) => (Kind::Special, FileType::Char, rdev),
            Make::Block => (Kind::Special, FileType::Block, 0x801),
            Make::Fifo => (Kind::Special, FileType::Fifo, 0),
            Make::Socket => (Kind::Special, FileType::Socket, 0),
        };
        let full = mode | bits.mode_bits();
        let name = os(&name);
        let target = match &kind {
            Kind::Symlink(target) => target.clone(),
            _ => Vec::new(),
        };
        let got = self.call(|o| match what {
            Make::File => o.create(ino, name, 0, mode, umask, &who),
            Make::Dir => o.mkdir(ino, name, mode, umask, &who),
            Make::Symlink(_) => o.symlink(ino, name, os(&target), &who),
            _ => o.mknod(ino, name, full, rdev, umask, &who),
        });
        let mode = match kind {
            Kind::Symlink(_) => bits.mode_bits() | 0o777,
            _ => full & !umask,
        };
        let want = self.model.may_make(dir, name.as_bytes()).and_then(|()| {
            let id = self.model.make(dir, kind, mode, rdev, &who);
            self.model.enter(dir, name.as_bytes(), id).map(|()| (id, dir))
        });
        self.judge_entry(got, want)
    }

    fn remove(&mut self, at: At, want_dir: bool) -> Verdict {
        let (dir, name) = self.there(at);
        let parent = self.hold(dir)?;
        let got = self.call(|o| match want_dir {
            true => o.rmdir(parent, os(&name)),
            false => o.unlink(parent, os(&name)),
        });
        let want = self.model.remove(dir, &name, want_dir).map(drop);
        self.judge_plain(got, want)
    }

    fn rename(&mut self, from: At, to: At, flags: u32) -> Verdict {
        let (from, to) = (self.there(from), self.there(to));
        let entry = |(dir, name): &(Id, Name)| {
            self.model.inodes[*dir].entries().and_then(|entries| entries.get(name).copied())
        };
        let (source, victim) = (entry(&from), entry(&to));
        let below = |dir, top: Option<Id>| top.is_some_and(|top| self.model.is_below(dir, top));
        if below(to.0, source) || below(from.0, victim) {
            return Ok(());
        }
        let (parent, new) = (self.hold(from.0)?, self.hold(to.0)?);
        let who = caller(1);
        let got = self.call(|o| o.rename(parent, os(&from.1), new, os(&to.1), flags, &who));
        let want = self.model.rename((from.0, &from.1), (to.0, &to.1), flags, &who);
        self.judge_plain(got, want)?;
        if got.is_ok() {
            let mut moves = vec![(source, to.0)];
            if flags & 2 != 0 {
                moves.push((victim, from.0));
            }
            for (id, dir) in moves {
                let Some(id) = id else { continue };
                let is_dir = self.model.inodes[id].is_dir();
                if let Some(held) = self.held.get_mut(&id) {
                    if is_dir {
                        held.parents.clear();
                    }
                    held.parents.insert(dir);
                }
            }
        }
        Ok(())
    }

    fn setattr(&mut self, id: Id, set: Set) -> Verdict {
        let ino = self.hold(id)?;
        let time = |sec: i64| match sec {
            0 => SetTime::Now,
            sec => SetTime::At(Time { sec, nsec: (sec.unsigned_abs() % 1_000_000_000) as u32 }),
        };
        let is_file = self.model.inodes[id].data().is_some();
        let set = SetAttr {
            mode: set.mode,
            uid: set.owner,
            gid: set.group,
            size: set.size.filter(|_| is_file),
            atime: set.atime.map(time),
            mtime: set.mtime.map(time),
            ctime: None,
            kill_suidgid: set.kill,
        };
        let got = self.call(|o| o.setattr(ino, &set, &STRANGER));
        let want = self.model.setattr(id, &set);
        match self.judge(got, |_| (), want)? {
            Some(attr) => self.check_attr(id, &attr),
            None if self.cut => self.adopt(id),
            None => Ok(()),
        }
    }

    fn data_op(&mut self, op: &Op) -> Verdict {
        let (Op::Open { file, .. }
        | Op::Write { file, .. }
        | Op::Read { file, .. }
        | Op::Fallocate { file, .. }
        | Op::Seek { file, .. }
        | Op::Copy { from: file, .. }) = *op
        else {
            return Ok(());
        };
        let Some(id) = self.file(file) else { return Ok(()) };
        let ino = self.hold(id)?;
        match *op {
            Op::Open { trunc, .. } => {
                let flags = if trunc { libc::O_TRUNC | libc::O_WRONLY } else { 0 };
                let got = self.call(|o| o.open(ino, flags as u32, true, &STRANGER));
                let set = SetAttr { size: Some(0), kill_suidgid: true, ..SetAttr::default() };
                let want = if trunc { self.model.setattr(id, &set) } else { Ok(()) };
                self.judge_plain(got, want)?;
            }
            Op::Read { at, len, .. } => {
                let mut buf = vec![0xaa; len as usize];
                let got = self.overlay().read(ino, at, &mut buf);
                let got = got.map(|n| &buf[..n]);
                same("read", got, self.model.read(id, at, len))?;
            }
            Op::Write { at, len, kill, .. } => {
                let data = bytes(self.seed, len);
                let by = if kill { Writer::Unprivileged(&STRANGER) } else { Writer::Privileged };
                let got = self.call(|o| o.write(ino, at, &data, by));
                let want = self.model.write(id, at, &data, kill);
                self.judge_plain(got, want)?;
                if self.cut {
                    self.adopt(id)?;
                }
            }
            Op::Fallocate { at, len, mode, .. } => {
                let got = self.call(|o| o.fallocate(ino, at, len, mode, &STRANGER));
                let want = self.model.fallocate(id, at, len, mode);
                self.judge_plain(got, want)?;
                if self.cut || got.is_ok() {
                    // Whether times and privileges follow where no byte changed is not ours to say.
                    self.adopt(id)?;
                }
            }
            Op::Copy { at, to, to_at, len, .. } => {
                let Some(to) = self.file(to) else { return Ok(()) };
                let overlaps = at < to_at + len && to_at < at + len;
                if to == id && overlaps {
                    return Ok(());
                }
                let target = self.hold(to)?;
                let got = self.call(|o| o.copy_file_range(ino, at, target, to_at, len, &STRANGER));
                let want = self.model.copy((id, at), (to, to_at), len);
                self.judge_copy(got, want)?;
                if self.cut || got.is_ok() {
                    self.adopt(to)?;
                }
            }
            Op::Seek { at, .. } => self.seek(id, at)?,
            _ => {}
        }
        Ok(())
    }

    /// After an operation that leaves something open, or was cut short: each attribute, and each
    /// byte, is as before or as it should be after; takes over which.
    fn adopt(&mut self, id: Id) -> Verdict {
        if !self.host.is_alive() {
            return Ok(());
        }
        let ino = self.ino(id);
        let attr = self.overlay().getattr(ino).map_err(|err| format!("getattr: {err}"))?;
        let old = self.before.inodes[id].clone();
        let window = When::Between(self.model.window.0, self.model.window.1);
        let capability = b"security.capability".as_slice();
        let lost = self.overlay().getxattr(ino, os(capability)) == Err(Errno::NODATA);
        if self.cut && old.data().is_some() {
            self.adopt_bytes(id, ino, attr.size)?;
        }
        let new = &mut self.model.inodes[id];
        for (seen, old, new) in
            [(attr.mtime, old.mtime, &mut new.mtime), (attr.ctime, old.ctime, &mut new.ctime)]
        {
            *new = if old.fits(seen) { When::At(seen) } else { window };
        }
        if attr.mode == without_privilege(old.mode) {
            new.mode = attr.mode;
        }
        match old.xattrs.get(capability) {
            Some(value) if !lost => new.xattrs.insert(capability.to_vec(), value.clone()),
            _ => new.xattrs.remove(capability),
        };
        Ok(())
    }

    fn adopt_bytes(&mut self, id: Id, ino: InodeNo, size: u64) -> Verdict {
        let old = self.before.inodes[id].data().unwrap_or_default();
        let new = self.after.inodes[id].data().unwrap_or_default();
        if ![old.len() as u64, new.len() as u64].contains(&size) {
            return Err(format!("cut short at {size} of {} → {}", old.len(), new.len()));
        }
        let mut data = vec![0; size as usize];
        let n = self.overlay().read(ino, 0, &mut data).map_err(|err| format!("read: {err}"))?;
        same("size that can be read", n as u64, size)?;
        let wrong = (0..n).find(|i| ![old.get(*i), new.get(*i)].contains(&Some(&data[*i])));
        if let Some(i) = wrong {
            let (old, new) = (old.get(i), new.get(i));
            return Err(format!("byte {i} is {}, neither {old:?} nor {new:?}", data[i]));
        }
        self.model.inodes[id].kind = Kind::File(data);
        Ok(())
    }

    fn seek(&mut self, id: Id, at: u64) -> Verdict {
        let ino = self.ino(id);
        let data = self.model.inodes[id].data().unwrap_or_default().to_vec();
        let size = data.len() as u64;
        let is_zero = |from: u64, to: u64| data[from as usize..to as usize].iter().all(|b| *b == 0);
        let next = self.overlay().lseek(ino, at, 3);
        match next {
            _ if at >= size => same("data beyond the end", next, Err(Errno::NXIO))?,
            Ok(next) if next < at || next >= size || !is_zero(at, next) => {
                return Err(format!("data from {at} at {next} of {size}"));
            }
            Err(Errno::NXIO) if !is_zero(at, size) => return Err(format!("no data from {at}")),
            Ok(_) | Err(Errno::NXIO) => {}
            Err(err) => return Err(format!("data from {at}: {err}")),
        }
        let hole = self.overlay().lseek(ino, at, 4);
        match hole {
            _ if at >= size => same("hole beyond the end", hole, Err(Errno::NXIO)),
            Ok(hole) if hole < at || hole > size => Err(format!("hole from {at} at {hole}")),
            Ok(hole) if hole == size => Ok(()),
            Ok(hole) => {
                let end = match self.overlay().lseek(ino, hole, 3) {
                    Ok(end) => end,
                    Err(Errno::NXIO) => size,
                    Err(err) => return Err(format!("data behind the hole at {hole}: {err}")),
                };
                match end > hole && end <= size && is_zero(hole, end) {
                    true => Ok(()),
                    false => Err(format!("a hole from {hole} to {end} of {size} that is none")),
                }
            }
            Err(err) => Err(format!("hole from {at}: {err}")),
        }
    }

    // Directories.

    /// Reads `count` entries from `cookie` on: the names, the next cookie, and whether it ended.
    fn read_dir(
        &mut self,
        dir: Id,
        cookie: u64,
        count: usize,
        plus: bool,
    ) -> Verdict<(Vec<Name>, u64, bool)> {
        let (ino, overlay) = (self.ino(dir), self.overlay.clone().ok_or("not mounted")?);
        let mut got: Vec<(Name, InodeNo, u8, u64, Option<Entry>)> = Vec::new();
        let mut more = false;
        let mut take = |entry: DirEntry<'_>, found: Option<&Entry>| {
            more = got.len() == count;
            if !more {
                let found = found.copied();
                got.push((entry.name.to_vec(), entry.ino, entry.dtype, entry.next, found));
            }
            !more
        };
        let read = match plus {
            true => overlay.readdirplus(ino, cookie..u64::MAX, &mut take),
            false => overlay.readdir(ino, cookie..u64::MAX, &mut |entry| take(entry, None)),
        };
        read.map_err(|err| format!("readdir: {err}"))?;
        let mut names = Vec::new();
        let mut cookie = cookie;
        for (name, ino, dtype, next, found) in got {
            cookie = next;
            if name == b"." || name == b".." {
                let own = self.model.inodes[dir].ino;
                let parent = match &self.model.inodes[dir].kind {
                    Kind::Dir { parent, .. } => self.model.inodes[*parent].ino,
                    _ => None,
                };
                let want = if name == b"." { own } else { parent };
                if self.model.inodes[dir].nlink > 0 {
                    let want = if want == self.model.inodes[ROOT].ino { Some(1) } else { want };
                    same("number of a dot entry", Some(ino.0), want)?;
                }
                continue;
            }
            let shown = name.escape_ascii().to_string();
            let entries = self.model.inodes[dir].entries();
            let id = *entries
                .and_then(|entries| entries.get(&name))
                .ok_or(format!("{shown:?} is listed but not there"))?;
            let inode = &self.model.inodes[id];
            same("type in the listing", dtype, (inode.mode >> 12 & 15) as u8)?;
            same(
                &format!("number of {shown:?} in the listing"),
                ino.0,
                inode.ino.unwrap_or(ino.0),
            )?;
            if plus {
                let entry = found.ok_or(format!("{shown:?} was not looked up"))?;
                self.entered(id, dir, &entry)?;
            }
            names.push(name);
        }
        Ok((names, cookie, !more))
    }

    fn read_on(&mut self, pick: Pick, count: u8, plus: bool) -> Verdict {
        if self.cursors.is_empty() {
            return Ok(());
        }
        let n = usize::from(pick) % self.cursors.len();
        let (dir, cookie) = (self.cursors[n].dir, self.cursors[n].cookie);
        let (names, cookie, ended) = self.read_dir(dir, cookie, usize::from(count), plus)?;
        let cursor = &mut self.cursors[n];
        cursor.cookie = cookie;
        cursor.seen.extend(names);
        for name in &cursor.must {
            let times = cursor.seen.iter().filter(|seen| *seen == name).count();
            let shown = name.escape_ascii();
            if times > 1 || ended && times == 0 {
                return Err(format!("{shown} was there all the time and listed {times} times"));
            }
        }
        if ended {
            self.cursors.remove(n);
        }
        Ok(())
    }

    // The whole tree.

    fn remount(&mut self, kill: bool) -> Verdict {
        let overlay = self.overlay.take().ok_or("not mounted")?;
        self.host.close(overlay, kill)?;
        self.overlay = Some(self.host.open()?);
        self.hold_root();
        self.compare().map_err(|err| format!("after the remount: {err}"))
    }

    /// Everything that can be seen.
    pub fn compare(&mut self) -> Verdict {
        let known: BTreeMap<Id, Held> = self.held.clone();
        let root = self.overlay().getattr(InodeNo::ROOT).map_err(|err| err.to_string())?;
        self.check_attr(ROOT, &root)?;
        for id in self.all() {
            self.hold(id).and_then(|ino| self.compare_inode(id, ino)).map_err(|err| {
                let path = self.model.walk().into_iter().find(|(found, _)| *found == id);
                let path = path.map(|(_, path)| path.join(&b'/').escape_ascii().to_string());
                format!("inode {id} at {path:?}: {err}")
            })?;
        }
        // The kernel is to know what it knew before, and no more.
        let now: Vec<(Id, u64)> = self.held.iter().map(|(id, held)| (*id, held.count)).collect();
        for (id, count) in now.into_iter().rev() {
            let before = known.get(&id).map_or(0, |held| held.count);
            if count > before {
                self.overlay().forget(self.ino(id), count - before);
            }
        }
        self.held = known;
        Ok(())
    }

    fn compare_inode(&mut self, id: Id, ino: InodeNo) -> Verdict {
        let attr = self.overlay().getattr(ino).map_err(|err| format!("getattr: {err}"))?;
        self.check_attr(id, &attr)?;
        self.compare_xattrs(id)?;
        match self.model.inodes[id].kind.clone() {
            Kind::File(data) => {
                let mut buf = vec![0xaa; data.len() + 100];
                let n =
                    self.overlay().read(ino, 0, &mut buf).map_err(|err| format!("read: {err}"))?;
                same("size that can be read", n, data.len())?;
                match (0..n).find(|i| buf[*i] != data[*i]) {
                    Some(i) => Err(format!("byte {i}: want {} but got {}", data[i], buf[i])),
                    None => Ok(()),
                }
            }
            Kind::Symlink(target) => same("target", self.overlay().readlink(ino), Ok(target)),
            Kind::Dir { entries, .. } => {
                let plus = id % 2 == 0;
                let (mut names, _, ended) = self.read_dir(id, 0, usize::MAX, plus)?;
                names.sort();
                let want: Vec<Name> = entries.keys().cloned().collect();
                same("listing", (names, ended), (want, true))?;
                let name = name((self.seed % 9) as u8);
                if entries.contains_key(&name) { Ok(()) } else { self.look_up(id, &name) }
            }
            Kind::Special => Ok(()),
        }
    }

    fn compare_xattrs(&mut self, id: Id) -> Verdict {
        let ino = self.ino(id);
        let list =
            self.overlay().listxattr(ino, &STRANGER).map_err(|err| format!("listxattr: {err}"))?;
        let mut names: Vec<&[u8]> = list.split(|b| *b == 0).filter(|n| !n.is_empty()).collect();
        names.sort();
        let want = &self.model.inodes[id].xattrs;
        same("xattrs", names, want.keys().map(Vec::as_slice).collect())?;
        for (name, value) in want {
            same("xattr", self.overlay().getxattr(ino, os(name)), Ok(value.clone()))?;
        }
        same("no xattr", self.overlay().getxattr(ino, os(b"user.none")), Err(Errno::NODATA))
    }
}
