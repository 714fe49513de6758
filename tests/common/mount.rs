//! A mounted view as a guard.

use std::ffi::{CString, OsString};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::{Scratch, tool};

/// How long a mount, an unmount or the daemon's end may take.
const LIMIT: Duration = Duration::from_secs(20);

/// What serves the view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Driver {
    Overcoat,
    /// Kernel overlayfs, the oracle.
    Overlayfs,
}

impl Driver {
    /// What the tests run on: `OVERCOAT_TEST_DRIVER`, Overcoat by default.
    pub fn from_env() -> Self {
        match std::env::var("OVERCOAT_TEST_DRIVER").as_deref() {
            Err(_) | Ok("overcoat") => Self::Overcoat,
            Ok("overlayfs") => Self::Overlayfs,
            Ok(other) => panic!("OVERCOAT_TEST_DRIVER={other}"),
        }
    }
}

/// What is to be mounted.
#[derive(Clone, Debug)]
pub struct Spec {
    pub driver: Driver,
    /// Topmost first.
    pub lowers: Vec<PathBuf>,
    pub upper: Option<PathBuf>,
    pub point: PathBuf,
    /// More options, as `-o` takes them. Not for overlayfs.
    pub options: Vec<String>,
    /// The daemon's log. Not for overlayfs.
    pub log: Option<PathBuf>,
    /// How many descriptors the daemon may open, if not as many as the test. Not for overlayfs.
    pub descriptors: Option<u32>,
    /// The features of overlayfs that are on, where that is the driver.
    pub overlayfs: &'static str,
}

/// What overlayfs is compared with as a rule: hard links of a lower stay one file, directories can be renamed.
pub const OVERLAYFS: &str = "index=on,redirect_dir=on";

impl Spec {
    /// `lower` and `upper` of the scratch directory at its `mnt`, with the options that
    /// `OVERCOAT_TEST_OPTIONS` names.
    pub fn of(scratch: &Scratch) -> Self {
        Self {
            driver: Driver::from_env(),
            lowers: vec![scratch.lower()],
            upper: Some(scratch.upper()),
            point: scratch.dir("mnt"),
            options: std::env::var("OVERCOAT_TEST_OPTIONS").into_iter().collect(),
            log: None,
            descriptors: None,
            overlayfs: OVERLAYFS,
        }
    }

    /// The same with these lowers.
    pub fn lowers(mut self, lowers: &[PathBuf]) -> Self {
        self.lowers = lowers.to_vec();
        self
    }

    /// The same with one more option.
    pub fn option(mut self, option: &str) -> Self {
        self.options.push(option.to_owned());
        self
    }

    /// The same with the daemon's log in this file.
    pub fn log(mut self, log: PathBuf) -> Self {
        self.log = Some(log);
        self
    }

    /// The same with a daemon that may open this many descriptors.
    pub fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// The same at another place.
    pub fn at(mut self, point: PathBuf) -> Self {
        self.point = point;
        self
    }

    /// The same without an upper: read-only.
    pub fn read_only(mut self) -> Self {
        self.upper = None;
        self
    }

    /// The `-o` options as one string.
    fn joined(&self) -> OsString {
        let mut options = OsString::from("lowerdir=");
        for (number, lower) in self.lowers.iter().enumerate() {
            if number > 0 {
                options.push(":");
            }
            options.push(lower);
        }
        if let Some(upper) = &self.upper {
            options.push(",upperdir=");
            options.push(upper);
        }
        options
    }

    /// The arguments of `overcoat` for this mount.
    pub fn arguments(&self) -> Vec<OsString> {
        let mut options = self.joined();
        for option in &self.options {
            options.push(",");
            options.push(option);
        }
        let log = self.log.iter().flat_map(|log| ["--log".into(), log.clone().into()]);
        let mut arguments = vec![OsString::from("mount")];
        arguments.extend(log);
        arguments.extend(["-o".into(), options, self.point.clone().into()]);
        arguments
    }

    /// Mounts it.
    ///
    /// # Panics
    /// When that fails, with what was printed.
    pub fn mount(&self) -> Mount {
        match self.driver {
            Driver::Overcoat => self.mount_overcoat(),
            Driver::Overlayfs => self.mount_overlayfs(),
        }
    }

    fn mount_overcoat(&self) -> Mount {
        let outcome = match self.descriptors {
            None => tool::overcoat_run(&self.arguments(), LIMIT),
            Some(limit) => {
                let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
                let mut shell = Command::new("sh");
                shell.arg("-c").arg(script).arg(tool::overcoat()).args(self.arguments());
                tool::run_limited(&mut shell, LIMIT)
            }
        };
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stderr.is_empty(), "a mount that succeeds is silent: {outcome:?}");
        assert!(is_mounted(&self.point), "exit code 0, but nothing is mounted");
        let pids = tool::processes(tool::overcoat(), &self.point);
        let [pid] = pids.as_slice() else { panic!("not one daemon: {pids:?}") };
        let daemon = pidfd_open(*pid, PidfdFlags::empty()).unwrap();
        Mount { point: self.point.clone(), daemon: Some((daemon, *pid)), gone: false }
    }

    fn mount_overlayfs(&self) -> Mount {
        let mut options = self.joined();
        if let Some(upper) = &self.upper {
            let mut work = upper.clone().into_os_string();
            work.push(".work");
            std::fs::create_dir_all(&work).unwrap();
            options.push(",workdir=");
            options.push(&work);
            options.push(",");
            options.push(self.overlayfs);
        }
        let options = CString::new(options.into_encoded_bytes()).unwrap();
        // Somebody's new mount namespace may hold a copy of the last mount for a moment: EBUSY.
        let deadline = Instant::now() + LIMIT;
        let mount = || {
            let flags = MountFlags::NOATIME;
            rustix::mount::mount("overlay", &self.point, "overlay", flags, Some(options.as_c_str()))
        };
        loop {
            match mount() {
                Ok(()) => break,
                Err(rustix::io::Errno::BUSY) if Instant::now() < deadline => {
                    std::thread::sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("overlayfs {options:?}: {error}"),
            }
        }
        Mount { point: self.point.clone(), daemon: None, gone: false }
    }
}

/// A mounted view. It is unmounted on drop.
#[derive(Debug)]
pub struct Mount {
    point: PathBuf,
    daemon: Option<(OwnedFd, Pid)>,
    gone: bool,
}

impl Mount {
    /// The root of the view.
    pub fn root(&self) -> &Path {
        &self.point
    }

    /// A path in the view.
    pub fn path(&self, name: impl AsRef<Path>) -> PathBuf {
        self.point.join(name)
    }

    /// The daemon's process.
    ///
    /// # Panics
    /// When the view has none (overlayfs).
    pub fn pid(&self) -> Pid {
        self.daemon.as_ref().expect("a daemon").1
    }

    /// Unmounts and waits until the daemon has ended.
    ///
    /// # Panics
    /// When the view stays busy or the daemon does not end.
    pub fn unmount(mut self) {
        self.end();
    }

    fn end(&mut self) {
        unmount(&self.point);
        self.gone = true;
        self.wait_for_daemon();
    }

    /// Waits until the daemon has ended, for whatever reason.
    ///
    /// # Panics
    /// When it does not.
    pub fn wait_for_daemon(&self) {
        if let Some((daemon, _)) = &self.daemon {
            tool::wait_for_exit(daemon, LIMIT);
        }
    }

    /// Sends SIGTERM and waits for the end of the daemon and of the mount.
    pub fn terminate(mut self) {
        self.signal(Signal::TERM);
        self.wait_for_daemon();
        wait_until_unmounted(&self.point);
        self.gone = true;
    }

    /// Kills the daemon at once, then takes the dead mount away.
    pub fn kill(mut self) {
        self.kill_daemon();
        self.gone = true;
        detach(&self.point);
    }

    /// Kills the daemon and leaves the dead mount in place.
    pub fn kill_daemon(&self) {
        self.signal(Signal::KILL);
        self.wait_for_daemon();
    }

    /// The mount has already been taken away by other means.
    pub fn forget(&mut self) {
        self.gone = true;
    }

    /// Sends SIGTERM while the mount is in use: the mount goes, the daemon may stay for its last user.
    pub fn terminate_busy(mut self) {
        self.signal(Signal::TERM);
        wait_until_unmounted(&self.point);
        self.gone = true;
    }

    fn signal(&self, signal: Signal) {
        let (daemon, _) = self.daemon.as_ref().expect("a daemon");
        pidfd_send_signal(daemon, signal).unwrap();
    }

    /// Takes the mount away from its place while it may be in use; the daemon lives on until the last user
    /// leaves.
    pub fn detach(&mut self) {
        detach(&self.point);
        self.gone = true;
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        if self.gone {
            return;
        }
        if std::thread::panicking() {
            detach(&self.point);
            if let Some((daemon, _)) = &self.daemon {
                // It has ended when the mount was its last user.
                pidfd_send_signal(daemon, Signal::KILL).ok();
            }
        } else {
            self.end();
        }
    }
}

fn detach(point: &Path) {
    if let Err(error) = rustix::mount::unmount(point, UnmountFlags::DETACH) {
        eprintln!("umount -l {}: {error}", point.display());
    }
}

/// Unmounts. A process that another test is just starting may hold a copy of a descriptor for a moment, so
/// EBUSY is tried again for a while.
fn unmount(point: &Path) {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        match rustix::mount::unmount(point, UnmountFlags::empty()) {
            Ok(()) => return,
            Err(rustix::io::Errno::BUSY) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(10));
            }
            Err(error) => panic!("umount {}: {error}", point.display()),
        }
    }
}

/// The mount points at or below `directory`, innermost last.
pub fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let mountinfo = std::fs::read("/proc/self/mountinfo").unwrap();
    let prefix = directory.as_os_str().as_encoded_bytes();
    mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .filter(|point| {
            point.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
        })
        .map(|point| PathBuf::from(std::ffi::OsStr::from_bytes(point)))
        .collect()
}

/// Whether something is mounted exactly there.
pub fn is_mounted(point: &Path) -> bool {
    mounts_below(point).iter().any(|found| found == point)
}

/// Takes away whatever is mounted below `directory`.
pub fn unmount_below(directory: &Path) {
    for point in mounts_below(directory).iter().rev() {
        detach(point);
    }
}

/// Waits, on the kernel's notice, until nothing is mounted there.
///
/// # Panics
/// When that takes too long.
pub fn wait_until_unmounted(point: &Path) {
    let mountinfo = std::fs::File::open("/proc/self/mountinfo").unwrap();
    let deadline = Instant::now() + LIMIT;
    while is_mounted(point) {
        let left = deadline.saturating_duration_since(Instant::now());
        assert!(!left.is_zero(), "still mounted after {LIMIT:?}: {}", point.display());
        let mut fds = [PollFd::new(&mountinfo, PollFlags::PRI)];
        poll(&mut fds, Some(&Timespec::try_from(left).unwrap())).unwrap();
    }
}
