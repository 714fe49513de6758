//! From a request to its reply: decode, call the overlay, encode; for every transport.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use zerocopy::FromBytes;

use crate::attr::{Caller, InodeNo};
use crate::errno::{Errno, Result};
use crate::fuse::abi::{self, Opcode, fopen};
use crate::fuse::decode::{Forgets, Operation, Request};
use crate::fuse::init::Negotiated;
use crate::fuse::listings::Listings;
use crate::fuse::notify::Notifier;
use crate::fuse::passthrough::{Files, Opened};
use crate::fuse::reply::{self, Payload, Validity};
use crate::overlay::{Entry, FallocateMode, Overlay, RenameFlags, Whence, Writer};

/// Counters are indexed by opcode; higher ones share the last.
const COUNTERS: usize = 64;

/// The most one COPY_FILE_RANGE reports with its 32-bit answer, in bytes; a multiple of any block.
const NARROW_COPY_MAX: u64 = 1 << 31;

/// Setuid and setgid.
const SETID: u32 = 0o6000;

/// Bytes of a WRITE, or of a copy, that is worth another thread.
const MUCH: usize = 64 << 10;

/// And of a FALLOCATE: the host writes next to nothing for it, but may have to look for room.
const MUCH_SPACE: u64 = 1 << 20;

/// Answers requests by calling the overlay. Shared by all workers of all transports; immutable but
/// for its counters.
pub struct Dispatcher {
    overlay: Arc<Overlay>,
    valid: Validity,
    /// Mounted `ro`. Immutable.
    read_only: bool,
    /// `None` without passthrough: node ids are inode numbers then.
    files: Option<Files>,
    notifier: Notifier,
    listings: Listings,
    agreed: OnceLock<Negotiated>,
    counts: [AtomicU64; COUNTERS],
    errors: AtomicU64,
    destroyed: AtomicBool,
    /// Shut down by ioctl: see [`works_when_down`].
    down: AtomicBool,
}

impl Dispatcher {
    pub fn new(
        overlay: Arc<Overlay>,
        valid: Validity,
        read_only: bool,
        files: Option<Files>,
        notifier: Notifier,
    ) -> Dispatcher {
        Dispatcher {
            overlay,
            valid,
            read_only,
            files,
            notifier,
            listings: Listings::default(),
            agreed: OnceLock::new(),
            counts: [const { AtomicU64::new(0) }; COUNTERS],
            errors: AtomicU64::new(0),
            destroyed: AtomicBool::new(false),
            down: AtomicBool::new(false),
        }
    }

    /// Tells what INIT agreed on. Must precede the first [`Dispatcher::dispatch`]; later calls are
    /// without effect.
    pub fn agree(&self, agreed: Negotiated) {
        self.agreed.get_or_init(|| agreed);
    }

    /// Whether SETXATTR comes in its longer layout; the transport needs it to split requests.
    pub fn setxattr_ext(&self) -> bool {
        self.agreed.get().is_some_and(Negotiated::setxattr_ext)
    }

    /// The largest READ or WRITE, in bytes.
    pub fn max_io(&self) -> u32 {
        self.agreed.get().map_or(0, |agreed| agreed.max_io)
    }

    /// Logs how many requests of each operation came: where a workload's time goes.
    fn tell_of_requests(&self) {
        let mut told = String::new();
        for &op in Opcode::ALL {
            let count =
                self.counts.get(op as usize).map_or(0, |count| count.load(Ordering::Relaxed));
            if count > 0 {
                told += &format!(" {op:?} {count},");
            }
        }
        let errors = self.errors.load(Ordering::Relaxed);
        tracing::info!("served{told} of which {errors} were answered with an error");
    }

    /// The end of the connection; only the first call reaches the overlay.
    pub fn destroy(&self) {
        if !self.destroyed.swap(true, Ordering::AcqRel) {
            self.overlay.destroy();
            self.tell_of_requests();
        }
    }

    /// Carries out a request and encodes the reply's payload from the start of `area`. Gives the
    /// payload's length or the error to send; `None` where the kernel wants no reply.
    ///
    /// `area` must hold the largest reply: the negotiated `max_io`.
    pub fn dispatch(&self, request: &Request<'_>, area: &mut [u8]) -> Option<Result<usize>> {
        let at = (request.header.opcode as usize).min(COUNTERS - 1);
        self.counts[at].fetch_add(1, Ordering::Relaxed);
        let mut out = Payload::new(area);
        let outcome = request
            .decode(self.setxattr_ext())
            .and_then(|operation| self.carry_out(request, operation, &mut out))
            .map(|()| out.len());
        if outcome.is_err() {
            self.errors.fetch_add(1, Ordering::Relaxed);
        }
        tracing::trace!(
            op = ?request.opcode, ino = request.header.nodeid, ?outcome, "request"
        );
        let silent = matches!(request.opcode, Some(Opcode::Forget | Opcode::BatchForget));
        (!silent).then_some(outcome)
    }

    /// Whether carrying out `request` may hold up others for long: it waits for the host's disk, or
    /// brings so much that the host may make its writer wait. Reads do not count: what they cost
    /// another thread on another CPU is more than most of them take.
    pub fn takes_long(&self, request: &Request<'_>) -> bool {
        match request.opcode {
            Some(Opcode::Fsync | Opcode::Fsyncdir | Opcode::Syncfs) => self.overlay.is_durable(),
            Some(Opcode::Write) => request.payload.len() >= MUCH,
            Some(
                Opcode::Fallocate | Opcode::CopyFileRange | Opcode::CopyFileRange64 | Opcode::Ioctl,
            ) => {
                let decoded = request.decode(self.setxattr_ext());
                decoded.is_ok_and(|operation| self.moves_much(request.node(), &operation))
            }
            _ => false,
        }
    }

    fn moves_much(&self, node: InodeNo, operation: &Operation<'_>) -> bool {
        match *operation {
            Operation::Fallocate { len, .. } => len >= MUCH_SPACE,
            Operation::CopyFileRange { offset, len, .. } => {
                // Programs ask for more than there is: as much as a call takes.
                let size = self.overlay.getattr(self.number(node)).map_or(0, |attr| attr.size);
                len.min(size.saturating_sub(offset)) >= MUCH as u64
            }
            Operation::Ioctl { cmd, .. } => matches!(cmd, abi::ioctl::SHUTDOWN | abi::ioctl::TRIM),
            _ => false,
        }
    }

    /// Whether the answer would be wrong as long as the kernel holds written data back: it asks where
    /// a file has holes without writing out what it has of the file.
    pub fn needs_write_back(&self, request: &Request<'_>) -> bool {
        let Some(agreed) = self.agreed.get().filter(|agreed| agreed.writeback_cache()) else {
            return false;
        };
        // Who is not asked to open files cannot tell who has them open for writing.
        request.opcode == Some(Opcode::Lseek)
            && (agreed.no_open() || self.overlay.has_writers(self.number(request.node())))
    }

    /// Runs `job` when the kernel has written out what it holds of `node`, in a thread that serves no
    /// requests and so may wait for those who do.
    pub fn after_write_back(&self, node: InodeNo, job: impl FnOnce() + Send + 'static) {
        self.notifier.after_write_back(node, Box::new(job));
    }

    fn carry_out(&self, req: &Request<'_>, op: Operation<'_>, out: &mut Payload<'_>) -> Result<()> {
        let overlay = &*self.overlay;
        let node = req.node();
        let ino = self.number(node);
        if self.down.load(Ordering::Acquire) && !works_when_down(&op) {
            return Err(Errno::IO);
        }
        let caller = &req.caller();
        match op {
            Operation::Lookup { name } => match overlay.lookup(ino, name)? {
                Some(entry) => self.entry(out, &entry),
                None => out.put(&reply::negative_out(&self.valid)),
            },
            Operation::Forget { count } => {
                self.forget(node, count);
                Ok(())
            }
            Operation::BatchForget { items } => self.batch_forget(items),
            Operation::Getattr => {
                out.put(&reply::attr_out(&overlay.getattr(ino)?, self.validity(node)))
            }
            Operation::Statx => {
                out.put(&reply::statx_out(&overlay.getattr(ino)?, self.validity(node)))
            }
            Operation::Setattr { set } => {
                let change = || overlay.setattr(ino, &set, caller);
                let attr = self.change(node, set.size.is_some(), change)?;
                out.put(&reply::attr_out(&attr, &self.valid))
            }
            Operation::Readlink => out.bytes(&overlay.readlink(ino)?),
            Operation::Symlink { name, target } => {
                self.entry(out, &overlay.symlink(ino, name, target, caller)?)
            }
            Operation::Mknod { name, mode, rdev, umask } => {
                self.entry(out, &overlay.mknod(ino, name, mode, rdev, umask, caller)?)
            }
            Operation::Mkdir { name, mode, umask } => {
                self.entry(out, &overlay.mkdir(ino, name, mode, umask, caller)?)
            }
            Operation::Unlink { name } => overlay.unlink(ino, name),
            Operation::Rmdir { name } => overlay.rmdir(ino, name),
            Operation::Rename { name, new_parent, new_name, flags } => {
                let flags = RenameFlags::from_bits(flags)?;
                overlay.rename(ino, name, new_parent, new_name, flags, caller)
            }
            // The request's node is the new directory.
            Operation::Link { ino: old, name } => {
                let linked = self.number(old);
                let entry = self.change(old, true, || overlay.link(linked, ino, name))?;
                self.entry(out, &entry)
            }
            // ENOSYS makes the kernel open files by itself from then on, with the flags below.
            Operation::Open { .. } if self.agreed.get().is_some_and(Negotiated::no_open) => {
                Err(Errno::NOSYS)
            }
            Operation::Open { flags, kill_suidgid } => {
                let opened = self.count_open(node, flags)?;
                let done = self.telling_of_lost_privileges(node, kill_suidgid, || {
                    overlay.open(ino, flags, kill_suidgid, caller)
                });
                let done = done.and_then(|()| out.put(&self.opened_file(opened)));
                self.uncount_failed(node, opened, done)
            }
            // The same, and MKNOD makes them: there is no RELEASE then. The directory is locked meanwhile, so that
            // nobody else makes the name (fs/fuse/dir.c, fuse_atomic_open).
            Operation::Create { .. } if self.agreed.get().is_some_and(Negotiated::no_open) => {
                Err(Errno::NOSYS)
            }
            Operation::Create { name, flags, mode, umask } => {
                self.created(out, &overlay.create(ino, name, flags, mode, umask, caller)?)
            }
            Operation::Tmpfile { flags, mode, umask } => {
                self.created(out, &overlay.tmpfile(ino, flags, mode, umask, caller)?)
            }
            Operation::Read { offset, size } => {
                out.fill(size as usize, |room| overlay.read(ino, offset, room))
            }
            Operation::Write { offset, data, cached, kill_suidgid } => {
                let by = match (cached, kill_suidgid) {
                    (true, _) => Writer::PageCache { keeps_times: self.writes_back() },
                    (false, true) => Writer::Unprivileged(caller),
                    (false, false) => Writer::Privileged,
                };
                let may_lose = matches!(by, Writer::Unprivileged(_));
                let written = self.telling_of_lost_privileges(node, may_lose, || {
                    overlay.write(ino, offset, data, by)
                })?;
                out.put(&abi::WriteOut { size: written as u32, padding: 0 })
            }
            Operation::Statfs => out.put(&reply::statfs_out(&overlay.statfs()?)),
            Operation::Release { fh, flags } => {
                let files = self.files.as_ref();
                if files.is_none_or(|files| files.release(node, Opened::of_handle(fh))) {
                    overlay.release(ino, flags);
                }
                Ok(())
            }
            Operation::Releasedir => Ok(()),
            Operation::Fsync { datasync } => overlay.fsync(ino, datasync),
            Operation::Fsyncdir { datasync } => overlay.fsyncdir(ino, datasync),
            Operation::Syncfs => overlay.syncfs(),
            Operation::Setxattr { name, value, flags, kill_sgid } => {
                self.change(node, false, || overlay.setxattr(ino, name, value, flags, kill_sgid))
            }
            Operation::Getxattr { name, size } => out.sized(&overlay.getxattr(ino, name)?, size),
            Operation::Listxattr { size } => out.sized(&overlay.listxattr(ino, caller)?, size),
            Operation::Removexattr { name } => {
                self.change(node, false, || overlay.removexattr(ino, name))
            }
            Operation::Opendir => self.opendir(out),
            Operation::Readdir { offset, size, plus } => {
                let end = self.listings.end(ino, offset, overlay.listing_end(ino));
                match plus {
                    false => self.readdir(ino, offset..end, size, out),
                    true => self.readdirplus(ino, offset..end, size, out),
                }
            }
            Operation::Fallocate { offset, len, mode } => {
                let mode = FallocateMode::from_raw(mode)?;
                self.telling_of_lost_privileges(node, true, || {
                    overlay.fallocate(ino, offset, len, mode, caller)
                })
            }
            Operation::Lseek { offset, whence } => {
                let offset = overlay.lseek(ino, offset, Whence::from_raw(whence)?)?;
                out.put(&abi::LseekOut { offset })
            }
            Operation::CopyFileRange { offset, to, to_offset, len, wide } => {
                let (to_node, to) = (to, self.number(to));
                let len = if wide { len } else { len.min(NARROW_COPY_MAX) };
                let copied = self.telling_of_lost_privileges(to_node, true, || {
                    overlay.copy_file_range(ino, offset, to, to_offset, len, caller)
                })?;
                if wide {
                    return out.put(&abi::CopyFileRangeOut { bytes_copied: copied as u64 });
                }
                out.put(&abi::WriteOut { size: copied as u32, padding: 0 })
            }
            Operation::Ioctl { cmd, data } => self.ioctl(cmd, data, caller, out),
            Operation::Destroy => {
                self.destroy();
                Ok(())
            }
        }
    }

    /// Changes data by `change`. Where that takes setuid or setgid away, which of those who
    /// `may_lose` them it does, the kernel is told: it keeps the mode that it has, and believes it.
    fn telling_of_lost_privileges<T>(
        &self,
        node: InodeNo,
        may_lose: bool,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let ino = self.number(node);
        let setid = || self.overlay.getattr(ino).map_or(0, |attr| attr.mode & SETID);
        let before = if may_lose { setid() } else { 0 };
        let done = change();
        if before != 0 && setid() != before {
            self.notifier.attributes_changed(node);
        }
        done
    }

    fn entry(&self, out: &mut Payload<'_>, entry: &Entry) -> Result<()> {
        out.put(&self.entry_out(entry))
    }

    fn entry_out(&self, entry: &Entry) -> abi::EntryOut {
        let ino = entry.attr.ino;
        let node = self.files.as_ref().map_or(ino.0, |files| files.node_id(ino));
        // A change through the old id is not known to an answer with the fresh one, but by asking again.
        let again = if node == ino.0 { None } else { self.overlay.getattr(ino).ok() };
        reply::entry_out(node, again.as_ref().unwrap_or(&entry.attr), &self.valid)
    }

    /// The inode that a node id stands for.
    fn number(&self, node: InodeNo) -> InodeNo {
        self.files.as_ref().map_or(node, |files| files.number(node))
    }

    /// How long the kernel may keep the attributes of `node`.
    fn validity(&self, node: InodeNo) -> &Validity {
        match &self.files {
            Some(files) if files.is_retired(node) => &Validity::NONE,
            _ => &self.valid,
        }
    }

    /// Makes a change that is asked for by a node id: see [`Files::change`].
    fn change<T>(
        &self,
        node: InodeNo,
        of_data: bool,
        change: impl FnOnce() -> Result<T>,
    ) -> Result<T> {
        let Some(files) = &self.files else { return change() };
        self.telling_of_retirement(node, files.change(node, of_data, change))
    }

    /// What the kernel has of a retired id, it is to forget.
    fn telling_of_retirement<T>(&self, node: InodeNo, done: Result<T>) -> Result<T> {
        if done.as_ref().is_err_and(|err| *err == Errno::STALE) {
            self.notifier.attributes_changed(node);
        }
        done
    }

    fn forget(&self, node: InodeNo, count: u64) {
        let ino = self.number(node);
        self.overlay.forget(ino, count);
        if let Some(files) = &self.files {
            files.forget_if(ino, || !self.overlay.knows(ino));
        }
    }

    fn count_open(&self, node: InodeNo, flags: u32) -> Result<Opened> {
        let Some(files) = &self.files else { return Ok(Opened::default()) };
        self.telling_of_retirement(node, files.open(node, flags, &self.overlay))
    }

    fn uncount_failed(&self, node: InodeNo, opened: Opened, done: Result<()>) -> Result<()> {
        if let (Some(files), Err(_)) = (&self.files, done) {
            files.release(node, opened);
        }
        done
    }

    /// The answer for a file that was made and opened at once.
    fn created(&self, out: &mut Payload<'_>, entry: &Entry) -> Result<()> {
        let files = self.files.as_ref();
        let opened = files.map_or_else(Opened::default, |files| files.created(entry.attr.ino));
        self.entry(out, entry)?;
        out.put(&self.opened_file(opened))
    }

    /// Whether the kernel holds written data back, and their times.
    fn writes_back(&self) -> bool {
        self.agreed.get().is_some_and(Negotiated::writeback_cache)
    }

    /// Data stay cached from open to open: nobody but this mount changes them. Without the
    /// writeback cache there is nothing for a close to write out.
    fn opened_file(&self, opened: Opened) -> abi::OpenOut {
        let noflush = if self.writes_back() { 0 } else { fopen::NOFLUSH };
        let fh = opened.handle();
        let (kind, backing_id) = match opened.through {
            Some(id) => (fopen::PASSTHROUGH, id.0),
            None => (fopen::KEEP_CACHE, 0),
        };
        abi::OpenOut { fh, open_flags: kind | noflush, backing_id }
    }

    /// ENOSYS makes the kernel open directories by itself from then on, with the same flags.
    fn opendir(&self, out: &mut Payload<'_>) -> Result<()> {
        if self.agreed.get().is_some_and(Negotiated::no_opendir) {
            return Err(Errno::NOSYS);
        }
        let open_flags = fopen::CACHE_DIR | fopen::KEEP_CACHE;
        out.put(&abi::OpenOut { open_flags, ..Default::default() })
    }

    /// ENOTTY for a command that means nothing here.
    fn ioctl(&self, cmd: u32, data: &[u8], caller: &Caller, out: &mut Payload<'_>) -> Result<()> {
        match cmd {
            abi::ioctl::SHUTDOWN => {
                self.overlay.shut_down(caller)?;
                self.down.store(true, Ordering::Release);
                out.put(&abi::IoctlOut::default())
            }
            // The VFS leaves this question to the file system.
            abi::ioctl::TRIM if self.read_only => Err(Errno::ROFS),
            abi::ioctl::TRIM => {
                let range = abi::TrimRange::read_from_bytes(data).map_err(|_| Errno::IO)?;
                let len = self.overlay.trim(range.start, range.len, range.minlen, caller)?;
                out.put(&abi::IoctlOut::default())?;
                out.put(&abi::TrimRange { len, ..range })
            }
            // Nobody can set any: the kernel would not enforce them.
            abi::ioctl::GET_FLAGS => {
                out.put(&abi::IoctlOut::default())?;
                out.put(&0u32)
            }
            _ => Err(Errno::NOTTY),
        }
    }

    fn batch_forget(&self, items: Forgets<'_>) -> Result<()> {
        items.iter().for_each(|(node, count)| self.forget(node, count));
        Ok(())
    }

    fn readdir(
        &self,
        ino: InodeNo,
        cookies: Range<u64>,
        size: u32,
        out: &mut Payload<'_>,
    ) -> Result<()> {
        let mut dirents = out.dirents(size);
        let read = self.overlay.readdir(ino, cookies, &mut |entry| dirents.push(&entry));
        entries_or_error(read, out)
    }

    fn readdirplus(
        &self,
        ino: InodeNo,
        cookies: Range<u64>,
        size: u32,
        out: &mut Payload<'_>,
    ) -> Result<()> {
        let mut dirents = out.dirents(size);
        let read = self.overlay.readdirplus(ino, cookies, &mut |entry, found| {
            let looked_up = match found {
                Some(found) => self.entry_out(found),
                None => reply::no_entry(entry.ino, entry.dtype),
            };
            dirents.push_plus(&looked_up, &entry)
        });
        entries_or_error(read, out)
    }
}

/// Entries already packed are delivered whatever came after: their lookups are counted. The error
/// comes back when the kernel goes on reading.
fn entries_or_error(read: Result<()>, out: &Payload<'_>) -> Result<()> {
    if out.is_empty() { read } else { Ok(()) }
}

/// What a file system that was shut down still does: letting go, and being unmounted.
fn works_when_down(op: &Operation<'_>) -> bool {
    matches!(
        op,
        Operation::Forget { .. }
            | Operation::BatchForget { .. }
            | Operation::Release { .. }
            | Operation::Releasedir { .. }
            | Operation::Statfs
            | Operation::Destroy
    )
}

/// Whether carrying out `op` may wait for the host (data, layers, the disk) and so should not hold
/// up other requests.
pub fn may_block(op: Option<Opcode>) -> bool {
    matches!(
        op,
        Some(
            Opcode::Open
                | Opcode::Read
                | Opcode::Write
                | Opcode::Fsync
                | Opcode::Fsyncdir
                | Opcode::Syncfs
                | Opcode::Readdir
                | Opcode::Readdirplus
                | Opcode::Fallocate
                | Opcode::CopyFileRange
                | Opcode::CopyFileRange64
                | Opcode::Lookup
                | Opcode::Ioctl
                | Opcode::Destroy
        )
    )
}
