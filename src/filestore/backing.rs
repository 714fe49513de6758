//! The host file: a small trait, and the real thing.

use std::fs::File;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

use rustix::io::Errno;

use crate::errno::{Result, of_io};
use crate::sys::{fallocate, map::Window};

/// One host file. Offsets and lengths are bytes.
pub trait Backing: Send + Sync + std::fmt::Debug {
    /// One `preadv`; may be short; 0 at the end of the file.
    fn read_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize>;
    /// One `pwritev`; may be short.
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<usize>;
    /// Gives the range back to the host; it reads as zeros. The length stays.
    fn punch(&self, offset: u64, len: u64) -> Result<()>;
    /// Reserves space for the range on the host, keeping what is in it; the file may grow.
    fn allocate(&self, offset: u64, len: u64) -> Result<()>;
    /// [`Backing::allocate`], and the range reads as zeros.
    fn allocate_zeroed(&self, offset: u64, len: u64) -> Result<()>;
    fn set_len(&self, len: u64) -> Result<()>;
    /// `fdatasync`.
    fn sync(&self) -> Result<()>;
    fn length(&self) -> Result<u64>;
    /// Bytes the file takes on the host (`st_blocks` × 512).
    fn host_bytes(&self) -> Result<u64>;
    /// Bytes the host file system has left for us, and its size.
    fn host_space(&self) -> Result<(u64, u64)>;
    /// Whether writing again what was written before may find no space, as on a copy-on-write file system.
    fn needs_space_to_overwrite(&self) -> bool;
    /// A window to write through; `None` where a mapped write might find no space.
    fn map(&self, offset: u64, len: usize) -> Result<Option<Window>>;
    /// The next range that holds data, from `offset` on: its start and end. May name too much.
    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>>;
    /// The descriptor, for splice and the like.
    fn fd(&self) -> Option<BorrowedFd<'_>>;
}

/// File systems (`statfs` f_type) whose reserved space is what a mapped write lands in.
/// Elsewhere, on copy-on-write and network file systems, a write may need new space.
const MAPPABLE: [i64; 4] = [
    0xef53,      // ext4
    0x5846_5342, // xfs
    0x0102_1994, // tmpfs, memfd
    0xf2f5_2010, // f2fs
];

/// Bytes of memory that programs can still get without swapping, and of all memory (proc_meminfo(5)).
fn memory() -> Result<(u64, u64)> {
    let text = std::fs::read_to_string("/proc/meminfo").map_err(|err| of_io(&err))?;
    let kib = |key: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.trim().strip_suffix(" kB")?.parse::<u64>().ok()
    };
    let found = kib("MemAvailable:").zip(kib("MemTotal:"));
    found.map(|(available, total)| (available << 10, total << 10)).ok_or(Errno::IO)
}

/// A file as large as the host's file system, or the limit of this process (RLIMIT_FSIZE), lets it be has no more room.
fn no_room(err: Errno) -> Errno {
    if err == Errno::FBIG { Errno::NOSPC } else { err }
}

/// A file of the host.
#[derive(Debug)]
pub struct HostFile {
    file: File,
    /// Overwriting needs no new space.
    in_place: bool,
    /// The file system can reserve space.
    can_reserve: AtomicBool,
}

impl HostFile {
    /// # Errors
    /// What `fstatfs` says.
    pub fn new(file: File) -> Result<HostFile> {
        let kind = rustix::fs::fstatfs(&file)?.f_type;
        #[allow(clippy::unnecessary_cast)] // the type differs between architectures
        let in_place = MAPPABLE.contains(&(kind as i64));
        Ok(HostFile { file, in_place, can_reserve: AtomicBool::new(true) })
    }

    /// Without a reservation a write may find no space; then it fails, and no window is given out.
    fn cannot_reserve(&self) {
        if self.can_reserve.swap(false, Relaxed) {
            tracing::warn!(
                "the host file system cannot reserve space (no fallocate): it is taken as data are written"
            );
        }
    }

    /// Makes the file at least `len` bytes long.
    fn grow(&self, len: u64) -> Result<()> {
        if self.length()? < len { self.set_len(len) } else { Ok(()) }
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<()> {
        static ZEROS: [u8; 65536] = [0; 65536];
        let mut done = 0;
        while done < len {
            let n = (len - done).min(ZEROS.len() as u64) as usize;
            done += self.write_at(&[IoSlice::new(&ZEROS[..n])], offset + done)? as u64;
        }
        Ok(())
    }
}

impl Backing for HostFile {
    fn read_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        loop {
            match rustix::io::preadv(&self.file, bufs, offset) {
                Err(Errno::INTR) => {}
                done => return done,
            }
        }
    }
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<usize> {
        rustix::io::retry_on_intr(|| rustix::io::pwritev(&self.file, bufs, offset)).map_err(no_room)
    }
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        fallocate::punch(self.file.as_fd(), offset, len)
    }
    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        match fallocate::allocate(self.file.as_fd(), offset, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.cannot_reserve();
                self.grow(offset + len)
            }
            done => done.map_err(no_room),
        }
    }
    fn allocate_zeroed(&self, offset: u64, len: u64) -> Result<()> {
        match fallocate::allocate_zeroed(self.file.as_fd(), offset, len) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => {
                self.cannot_reserve();
                self.write_zeros(offset, len)
            }
            done => done.map_err(no_room),
        }
    }
    fn set_len(&self, len: u64) -> Result<()> {
        rustix::io::retry_on_intr(|| rustix::fs::ftruncate(&self.file, len)).map_err(no_room)
    }
    fn sync(&self) -> Result<()> {
        rustix::io::retry_on_intr(|| rustix::fs::fdatasync(&self.file))
    }
    fn length(&self) -> Result<u64> {
        Ok(u64::try_from(rustix::fs::fstat(&self.file)?.st_size).unwrap_or(0))
    }
    fn host_bytes(&self) -> Result<u64> {
        Ok(u64::try_from(rustix::fs::fstat(&self.file)?.st_blocks).unwrap_or(0) * 512)
    }
    fn host_space(&self) -> Result<(u64, u64)> {
        let vfs = rustix::fs::fstatvfs(&self.file)?;
        if vfs.f_blocks == 0 {
            // A memfd, or a tmpfs without a limit.
            return memory();
        }
        let bytes = |blocks: u64| blocks.saturating_mul(vfs.f_frsize);
        Ok((bytes(vfs.f_bavail), bytes(vfs.f_blocks)))
    }
    fn needs_space_to_overwrite(&self) -> bool {
        !self.in_place
    }
    fn map(&self, offset: u64, len: usize) -> Result<Option<Window>> {
        if !self.in_place || !self.can_reserve.load(Relaxed) {
            return Ok(None);
        }
        match Window::new(self.file.as_fd(), offset, len) {
            Err(Errno::NOBUFS | Errno::NODEV) => Ok(None),
            window => window.map(Some),
        }
    }
    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>> {
        use rustix::fs::{SeekFrom, seek};
        let start = match seek(&self.file, SeekFrom::Data(offset)) {
            Err(Errno::NXIO) => return Ok(None),
            found => found?,
        };
        Ok(Some((start, seek(&self.file, SeekFrom::Hole(start))?)))
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        Some(self.file.as_fd())
    }
}
