//! What can be seen of the overlay, compared with the reference.

use super::*;

impl<H: Host> Harness<H> {
    /// After an operation that leaves something open, or was cut short: each attribute, and each
    /// byte, is as before or as it should be after; takes over which.
    pub(super) fn adopt(&mut self, id: Id) -> Verdict {
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

    pub(super) fn adopt_bytes(&mut self, id: Id, ino: InodeNo, size: u64) -> Verdict {
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

    pub(super) fn seek(&mut self, id: Id, at: u64) -> Verdict {
        let ino = self.ino(id);
        let data = self.model.inodes[id].data().unwrap_or_default().to_vec();
        let size = data.len() as u64;
        let is_zero = |from: u64, to: u64| data[from as usize..to as usize].iter().all(|b| *b == 0);
        let next = self.overlay().lseek(ino, at, Whence::Data);
        match next {
            _ if at >= size => same("data beyond the end", next, Err(Errno::NXIO))?,
            Ok(next) if next < at || next >= size || !is_zero(at, next) => {
                return Err(format!("data from {at} at {next} of {size}"));
            }
            Err(Errno::NXIO) if !is_zero(at, size) => return Err(format!("no data from {at}")),
            Ok(_) | Err(Errno::NXIO) => {}
            Err(err) => return Err(format!("data from {at}: {err}")),
        }
        let hole = self.overlay().lseek(ino, at, Whence::Hole);
        match hole {
            _ if at >= size => same("hole beyond the end", hole, Err(Errno::NXIO)),
            Ok(hole) if hole < at || hole > size => Err(format!("hole from {at} at {hole}")),
            Ok(hole) if hole == size => Ok(()),
            Ok(hole) => {
                let end = match self.overlay().lseek(ino, hole, Whence::Data) {
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
    pub(super) fn read_dir(
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
                got.push((entry.name.to_vec(), entry.ino, entry.dtype, entry.next.0, found));
            }
            !more
        };
        let from = DirCookie(cookie);
        let read = match plus {
            true => overlay.readdirplus(ino, from..DirCookie::END, &mut take),
            false => overlay.readdir(ino, from..DirCookie::END, &mut |entry| take(entry, None)),
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

    pub(super) fn read_on(&mut self, pick: Pick, count: u8, plus: bool) -> Verdict {
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

    pub fn remount(&mut self, kill: bool) -> Verdict {
        let overlay = self.overlay.take().ok_or("not mounted")?;
        self.host.close(overlay, kill)?;
        self.overlay = Some(self.host.open()?);
        self.hold_root();
        self.compare().map_err(|err| format!("after the remount: {err}"))
    }

    /// [`Harness::compare`] after a power cut, which may have kept bytes that files were overwritten with in place in
    /// a state of `later`.
    pub fn compare_after_cut(&mut self, later: &[Reference]) -> Verdict {
        self.later = later.to_vec();
        self.compare()
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

    pub(super) fn compare_inode(&mut self, id: Id, ino: InodeNo) -> Verdict {
        let attr = self.overlay().getattr(ino).map_err(|err| format!("getattr: {err}"))?;
        self.check_attr(id, &attr)?;
        self.compare_xattrs(id)?;
        match self.model.inodes[id].kind.clone() {
            Kind::File(data) => {
                let mut buf = vec![0xaa; data.len() + 100];
                let n =
                    self.overlay().read(ino, 0, &mut buf).map_err(|err| format!("read: {err}"))?;
                same("size that can be read", n, data.len())?;
                let later = self.later.iter().filter_map(|state| state.inodes.get(id)?.data());
                let later: Vec<&[u8]> = later.collect();
                let was_written = |i: usize| later.iter().any(|data| data.get(i) == Some(&buf[i]));
                match (0..n).find(|i| buf[*i] != data[*i] && !was_written(*i)) {
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

    pub(super) fn compare_xattrs(&mut self, id: Id) -> Verdict {
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
