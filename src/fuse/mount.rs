//! The mount handshake: a descriptor of `/dev/fuse` that is mounted somewhere.
//!
//! With CAP_SYS_ADMIN this process mounts by itself; without, the setuid helper `fusermount3` (or
//! `fusermount`) does, and passes the descriptor over a socket.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::mount::MountFlags;

use crate::errno::{self, Errno};
use crate::fuse::uring::Unavailable;
use crate::sys::{fuse_dev, mount as sys};

/// The file system's type as /proc/self/mountinfo shows it behind `fuse.`.
const SUBTYPE: &str = "overcoat";

/// Mount helpers, the preferred one first.
const HELPERS: [&str; 2] = ["fusermount3", "fusermount"];

/// When reading a file moves its access time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Atime {
    #[default]
    Relatime,
    Noatime,
    Strictatime,
}

/// How to mount.
#[derive(Clone, Debug)]
pub struct MountOptions {
    /// What /proc/self/mountinfo shows as the source.
    pub source: OsString,
    pub read_only: bool,
    pub nosuid: bool,
    pub nodev: bool,
    pub noexec: bool,
    pub atime: Atime,
    pub nodiratime: bool,
    /// `sync` and `dirsync`.
    pub sync: bool,
    pub dirsync: bool,
    /// Open to users other than the mounter. Through the helper only where /etc/fuse.conf allows.
    pub allow_other: bool,
}

impl Default for MountOptions {
    fn default() -> MountOptions {
        MountOptions {
            source: OsString::from(SUBTYPE),
            read_only: false,
            nosuid: false,
            nodev: false,
            noexec: false,
            atime: Atime::default(),
            nodiratime: false,
            sync: false,
            dirsync: false,
            allow_other: true,
        }
    }
}

impl MountOptions {
    fn flags(&self) -> MountFlags {
        let atime = match self.atime {
            Atime::Relatime => MountFlags::RELATIME,
            Atime::Noatime => MountFlags::NOATIME,
            Atime::Strictatime => MountFlags::STRICTATIME,
        };
        self.switches().filter(|(on, ..)| *on).fold(atime, |flags, (_, flag, _)| flags | flag)
    }

    /// Each switch: its state, its flag of mount(2), its name for the helper.
    fn switches(&self) -> impl Iterator<Item = (bool, MountFlags, &'static str)> {
        [
            (self.read_only, MountFlags::RDONLY, "ro"),
            (self.nosuid, MountFlags::NOSUID, "nosuid"),
            (self.nodev, MountFlags::NODEV, "nodev"),
            (self.noexec, MountFlags::NOEXEC, "noexec"),
            (self.nodiratime, MountFlags::NODIRATIME, "nodiratime"),
            (self.sync, MountFlags::SYNCHRONOUS, "sync"),
            (self.dirsync, MountFlags::DIRSYNC, "dirsync"),
        ]
        .into_iter()
    }

    /// What the kernel's FUSE wants to know. Ids are those of the mounter's user namespace.
    fn kernel_data(&self, device: i32, max_read: u32) -> String {
        let user = rustix::process::geteuid().as_raw();
        let group = rustix::process::getegid().as_raw();
        let allow_other = if self.allow_other { ",allow_other" } else { "" };
        format!(
            "fd={device},rootmode=40000,user_id={user},group_id={group},\
             default_permissions,max_read={max_read}{allow_other}"
        )
    }

    /// The helper's `-o` argument: comma-separated, with commas and backslashes of the source
    /// escaped.
    fn helper_options(&self, max_read: u32, allow_other: bool) -> OsString {
        let mut options = b"fsname=".to_vec();
        for &byte in self.source.as_bytes() {
            if matches!(byte, b',' | b'\\') {
                options.push(b'\\');
            }
            options.push(byte);
        }
        let rest = format!(",subtype={SUBTYPE},default_permissions,max_read={max_read}");
        options.extend_from_slice(rest.as_bytes());
        if allow_other {
            options.extend_from_slice(b",allow_other");
        }
        if self.atime == Atime::Noatime {
            options.extend_from_slice(b",noatime");
        }
        for (_, _, name) in self.switches().filter(|(on, ..)| *on) {
            options.push(b',');
            options.extend_from_slice(name.as_bytes());
        }
        OsString::from_vec(options)
    }
}

/// Why a mount did not come about. Nothing stays mounted.
#[derive(Debug)]
pub enum MountError {
    /// `/dev/fuse` is missing: no FUSE in this kernel, or not in this container.
    NoDevice(Errno),
    /// `/dev/fuse` may not be opened.
    DeviceDenied(Errno),
    /// The mountpoint is missing or out of reach.
    Mountpoint(PathBuf, Errno),
    /// The mountpoint is no directory.
    NotADirectory(PathBuf),
    /// This process may not mount, and no helper is installed that may.
    NotPermitted,
    /// The helper failed; what it said.
    Helper(String),
    /// mount(2) failed.
    Mount(Errno),
    /// The kernel's FUSE is too old: its major and minor version.
    TooOld(u32, u32),
    /// The connection broke before it was ready.
    Handshake(Errno),
    /// io_uring was asked for and is not to be had.
    Transport(Unavailable),
    /// Passthrough was asked for and is not to be had.
    Passthrough(&'static str),
    /// A worker thread or its buffer could not be had.
    Resources(io::Error),
}

impl fmt::Display for MountError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            MountError::NoDevice(e) => {
                write!(f, "{}: {e}; is the fuse module loaded?", fuse_dev::PATH)
            }
            MountError::DeviceDenied(e) => write!(f, "{}: {e}", fuse_dev::PATH),
            MountError::Mountpoint(path, e) => write!(f, "mountpoint {}: {e}", path.display()),
            MountError::NotADirectory(path) => {
                write!(f, "mountpoint {} is not a directory", path.display())
            }
            MountError::NotPermitted => {
                write!(f, "mounting needs CAP_SYS_ADMIN or the helper {}", HELPERS[0])
            }
            MountError::Helper(said) => f.write_str(said),
            MountError::Mount(e) => write!(f, "mount: {e}"),
            MountError::TooOld(major, minor) => {
                write!(f, "the kernel's FUSE protocol {major}.{minor} is too old")
            }
            MountError::Handshake(e) => write!(f, "FUSE handshake: {e}"),
            MountError::Transport(why) => write!(f, "FUSE over io_uring: {why}"),
            MountError::Passthrough(why) => write!(f, "passthrough=on: {why}"),
            MountError::Resources(e) => write!(f, "starting workers: {e}"),
        }
    }
}

impl std::error::Error for MountError {}

/// Mounts at `mountpoint`, which must be a directory that exists. The connection's first request,
/// INIT, then waits to be read. `max_read` is the largest READ, in bytes.
pub fn mount(
    mountpoint: &Path,
    options: &MountOptions,
    max_read: u32,
) -> Result<OwnedFd, MountError> {
    check_mountpoint(mountpoint)?;
    match mount_directly(mountpoint, options, max_read) {
        Err(MountError::Mount(Errno::PERM) | MountError::DeviceDenied(_)) => {
            mount_by_helper(mountpoint, options, max_read)
        }
        done => done,
    }
}

/// Detaches the mount at `mountpoint`; it ends when its last user leaves.
pub fn unmount(mountpoint: &Path) -> Result<(), Errno> {
    match sys::detach(mountpoint) {
        Err(Errno::PERM) => unmount_by_helper(mountpoint, true),
        done => done,
    }
}

fn check_mountpoint(path: &Path) -> Result<(), MountError> {
    let of = |e: io::Error| MountError::Mountpoint(path.to_owned(), errno::of_io(&e));
    if !std::fs::metadata(path).map_err(of)?.is_dir() {
        return Err(MountError::NotADirectory(path.to_owned()));
    }
    Ok(())
}

fn mount_directly(
    mountpoint: &Path,
    options: &MountOptions,
    max_read: u32,
) -> Result<OwnedFd, MountError> {
    let device = fuse_dev::open().map_err(|e| match e {
        Errno::NOENT | Errno::NODEV | Errno::NXIO => MountError::NoDevice(e),
        e => MountError::DeviceDenied(e),
    })?;
    let data = CString::new(options.kernel_data(device.as_raw_fd(), max_read))
        .map_err(|_| MountError::Mount(Errno::INVAL))?;
    let kind = format!("fuse.{SUBTYPE}");
    sys::mount(&options.source, mountpoint, &kind, options.flags(), &data)
        .map_err(MountError::Mount)?;
    Ok(device)
}

fn mount_by_helper(
    mountpoint: &Path,
    options: &MountOptions,
    max_read: u32,
) -> Result<OwnedFd, MountError> {
    let allow_other = options.allow_other && helper_allows_other();
    let options = options.helper_options(max_read, allow_other);
    let (ours, theirs) = sys::socket_pair().map_err(MountError::Handshake)?;
    let args = [OsStr::new("-o"), &options, OsStr::new("--"), mountpoint.as_os_str()];
    // The helper finds the socket as its standard input: nothing has to survive an exec.
    let said = run_helper(&args, Stdio::from(theirs), Some(("_FUSE_COMMFD", "0")))?;
    sys::receive_descriptor(ours).map_err(|_| MountError::Helper(said))
}

/// Runs the first helper that is installed. Gives what it said on standard error.
fn run_helper(
    args: &[&OsStr],
    stdin: Stdio,
    env: Option<(&str, &str)>,
) -> Result<String, MountError> {
    let helper = HELPERS.into_iter().find(|name| is_installed(name));
    let helper = helper.ok_or(MountError::NotPermitted)?;
    let mut command = Command::new(helper);
    command.args(args).stdin(stdin).stdout(Stdio::null()).stderr(Stdio::piped()).envs(env);
    let output = command.output().map_err(|e| MountError::Helper(format!("{helper}: {e}")))?;
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    if output.status.success() {
        return Ok(said);
    }
    let reason = if said.is_empty() { format!("{helper}: {}", output.status) } else { said };
    Err(MountError::Helper(reason))
}

fn is_installed(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_else(|| OsString::from("/usr/bin:/bin"));
    std::env::split_paths(&path).any(|dir| dir.join(name).is_file())
}

/// Whether the helper lets an ordinary user open the mount to others.
fn helper_allows_other() -> bool {
    let conf = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    conf.lines().any(|line| line.trim() == "user_allow_other")
}

/// Unmounts what this user has mounted. `lazy`: as [`unmount`] does.
///
/// # Errors
/// `EPERM`, with the helper's words in the log.
pub fn unmount_by_helper(mountpoint: &Path, lazy: bool) -> Result<(), Errno> {
    let mut args = vec![OsStr::new("-u")];
    args.extend(lazy.then_some(OsStr::new("-z")));
    args.extend([OsStr::new("--"), mountpoint.as_os_str()]);
    run_helper(&args, Stdio::null(), None).map(|_| ()).map_err(|error| {
        tracing::warn!(%error, "unmount");
        Errno::PERM
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn helper_options_escape_the_source() {
        let options = MountOptions {
            source: OsString::from("a,b\\c"),
            read_only: true,
            noexec: true,
            atime: Atime::Noatime,
            ..MountOptions::default()
        };
        assert_eq!(
            options.helper_options(4096, false),
            "fsname=a\\,b\\\\c,subtype=overcoat,default_permissions,max_read=4096,noatime,ro,noexec"
        );
    }

    #[test]
    fn a_mount_is_dev_suid_and_exec_unless_told_otherwise() {
        assert_eq!(MountOptions::default().flags(), MountFlags::RELATIME);
        let options = MountOptions { nodev: true, nosuid: true, ..MountOptions::default() };
        let flags = MountFlags::NODEV | MountFlags::NOSUID | MountFlags::RELATIME;
        assert_eq!(options.flags(), flags);
    }

    #[test]
    fn mountpoints_are_checked_first() {
        let dir = tempfile::tempdir().unwrap();
        let missing = dir.path().join("missing");
        let file = dir.path().join("file");
        std::fs::write(&file, b"").unwrap();
        let try_mount = |path: &Path| mount(path, &MountOptions::default(), 4096).unwrap_err();
        assert!(matches!(try_mount(&missing), MountError::Mountpoint(_, Errno::NOENT)));
        assert!(matches!(try_mount(&file), MountError::NotADirectory(_)));
    }
}
