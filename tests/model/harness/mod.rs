//! Plays the kernel's part: looks names up, counts its look-ups, refuses what the kernel refuses,
//! and compares everything the overlay says with the reference.

mod checks;
mod steps;

use crate::attr::{Attr, Caller, DirCookie, FileType, InodeNo, SetAttr, SetTime, Time};
use crate::errno::Errno;
use crate::model::lowers::name;
use crate::model::op::{At, Make, Op, Pick, Set};
use crate::model::reference::{Id, Kind, Name, ROOT, Reference, When, without_privilege};
use crate::overlay::{DirEntry, Entry, FallocateMode, Overlay, Whence, Writer};
use rustix::time::{ClockId, clock_gettime};
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
    /// Whether the last operation made everything durable.
    synced: bool,
    /// After a power cut, the states that came later: a file may show bytes that were then overwritten in place.
    later: Vec<Reference>,
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
        let overlay = host.open()?;
        Ok(Harness::over(host, overlay, model))
    }

    /// With a view that is open already.
    pub fn over(host: H, overlay: Arc<Overlay>, model: Reference) -> Harness<H> {
        let mut harness = Harness {
            host,
            overlay: Some(overlay),
            before: model.clone(),
            after: model.clone(),
            cut: false,
            synced: false,
            later: Vec::new(),
            model,
            held: BTreeMap::new(),
            cursors: Vec::new(),
            numbers: BTreeMap::new(),
            seed: 0,
        };
        harness.hold_root();
        harness
    }

    /// Whether the last operation made all that was done so far durable.
    pub fn made_durable(&self) -> bool {
        self.synced
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
        let from = read_clock(ClockId::RealtimeCoarse);
        let got = op(self.overlay());
        self.model.window = (from, read_clock(ClockId::Realtime));
        self.before.window = self.model.window;
        got
    }
}

fn read_clock(clock: ClockId) -> Time {
    let time = clock_gettime(clock);
    Time { sec: time.tv_sec, nsec: time.tv_nsec as u32 }
}
