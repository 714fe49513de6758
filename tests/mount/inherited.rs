//! What the shell that mounts hands down: limits, signals, umask, descriptors.

use std::process::Command;
use std::time::Duration;

use overcoat_tests::tool::Outcome;
use overcoat_tests::{Scratch, Spec, fsx, have, mount_tests, overcoat_only, tool};

const LIMIT: Duration = Duration::from_secs(30);

/// Runs `script` in a shell, with `$OC` and the arguments of a mount in `"$@"`.
fn shell(script: &str, arguments: &[std::ffi::OsString]) -> Outcome {
    let mut command = Command::new("bash");
    command.arg("-c").arg(script).arg("bash").args(arguments).env("OC", tool::overcoat());
    tool::run_limited(&mut command, LIMIT)
}

/// Mounts in a shell after `prelude`; gives what became of it, and the daemon's pid.
fn mount_after(prelude: &str, scratch: &Scratch) -> (Outcome, u32) {
    let outcome = shell(&format!("{prelude}\n exec $OC \"$@\""), &Spec::of(scratch).arguments());
    assert_eq!(outcome.code, Some(0), "{prelude}: {outcome:?}");
    let pids = tool::processes(tool::overcoat(), &scratch.path("mnt"));
    let [pid] = pids.as_slice() else { panic!("not one daemon: {pids:?}") };
    (outcome, pid.as_raw_nonzero().get().unsigned_abs())
}

fn end(scratch: &Scratch) {
    overcoat_tests::mount::unmount_below(&scratch.path("mnt"));
    tool::eventually("the daemon's end", LIMIT, || {
        tool::processes(tool::overcoat(), scratch.root()).is_empty()
    });
}

/// The soft and the hard limit of the line of /proc/PID/limits that begins with `name`.
fn limits(pid: u32, name: &str) -> [String; 2] {
    let limits = fsx::read(format!("/proc/{pid}/limits"));
    let limits = String::from_utf8(limits).unwrap();
    let line = limits.lines().find_map(|line| line.strip_prefix(name)).unwrap();
    let mut fields = line.split_ascii_whitespace().map(str::to_owned);
    [fields.next().unwrap(), fields.next().unwrap()]
}

fn status(pid: u32, name: &str) -> String {
    let status = String::from_utf8(fsx::read(format!("/proc/{pid}/status"))).unwrap();
    status.lines().find_map(|line| line.strip_prefix(name)).unwrap().trim().to_owned()
}

mount_tests! {
    fn limits_of_the_shell_are_not_the_mounts(scratch) {
        overcoat_only!();
        let lowered = "-f 4096,-t 60,-v 4000000,-d 4000000,-n 64,-s 512,-l 64,-u 500,-i 10";
        let set: Vec<String> = lowered.split(',').map(|limit| format!("ulimit -S {limit}")).collect();
        let (outcome, pid) = mount_after(&set.join("; "), scratch);
        assert_eq!(outcome.stderr, "");
        let unlimited = ["Max file size", "Max cpu time", "Max address space", "Max data size"];
        for name in unlimited {
            assert_eq!(limits(pid, name)[0], "unlimited", "{name}");
        }
        for name in ["Max open files", "Max processes", "Max locked memory", "Max pending signals"] {
            let [soft, hard] = limits(pid, name);
            assert_eq!(soft, hard, "{name}");
        }
        let file = scratch.path("mnt/large");
        std::fs::write(&file, vec![1; 8 << 20]).unwrap();
        std::fs::File::open(&file).unwrap().sync_all().unwrap();
        end(scratch);
    }

    fn limits_that_would_kill_a_mount_are_refused(scratch) {
        overcoat_only!();
        if !have(&["setpriv"]) {
            return;
        }
        for (limit, words) in [
            ("-t 60", "CPU time (ulimit -H -t) is 60 seconds"),
            ("-v 500000", "address space (ulimit -H -v) is 512000000 bytes"),
            ("-d 500000", "data segment (ulimit -H -d) is 512000000 bytes"),
        ] {
            let script = format!("ulimit {limit}; exec setpriv --bounding-set -sys_resource $OC \"$@\"");
            let outcome = shell(&script, &Spec::of(scratch).arguments());
            assert_eq!(outcome.code, Some(1), "{limit}: {outcome:?}");
            assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
            assert!(outcome.stderr.contains(words), "{limit}: {outcome:?}");
        }
    }

    fn a_hard_limit_of_file_size_is_a_limit_of_room(scratch) {
        overcoat_only!();
        if !have(&["setpriv"]) {
            return;
        }
        let script = "ulimit -f 8192; exec setpriv --bounding-set -sys_resource $OC \"$@\"";
        let outcome = shell(script, &Spec::of(scratch).option("writeback=0").arguments());
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stderr.contains("file size (ulimit -H -f) is 8388608 bytes"), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        let file = scratch.path("mnt/large");
        let error = std::fs::write(&file, vec![1; 20 << 20]).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
        std::fs::remove_file(&file).unwrap();
        // The room comes back when the kernel has forgotten the file.
        tool::eventually("room for a small file", LIMIT, || {
            std::fs::write(scratch.path("mnt/small"), "x").is_ok()
        });
        end(scratch);
        assert_eq!(fsx::names(Spec::of(scratch).mount().root()), ["small"]);
    }

    fn signals_umask_and_score_are_not_the_mounts(scratch) {
        overcoat_only!();
        let prelude = "echo 500 >/proc/self/oom_score_adj; umask 0777; trap '' CHLD";
        let (_, pid) = mount_after(prelude, scratch);
        let ignored = u64::from_str_radix(&status(pid, "SigIgn:"), 16).unwrap();
        let is_ignored = |signal: i32| ignored >> (signal - 1) & 1 == 1;
        assert!(is_ignored(libc::SIGXFSZ) && is_ignored(libc::SIGXCPU) && is_ignored(libc::SIGPIPE));
        assert!(!is_ignored(libc::SIGCHLD), "mount helpers are waited for");
        assert_eq!(status(pid, "Umask:"), "0077");
        assert_eq!(fsx::read(format!("/proc/{pid}/oom_score_adj")), b"0\n");
        std::fs::write(scratch.path("mnt/f"), "x").unwrap();
        end(scratch);
        let mode = fsx::statx(overcoat_tests::store::path(&scratch.upper())).stx_mode;
        assert_eq!(mode & 0o7777, 0o600);
    }

    fn a_mount_in_the_foreground_survives_a_hangup_that_was_ignored(scratch) {
        overcoat_only!();
        let mut arguments = Spec::of(scratch).arguments();
        arguments.insert(1, "-f".into());
        let mut command = Command::new("bash");
        command.args(["-c", "trap '' HUP; exec $OC \"$@\"", "bash"]).args(arguments);
        command.env("OC", tool::overcoat()).stderr(std::process::Stdio::null());
        let mut daemon = command.spawn().unwrap();
        let point = scratch.path("mnt");
        tool::eventually("the mount", LIMIT, || overcoat_tests::mount::is_mounted(&point));
        let pid = rustix::process::Pid::from_child(&daemon);
        let send = |signal| rustix::process::kill_process(pid, signal).unwrap();
        send(rustix::process::Signal::HUP);
        fsx::write(point.join("f"), "x");
        send(rustix::process::Signal::TERM);
        assert!(daemon.wait().unwrap().success());
        let mut caught = Spec::of(scratch).mount();
        rustix::process::kill_process(caught.pid(), rustix::process::Signal::HUP).unwrap();
        overcoat_tests::mount::wait_until_unmounted(&point);
        caught.wait_for_daemon();
        caught.forget();
    }

    fn without_standard_descriptors(scratch) {
        overcoat_only!();
        let (_, pid) = mount_after("exec <&- >&- 2>&-", scratch);
        for fd in 0..3 {
            let target = std::fs::read_link(format!("/proc/{pid}/fd/{fd}")).unwrap();
            assert_eq!(target, std::path::Path::new("/dev/null"));
        }
        end(scratch);
    }

    fn a_command_in_a_view_keeps_its_own(scratch) {
        overcoat_only!();
        let lower = scratch.lower();
        fsx::mkdir(lower.join("bin"));
        std::fs::copy("/bin/busybox", lower.join("bin/busybox")).unwrap();
        let script = "ulimit -S -f 1000; ulimit -S -n 77; umask 0027; \
                      $OC run --lower \"$1\" -- /bin/busybox sh -c 'ulimit -S -f; ulimit -S -n; umask'";
        let outcome = shell(script, &[lower.into()]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        // busybox counts in blocks of 512 bytes.
        assert_eq!(outcome.stdout.split_whitespace().collect::<Vec<_>>(), ["2000", "77", "0027"]);
    }
}
