//! What each operation does, to the overlay and to the reference.

use super::*;
use crate::overlay::RenameFlags;

impl<H: Host> Harness<H> {
    pub fn apply(&mut self, op: &Op) -> Verdict {
        if !self.host.is_alive() {
            return Ok(());
        }
        self.seed += 1;
        self.synced = false;
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
                    let changed = self.overlay().is_in_upper(ino);
                    let got = self.call(|o| o.fsync(ino, pick % 2 == 0));
                    self.synced = changed && got.is_ok();
                    self.judge_plain(got, Ok(()))?;
                }
            }
            Op::Checkpoint => {
                let got = self.call(Overlay::checkpoint);
                if got != Err(Errno::BUSY) {
                    self.judge_plain(got, Ok(()))?;
                }
            }
            Op::Upkeep => self.call(Overlay::work_beside),
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
    pub(super) fn follow_changes(&mut self) {
        for cursor in &mut self.cursors {
            let entries = self.model.inodes[cursor.dir].entries();
            cursor.must.retain(|name| entries.is_some_and(|entries| entries.contains_key(name)));
        }
    }

    pub(super) fn make(&mut self, at: At, what: Make, mode: u32, umask: u32, who: u32) -> Verdict {
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

    pub(super) fn remove(&mut self, at: At, want_dir: bool) -> Verdict {
        let (dir, name) = self.there(at);
        let parent = self.hold(dir)?;
        let got = self.call(|o| match want_dir {
            true => o.rmdir(parent, os(&name)),
            false => o.unlink(parent, os(&name)),
        });
        let want = self.model.remove(dir, &name, want_dir).map(drop);
        self.judge_plain(got, want)
    }

    pub(super) fn rename(&mut self, from: At, to: At, flags: u32) -> Verdict {
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
        let got = self.call(|o| {
            let flags = RenameFlags::from_bits(flags)?;
            o.rename(parent, os(&from.1), new, os(&to.1), flags, &who)
        });
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

    pub(super) fn setattr(&mut self, id: Id, set: Set) -> Verdict {
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

    pub(super) fn data_op(&mut self, op: &Op) -> Verdict {
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
                let got = self.call(|o| {
                    let mode = FallocateMode::from_raw(mode)?;
                    o.fallocate(ino, at, len, mode, &STRANGER)
                });
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
}
