//! The arguments of each operation, decoded. One function for each shape of arguments; the table in
//! [`operations`](super::operations) says which operation has which.
//!
//! # Errors
//! All functions here: `EIO` for bytes that are no such request, `EINVAL` or `ENAMETOOLONG` for a name
//! that no directory can hold, `ERANGE` for the name of an xattr that is too
//! long, `EINVAL` or `EOPNOTSUPP` for flags and modes that mean nothing here.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use zerocopy::FromBytes;

use crate::attr::{InodeNo, SetAttr, SetTime, Time};
use crate::errno::{Errno, Result};
use crate::fuse::abi::{self, fattr};
use crate::fuse::request::Request;
use crate::name::{NAME_MAX, check_name};
use crate::overlay::{FallocateMode, RenameFlags, Whence};

/// No arguments that matter.
pub fn nothing(_: &Request<'_>) -> Result<()> {
    Ok(())
}

/// An operation that is not served. `ENOSYS` makes the kernel stop sending it.
pub fn unsupported(_: &Request<'_>) -> Result<()> {
    Err(Errno::NOSYS)
}

/// An operation that only the session's first request may be.
pub fn out_of_place(_: &Request<'_>) -> Result<()> {
    Err(Errno::IO)
}

/// A name of the request's directory.
pub fn name<'a>(request: &Request<'a>) -> Result<&'a OsStr> {
    Payload(request.payload).name()
}

/// How many lookups the node loses.
pub fn forget(request: &Request<'_>) -> Result<u64> {
    Ok(request.arg::<abi::ForgetIn>()?.nlookup)
}

/// The nodes of a BATCH_FORGET, with how many lookups each loses.
#[derive(Clone, Copy, Debug)]
pub struct Forgets<'a>(&'a [u8]);

impl Forgets<'_> {
    pub fn iter(&self) -> impl Iterator<Item = (InodeNo, u64)> {
        self.0.chunks_exact(size_of::<abi::ForgetOne>()).filter_map(|bytes| {
            let one = abi::ForgetOne::read_from_bytes(bytes).ok()?;
            Some((InodeNo(one.nodeid), one.nlookup))
        })
    }
}

pub fn batch_forget<'a>(request: &Request<'a>) -> Result<Forgets<'a>> {
    let abi::BatchForgetIn { count, .. } = request.arg()?;
    let len = (count as usize).checked_mul(size_of::<abi::ForgetOne>()).ok_or(Errno::IO)?;
    Ok(Forgets(request.payload.get(..len).ok_or(Errno::IO)?))
}

/// What a SETATTR sets. `EINVAL` for nanoseconds that are none.
pub fn setattr(request: &Request<'_>) -> Result<SetAttr> {
    let arg: abi::SetattrIn = request.arg()?;
    let has = |flag| arg.valid & flag != 0;
    let set_time = |at, now, sec, nsec| match (has(at), has(now)) {
        (_, true) => Ok(Some(SetTime::Now)),
        (true, false) => time(sec, nsec).map(|t| Some(SetTime::At(t))),
        (false, false) => Ok(None),
    };
    Ok(SetAttr {
        mode: has(fattr::MODE).then_some(arg.mode & 0o7777),
        uid: has(fattr::UID).then_some(arg.uid),
        gid: has(fattr::GID).then_some(arg.gid),
        size: has(fattr::SIZE).then_some(arg.size),
        atime: set_time(fattr::ATIME, fattr::ATIME_NOW, arg.atime, arg.atimensec)?,
        mtime: set_time(fattr::MTIME, fattr::MTIME_NOW, arg.mtime, arg.mtimensec)?,
        ctime: has(fattr::CTIME).then(|| time(arg.ctime, arg.ctimensec)).transpose()?,
        kill_suidgid: has(fattr::KILL_SUIDGID),
    })
}

/// Seconds travel as the unsigned image of a signed number.
fn time(sec: u64, nsec: u32) -> Result<Time> {
    if nsec >= 1_000_000_000 {
        return Err(Errno::INVAL);
    }
    Ok(Time { sec: sec as i64, nsec })
}

/// A new entry of any kind, and what it is to be. What an operation has not is zero.
#[derive(Clone, Copy, Debug)]
pub struct NewEntry<'a> {
    pub name: &'a OsStr,
    pub mode: u32,
    pub umask: u32,
    pub rdev: u32,
}

pub fn mknod<'a>(request: &Request<'a>) -> Result<NewEntry<'a>> {
    let abi::MknodIn { mode, rdev, umask, .. } = request.arg()?;
    Ok(NewEntry { name: name(request)?, mode, umask, rdev })
}

pub fn mkdir<'a>(request: &Request<'a>) -> Result<NewEntry<'a>> {
    let abi::MkdirIn { mode, umask } = request.arg()?;
    Ok(NewEntry { name: name(request)?, mode, umask, rdev: 0 })
}

/// A name and what the symbolic link holds.
pub fn symlink<'a>(request: &Request<'a>) -> Result<(&'a OsStr, &'a OsStr)> {
    let mut payload = Payload(request.payload);
    Ok((payload.name()?, OsStr::from_bytes(payload.string()?)))
}

#[derive(Clone, Copy, Debug)]
pub struct Rename<'a> {
    pub name: &'a OsStr,
    pub new_parent: InodeNo,
    pub new_name: &'a OsStr,
    pub flags: RenameFlags,
}

pub fn rename<'a>(request: &Request<'a>) -> Result<Rename<'a>> {
    let abi::RenameIn { newdir } = request.arg()?;
    rename_to(request, newdir, 0)
}

pub fn rename2<'a>(request: &Request<'a>) -> Result<Rename<'a>> {
    let abi::Rename2In { newdir, flags, .. } = request.arg()?;
    rename_to(request, newdir, flags)
}

/// The new directory and the new name of either operation.
pub fn rename_target<'a>(request: &Request<'a>) -> Result<(InodeNo, &'a OsStr)> {
    // Both arguments begin with this.
    let abi::RenameIn { newdir } = request.arg()?;
    let mut payload = Payload(request.payload);
    payload.name()?;
    Ok((InodeNo(newdir), payload.name()?))
}

fn rename_to<'a>(request: &Request<'a>, newdir: u64, flags: u32) -> Result<Rename<'a>> {
    let mut payload = Payload(request.payload);
    let (name, new_name) = (payload.name()?, payload.name()?);
    let flags = RenameFlags::from_bits(flags)?;
    Ok(Rename { name, new_parent: InodeNo(newdir), new_name, flags })
}

/// The node that gets a further name in the request's directory, and the name.
pub fn link<'a>(request: &Request<'a>) -> Result<(InodeNo, &'a OsStr)> {
    let abi::LinkIn { oldnodeid } = request.arg()?;
    Ok((InodeNo(oldnodeid), name(request)?))
}

#[derive(Clone, Copy, Debug)]
pub struct Open {
    /// Those of open(2).
    pub flags: u32,
    pub kill_suidgid: bool,
}

pub fn open(request: &Request<'_>) -> Result<Open> {
    let abi::OpenIn { flags, open_flags } = request.arg()?;
    Ok(Open { flags, kill_suidgid: open_flags & abi::OPEN_KILL_SUIDGID != 0 })
}

/// How a file is made and opened at once.
#[derive(Clone, Copy, Debug)]
pub struct Create {
    /// Those of open(2).
    pub flags: u32,
    pub mode: u32,
    pub umask: u32,
}

pub fn tmpfile(request: &Request<'_>) -> Result<Create> {
    let abi::CreateIn { flags, mode, umask, .. } = request.arg()?;
    Ok(Create { flags, mode, umask })
}

pub fn create<'a>(request: &Request<'a>) -> Result<(&'a OsStr, Create)> {
    Ok((name(request)?, tmpfile(request)?))
}

/// Where to read, and how many bytes the answer may have.
#[derive(Clone, Copy, Debug)]
pub struct Read {
    /// In bytes; in a directory a cookie.
    pub offset: u64,
    pub size: u32,
}

pub fn read(request: &Request<'_>) -> Result<Read> {
    let abi::ReadIn { offset, size, .. } = request.arg()?;
    Ok(Read { offset, size })
}

#[derive(Clone, Copy, Debug)]
pub struct Write<'a> {
    pub offset: u64,
    pub data: &'a [u8],
    /// Pages of the kernel's cache, which it wrote back by itself.
    pub cached: bool,
    pub kill_suidgid: bool,
}

pub fn write<'a>(request: &Request<'a>) -> Result<Write<'a>> {
    let abi::WriteIn { offset, size, write_flags, .. } = request.arg()?;
    let data = request.payload.get(..size as usize).ok_or(Errno::IO)?;
    let kill_suidgid = write_flags & abi::WRITE_KILL_SUIDGID != 0;
    let cached = write_flags & abi::WRITE_CACHE != 0;
    Ok(Write { offset, data, cached, kill_suidgid })
}

/// The handle that OPEN gave, and the flags of open(2).
pub fn release(request: &Request<'_>) -> Result<(u64, u32)> {
    let abi::ReleaseIn { fh, flags, .. } = request.arg()?;
    Ok((fh, flags))
}

/// Whether fdatasync(2) is meant.
pub fn fsync(request: &Request<'_>) -> Result<bool> {
    Ok(request.arg::<abi::FsyncIn>()?.fsync_flags & abi::FSYNC_FDATASYNC != 0)
}

#[derive(Clone, Copy, Debug)]
pub struct Setxattr<'a> {
    pub name: &'a OsStr,
    pub value: &'a [u8],
    /// Those of setxattr(2).
    pub flags: u32,
    pub kill_sgid: bool,
}

pub fn setxattr<'a>(request: &Request<'a>) -> Result<Setxattr<'a>> {
    let abi::SetxattrIn { size, flags } = request.arg()?;
    let kill_sgid = request.setxattr_ext && {
        let rest = &request.arg[size_of::<abi::SetxattrIn>()..];
        let (more, _) = abi::SetxattrExt::read_from_prefix(rest).map_err(|_| Errno::IO)?;
        more.setxattr_flags & abi::SETXATTR_ACL_KILL_SGID != 0
    };
    let mut payload = Payload(request.payload);
    let name = payload.xattr_name()?;
    let value = payload.0.get(..size as usize).ok_or(Errno::IO)?;
    Ok(Setxattr { name, value, flags, kill_sgid })
}

pub fn xattr_name<'a>(request: &Request<'a>) -> Result<&'a OsStr> {
    Payload(request.payload).xattr_name()
}

/// How many bytes the answer may have; 0: only the length is asked for.
pub fn listxattr(request: &Request<'_>) -> Result<u32> {
    Ok(request.arg::<abi::GetxattrIn>()?.size)
}

/// The name, and as [`listxattr`].
pub fn getxattr<'a>(request: &Request<'a>) -> Result<(&'a OsStr, u32)> {
    Ok((xattr_name(request)?, listxattr(request)?))
}

#[derive(Clone, Copy, Debug)]
pub struct Fallocate {
    pub offset: u64,
    pub len: u64,
    pub mode: FallocateMode,
}

pub fn fallocate(request: &Request<'_>) -> Result<Fallocate> {
    let abi::FallocateIn { offset, length, mode, .. } = request.arg()?;
    Ok(Fallocate { offset, len: length, mode: FallocateMode::from_raw(mode)? })
}

#[derive(Clone, Copy, Debug)]
pub struct Lseek {
    pub offset: u64,
    pub whence: Whence,
}

pub fn lseek(request: &Request<'_>) -> Result<Lseek> {
    let abi::LseekIn { offset, whence, .. } = request.arg()?;
    Ok(Lseek { offset, whence: Whence::from_raw(whence)? })
}

#[derive(Clone, Copy, Debug)]
pub struct CopyFileRange {
    pub offset: u64,
    pub to: InodeNo,
    pub to_offset: u64,
    pub len: u64,
}

pub fn copy_file_range(request: &Request<'_>) -> Result<CopyFileRange> {
    let abi::CopyFileRangeIn { off_in, nodeid_out, off_out, len, .. } = request.arg()?;
    Ok(CopyFileRange { offset: off_in, to: InodeNo(nodeid_out), to_offset: off_out, len })
}

#[derive(Clone, Copy, Debug)]
pub struct Ioctl<'a> {
    pub cmd: u32,
    /// The argument, where the command says that it is read.
    pub data: &'a [u8],
}

pub fn ioctl<'a>(request: &Request<'a>) -> Result<Ioctl<'a>> {
    let abi::IoctlIn { cmd, in_size, .. } = request.arg()?;
    let data = request.payload.get(..in_size as usize).ok_or(Errno::IO)?;
    Ok(Ioctl { cmd, data })
}

/// What is left of a payload.
struct Payload<'a>(&'a [u8]);

impl<'a> Payload<'a> {
    /// The next NUL-terminated string.
    fn string(&mut self) -> Result<&'a [u8]> {
        let end = self.0.iter().position(|&b| b == 0).ok_or(Errno::IO)?;
        let (string, rest) = self.0.split_at(end);
        self.0 = &rest[1..];
        Ok(string)
    }

    /// The next string, as the name of a directory entry. `.` and `..` are none: the kernel sends
    /// them only to file systems that can be exported.
    fn name(&mut self) -> Result<&'a OsStr> {
        let name = self.string()?;
        check_name(name).map(|()| OsStr::from_bytes(name))
    }

    fn xattr_name(&mut self) -> Result<&'a OsStr> {
        match self.string()? {
            b"" => Err(Errno::INVAL),
            name if name.len() > NAME_MAX => Err(Errno::RANGE),
            name => Ok(OsStr::from_bytes(name)),
        }
    }
}

#[cfg(test)]
mod tests;
