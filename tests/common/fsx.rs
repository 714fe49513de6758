//! System calls the standard library has no name for. Those that return no `Result` panic with the path
//! and the error.

use std::ffi::CString;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use rustix::fs::{
    self, AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, Statx,
    StatxFlags, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::{Errno, Result};

/// The rest of a test as another user: see [`as_user`].
pub const NOBODY: u32 = 65534;

fn fail(path: &Path, error: Errno) -> ! {
    panic!("{}: {error:?}", path.display())
}

/// Writes a whole file, made when missing.
pub fn write(path: impl AsRef<Path>, data: impl AsRef<[u8]>) {
    let path = path.as_ref();
    std::fs::write(path, data).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// Reads a whole file.
pub fn read(path: impl AsRef<Path>) -> Vec<u8> {
    let path = path.as_ref();
    std::fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Makes a directory and its parents.
pub fn mkdir(path: impl AsRef<Path>) {
    let path = path.as_ref();
    std::fs::create_dir_all(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
}

/// The names in a directory, sorted, as text.
pub fn names(path: impl AsRef<Path>) -> Vec<String> {
    let path = path.as_ref();
    let entries =
        std::fs::read_dir(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Opens with any flags; new files get mode 0644.
pub fn open(path: impl AsRef<Path>, flags: OFlags) -> Result<File> {
    fs::open(path.as_ref(), flags | OFlags::CLOEXEC, Mode::from_raw_mode(0o644)).map(File::from)
}

/// Opens for reading and writing.
pub fn open_rw(path: impl AsRef<Path>) -> File {
    let path = path.as_ref();
    open(path, OFlags::RDWR).unwrap_or_else(|error| fail(path, error))
}

/// Opens for reading.
pub fn open_ro(path: impl AsRef<Path>) -> File {
    let path = path.as_ref();
    open(path, OFlags::RDONLY).unwrap_or_else(|error| fail(path, error))
}

/// Everything `statx` says, of the link itself.
pub fn statx(path: impl AsRef<Path>) -> Statx {
    let path = path.as_ref();
    let flags = StatxFlags::ALL | StatxFlags::BTIME;
    fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, flags).unwrap_or_else(|error| fail(path, error))
}

/// The inode number of the link itself.
pub fn ino(path: impl AsRef<Path>) -> u64 {
    statx(path).stx_ino
}

/// Whether there is anything of that name.
pub fn exists(path: impl AsRef<Path>) -> bool {
    match fs::lstat(path.as_ref()) {
        Ok(_) => true,
        Err(Errno::NOENT) => false,
        Err(error) => fail(path.as_ref(), error),
    }
}

/// `chmod`, of what a link points at.
pub fn chmod(path: impl AsRef<Path>, mode: u32) {
    let path = path.as_ref();
    fs::chmod(path, Mode::from_raw_mode(mode)).unwrap_or_else(|error| fail(path, error));
}

/// `lchown` of both ids.
pub fn chown(path: impl AsRef<Path>, uid: u32, gid: u32) {
    let path = path.as_ref();
    let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
    fs::chownat(CWD, path, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .unwrap_or_else(|error| fail(path, error));
}

/// Sets access and modification time of the link itself, in seconds and nanoseconds.
pub fn set_times(path: impl AsRef<Path>, atime: (i64, i64), mtime: (i64, i64)) -> Result<()> {
    let spec = |(tv_sec, tv_nsec)| Timespec { tv_sec, tv_nsec };
    let times = Timestamps { last_access: spec(atime), last_modification: spec(mtime) };
    fs::utimensat(CWD, path.as_ref(), &times, AtFlags::SYMLINK_NOFOLLOW)
}

/// The modification time of the link itself.
pub fn mtime(path: impl AsRef<Path>) -> (i64, u32) {
    let stat = statx(path);
    (stat.stx_mtime.tv_sec, stat.stx_mtime.tv_nsec)
}

/// `mknod` of any type.
pub fn mknod(path: impl AsRef<Path>, kind: FileType, mode: u32, device: (u32, u32)) -> Result<()> {
    let device = fs::makedev(device.0, device.1);
    fs::mknodat(CWD, path.as_ref(), kind, Mode::from_raw_mode(mode), device)
}

/// A whiteout as overlayfs has it in a layer: character device 0:0.
pub fn whiteout(path: impl AsRef<Path>) {
    let path = path.as_ref();
    mknod(path, FileType::CharacterDevice, 0, (0, 0)).unwrap_or_else(|error| fail(path, error));
}

/// `renameat2`.
pub fn rename_with(from: impl AsRef<Path>, to: impl AsRef<Path>, flags: RenameFlags) -> Result<()> {
    fs::renameat_with(CWD, from.as_ref(), CWD, to.as_ref(), flags)
}

/// `fallocate`.
pub fn fallocate(file: &File, mode: FallocateFlags, offset: u64, len: u64) -> Result<()> {
    fs::fallocate(file, mode, offset, len)
}

/// An unnamed file in `directory`.
pub fn tmpfile(directory: impl AsRef<Path>, flags: OFlags) -> Result<File> {
    open(directory, OFlags::TMPFILE | OFlags::RDWR | flags)
}

/// Gives an unnamed file a name.
pub fn link_tmpfile(file: &File, path: impl AsRef<Path>) -> Result<()> {
    fs::linkat(file, "", CWD, path.as_ref(), AtFlags::EMPTY_PATH)
}

/// An extended attribute of the link itself.
pub fn get_xattr(path: impl AsRef<Path>, name: &str) -> Result<Vec<u8>> {
    let mut value = vec![0; 65536];
    let len = fs::lgetxattr(path.as_ref(), name, value.as_mut_slice())?;
    value.truncate(len);
    Ok(value)
}

/// Sets an extended attribute of the link itself.
pub fn set_xattr(path: impl AsRef<Path>, name: &str, value: &[u8]) -> Result<()> {
    fs::lsetxattr(path.as_ref(), name, value, XattrFlags::empty())
}

/// The names of the extended attributes of the link itself, sorted.
pub fn list_xattrs(path: impl AsRef<Path>) -> Result<Vec<Vec<u8>>> {
    let mut list = vec![0_u8; 65536];
    let len = fs::llistxattr(path.as_ref(), list.as_mut_slice())?;
    let mut names: Vec<Vec<u8>> = list[..len]
        .split(|byte| *byte == 0)
        .filter(|name| !name.is_empty())
        .map(<[u8]>::to_vec)
        .collect();
    names.sort();
    Ok(names)
}

/// Reads `len` bytes at `offset`; fewer at the end of the file.
pub fn read_at(file: &File, offset: u64, len: usize) -> Vec<u8> {
    let mut data = vec![0; len];
    let mut done = 0;
    while done < len {
        match file.read_at(&mut data[done..], offset + done as u64).unwrap() {
            0 => break,
            count => done += count,
        }
    }
    data.truncate(done);
    data
}

/// Writes all of `data` at `offset`.
pub fn write_at(file: &File, offset: u64, data: &[u8]) {
    file.write_all_at(data, offset).unwrap();
}

/// The ranges with data that SEEK_DATA and SEEK_HOLE tell of.
pub fn data_ranges(file: &File) -> Vec<(u64, u64)> {
    let mut ranges = Vec::new();
    let mut position = 0;
    loop {
        let start = match fs::seek(file, fs::SeekFrom::Data(position)) {
            Ok(start) => start,
            Err(Errno::NXIO) => return ranges,
            Err(error) => panic!("SEEK_DATA: {error}"),
        };
        position = fs::seek(file, fs::SeekFrom::Hole(start)).unwrap();
        ranges.push((start, position));
    }
}

/// Whether all of a file is zero.
pub fn is_zero(path: impl AsRef<Path>) -> bool {
    let mut file = open_ro(path);
    let mut buffer = vec![0_u8; 1 << 20];
    loop {
        match file.read(&mut buffer).unwrap() {
            0 => return true,
            len if buffer[..len].iter().any(|byte| *byte != 0) => return false,
            _ => {}
        }
    }
}

/// A file of `size` bytes with data only in its first and last block.
pub fn sparse_file(path: impl AsRef<Path>, size: u64) {
    let file = File::create(path.as_ref()).unwrap();
    file.set_len(size).unwrap();
    write_at(&file, 0, &crate::rng::bytes(1, 4096));
    write_at(&file, size - 4096, &crate::rng::bytes(2, 4096));
}

/// Appends by the offset of the descriptor; returns where the data went.
pub fn append(file: &mut File, data: &[u8]) -> u64 {
    std::io::Write::write_all(file, data).unwrap();
    file.stream_position().unwrap() - data.len() as u64
}

/// Back to the start of the file, then reads it all.
pub fn reread(file: &mut File) -> Vec<u8> {
    let mut data = Vec::new();
    file.seek(SeekFrom::Start(0)).unwrap();
    file.read_to_end(&mut data).unwrap();
    data
}

/// Runs `work` on a thread of its own with that user's and group's ids, no other groups and no
/// capabilities in effect.
pub fn as_user<T: Send>(uid: u32, gid: u32, work: impl FnOnce() -> T + Send) -> T {
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            set_thread_groups(&[]).unwrap();
            set_thread_res_gid(None, Gid::from_raw(gid), None).unwrap();
            set_thread_res_uid(None, Uid::from_raw(uid), None).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A POSIX ACL in the form of the `system.posix_acl_*` attributes. Entries: (tag, permissions, id).
pub fn acl(entries: &[(u16, u16, u32)]) -> Vec<u8> {
    let mut value = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions, id) in entries {
        value.extend(tag.to_le_bytes());
        value.extend(permissions.to_le_bytes());
        value.extend(id.to_le_bytes());
    }
    value
}

/// Tags of ACL entries.
pub mod acl_tag {
    pub const USER_OBJ: u16 = 0x01;
    pub const USER: u16 = 0x02;
    pub const GROUP_OBJ: u16 = 0x04;
    pub const GROUP: u16 = 0x08;
    pub const MASK: u16 = 0x10;
    pub const OTHER: u16 = 0x20;
    /// The id of entries without one.
    pub const NO_ID: u32 = u32::MAX;
}

/// A descriptor of a directory for the `*at` calls.
pub fn open_dir(path: impl AsRef<Path>) -> OwnedFd {
    fs::open(path.as_ref(), OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .unwrap_or_else(|error| fail(path.as_ref(), error))
}

/// One batch after another of (name, next offset) until the directory's end, from its current position.
pub fn read_names(directory: impl AsFd, limit: usize) -> Vec<(CString, u64)> {
    let mut buffer = Vec::with_capacity(32768);
    let mut entries = Vec::new();
    let mut raw = fs::RawDir::new(directory, buffer.spare_capacity_mut());
    while entries.len() < limit {
        let Some(entry) = raw.next() else { break };
        let entry = entry.unwrap();
        entries.push((entry.file_name().to_owned(), entry.next_entry_cookie()));
    }
    entries
}

/// The bytes of a path.
pub fn path_bytes(path: &Path) -> &[u8] {
    path.as_os_str().as_bytes()
}
