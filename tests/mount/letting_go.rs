//! The time between an unmount and the daemon's end: who waits for the daemon, and who need not.

use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use overcoat_tests::mount::is_mounted;
use overcoat_tests::store::assert_clean;
use overcoat_tests::{Disk, Spec, fsx, mount_tests, overcoat_only, tool};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};

const LIMIT: Duration = Duration::from_secs(30);

/// The binary, called as umount(8) calls its helper.
fn helper(point: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(tool::overcoat());
    command.arg0("/sbin/umount.fuse.overcoat").arg(point).args(flags);
    command
}

/// A daemon that is stopped, so that it lets go of nothing before it is told to go on.
struct Stopped(Pid);

impl Stopped {
    fn new(pid: Pid) -> Self {
        kill_process(pid, Signal::STOP).unwrap();
        Self(pid)
    }

    fn go_on(self) {
        drop(self);
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        kill_process(self.0, Signal::CONT).ok();
    }
}

/// The first line that `child` writes to stderr.
fn first_line(child: &mut Child) -> String {
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
    line
}

fn is_running(pid: Pid) -> bool {
    Path::new(&format!("/proc/{}/exe", pid.as_raw_nonzero())).read_link().is_ok()
}

mount_tests! {
    fn the_helper_returns_when_the_upper_is_closed(scratch) {
        overcoat_only!();
        let mut mount = Spec::of(scratch).mount();
        let pid = mount.pid();
        fsx::write(mount.path("f"), "x");
        let stopped = Stopped::new(pid);
        let mut child = helper(mount.root(), &["-v", "-t", "fuse.overcoat"]).stderr(Stdio::piped()).spawn().unwrap();
        let line = first_line(&mut child);
        mount.forget();
        assert!(line.contains(&format!("waiting for process {}", pid.as_raw_nonzero())), "{line}");
        assert!(!is_mounted(mount.root()), "it is unmounted by now");
        assert!(child.try_wait().unwrap().is_none(), "it waits");
        stopped.go_on();
        assert!(child.wait().unwrap().success());
        assert!(!is_running(pid), "the daemon ended first");
        assert_clean(&scratch.upper());
    }

    fn the_helper_does_not_wait_for_what_goes_on(scratch) {
        overcoat_only!();
        let mut mount = Spec::of(scratch).mount();
        let pid = mount.pid();
        let elsewhere = scratch.dir("elsewhere");
        rustix::mount::mount_bind(mount.root(), &elsewhere).unwrap();
        let outcome = tool::run_limited(&mut helper(mount.root(), &[]), LIMIT);
        assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{outcome:?}");
        assert!(is_running(pid) && !is_mounted(mount.root()), "mounted elsewhere");
        mount.forget();
        let file = std::fs::File::create(elsewhere.join("f")).unwrap();
        let busy = tool::run_limited(&mut helper(&elsewhere, &[]), LIMIT);
        assert_eq!(busy.code, Some(1), "{busy:?}");
        assert!(busy.stderr.contains("busy"), "{busy:?}");
        let lazy = tool::run_limited(&mut helper(&elsewhere, &["-l"]), LIMIT);
        assert_eq!((lazy.code, lazy.stderr.as_str()), (Some(0), ""), "{lazy:?}");
        assert!(is_running(pid), "a lazy unmount is for those who do not wait");
        drop(file);
        mount.wait_for_daemon();
    }

    fn what_is_no_mount_cannot_be_unmounted(scratch) {
        overcoat_only!();
        let outcome = tool::run_limited(&mut helper(&scratch.dir("mnt"), &[]), LIMIT);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }

    fn a_mount_waits_for_the_one_before_and_says_so(scratch) {
        overcoat_only!();
        let spec = Spec::of(scratch);
        let mut mount = spec.mount();
        let pid = mount.pid();
        fsx::write(mount.path("f"), "x");
        let stopped = Stopped::new(pid);
        rustix::mount::unmount(mount.root(), UnmountFlags::empty()).unwrap();
        mount.forget();
        let mut next = Command::new(tool::overcoat());
        let mut next = next.args(spec.arguments()).stderr(Stdio::piped()).spawn().unwrap();
        let line = first_line(&mut next);
        assert!(line.contains(&format!("waiting for process {}", pid.as_raw_nonzero())), "{line}");
        assert!(next.try_wait().unwrap().is_none());
        stopped.go_on();
        assert!(next.wait().unwrap().success());
        assert_eq!(fsx::read(scratch.path("mnt/f")), b"x");
        overcoat_tests::mount::unmount_below(&scratch.path("mnt"));
        tool::eventually("the daemon's end", LIMIT, || {
            tool::processes(tool::overcoat(), scratch.root()).is_empty()
        });
    }

    fn a_check_waits_and_says_so(scratch) {
        overcoat_only!();
        let mut mount = Spec::of(scratch).mount();
        let pid = mount.pid();
        fsx::write(mount.path("f"), "x");
        let stopped = Stopped::new(pid);
        rustix::mount::unmount(mount.root(), UnmountFlags::empty()).unwrap();
        mount.forget();
        let mut check = Command::new(tool::overcoat());
        check.arg("check").arg(scratch.upper()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut check = check.spawn().unwrap();
        let line = first_line(&mut check);
        assert!(line.contains(&format!("waiting for process {}", pid.as_raw_nonzero())), "{line}");
        stopped.go_on();
        let output = check.wait_with_output().unwrap();
        assert!(output.status.success() && output.stdout.starts_with(b"whole: "), "{output:?}");
        mount.wait_for_daemon();
    }

    fn an_upper_that_is_mounted_is_not_waited_for(scratch) {
        overcoat_only!();
        let spec = Spec::of(scratch);
        let _mount = spec.mount();
        let other = spec.at(scratch.dir("other"));
        let outcome = tool::overcoat_run(&other.arguments(), Duration::from_secs(20));
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("in use"), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
    }

    fn the_host_can_be_unmounted_before_the_daemon_ends(scratch) {
        overcoat_only!();
        let disk = Disk::on_disk(scratch, 64);
        let mut spec = Spec::of(scratch);
        spec.upper = Some(disk.dir("upper"));
        let mut mount = spec.mount();
        fsx::write(mount.path("f"), "x");
        let stopped = Stopped::new(mount.pid());
        rustix::mount::unmount(mount.root(), UnmountFlags::empty()).unwrap();
        mount.forget();
        rustix::mount::unmount(disk.root(), UnmountFlags::empty()).unwrap();
        stopped.go_on();
        mount.wait_for_daemon();
        let image = scratch.path("disk.img");
        tool::run("mount", &["-oloop".as_ref(), image.as_os_str(), disk.root().as_os_str()]);
        assert_clean(&disk.dir("upper"));
        assert_eq!(fsx::read(spec.mount().path("f")), b"x");
    }
}
