//! One of the two views: runs operations and tells what came of them.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use overcoat_tests::fsx::{acl, acl_tag};
use overcoat_tests::manifest::Node as ManifestNode;
use overcoat_tests::rng::bytes;
use overcoat_tests::{Driver, Manifest, Mount, Spec, fsx};
use rustix::fs::{
    self, Access, AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags,
    StatxFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};

use crate::op::{Falloc, Node, Op, Open, Rename, SLOTS, Slot};

/// What a successful operation tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    Nothing,
    Count(u64),
    Bytes(Vec<u8>),
    Names(Vec<(Vec<u8>, String)>),
    Attributes { mode: u16, uid: u32, gid: u32, size: u64, nlink: u32, mtime: (i64, u32) },
}

/// A mounted view and the descriptors held on it.
pub struct View {
    spec: Spec,
    mount: Option<Mount>,
    slots: [Option<File>; SLOTS],
}

/// Times of about now differ between the two views; all others must agree.
fn coarse(time: (i64, u32)) -> (i64, u32) {
    let now = i64::try_from(std::time::UNIX_EPOCH.elapsed().unwrap().as_secs()).unwrap();
    if (time.0 - now).abs() < 86_400 { (i64::MAX, 0) } else { time }
}

fn root_mode(mode: u32) -> Mode {
    Mode::from_raw_mode(mode)
}

fn spec_time(seconds: i64, nanoseconds: i64) -> Timespec {
    Timespec { tv_sec: seconds, tv_nsec: nanoseconds }
}

fn timestamps(atime: i64, mtime: i64) -> Timestamps {
    Timestamps { last_access: spec_time(atime, 111), last_modification: spec_time(mtime, 222) }
}

impl View {
    /// Mounts it.
    pub fn new(spec: Spec) -> Self {
        let mount = Some(spec.mount());
        Self { spec, mount, slots: Default::default() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.mount.as_ref().unwrap().path(path)
    }

    /// Everything that can be compared of the tree, in comparable form.
    pub fn manifest(&self) -> Manifest {
        let manifest = Manifest::of(self.mount.as_ref().unwrap().root());
        let mut first_of: std::collections::HashMap<u64, u64> = std::collections::HashMap::new();
        let mut number = 0;
        manifest.map(|_, node| comparable(node, &mut first_of, &mut number))
    }

    /// Unmounts for good.
    pub fn end(mut self) {
        self.close_all();
        self.mount.take().unwrap().unmount();
    }

    fn close_all(&mut self) {
        self.slots = Default::default();
    }

    /// Its root.
    pub fn root(&self) -> &Path {
        self.mount.as_ref().unwrap().root()
    }

    /// Unmounts, to be mounted again by [`View::mount_over`].
    pub fn unmount(&mut self, kill: bool) {
        self.close_all();
        let mount = self.mount.take().unwrap();
        if kill && self.spec.driver == Driver::Overcoat {
            mount.kill();
        } else {
            mount.unmount();
        }
    }

    /// Mounts it over these layers.
    pub fn mount_over(&mut self, lowers: &[PathBuf]) {
        self.spec.lowers = lowers.to_vec();
        self.mount = Some(self.spec.mount());
    }

    /// Unmounts, or kills the daemon when there is one, and mounts again.
    pub fn remount(&mut self, kill: bool) {
        self.unmount(kill);
        self.mount = Some(self.spec.mount());
    }

    fn slot(&self, slot: Slot) -> Result<&File> {
        self.slots[slot].as_ref().ok_or(Errno::BADF)
    }

    /// Whether behind a descriptor there is neither a file nor a directory, nor a name of it.
    pub fn is_unlinked_node(&self, slot: Slot) -> bool {
        let Ok(Value::Attributes { mode, nlink: 0, .. }) =
            self.slot(slot).and_then(|file| attributes(file, Path::new("")))
        else {
            return false;
        };
        let kind = FileType::from_raw_mode(mode.into());
        !matches!(kind, FileType::RegularFile | FileType::Directory)
    }

    /// Whether what has this name is setuid or setgid.
    pub fn is_set_id(&self, path: &str) -> bool {
        let found = attributes(CWD, &self.path(path));
        matches!(found, Ok(Value::Attributes { mode, .. }) if mode & 0o6000 != 0)
    }

    /// Whether this is a directory that is not empty.
    pub fn has_entries(&self, path: &str) -> bool {
        let directory = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY);
        let names = directory.and_then(|directory| list(&directory));
        matches!(names, Ok(Value::Names(names)) if names.len() > 2)
    }

    /// Drops a descriptor, when the two views have come to differ behind it.
    pub fn close(&mut self, slot: Slot) {
        self.slots[slot] = None;
    }

    /// Runs one operation.
    pub fn run(&mut self, op: &Op) -> Result<Value> {
        self.run_data(op)
            .or_else(|| self.run_names(op))
            .or_else(|| self.run_attributes(op))
            .or_else(|| self.run_slots(op))
            .unwrap_or(Ok(Value::Nothing))
    }

    fn open(&self, path: &str, flags: OFlags) -> Result<File> {
        // A FIFO without its other end must not block.
        fsx::open(self.path(path), flags | OFlags::NONBLOCK | OFlags::NOFOLLOW)
    }

    /// Opens what data operations work on: never a device.
    fn open_file(&self, path: &str, flags: OFlags) -> Result<File> {
        let file = self.open(path, flags)?;
        let mode = fs::fstat(&file)?.st_mode;
        if FileType::from_raw_mode(mode) != FileType::RegularFile {
            return Err(Errno::NODEV);
        }
        Ok(file)
    }

    fn run_data(&mut self, op: &Op) -> Option<Result<Value>> {
        Some(match *op {
            Op::Create(path, mode) => {
                let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
                fs::open(self.path(path), flags, root_mode(mode)).map(|_| Value::Nothing)
            }
            Op::Write(path, offset, len, seed) => self
                .open_file(path, OFlags::WRONLY)
                .and_then(|file| write(&file, offset, len, seed)),
            Op::Append(path, len, seed) => self
                .open_file(path, OFlags::WRONLY | OFlags::APPEND)
                .and_then(|file| write(&file, 0, len, seed)),
            Op::Read(path) => self.open_file(path, OFlags::RDONLY).and_then(|file| {
                let size = fs::fstat(&file)?.st_size as u64;
                // All of a small file, the end of a large one.
                read(&file, size.saturating_sub(200_000), 200_000)
            }),
            Op::Truncate(path, size) => self
                .open_file(path, OFlags::WRONLY)
                .and_then(|file| fs::ftruncate(&file, size))
                .map(nothing),
            Op::Fallocate(path, mode, offset, len) => self
                .open_file(path, OFlags::RDWR)
                .and_then(|file| fs::fallocate(&file, falloc_flags(mode), offset, len))
                .map(nothing),
            Op::CopyRange(from, to, from_offset, to_offset, len) => {
                self.copy_range((from, from_offset), (to, to_offset), len)
            }
            Op::MapWrite(path, offset, len, seed) => {
                self.open_file(path, OFlags::RDWR).and_then(|file| store(&file, offset, len, seed))
            }
            Op::SeekData(path) => self.open_file(path, OFlags::RDONLY).and_then(|file| {
                // Where the last data are is the same everywhere; where holes begin is not.
                let size = fs::fstat(&file)?.st_size as u64;
                fs::seek(&file, fs::SeekFrom::Hole(size.saturating_sub(1))).map(Value::Count)
            }),
            _ => return None,
        })
    }

    fn copy_range(&self, from: (&str, u64), to: (&str, u64), len: usize) -> Result<Value> {
        let source = self.open_file(from.0, OFlags::RDONLY)?;
        let target = self.open_file(to.0, OFlags::WRONLY)?;
        let (mut from_offset, mut to_offset, mut done) = (from.1, to.1, 0);
        // As cp does: until all is copied or the source ends.
        while done < len {
            let left = len - done;
            let count = fs::copy_file_range(
                &source,
                Some(&mut from_offset),
                &target,
                Some(&mut to_offset),
                left,
            )?;
            if count == 0 {
                break;
            }
            done += count;
        }
        Ok(Value::Count(done as u64))
    }

    fn run_names(&mut self, op: &Op) -> Option<Result<Value>> {
        let result = match *op {
            Op::Mkdir(path, mode) => fs::mkdir(self.path(path), root_mode(mode)),
            Op::Rmdir(path) => fs::rmdir(self.path(path)),
            Op::Unlink(path) => fs::unlink(self.path(path)),
            Op::Link(from, to) => {
                fs::linkat(CWD, self.path(from), CWD, self.path(to), AtFlags::empty())
            }
            Op::Symlink(target, path) => fs::symlink(target, self.path(path)),
            Op::Mknod(path, node, mode) => mknod(&self.path(path), node, mode),
            Op::Rename(from, to, kind) => {
                let flags = match kind {
                    Rename::Replace => RenameFlags::empty(),
                    Rename::NoReplace => RenameFlags::NOREPLACE,
                    Rename::Exchange => RenameFlags::EXCHANGE,
                };
                fsx::rename_with(self.path(from), self.path(to), flags)
            }
            Op::Readlink(path) => {
                let target = fs::readlink(self.path(path), Vec::new());
                return Some(target.map(|target| Value::Bytes(target.into_bytes())));
            }
            Op::Readdir(path) => {
                let directory = self.open(path, OFlags::RDONLY | OFlags::DIRECTORY);
                return Some(directory.and_then(|directory| list(&directory)));
            }
            _ => return None,
        };
        Some(result.map(nothing))
    }

    fn run_attributes(&mut self, op: &Op) -> Option<Result<Value>> {
        let result = match *op {
            Op::Chmod(path, mode) => {
                fs::chmodat(CWD, self.path(path), root_mode(mode), AtFlags::empty())
            }
            Op::Chown(path, uid, gid) => {
                let (uid, gid) = (uid.map(Uid::from_raw), gid.map(Gid::from_raw));
                fs::chownat(CWD, self.path(path), uid, gid, AtFlags::SYMLINK_NOFOLLOW)
            }
            Op::Utimens(path, atime, mtime) => {
                let times = timestamps(atime, mtime);
                fs::utimensat(CWD, self.path(path), &times, AtFlags::SYMLINK_NOFOLLOW)
            }
            Op::SetXattr(path, name, len) => {
                let value = bytes(u64::from(len), len as usize);
                fs::lsetxattr(self.path(path), name, &value, XattrFlags::empty())
            }
            Op::RemoveXattr(path, name) => fs::lremovexattr(self.path(path), name),
            Op::SetAcl(path, default, permissions) => {
                let name =
                    if default { "system.posix_acl_default" } else { "system.posix_acl_access" };
                fs::setxattr(self.path(path), name, &acl_of(permissions), XattrFlags::empty())
            }
            Op::Access(path, mode) => {
                let access = Access::from_bits_truncate(mode.into());
                fs::accessat(CWD, self.path(path), access, AtFlags::EACCESS)
            }
            Op::GetXattr(path, name) => {
                return Some(fsx::get_xattr(self.path(path), name).map(Value::Bytes));
            }
            Op::ListXattr(path) => {
                return Some(
                    fsx::list_xattrs(self.path(path)).map(|names| Value::Bytes(names.concat())),
                );
            }
            Op::Stat(path) => return Some(attributes(CWD, &self.path(path))),
            _ => return None,
        };
        Some(result.map(nothing))
    }

    fn run_slots(&mut self, op: &Op) -> Option<Result<Value>> {
        let result = match *op {
            Op::Open(slot, path, how) => {
                let file = self.open(path, open_flags(how));
                self.keep(slot, file)
            }
            Op::Tmpfile(slot, path) => {
                let file = fsx::tmpfile(self.path(path), OFlags::empty());
                self.keep(slot, file)
            }
            Op::LinkTmpfile(slot, path) => {
                let target = self.path(path);
                self.slot(slot).and_then(|file| fsx::link_tmpfile(file, target)).map(nothing)
            }
            Op::Close(slot) => {
                self.close(slot);
                Ok(Value::Nothing)
            }
            Op::FdRead(slot, offset, len) => {
                self.regular(slot).and_then(|file| read(file, offset, len as usize))
            }
            Op::FdWrite(slot, offset, len, seed) => {
                self.regular(slot).and_then(|file| write(file, offset, len, seed))
            }
            Op::FdTruncate(slot, size) => {
                self.slot(slot).and_then(|file| fs::ftruncate(file, size)).map(nothing)
            }
            Op::FdChmod(slot, mode) => {
                self.slot(slot).and_then(|file| fs::fchmod(file, root_mode(mode))).map(nothing)
            }
            Op::FdStat(slot) => self.slot(slot).and_then(|file| attributes(file, Path::new(""))),
            Op::FdSync(slot) => self.slot(slot).and_then(fs::fsync).map(nothing),
            Op::FdSetXattr(slot, name, len) => {
                let value = bytes(1, len as usize);
                let set = |file| fs::fsetxattr(file, name, &value, XattrFlags::empty());
                self.slot(slot).and_then(set).map(nothing)
            }
            Op::FdReaddir(slot) => self.slot(slot).and_then(|file| {
                fs::seek(file, fs::SeekFrom::Start(0))?;
                if FileType::from_raw_mode(fs::fstat(file)?.st_mode) != FileType::Directory {
                    return Err(Errno::NOTDIR);
                }
                list(file)
            }),
            Op::FdUtimens(slot, atime, mtime) => {
                let times = timestamps(atime, mtime);
                self.slot(slot).and_then(|file| fs::futimens(file, &times)).map(nothing)
            }
            _ => return None,
        };
        Some(result)
    }

    fn keep(&mut self, slot: Slot, file: Result<File>) -> Result<Value> {
        self.slots[slot] = None;
        self.slots[slot] = Some(file?);
        Ok(Value::Nothing)
    }

    fn regular(&self, slot: Slot) -> Result<&File> {
        let file = self.slot(slot)?;
        match FileType::from_raw_mode(fs::fstat(file)?.st_mode) {
            FileType::RegularFile => Ok(file),
            _ => Err(Errno::NODEV),
        }
    }
}

fn comparable(
    node: &mut ManifestNode,
    first_of: &mut std::collections::HashMap<u64, u64>,
    number: &mut u64,
) {
    *number += 1;
    // Which names are one inode is comparable; its number is not.
    node.ino = *first_of.entry(node.ino).or_insert(*number);
    node.blocks = 0;
    node.ctime = (0, 0);
    node.atime = coarse(node.atime);
    node.mtime = coarse(node.mtime);
    if FileType::from_raw_mode(node.mode.into()) == FileType::Directory {
        node.nlink = 0;
    }
}

fn nothing((): ()) -> Value {
    Value::Nothing
}

fn error_of(error: &std::io::Error) -> Errno {
    Errno::from_io_error(error).unwrap_or(Errno::IO)
}

fn write(file: &File, offset: u64, len: u32, seed: u8) -> Result<Value> {
    file.write_all_at(&bytes(seed.into(), len as usize), offset)
        .map(nothing)
        .map_err(|error| error_of(&error))
}

/// Stores to a shared mapping of what the file has; nothing past its end.
fn store(file: &File, offset: u64, len: u32, seed: u8) -> Result<Value> {
    let size = fs::fstat(file)?.st_size as u64;
    if size < offset + u64::from(len) {
        return Err(Errno::NXIO);
    }
    let mut options = memmap2::MmapOptions::new();
    options.len(usize::try_from(size).unwrap());
    // SAFETY: nobody cuts the file while it is mapped.
    let mut map = unsafe { options.map_mut(file) }.map_err(|error| error_of(&error))?;
    let start = usize::try_from(offset).unwrap();
    map[start..start + len as usize].copy_from_slice(&bytes(seed.into(), len as usize));
    Ok(Value::Nothing)
}

fn read(file: &File, offset: u64, len: usize) -> Result<Value> {
    let mut data = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(&mut data[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) => return Err(error_of(&error)),
        }
    }
    data.truncate(done);
    Ok(Value::Bytes(data))
}

fn list(directory: &File) -> Result<Value> {
    let mut names = Vec::new();
    for entry in fs::Dir::read_from(directory)? {
        let entry = entry?;
        names.push((entry.file_name().to_bytes().to_vec(), format!("{:?}", entry.file_type())));
    }
    names.sort();
    Ok(Value::Names(names))
}

fn attributes(at: impl std::os::fd::AsFd, path: &Path) -> Result<Value> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH;
    let stat = fs::statx(at, path, flags, StatxFlags::ALL)?;
    let directory = FileType::from_raw_mode(stat.stx_mode.into()) == FileType::Directory;
    Ok(Value::Attributes {
        mode: stat.stx_mode,
        uid: stat.stx_uid,
        gid: stat.stx_gid,
        size: if directory { 0 } else { stat.stx_size },
        nlink: if directory { 0 } else { stat.stx_nlink },
        mtime: coarse((stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec)),
    })
}

fn mknod(path: &Path, node: Node, mode: u32) -> Result<()> {
    match node {
        Node::Regular => fsx::mknod(path, FileType::RegularFile, mode, (0, 0)),
        Node::Fifo => fsx::mknod(path, FileType::Fifo, mode, (0, 0)),
        Node::Socket => fsx::mknod(path, FileType::Socket, mode, (0, 0)),
        Node::Char(major, minor) => {
            fsx::mknod(path, FileType::CharacterDevice, mode, (major, minor))
        }
        Node::Block(major, minor) => fsx::mknod(path, FileType::BlockDevice, mode, (major, minor)),
    }
}

fn falloc_flags(mode: Falloc) -> FallocateFlags {
    match mode {
        Falloc::Allocate => FallocateFlags::empty(),
        Falloc::KeepSize => FallocateFlags::KEEP_SIZE,
        Falloc::Punch => FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
        Falloc::Zero => FallocateFlags::ZERO_RANGE,
        Falloc::ZeroKeepSize => FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE,
    }
}

fn open_flags(how: Open) -> OFlags {
    match how {
        Open::Read => OFlags::RDONLY,
        Open::Write => OFlags::WRONLY,
        Open::ReadWrite => OFlags::RDWR,
        Open::ReadWriteTruncate => OFlags::RDWR | OFlags::TRUNC,
        Open::Append => OFlags::WRONLY | OFlags::APPEND,
        Open::CreateReadWrite => OFlags::RDWR | OFlags::CREATE,
        Open::Directory => OFlags::RDONLY | OFlags::DIRECTORY,
        Open::Path => OFlags::PATH,
    }
}

fn acl_of(permissions: u16) -> Vec<u8> {
    acl(&[
        (acl_tag::USER_OBJ, 7, acl_tag::NO_ID),
        (acl_tag::USER, permissions, 1000),
        (acl_tag::GROUP_OBJ, 5, acl_tag::NO_ID),
        (acl_tag::MASK, 7, acl_tag::NO_ID),
        (acl_tag::OTHER, permissions & 5, acl_tag::NO_ID),
    ])
}
