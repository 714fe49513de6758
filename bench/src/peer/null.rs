//! A file system that only keeps names: what is left of its time is the kernel, and the floor for all others.
//!
//! It asks the kernel for the caching that Overcoat asks for, and is served by another library's loop on `/dev/fuse`.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use fuser::{
    Config, Errno, FileAttr, FileHandle, FileType, Filesystem, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, MountOption, OpenFlags, RenameFlags, ReplyAttr, ReplyData, ReplyEmpty,
    ReplyEntry, ReplyWrite, Request, Session, SessionACL, TimeOrNow, WriteFlags,
};

use crate::Result;
use crate::mount_dirs::MountDirs;

use super::Peer;

pub struct Null;

impl Peer for Null {
    fn name(&self) -> &'static str {
        crate::goal::NULL
    }

    fn has_layers(&self) -> bool {
        false
    }

    fn mount(&self, dirs: &MountDirs) -> Result {
        let mut server = Command::new(std::env::current_exe()?)
            .arg(COMMAND)
            .arg(&dirs.mount_point)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let said = server.stdout.take().ok_or("no pipe")?;
        // It says a line once it is mounted, and ends with the mount.
        if std::io::Read::read(&mut { said }, &mut [0; 1])? == 0 {
            return Err(format!("the null file system: {}", server.wait()?).into());
        }
        std::thread::spawn(move || server.wait());
        Ok(())
    }
}

/// The first argument that makes this program the server.
const COMMAND: &str = "null-server";

/// Acts as the server if called so.
pub fn hidden_command() -> Option<ExitCode> {
    let words: Vec<_> = std::env::args_os().collect();
    if words.get(1).map(OsString::as_os_str) != Some(OsStr::new(COMMAND)) {
        return None;
    }
    let served = serve(Path::new(words.get(2)?));
    Some(if served.is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn serve(point: &Path) -> std::io::Result<()> {
    let mut config = Config::default();
    config.mount_options =
        vec![MountOption::FSName("null".into()), MountOption::DefaultPermissions];
    config.acl = SessionACL::All;
    config.n_threads = Some(2);
    config.clone_fd = true;
    let session = Session::new(Names::default(), point, &config)?;
    writeln!(std::io::stdout(), "mounted")?;
    session.run()
}

const FOREVER: Duration = Duration::from_secs(1 << 30);

#[derive(Default)]
struct Names {
    tree: Mutex<Tree>,
}

#[derive(Default)]
struct Tree {
    entries: HashMap<(u64, OsString), u64>,
    inodes: HashMap<u64, (FileType, u64)>,
    last: u64,
}

impl Tree {
    fn make(&mut self, parent: INodeNo, name: &OsStr, kind: FileType) -> FileAttr {
        self.last = self.last.max(1) + 1;
        self.entries.insert((parent.0, name.to_owned()), self.last);
        self.inodes.insert(self.last, (kind, 0));
        attr(self.last, kind, 0)
    }

    fn attr(&self, ino: u64) -> FileAttr {
        let (kind, size) = *self.inodes.get(&ino).unwrap_or(&(FileType::Directory, 0));
        attr(ino, kind, size)
    }

    fn remove(&mut self, parent: INodeNo, name: &OsStr) {
        if let Some(ino) = self.entries.remove(&(parent.0, name.to_owned())) {
            self.inodes.remove(&ino);
        }
    }
}

impl Names {
    fn tree(&self) -> MutexGuard<'_, Tree> {
        self.tree.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn attr(ino: u64, kind: FileType, size: u64) -> FileAttr {
    let time = SystemTime::UNIX_EPOCH;
    FileAttr {
        ino: INodeNo(ino),
        size,
        blocks: size.div_ceil(512),
        atime: time,
        mtime: time,
        ctime: time,
        crtime: time,
        kind,
        perm: 0o755,
        nlink: 1,
        uid: 0,
        gid: 0,
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

impl Filesystem for Names {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> std::io::Result<()> {
        let wishes = (InitFlags::FUSE_WRITEBACK_CACHE
            | InitFlags::FUSE_NO_OPEN_SUPPORT
            | InitFlags::FUSE_NO_OPENDIR_SUPPORT
            | InitFlags::FUSE_PARALLEL_DIROPS
            | InitFlags::FUSE_HANDLE_KILLPRIV_V2
            | InitFlags::FUSE_POSIX_ACL)
            & config.capabilities();
        config.add_capabilities(wishes).map_err(|_| std::io::ErrorKind::Unsupported.into())
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let tree = self.tree();
        let found = tree.entries.get(&(parent.0, name.to_owned()));
        let attr = found.map_or(attr(0, FileType::RegularFile, 0), |&ino| tree.attr(ino));
        reply.entry(&FOREVER, &attr, Generation(0));
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.tree().attr(ino.0));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        _: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<fuser::BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let mut tree = self.tree();
        if let (Some(size), Some(inode)) = (size, tree.inodes.get_mut(&ino.0)) {
            inode.1 = size;
        }
        reply.attr(&FOREVER, &tree.attr(ino.0));
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let attr = self.tree().make(parent, name, FileType::Directory);
        reply.entry(&FOREVER, &attr, Generation(0));
    }

    // CREATE is not there, so that the kernel makes files by this and opens them by itself.
    fn mknod(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        _: u32,
        _: u32,
        _: u32,
        reply: ReplyEntry,
    ) {
        let attr = self.tree().make(parent, name, FileType::RegularFile);
        reply.entry(&FOREVER, &attr, Generation(0));
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.tree().remove(parent, name);
        reply.ok();
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        self.tree().remove(parent, name);
        reply.ok();
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        to: INodeNo,
        new: &OsStr,
        _: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let mut tree = self.tree();
        if let Some(ino) = tree.entries.remove(&(parent.0, name.to_owned())) {
            tree.entries.insert((to.0, new.to_owned()), ino);
        }
        reply.ok();
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: fuser::ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: fuser::ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        _: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        reply.data(&vec![0; size as usize]);
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        if let Some(inode) = self.tree().inodes.get_mut(&ino.0) {
            inode.1 = inode.1.max(offset + data.len() as u64);
        }
        reply.written(data.len() as u32);
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn fsync(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        reply.ok();
    }

    fn setxattr(
        &self,
        _: &Request,
        _: INodeNo,
        _: &OsStr,
        _: &[u8],
        _: i32,
        _: u32,
        reply: ReplyEmpty,
    ) {
        reply.ok();
    }

    fn getxattr(&self, _: &Request, _: INodeNo, _: &OsStr, _: u32, reply: fuser::ReplyXattr) {
        reply.error(Errno::ENODATA);
    }
}
