//! `overcoat run`: a command in a throw-away view.

use std::os::unix::process::CommandExt as _;
use std::process::Command;
use std::time::Duration;

use overcoat_tests::tool::Outcome;
use overcoat_tests::{Scratch, fsx, mount_tests, overcoat_only, tool};

const LIMIT: Duration = Duration::from_secs(60);

fn run(arguments: &[&str]) -> Outcome {
    let arguments: Vec<&str> = std::iter::once("run").chain(arguments.iter().copied()).collect();
    tool::overcoat_run(&arguments, LIMIT)
}

/// A name below / that nothing else has.
fn unique(scratch: &Scratch) -> String {
    let name = scratch.root().file_name().unwrap().to_str().unwrap();
    format!("/var/tmp/{name}.throw-away")
}

mount_tests! {
    fn what_is_done_in_it_is_gone(scratch) {
        overcoat_only!();
        let name = unique(scratch);
        let outcome = run(&["--", "sh", "-c", &format!("echo inside >{name} && cat {name}")]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stdout.contains("inside"), "{outcome:?}");
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        assert!(said.contains(&name), "what was added is told: {outcome:?}");
        assert!(!fsx::exists(&name), "{name} is on the host");
    }

    fn the_system_is_usable_in_it(scratch) {
        overcoat_only!();
        scratch.lower();
        let outcome = run(&["--", "sh", "-c",
            "test -r /proc/self/status && test -d /sys/kernel && echo x >/dev/null && \
             head -c 1 /dev/urandom >/dev/null && : >/dev/shm/x 2>/dev/null; test -e /etc/resolv.conf -o ! -e \
             /etc/resolv.conf && echo fine"]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stdout.contains("fine"), "{outcome:?}");
    }

    fn exit_codes_and_signals_come_through(scratch) {
        overcoat_only!();
        scratch.lower();
        assert_eq!(run(&["--", "sh", "-c", "exit 7"]).code, Some(7));
        assert_eq!(run(&["--", "sh", "-c", "kill -TERM $$"]).code, Some(128 + 15));
        let missing = run(&["--", "/no/such/command"]);
        assert_eq!(missing.code, Some(127), "{missing:?}");
    }

    fn changes_are_told_and_kept(scratch) {
        overcoat_only!();
        let lower = scratch.lower();
        for name in ["bin", "changed", "removed"] {
            fsx::write(lower.join(name), "x");
        }
        std::fs::remove_file(lower.join("bin")).unwrap();
        fsx::mkdir(lower.join("bin"));
        std::fs::copy("/bin/busybox", lower.join("bin/busybox")).unwrap();
        let keep = scratch.path("keep");
        let outcome = run(&[
            "--lower", lower.to_str().unwrap(), "--keep", keep.to_str().unwrap(), "--",
            "/bin/busybox", "sh", "-c", "echo y >>/changed; echo z >/added; /bin/busybox rm /removed",
        ]);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        let said = format!("{}{}", outcome.stdout, outcome.stderr);
        for word in ["changed", "added", "removed"] {
            assert!(said.contains(word), "{word}: {said}");
        }
        assert_eq!(fsx::read(lower.join("changed")), b"x");
        assert!(fsx::exists(keep));
    }

    fn two_at_once_and_nothing_left(scratch) {
        overcoat_only!();
        let name = unique(scratch);
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let outcome = run(&["--", "sh", "-c", &format!("test ! -e {name} && echo x >{name}")]);
                    assert_eq!(outcome.code, Some(0), "{outcome:?}");
                });
            }
        });
        assert!(!fsx::exists(&name));
        let mounts = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(&name), "{mounts}");
    }

    fn as_an_ordinary_user(scratch) {
        overcoat_only!();
        let mode = fsx::statx("/dev/fuse").stx_mode;
        if mode & 0o006 != 0o006 {
            eprintln!("skipped: /dev/fuse is closed to ordinary users here");
            return;
        }
        let name = unique(scratch);
        let mut command = Command::new(tool::overcoat());
        command.args(["run", "--", "sh", "-c", &format!("id -u; echo x >{name}; cat {name}")]);
        command.uid(1234).gid(1234).env("HOME", "/nonexistent").current_dir("/");
        let outcome = tool::run_limited(&mut command, LIMIT);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(!fsx::exists(&name));
    }
}
