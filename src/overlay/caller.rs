//! What a caller may do, where the kernel leaves the question to the file system.
//!
//! The kernel answers for WRITE, for a new size and for access modes. It does not say whether the caller of
//! FALLOCATE, COPY_FILE_RANGE, LISTXATTR and IOCTL has a capability. A request names the calling thread (with
//! id-mapped mounts allowed, not even its user), so /proc is read, and believed only where it cannot mislead:
//!
//! * A capability counts in the user namespace that gave it (user_namespaces(7)). `capable` in the kernel asks for
//!   the initial one. A thread in another user namespace than this process has none here.
//! * A thread id means something in one PID namespace. FUSE numbers threads as in the mounter's, which is this
//!   process's own; the /proc of another PID namespace is not read.
//! * The caller waits in the kernel until it is answered, so its credentials do not change and its id is not given to
//!   another thread meanwhile. All is read below one descriptor of its directory in /proc all the same.
//! * A kernel thread (nfsd) acts for somebody else, whose credentials /proc does not show.
//!
//! Who is not known for certain has no capability and is in no group. These questions are rare.

use crate::attr::Caller;
use rustix::fs::{CWD, Mode, OFlags, openat, readlinkat};
use std::ffi::CString;
use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};

const CAP_FSETID: u32 = 4;
const CAP_SYS_ADMIN: u32 = 21;

/// What /proc/PID/ns/user of the initial user namespace reads: its inode number is the same on every Linux
/// (`USER_NS_INIT_INO` in include/uapi/linux/nsfs.h).
const INITIAL_USER_NAMESPACE: &[u8] = b"user:[4026531837]";

/// What /proc shows for an id that has no name in the reader's user namespace (`overflowgid`).
const OVERFLOW_GID: u32 = 65534;

/// From proc_pid_status(5), of a thread in the user namespace of this process.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Credentials {
    fsuid: u32,
    /// That of file system accesses first.
    groups: Vec<u32>,
    /// Those in effect: none for a thread in another user namespace.
    capabilities: u64,
    /// Whether the user namespace of this process is the initial one.
    is_initial: bool,
}

impl Caller {
    /// Whether the caller may see and use `trusted` extended attributes (xattr(7)).
    pub(super) fn sees_trusted_xattrs(&self) -> bool {
        self.credentials().is_some_and(|c| c.is_capable(CAP_SYS_ADMIN))
    }

    /// Whether the caller may shut the mount down, and give its free space back to the host.
    pub(super) fn administers_mount(&self) -> bool {
        self.credentials().is_some_and(|c| c.has(CAP_SYS_ADMIN))
    }

    /// Whether changes of a file by the caller leave it setuid and setgid (capabilities(7)).
    pub(super) fn keeps_setid(&self) -> bool {
        self.credentials().is_some_and(|c| c.is_capable(CAP_FSETID))
    }

    /// Whether a file of `uid` is the caller's own, who has no CAP_FSETID.
    pub(super) fn is_owner_without_fsetid(&self, uid: u32) -> bool {
        self.credentials().is_some_and(|c| c.fsuid == uid && !c.is_capable(CAP_FSETID))
    }

    /// Whether a setgid file without group execute stays one for this caller, who may be known to
    /// have no CAP_FSETID (`in_group_or_capable` in the kernel's fs/inode.c).
    pub(super) fn is_in_group_or_capable(&self, gid: u32) -> bool {
        self.credentials().is_some_and(|c| c.is_in_group(gid) || c.is_capable(CAP_FSETID))
    }

    fn credentials(&self) -> Option<Credentials> {
        // The kernel's number for a thread outside of the mounter's PID namespace.
        if self.pid == 0 {
            return None;
        }
        let own = read_status(&proc_directory("self")?)?;
        if !is_of_own_pid_namespace(&own, std::process::id()) {
            return None;
        }
        let thread = proc_directory(&self.pid.to_string())?;
        Credentials::parse(
            &read_status(&thread)?,
            user_namespace(&thread)?.as_bytes(),
            user_namespace(&proc_directory("self")?)?.as_bytes(),
        )
    }
}

impl Credentials {
    /// From a thread's `status` and `ns/user`, and the `ns/user` of this process.
    fn parse(status: &str, namespace: &[u8], own_namespace: &[u8]) -> Option<Credentials> {
        // Only a process with memory of its own acts for itself: a kernel thread has none.
        field(status, "VmSize:")?;
        // Real, effective, saved, file system.
        let acting = |key| field(status, key)?.split_whitespace().nth(3)?.parse().ok();
        let fsuid = acting("Uid:")?;
        let more = field(status, "Groups:")?.split_whitespace().filter_map(|id| id.parse().ok());
        let groups = acting("Gid:").into_iter().chain(more).collect();
        let effective = u64::from_str_radix(field(status, "CapEff:")?.trim(), 16).ok()?;
        let capabilities = if namespace == own_namespace { effective } else { 0 };
        let is_initial = own_namespace == INITIAL_USER_NAMESPACE;
        Some(Credentials { fsuid, groups, capabilities, is_initial })
    }

    /// Whether a capability is in effect in the user namespace of this process, which is that of the mount.
    fn has(&self, capability: u32) -> bool {
        self.capabilities >> capability & 1 == 1
    }

    /// As `capable` in the kernel: in the initial user namespace.
    fn is_capable(&self, capability: u32) -> bool {
        self.is_initial && self.has(capability)
    }

    fn is_in_group(&self, gid: u32) -> bool {
        self.groups.contains(&gid) && (self.is_initial || gid != OVERFLOW_GID)
    }
}

/// Whether the /proc that showed `status` of this process numbers threads as this process does: proc_pid_status(5)
/// tells the ids in all PID namespaces, from that of /proc down to that of the process.
fn is_of_own_pid_namespace(status: &str, own_pid: u32) -> bool {
    let ids = field(status, "NSpid:").map(str::trim);
    ids.is_some_and(|ids| ids.parse() == Ok(own_pid))
}

fn field<'a>(status: &'a str, key: &str) -> Option<&'a str> {
    status.lines().find_map(|line| line.strip_prefix(key))
}

/// The directory of a thread: what is opened below it is of that thread or fails, whatever its id stands for by then.
fn proc_directory(thread: &str) -> Option<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    openat(CWD, format!("/proc/{thread}"), flags, Mode::empty()).ok()
}

fn read_status(directory: &impl AsFd) -> Option<String> {
    let file = openat(directory, "status", OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).ok()?;
    // The name of the process may hold any bytes.
    let mut status = Vec::new();
    File::from(file).read_to_end(&mut status).ok()?;
    Some(String::from_utf8_lossy(&status).into_owned())
}

/// Fails for a thread that this process may not trace (ptrace(2)).
fn user_namespace(directory: &impl AsFd) -> Option<CString> {
    readlinkat(directory, "ns/user", Vec::new()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STATUS: &str = "Name:\tCapEff: ffff\nUid:\t1\t2\t3\t4\nGid:\t5\t6\t7\t8\n\
                          Groups:\t10 65534 \nVmSize:\t   12 kB\nCapPrm:\t0\nCapEff:\t0000000000200010\n";

    #[test]
    fn status_is_read_by_field() {
        let initial = INITIAL_USER_NAMESPACE;
        let credentials = Credentials::parse(STATUS, initial, initial).unwrap();
        assert_eq!((credentials.fsuid, &*credentials.groups), (4, &[8, 10, 65534][..]));
        assert!(credentials.is_capable(CAP_FSETID) && credentials.is_capable(CAP_SYS_ADMIN));
        assert!(!credentials.has(0) && !credentials.has(63));
        assert!(credentials.is_in_group(65534) && !credentials.is_in_group(5));
        assert_eq!(Credentials::parse("Uid:\t1\n", initial, initial), None);
    }

    #[test]
    fn capabilities_of_another_user_namespace_are_none() {
        let child = Credentials::parse(STATUS, b"user:[1]", INITIAL_USER_NAMESPACE).unwrap();
        assert_eq!((child.fsuid, child.capabilities), (4, 0));
        // A mount made in a child namespace: its administrator may manage it, and is not `capable`.
        let own = Credentials::parse(STATUS, b"user:[1]", b"user:[1]").unwrap();
        assert!(own.has(CAP_SYS_ADMIN) && !own.is_capable(CAP_SYS_ADMIN));
        assert!(own.is_in_group(10) && !own.is_in_group(65534));
    }

    #[test]
    fn a_kernel_thread_acts_for_nobody_known() {
        let status = STATUS.replace("VmSize:\t   12 kB\n", "");
        let initial = INITIAL_USER_NAMESPACE;
        assert_eq!(Credentials::parse(&status, initial, initial), None);
    }

    #[test]
    fn a_foreign_proc_is_known_by_its_pids() {
        assert!(is_of_own_pid_namespace("Pid:\t7\nNSpid:\t7\n", 7));
        assert!(!is_of_own_pid_namespace("Pid:\t700\nNSpid:\t700\t7\n", 7));
        assert!(!is_of_own_pid_namespace("Pid:\t700\nNSpid:\t700\n", 7));
        assert!(!is_of_own_pid_namespace("Pid:\t7\n", 7));
    }

    #[test]
    fn nobody_may_nothing() {
        let nobody = Caller { uid: 0, gid: 0, pid: 0 };
        assert!(!nobody.sees_trusted_xattrs() && !nobody.administers_mount());
        assert!(!nobody.keeps_setid() && !nobody.is_in_group_or_capable(0));
    }
}
