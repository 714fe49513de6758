//! What callers may do by their capabilities. Those of a child user namespace count for nothing, as on a file
//! system of the host.

use std::fmt::Write as _;
use std::io::{Error, Result};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use overcoat_tests::{Driver, Spec, fsx, mount_tests, overcoat_only, tool};
use rustix::fs::{FallocateFlags, Gid, OFlags, Uid, XattrFlags};
use rustix::process::DumpableBehavior;
use rustix::thread::{UnshareFlags, set_thread_groups, set_thread_res_gid, set_thread_res_uid};

/// An ordinary user and her group.
const ALICE: u32 = 1234;

const CAPABILITY: &str = "security.capability";

/// `FS_IOC_SHUTDOWN` and `FITRIM`.
const SHUTDOWN: libc::c_ulong = 0x8004_587d;
const TRIM: libc::c_ulong = 0xc018_5879;

/// How a process becomes a caller.
type Become = fn() -> Result<()>;

const CALLERS: [(&str, Become); 4] = [
    ("root", || Ok(())),
    ("alice", become_alice),
    // `unshare -Ur`
    ("alice in a user namespace", || {
        become_alice()?;
        enter_user_namespace(ALICE)
    }),
    // `unshare -U --map-root-user`: has all capabilities, but none on the host.
    ("uid 0 of a user namespace", || enter_user_namespace(0)),
];

fn become_alice() -> Result<()> {
    let (uid, gid) = (Uid::from_raw(ALICE), Gid::from_raw(ALICE));
    set_thread_groups(&[])?;
    set_thread_res_gid(gid, gid, gid)?;
    set_thread_res_uid(uid, uid, uid)?;
    // Her own files in /proc are hers again.
    rustix::process::set_dumpable_behavior(DumpableBehavior::Dumpable)?;
    Ok(())
}

/// A user namespace of its own, in which `id` is 0. The process has one thread.
fn enter_user_namespace(id: u32) -> Result<()> {
    // SAFETY: no file system state is shared with another thread: the process has just been forked.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }?;
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("0 {id} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("0 {id} 1"))
}

/// Runs `work` in a process of its own as that caller; the error number where it fails.
fn run_as(becomes: Become, work: impl Fn() -> Result<()> + Send + Sync + 'static) -> Option<i32> {
    // What a process that is to become a program says when it will not: here, that all went well.
    const DONE: i32 = libc::ECANCELED;
    let mut command = Command::new("true");
    let work = move || becomes().and_then(|()| work()).and(Err(Error::from_raw_os_error(DONE)));
    // SAFETY: the C library takes care of its heap over a fork; nothing else here has locks.
    unsafe { command.pre_exec(work) };
    match command.status().unwrap_err().raw_os_error().unwrap() {
        DONE => None,
        error => Some(error),
    }
}

fn open(path: &Path, flags: OFlags) -> Result<std::fs::File> {
    fsx::open(path, flags).map_err(Error::from)
}

/// What changes the data of a file, and may read the file `source` beside it.
type Change = fn(&Path) -> Result<()>;

fn fallocate(path: &Path, mode: FallocateFlags) -> Result<()> {
    Ok(fsx::fallocate(&open(path, OFlags::RDWR)?, mode, 0, 4096)?)
}

fn copy(path: &Path, len: usize) -> Result<()> {
    let source = open(&path.with_file_name("source"), OFlags::RDONLY)?;
    rustix::fs::copy_file_range(source, None, open(path, OFlags::RDWR)?, None, len)?;
    Ok(())
}

/// What O_DIRECT takes.
#[repr(align(4096))]
struct Page([u8; 4096]);

const CHANGES: [(&str, Change); 14] = [
    ("write", |f| {
        rustix::io::pwrite(open(f, OFlags::RDWR)?, b"x", 0)?;
        Ok(())
    }),
    ("append", |f| {
        rustix::io::write(open(f, OFlags::WRONLY | OFlags::APPEND)?, b"x")?;
        Ok(())
    }),
    ("direct write", |f| {
        rustix::io::pwrite(
            open(f, OFlags::WRONLY | OFlags::DIRECT)?,
            &Box::new(Page([1; 4096])).0,
            0,
        )?;
        Ok(())
    }),
    ("sendfile", |f| {
        let source = open(&f.with_file_name("source"), OFlags::RDONLY)?;
        rustix::fs::sendfile(open(f, OFlags::RDWR)?, source, None, 100)?;
        Ok(())
    }),
    ("copy_file_range", |f| copy(f, 100)),
    ("copy_file_range of 1 MiB", |f| copy(f, 1 << 20)),
    ("fallocate", |f| fallocate(f, FallocateFlags::empty())),
    ("fallocate KEEP_SIZE", |f| fallocate(f, FallocateFlags::KEEP_SIZE)),
    ("fallocate PUNCH_HOLE", |f| {
        fallocate(f, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE)
    }),
    ("fallocate ZERO_RANGE", |f| fallocate(f, FallocateFlags::ZERO_RANGE)),
    ("fallocate ZERO_RANGE KEEP_SIZE", |f| {
        fallocate(f, FallocateFlags::ZERO_RANGE | FallocateFlags::KEEP_SIZE)
    }),
    ("truncate", |f| open(f, OFlags::WRONLY)?.set_len(10)),
    ("truncate to more", |f| open(f, OFlags::WRONLY)?.set_len(1 << 20)),
    ("O_TRUNC", |f| open(f, OFlags::WRONLY | OFlags::TRUNC).map(drop)),
];

/// A file before a change.
#[derive(Clone, Copy)]
struct Before {
    mode: u32,
    gid: u32,
    has_capability: bool,
}

const FILES: [Before; 7] = [
    Before { mode: 0o6777, gid: ALICE, has_capability: false },
    Before { mode: 0o4777, gid: 0, has_capability: false },
    Before { mode: 0o2777, gid: 0, has_capability: false },
    // Without group execute it matters who is in the group.
    Before { mode: 0o2767, gid: ALICE, has_capability: false },
    Before { mode: 0o6767, gid: 0, has_capability: false },
    Before { mode: 0o6777, gid: 0, has_capability: true },
    Before { mode: 0o777, gid: 0, has_capability: true },
];

fn make(path: &Path, before: Before) {
    if fsx::exists(path) {
        std::fs::remove_file(path).unwrap();
    }
    fsx::write(path, vec![b'x'; 16_384]);
    fsx::chown(path, 0, before.gid);
    fsx::chmod(path, before.mode);
    if before.has_capability {
        // Revision 2: CAP_DAC_READ_SEARCH permitted and effective.
        let words = [0x0200_0001_u32, 4, 0, 0, 0];
        let value: Vec<u8> = words.into_iter().flat_map(u32::to_le_bytes).collect();
        fsx::set_xattr(path, CAPABILITY, &value).unwrap();
    }
}

/// What is left after each change by each caller, a line each.
fn left_after_changes(directory: &Path) -> String {
    fsx::chmod(directory, 0o755);
    fsx::write(directory.join("source"), vec![b's'; 1 << 20]);
    fsx::chmod(directory.join("source"), 0o644);
    let paths: Vec<PathBuf> =
        (0..CHANGES.len()).map(|number| directory.join(number.to_string())).collect();
    let mut lines = String::new();
    for before in FILES {
        for (caller, becomes) in CALLERS {
            paths.iter().for_each(|path| make(path, before));
            let files = paths.clone();
            let failed = run_as(becomes, move || {
                for (file, (name, change)) in files.iter().zip(CHANGES) {
                    change(file).inspect_err(|error| eprintln!("{name}: {error}"))?;
                }
                Ok(())
            });
            assert_eq!(failed, None, "{caller} in {}", directory.display());
            for (path, (change, _)) in paths.iter().zip(CHANGES) {
                let left = fsx::statx(path).stx_mode & 0o7777;
                let has_capability = fsx::get_xattr(path, CAPABILITY).is_ok();
                let Before { mode, gid, has_capability: had_capability } = before;
                writeln!(
                    lines,
                    "{change} by {caller} of {mode:o}, group {gid}, capability: {had_capability} \
                     leaves {left:o}, capability: {has_capability}"
                )
                .unwrap();
            }
        }
    }
    lines
}

fn assert_same_lines(want: &str, got: &str, what: &str) {
    let differ: Vec<String> = want
        .lines()
        .zip(got.lines())
        .filter(|(want, got)| want != got)
        .map(|(want, got)| format!("want {want}\ngot  {got}"))
        .collect();
    assert!(differ.is_empty() && want.len() == got.len(), "{what}:\n{}", differ.join("\n"));
}

fn lists_trusted(path: &Path) -> Result<()> {
    let mut list = vec![0_u8; 1024];
    let len = rustix::fs::listxattr(path, &mut list[..])?;
    let is_listed = list[..len].split(|byte| *byte == 0).any(|name| name.starts_with(b"trusted."));
    if is_listed { Ok(()) } else { Err(Error::from_raw_os_error(libc::ENOENT)) }
}

fn ioctl(path: &Path, cmd: libc::c_ulong) -> Result<()> {
    let file = open(path, OFlags::RDONLY)?;
    let mut words = [0_u64, u64::MAX, 0];
    // SAFETY: the kernel reads and writes as much of the argument as `cmd` says, at most three words.
    let done =
        unsafe { libc::ioctl(std::os::fd::AsRawFd::as_raw_fd(&file), cmd, words.as_mut_ptr()) };
    if done == 0 { Ok(()) } else { Err(Error::last_os_error()) }
}

/// Both transports where both are to be had, with and without the writeback cache.
const OPTIONS: [&str; 4] = [
    "transport=auto,writeback=on",
    "transport=auto,writeback=off",
    "transport=dev,writeback=on",
    "transport=dev,writeback=off",
];

mount_tests! {
    fn changes_take_privileges_away_as_on_the_host(scratch) {
        overcoat_only!();
        let want = left_after_changes(&scratch.dir("host"));
        let mut overlayfs = Spec::of(scratch).at(scratch.dir("overlay"));
        overlayfs.driver = Driver::Overlayfs;
        overlayfs.upper = Some(scratch.dir("overlay.upper"));
        let mount = overlayfs.mount();
        assert_same_lines(&want, &left_after_changes(mount.root()), "overlayfs");
        mount.unmount();
        for options in OPTIONS {
            let mount = Spec::of(scratch).option(options).mount();
            assert_same_lines(&want, &left_after_changes(mount.root()), options);
        }
    }

    fn trusted_attributes_and_the_mount_are_for_administrators(scratch) {
        overcoat_only!();
        for options in OPTIONS {
            let mount = Spec::of(scratch).option(options).mount();
            fsx::write(mount.path("f"), "x");
            fsx::chmod(mount.path("f"), 0o666);
            fsx::set_xattr(mount.path("f"), "trusted.x", b"1").unwrap();
            for (caller, becomes) in CALLERS {
                let may = |errno| if caller == "root" { None } else { Some(errno) };
                let (path, root) = (mount.path("f"), mount.root().to_owned());
                let listed = run_as(becomes, move || lists_trusted(&path));
                assert_eq!(listed, may(libc::ENOENT), "list by {caller}, {options}");
                let trimmed = run_as(becomes, move || ioctl(&root, TRIM));
                assert_eq!(trimmed, may(libc::EPERM), "FITRIM by {caller}, {options}");
                let path = mount.path("f");
                let set = run_as(becomes, move || {
                    Ok(rustix::fs::setxattr(&path, "trusted.y", b"", XattrFlags::empty())?)
                });
                assert_eq!(set, may(libc::EPERM), "set by {caller}, {options}");
                let path = mount.path("f");
                if caller != "root" {
                    let down = run_as(becomes, move || ioctl(&path, SHUTDOWN));
                    assert_eq!(down, Some(libc::EPERM), "shutdown by {caller}, {options}");
                }
            }
            fsx::write(mount.path("still"), "up");
        }
    }

    // A request carries a thread's number in the PID namespace of the mounter. /proc may be another's, where that
    // number is somebody else's.
    fn a_proc_of_another_pid_namespace_is_not_believed(scratch) {
        overcoat_only!();
        if !overcoat_tests::have(&["unshare", "setpriv", "fstrim", "xfs_io"]) {
            return;
        }
        let spec = Spec::of(scratch);
        fsx::write(scratch.lower().join("f"), vec![b'x'; 16_384]);
        fsx::chmod(scratch.lower().join("f"), 0o6777);
        let script = "\"$@\" && m=$(eval echo \\${$#}) && a='setpriv --reuid 1234 --regid 1234 --clear-groups' && \
                      { ! $a fstrim $m; } && $a xfs_io -c 'falloc 0 4096' $m/f && \
                      { ! fstrim $m; } && stat -c %a $m/f; code=$?; umount $m; exit $code";
        let mut command = Command::new("unshare");
        command.args(["--pid", "--fork", "sh", "-c", script, "sh"]);
        command.arg(tool::overcoat()).args(spec.arguments());
        let outcome = tool::run_limited(&mut command, std::time::Duration::from_secs(20));
        assert_eq!((outcome.code, outcome.stdout.trim()), (Some(0), "777"), "{outcome:?}");
    }
}
