//! Requests: from the kernel's bytes to typed operations.
//!
//! A request has three parts: the header, the operation's argument struct, and the payload (names,
//! data). Over `/dev/fuse` they lie in a row; over io_uring each has an area of its own. Bytes are
//! checked before they are believed: decoding never panics and never reads past an end.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use zerocopy::FromBytes;

use crate::attr::{Caller, InodeNo, SetAttr, SetTime, Time};
use crate::errno::{Errno, Result};
use crate::fuse::abi::{self, Opcode, fattr};

/// The longest name of a directory entry, in bytes.
pub const NAME_MAX: usize = 255;

/// One request, not yet decoded.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub header: abi::InHeader,
    /// `None`: an operation unknown here.
    pub opcode: Option<Opcode>,
    /// The operation's argument struct. May be longer than the struct (the io_uring area is).
    pub arg: &'a [u8],
    /// What follows it.
    pub payload: &'a [u8],
}

impl<'a> Request<'a> {
    /// Splits a request as `/dev/fuse` delivers it. `EIO` where it contradicts itself: there is
    /// then no trustworthy `unique` to answer to.
    pub fn split(bytes: &'a [u8], setxattr_ext: bool) -> Result<Request<'a>> {
        let (header, rest) = abi::InHeader::read_from_prefix(bytes).map_err(|_| Errno::IO)?;
        if header.len as usize != bytes.len() {
            return Err(Errno::IO);
        }
        let opcode = Opcode::from_raw(header.opcode);
        let arg_len = match opcode {
            // A cut argument is the decoder's to refuse, which can still answer the request.
            Some(op) => arg_len(op, setxattr_ext, rest.len()).min(rest.len()),
            None => 0,
        };
        let (arg, payload) = rest.split_at(arg_len);
        Request::from_parts(header, arg, payload)
    }

    /// Puts together a request whose parts arrived apart. `EIO` where the extensions are longer
    /// than the payload that holds them.
    pub fn from_parts(
        header: abi::InHeader,
        arg: &'a [u8],
        payload: &'a [u8],
    ) -> Result<Request<'a>> {
        let extensions = usize::from(header.total_extlen) * 8;
        let end = payload.len().checked_sub(extensions).ok_or(Errno::IO)?;
        let opcode = Opcode::from_raw(header.opcode);
        Ok(Request { header, opcode, arg, payload: &payload[..end] })
    }

    /// The inode the request is about.
    pub fn node(&self) -> InodeNo {
        InodeNo(self.header.nodeid)
    }

    /// Who asks. Where id-mapped mounts were negotiated, the ids are `u32::MAX` except in requests
    /// that make an inode.
    pub fn caller(&self) -> Caller {
        Caller { uid: self.header.uid, gid: self.header.gid, pid: self.header.pid }
    }

    /// The typed operation. `EIO` for bytes that are none, `ENOSYS` for an unknown opcode, `EINVAL`
    /// or `ENAMETOOLONG` for a name that no directory can hold.
    pub fn decode(&self, setxattr_ext: bool) -> Result<Operation<'a>> {
        let opcode = self.opcode.ok_or(Errno::NOSYS)?;
        let mut payload = Payload(self.payload);
        Ok(match opcode {
            Opcode::Lookup => Operation::Lookup { name: payload.name()? },
            Opcode::Forget => Operation::Forget { count: self.arg::<abi::ForgetIn>()?.nlookup },
            Opcode::BatchForget => self.batch_forget()?,
            Opcode::Getattr => Operation::Getattr,
            Opcode::Statx => Operation::Statx,
            Opcode::Setattr => Operation::Setattr { set: set_attr(&self.arg()?)? },
            Opcode::Readlink => Operation::Readlink,
            Opcode::Symlink => {
                let (name, target) = (payload.name()?, payload.string()?);
                Operation::Symlink { name, target: OsStr::from_bytes(target) }
            }
            Opcode::Mknod => {
                let abi::MknodIn { mode, rdev, umask, .. } = self.arg()?;
                Operation::Mknod { name: payload.name()?, mode, rdev, umask }
            }
            Opcode::Mkdir => {
                let abi::MkdirIn { mode, umask } = self.arg()?;
                Operation::Mkdir { name: payload.name()?, mode, umask }
            }
            Opcode::Unlink => Operation::Unlink { name: payload.name()? },
            Opcode::Rmdir => Operation::Rmdir { name: payload.name()? },
            Opcode::Rename => {
                let abi::RenameIn { newdir } = self.arg()?;
                payload.rename(newdir, 0)?
            }
            Opcode::Rename2 => {
                let abi::Rename2In { newdir, flags, .. } = self.arg()?;
                payload.rename(newdir, flags)?
            }
            Opcode::Link => {
                let ino = InodeNo(self.arg::<abi::LinkIn>()?.oldnodeid);
                Operation::Link { ino, name: payload.name()? }
            }
            Opcode::Open => {
                let abi::OpenIn { flags, open_flags } = self.arg()?;
                let kill_suidgid = open_flags & abi::OPEN_KILL_SUIDGID != 0;
                Operation::Open { flags, kill_suidgid }
            }
            Opcode::Create => {
                let abi::CreateIn { flags, mode, umask, .. } = self.arg()?;
                Operation::Create { name: payload.name()?, flags, mode, umask }
            }
            Opcode::Tmpfile => {
                let abi::CreateIn { flags, mode, umask, .. } = self.arg()?;
                Operation::Tmpfile { flags, mode, umask }
            }
            Opcode::Read => {
                let abi::ReadIn { offset, size, .. } = self.arg()?;
                Operation::Read { offset, size }
            }
            Opcode::Write => self.write()?,
            Opcode::Statfs => Operation::Statfs,
            Opcode::Release => {
                let abi::ReleaseIn { fh, flags, .. } = self.arg()?;
                Operation::Release { fh, flags }
            }
            Opcode::Releasedir => Operation::Releasedir,
            Opcode::Fsync => Operation::Fsync { datasync: self.datasync()? },
            Opcode::Fsyncdir => Operation::Fsyncdir { datasync: self.datasync()? },
            Opcode::Syncfs => Operation::Syncfs,
            Opcode::Setxattr => self.setxattr(setxattr_ext)?,
            Opcode::Getxattr => {
                let abi::GetxattrIn { size, .. } = self.arg()?;
                Operation::Getxattr { name: payload.xattr_name()?, size }
            }
            Opcode::Listxattr => Operation::Listxattr { size: self.arg::<abi::GetxattrIn>()?.size },
            Opcode::Removexattr => Operation::Removexattr { name: payload.xattr_name()? },
            Opcode::Opendir => Operation::Opendir,
            Opcode::Readdir | Opcode::Readdirplus => {
                let abi::ReadIn { offset, size, .. } = self.arg()?;
                Operation::Readdir { offset, size, plus: opcode == Opcode::Readdirplus }
            }
            Opcode::Fallocate => {
                let abi::FallocateIn { offset, length, mode, .. } = self.arg()?;
                Operation::Fallocate { offset, len: length, mode }
            }
            Opcode::Lseek => {
                let abi::LseekIn { offset, whence, .. } = self.arg()?;
                Operation::Lseek { offset, whence }
            }
            Opcode::CopyFileRange | Opcode::CopyFileRange64 => {
                let abi::CopyFileRangeIn { off_in, nodeid_out, off_out, len, .. } = self.arg()?;
                let to = InodeNo(nodeid_out);
                let wide = opcode == Opcode::CopyFileRange64;
                Operation::CopyFileRange { offset: off_in, to, to_offset: off_out, len, wide }
            }
            Opcode::Ioctl => {
                let abi::IoctlIn { cmd, in_size, .. } = self.arg()?;
                let data = payload.0.get(..in_size as usize).ok_or(Errno::IO)?;
                Operation::Ioctl { cmd, data }
            }
            Opcode::Destroy => Operation::Destroy,
            // Not answering would do; refusing makes the kernel stop sending them.
            Opcode::Interrupt | Opcode::Flush | Opcode::Access | Opcode::Poll => {
                return Err(Errno::NOSYS);
            }
            // Only the session's first request may be one.
            Opcode::Init => return Err(Errno::IO),
        })
    }

    fn arg<T: FromBytes>(&self) -> Result<T> {
        T::read_from_prefix(self.arg).map(|(arg, _)| arg).map_err(|_| Errno::IO)
    }

    fn datasync(&self) -> Result<bool> {
        Ok(self.arg::<abi::FsyncIn>()?.fsync_flags & abi::FSYNC_FDATASYNC != 0)
    }

    fn batch_forget(&self) -> Result<Operation<'a>> {
        let abi::BatchForgetIn { count, .. } = self.arg()?;
        let len = (count as usize).checked_mul(size_of::<abi::ForgetOne>()).ok_or(Errno::IO)?;
        Ok(Operation::BatchForget { items: Forgets(self.payload.get(..len).ok_or(Errno::IO)?) })
    }

    fn write(&self) -> Result<Operation<'a>> {
        let abi::WriteIn { offset, size, write_flags, .. } = self.arg()?;
        let data = self.payload.get(..size as usize).ok_or(Errno::IO)?;
        let kill_suidgid = write_flags & abi::WRITE_KILL_SUIDGID != 0;
        let cached = write_flags & abi::WRITE_CACHE != 0;
        Ok(Operation::Write { offset, data, cached, kill_suidgid })
    }

    fn setxattr(&self, ext: bool) -> Result<Operation<'a>> {
        let abi::SetxattrIn { size, flags } = self.arg()?;
        let kill_sgid = ext && {
            let rest = &self.arg[size_of::<abi::SetxattrIn>()..];
            let (more, _) = abi::SetxattrExt::read_from_prefix(rest).map_err(|_| Errno::IO)?;
            more.setxattr_flags & abi::SETXATTR_ACL_KILL_SGID != 0
        };
        let mut payload = Payload(self.payload);
        let name = payload.xattr_name()?;
        let value = payload.0.get(..size as usize).ok_or(Errno::IO)?;
        Ok(Operation::Setxattr { name, value, flags, kill_sgid })
    }
}

/// How long the argument struct of `op` is in a request of which `rest` bytes follow the header.
fn arg_len(op: Opcode, setxattr_ext: bool, rest: usize) -> usize {
    match op {
        Opcode::Init => rest,
        Opcode::Setxattr if setxattr_ext => op.arg_len() + size_of::<abi::SetxattrExt>(),
        _ => op.arg_len(),
    }
}

/// A decoded operation on the request's node; names and data borrow from the request.
#[derive(Clone, Copy, Debug)]
pub enum Operation<'a> {
    Lookup {
        name: &'a OsStr,
    },
    Forget {
        count: u64,
    },
    BatchForget {
        items: Forgets<'a>,
    },
    Getattr,
    Statx,
    Setattr {
        set: SetAttr,
    },
    Readlink,
    Symlink {
        name: &'a OsStr,
        target: &'a OsStr,
    },
    Mknod {
        name: &'a OsStr,
        mode: u32,
        rdev: u32,
        umask: u32,
    },
    Mkdir {
        name: &'a OsStr,
        mode: u32,
        umask: u32,
    },
    Unlink {
        name: &'a OsStr,
    },
    Rmdir {
        name: &'a OsStr,
    },
    Rename {
        name: &'a OsStr,
        new_parent: InodeNo,
        new_name: &'a OsStr,
        flags: u32,
    },
    Link {
        ino: InodeNo,
        name: &'a OsStr,
    },
    Open {
        flags: u32,
        kill_suidgid: bool,
    },
    Create {
        name: &'a OsStr,
        flags: u32,
        mode: u32,
        umask: u32,
    },
    Tmpfile {
        flags: u32,
        mode: u32,
        umask: u32,
    },
    Read {
        offset: u64,
        size: u32,
    },
    Write {
        offset: u64,
        data: &'a [u8],
        /// Pages of the kernel's cache, which it wrote back by itself.
        cached: bool,
        kill_suidgid: bool,
    },
    Statfs,
    Release {
        fh: u64,
        flags: u32,
    },
    Releasedir,
    Fsync {
        datasync: bool,
    },
    Fsyncdir {
        datasync: bool,
    },
    Syncfs,
    Setxattr {
        name: &'a OsStr,
        value: &'a [u8],
        flags: u32,
        kill_sgid: bool,
    },
    /// `size` 0: only the value's length is asked for.
    Getxattr {
        name: &'a OsStr,
        size: u32,
    },
    Listxattr {
        size: u32,
    },
    Removexattr {
        name: &'a OsStr,
    },
    Opendir,
    Readdir {
        offset: u64,
        size: u32,
        plus: bool,
    },
    Fallocate {
        offset: u64,
        len: u64,
        mode: u32,
    },
    Lseek {
        offset: u64,
        whence: u32,
    },
    CopyFileRange {
        offset: u64,
        to: InodeNo,
        to_offset: u64,
        len: u64,
        wide: bool,
    },
    /// `data`: the argument, where the command says that it is read.
    Ioctl {
        cmd: u32,
        data: &'a [u8],
    },
    Destroy,
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
        match name {
            _ if name.len() > NAME_MAX => Err(Errno::NAMETOOLONG),
            b"" | b"." | b".." => Err(Errno::INVAL),
            _ if name.contains(&b'/') => Err(Errno::INVAL),
            _ => Ok(OsStr::from_bytes(name)),
        }
    }

    fn xattr_name(&mut self) -> Result<&'a OsStr> {
        match self.string()? {
            b"" => Err(Errno::INVAL),
            name if name.len() > NAME_MAX => Err(Errno::RANGE),
            name => Ok(OsStr::from_bytes(name)),
        }
    }

    fn rename(&mut self, newdir: u64, flags: u32) -> Result<Operation<'a>> {
        let (name, new_name) = (self.name()?, self.name()?);
        Ok(Operation::Rename { name, new_parent: InodeNo(newdir), new_name, flags })
    }
}

/// `EINVAL` for nanoseconds that are none.
fn set_attr(arg: &abi::SetattrIn) -> Result<SetAttr> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use zerocopy::IntoBytes;

    /// A whole request: header, argument struct, payload.
    fn request(op: u32, arg: &[u8], payload: &[u8]) -> Vec<u8> {
        let header = abi::InHeader {
            len: (size_of::<abi::InHeader>() + arg.len() + payload.len()) as u32,
            opcode: op,
            unique: 0x1234,
            nodeid: 7,
            uid: 1,
            gid: 2,
            pid: 3,
            ..Default::default()
        };
        [header.as_bytes(), arg, payload].concat()
    }

    fn decode(bytes: &[u8]) -> Result<String> {
        let request = Request::split(bytes, true)?;
        request.decode(true).map(|op| format!("{op:?}"))
    }

    #[test]
    fn golden_bytes_of_a_mkdir() {
        #[rustfmt::skip]
        let bytes = [
            52, 0, 0, 0,  9, 0, 0, 0,  0xfe, 1, 0, 0, 0, 0, 0, 0,  5, 0, 0, 0, 0, 0, 0, 0,
            0xe8, 3, 0, 0,  0x64, 0, 0, 0,  0x2a, 0, 0, 0,  0, 0, 0, 0,
            0xed, 1, 0, 0,  0x12, 0, 0, 0,  b'd', b'i', b'r', 0,
        ];
        let request = Request::split(&bytes, true).unwrap();
        assert_eq!(request.header.unique, 0x1fe);
        assert_eq!(request.node(), InodeNo(5));
        let caller = request.caller();
        assert_eq!((caller.uid, caller.gid, caller.pid), (1000, 100, 42));
        let Operation::Mkdir { name, mode, umask } = request.decode(true).unwrap() else {
            panic!("no mkdir")
        };
        assert_eq!((name, mode, umask), (OsStr::new("dir"), 0o755, 0o22));
    }

    #[test]
    fn setattr_keeps_times_before_1970_and_drops_type_bits() {
        let arg = abi::SetattrIn {
            valid: fattr::MODE | fattr::ATIME | fattr::MTIME | fattr::MTIME_NOW,
            mode: 0o104711,
            atime: -2i64 as u64,
            atimensec: 999_999_999,
            ..Default::default()
        };
        let set = set_attr(&arg).unwrap();
        assert_eq!(set.mode, Some(0o4711));
        assert_eq!(set.atime, Some(SetTime::At(Time { sec: -2, nsec: 999_999_999 })));
        assert_eq!(set.mtime, Some(SetTime::Now));
        assert!(set.uid.is_none() && set.size.is_none() && set.ctime.is_none());
        let bad = abi::SetattrIn { atimensec: 1_000_000_000, ..arg };
        assert_eq!(set_attr(&bad).unwrap_err(), Errno::INVAL);
    }

    #[test]
    fn setxattr_is_read_in_both_layouts() {
        let start = abi::SetxattrIn { size: 2, flags: 1 };
        let more = abi::SetxattrExt { setxattr_flags: 1, padding: 0 };
        let long = [start.as_bytes(), more.as_bytes()].concat();
        for (arg, ext) in [(&long[..], true), (start.as_bytes(), false)] {
            let bytes = request(21, arg, b"user.a\0xy");
            let op = Request::split(&bytes, ext).unwrap().decode(ext).unwrap();
            let Operation::Setxattr { name, value, flags, kill_sgid } = op else {
                panic!("no setxattr")
            };
            assert_eq!((name, value, flags), (OsStr::new("user.a"), &b"xy"[..], 1));
            assert_eq!(kill_sgid, ext);
        }
    }

    #[test]
    fn names_no_directory_can_hold_are_refused() {
        let lookup = |name: &[u8]| {
            let bytes = request(1, &[], name);
            Request::split(&bytes, true).unwrap().decode(true).map(|_| ())
        };
        assert_eq!(lookup(&[&[b'n'; 255][..], &[0]].concat()), Ok(()));
        assert_eq!(lookup(&[&[b'n'; 256][..], &[0]].concat()), Err(Errno::NAMETOOLONG));
        assert_eq!(lookup(b"\xff\n\0"), Ok(()));
        for bad in [&b"\0"[..], b".\0", b"..\0", b"a/b\0"] {
            assert_eq!(lookup(bad), Err(Errno::INVAL));
        }
        assert_eq!(lookup(b"endless"), Err(Errno::IO));
    }

    #[test]
    fn extensions_are_no_part_of_the_payload() {
        let mut header = abi::InHeader { opcode: 16, ..Default::default() };
        let arg = abi::WriteIn { size: 8, ..Default::default() };
        let whole = Request::from_parts(header, arg.as_bytes(), &[1; 8]).unwrap();
        assert!(whole.decode(true).is_ok());
        header.total_extlen = 1;
        let short = Request::from_parts(header, arg.as_bytes(), &[1; 8]).unwrap();
        assert_eq!(short.decode(true).unwrap_err(), Errno::IO);
        header.total_extlen = 2;
        assert!(Request::from_parts(header, arg.as_bytes(), &[1; 8]).is_err());
    }

    /// A payload that makes each operation whole, and how much of its end may be missing.
    fn sample(op: Opcode) -> (Vec<u8>, Vec<u8>) {
        let zeros = |n| vec![0u8; n];
        let arg = match op {
            Opcode::Write => abi::WriteIn { size: 9, ..Default::default() }.as_bytes().to_vec(),
            Opcode::Setxattr => {
                let start = abi::SetxattrIn { size: 3, flags: 0 };
                [start.as_bytes(), &[0; 8]].concat()
            }
            Opcode::BatchForget => abi::BatchForgetIn { count: 3, dummy: 0 }.as_bytes().to_vec(),
            _ => zeros(op.arg_len()),
        };
        let payload = match op {
            Opcode::Lookup | Opcode::Mknod | Opcode::Mkdir | Opcode::Unlink => b"na\0".to_vec(),
            Opcode::Rmdir | Opcode::Link | Opcode::Create => b"na\0".to_vec(),
            Opcode::Getxattr | Opcode::Removexattr => b"user.x\0".to_vec(),
            Opcode::Symlink | Opcode::Rename | Opcode::Rename2 => b"na\0other\0".to_vec(),
            Opcode::Setxattr => b"user.x\0val".to_vec(),
            Opcode::Write => vec![1; 9],
            Opcode::BatchForget => vec![2; 48],
            _ => Vec::new(),
        };
        (arg, payload)
    }

    #[test]
    fn a_request_cut_at_any_length_is_an_error() {
        let optional = [Opcode::Getattr, Opcode::Statx, Opcode::Opendir];
        let unread = [Opcode::Releasedir, Opcode::Syncfs];
        for &op in Opcode::ALL {
            let (arg, payload) = sample(op);
            let whole = request(op as u32, &arg, &payload);
            let refused = [Opcode::Interrupt, Opcode::Flush, Opcode::Access, Opcode::Poll];
            match decode(&whole) {
                Ok(_) => {}
                Err(Errno::NOSYS) => assert!(refused.contains(&op), "{op:?}"),
                Err(e) => assert_eq!((op, e), (Opcode::Init, Errno::IO)),
            }
            for cut in 0..whole.len() {
                // Once with the length the header claims, once with the header agreeing.
                assert!(decode(&whole[..cut]).is_err(), "{op:?} cut at {cut}");
                let mut agreed = whole[..cut].to_vec();
                if cut >= 4 {
                    agreed[..4].copy_from_slice(&(cut as u32).to_le_bytes());
                }
                let cut_arg_unread = optional.contains(&op) || unread.contains(&op);
                let ok = decode(&agreed).is_ok();
                assert!(!ok || (cut_arg_unread && cut >= 40), "{op:?} agreed cut at {cut}");
            }
        }
    }

    #[test]
    fn random_bytes_never_panic() {
        let mut state = 0x9e3779b97f4a7c15u64;
        let mut next = || {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state
        };
        for _ in 0..20_000 {
            let len = 40 + (next() % 200) as usize;
            let mut bytes: Vec<u8> = (0..len).map(|_| next() as u8).collect();
            bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
            bytes[4..8].copy_from_slice(&((next() % 56) as u32).to_le_bytes());
            bytes[36] = (next() % 4) as u8;
            bytes[37] = 0;
            let Ok(request) = Request::split(&bytes, next() % 2 == 0) else { continue };
            if let Ok(Operation::BatchForget { items }) = request.decode(next() % 2 == 0) {
                assert!(items.iter().count() < 20);
            }
        }
    }
}
