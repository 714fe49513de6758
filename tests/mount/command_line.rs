//! The command line: forms, readiness, and the ways a mount ends.

use std::ffi::OsString;
use std::io::Read as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use overcoat_tests::mount::{is_mounted, wait_until_unmounted};
use overcoat_tests::{Scratch, Spec, fsx, mount_tests, overcoat_only, tool};

const LIMIT: Duration = Duration::from_secs(20);

fn options(scratch: &Scratch) -> String {
    format!("lowerdir={},upperdir={}", scratch.lower().display(), scratch.upper().display())
}

/// Takes the mount at `mnt` away and waits for the daemon's end.
fn end(scratch: &Scratch) {
    overcoat_tests::mount::unmount_below(&scratch.path("mnt"));
    wait_for_no_daemon(scratch);
}

fn wait_for_no_daemon(scratch: &Scratch) {
    tool::eventually("the daemon's end", LIMIT, || {
        tool::processes(tool::overcoat(), scratch.root()).is_empty()
    });
}

/// The source that mountinfo shows for `point`, and its type.
fn source_and_type(point: &Path) -> (String, String) {
    let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
    let line = mountinfo
        .lines()
        .find(|line| line.split(' ').nth(4) == point.to_str())
        .unwrap_or_else(|| panic!("{} is not in mountinfo", point.display()));
    let (_, rest) = line.split_once(" - ").unwrap();
    let mut fields = rest.split(' ');
    let kind = fields.next().unwrap().to_owned();
    (fields.next().unwrap().to_owned(), kind)
}

mount_tests! {
    fn the_bare_form_and_its_source(scratch) {
        overcoat_only!();
        let point = scratch.dir("mnt");
        for source in [None, Some("a-source")] {
            let mut arguments: Vec<OsString> = vec!["-o".into(), options(scratch).into()];
            arguments.extend(source.map(OsString::from));
            arguments.push(point.clone().into());
            let outcome = tool::overcoat_run(&arguments, LIMIT);
            assert_eq!(outcome.code, Some(0), "{outcome:?}");
            let (shown, kind) = source_and_type(&point);
            assert_eq!(kind, "fuse.overcoat");
            if let Some(source) = source {
                assert_eq!(shown, source);
            }
            end(scratch);
        }
    }

    fn engines_pass_odd_options(scratch) {
        overcoat_only!();
        // Relative paths, a trailing comma, empty items, quotes, an option nobody knows.
        fsx::write(scratch.lower().join("f"), "x");
        for odd in [
            "lowerdir=lower:lower2,upperdir=upper,workdir=work,",
            "lowerdir=lower,upperdir=upper,workdir=work,,volatile",
            "lowerdir=lower,upperdir=upper,context=\"system_u:object_r:c1,c2\"",
            "lowerdir=lower,upperdir=upper,workdir=work,private",
            "lowerdir=lower,upperdir=upper,dev,suid,exec,rw",
        ] {
            scratch.dir("lower2");
            scratch.dir("work");
            scratch.upper();
            let point = scratch.dir("mnt");
            let mut command = Command::new(tool::overcoat());
            command.current_dir(scratch.root()).args(["-o", odd]).arg(&point);
            let outcome = tool::run_limited(&mut command, LIMIT);
            assert_eq!(outcome.code, Some(0), "{odd}: {outcome:?}");
            assert_eq!(fsx::read(point.join("f")), b"x");
            end(scratch);
        }
        let mut command = Command::new(tool::overcoat());
        let point = scratch.dir("mnt");
        command.args(["-o", &format!("{},nobody_knows", options(scratch))]).arg(&point);
        let outcome = tool::run_limited(&mut command, LIMIT);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(outcome.stderr.contains("nobody_knows"), "a warning: {outcome:?}");
        end(scratch);
    }

    fn repeated_options(scratch) {
        overcoat_only!();
        let point = scratch.dir("mnt");
        let lower = format!("lowerdir={}", scratch.lower().display());
        let upper = format!("upperdir={}", scratch.upper().display());
        let point_text = point.to_str().unwrap();
        let outcome = tool::overcoat_run(&["mount", "-o", &lower, "-o", &upper, point_text], LIMIT);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        fsx::write(point.join("f"), "x");
        end(scratch);
    }

    fn a_reader_of_its_output_sees_the_end_when_it_is_mounted(scratch) {
        overcoat_only!();
        // `overcoat_run` reads both pipes to their end, which a daemon that kept them would put off for ever.
        let mount = Spec::of(scratch).mount();
        for number in 0..3 {
            let descriptor = format!("/proc/{}/fd/{number}", mount.pid().as_raw_nonzero());
            let target = std::fs::read_link(descriptor).unwrap();
            assert_eq!(target, Path::new("/dev/null"));
        }
        // Its working directory would keep a file system busy.
        let cwd = std::fs::read_link(format!("/proc/{}/cwd", mount.pid().as_raw_nonzero())).unwrap();
        assert_eq!(cwd, Path::new("/"));
    }

    fn foreground_stays_until_the_unmount(scratch) {
        overcoat_only!();
        let point = scratch.dir("mnt");
        let mut child = Command::new(tool::overcoat())
            .args(["mount", "-f", "-o", &options(scratch)])
            .arg(&point)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        tool::eventually("mounted", LIMIT, || is_mounted(&point));
        fsx::write(point.join("f"), "x");
        assert!(child.try_wait().unwrap().is_none());
        tool::run("umount", &[&point]);
        assert_eq!(child.wait().unwrap().code(), Some(0));
        let mut said = String::new();
        child.stderr.unwrap().read_to_string(&mut said).unwrap();
        // How requests travel, and which came.
        let lines: Vec<_> = said.lines().collect();
        let [.., served] = lines[..] else { panic!("nothing is logged") };
        assert!(lines.len() <= 2, "{said}");
        assert!(lines.len() == 1 || lines[0].starts_with("overcoat: serving over "), "{said}");
        assert!(served.starts_with("overcoat: served lookup 1 (p50 "), "{said}");
        assert!(served.contains(" create 1 ("), "{said}");
    }

    fn umount_fusermount_and_sigterm_end_it(scratch) {
        overcoat_only!();
        for way in ["umount", "fusermount3", "sigterm"] {
            let mut mount = Spec::of(scratch).mount();
            fsx::write(mount.path(way), "x");
            if way == "sigterm" {
                mount.terminate();
                continue;
            }
            let point = mount.root().to_owned();
            match way {
                "umount" => tool::run("umount", &[&point]),
                _ => tool::run("fusermount3", &["-u".as_ref(), point.as_os_str()]),
            };
            wait_until_unmounted(&point);
            mount.wait_for_daemon();
            mount.forget();
        }
        assert_eq!(fsx::names(Spec::of(scratch).mount().root()), ["fusermount3", "sigterm", "umount"]);
    }

    fn sigterm_ends_a_busy_mount(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("f"), "x");
        let held = fsx::open_rw(mount.path("f"));
        fsx::write_at(&held, 0, b"y");
        held.sync_all().unwrap();
        mount.terminate_busy();
        drop(held);
        wait_for_no_daemon(scratch);
        assert_eq!(fsx::read(Spec::of(scratch).mount().path("f")), b"y");
    }

    fn a_lazy_unmount_lasts_until_the_last_user_leaves(scratch) {
        overcoat_only!();
        let mut mount = Spec::of(scratch).mount();
        let file = std::fs::File::create(mount.path("f")).unwrap();
        mount.detach();
        assert!(!is_mounted(mount.root()));
        fsx::write_at(&file, 0, b"after the unmount");
        assert_eq!(tool::processes(tool::overcoat(), mount.root()).len(), 1);
        drop(file);
        mount.wait_for_daemon();
        assert_eq!(fsx::read(Spec::of(scratch).mount().path("f")), b"after the unmount");
    }

    fn open_to_all_users_with_dev_and_suid(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("f"), "x");
        fsx::as_user(fsx::NOBODY, fsx::NOBODY, || assert_eq!(fsx::read(mount.path("f")), b"x"));
        let mountinfo = std::fs::read_to_string("/proc/self/mountinfo").unwrap();
        let line = mountinfo.lines().find(|line| line.contains(mount.root().to_str().unwrap())).unwrap();
        for flag in ["nodev", "nosuid", "noexec"] {
            assert!(!line.contains(flag), "{line}");
        }
        assert!(line.contains("default_permissions") && line.contains("allow_other"), "{line}");
    }

    fn mount_options_are_honoured(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).option("ro,nosuid,nodev,noexec,noatime").mount();
        let flags = rustix::fs::statvfs(mount.root()).unwrap().f_flag;
        use rustix::fs::StatVfsMountFlags as Flag;
        for flag in [Flag::RDONLY, Flag::NOSUID, Flag::NODEV, Flag::NOEXEC] {
            assert!(flags.contains(flag), "{flag:?} of {flags:?}");
        }
        assert_eq!(std::fs::write(mount.path("f"), "x").unwrap_err().raw_os_error(), Some(30));
    }

    fn a_remount_that_would_have_no_effect_fails(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).option("size=64m").mount();
        let remount = |options: &str| {
            let point = mount.root().to_str().unwrap();
            tool::overcoat_run(&["mount", "-o", &format!("remount,{options}"), point], LIMIT)
        };
        let flags = || rustix::fs::statvfs(mount.root()).unwrap().f_flag;
        let layers = options(scratch);
        for fine in ["ro", &format!("{layers},size=65536k,ro,nodev"), "rw,default_permissions,user_id=0"] {
            let outcome = remount(fine);
            assert_eq!((outcome.code, outcome.stderr.as_str()), (Some(0), ""), "{fine}: {outcome:?}");
            let read_only = flags().contains(rustix::fs::StatVfsMountFlags::RDONLY);
            assert_eq!(read_only, !fine.contains("rw"), "{fine}");
        }
        for (futile, word) in [
            ("size=128m", "size"), ("size=0", "size"), ("ro,nr_inodes=7", "nr_inodes"), ("volatile", "volatile"),
            ("upperdir=/elsewhere", "upperdir"), ("medium=memory", "medium"), ("threads=7", "threads"),
            ("dirsync", "dirsync"),
        ] {
            let outcome = remount(futile);
            assert_eq!(outcome.code, Some(1), "{futile}: {outcome:?}");
            assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
            assert!(outcome.stderr.contains(word), "{futile}: {outcome:?}");
            assert!(!flags().contains(rustix::fs::StatVfsMountFlags::RDONLY), "{futile}");
        }
        assert_eq!(remount("no-such-option").code, Some(2));
        let total = rustix::fs::statvfs(mount.root()).unwrap();
        assert_eq!(total.f_blocks * total.f_frsize, 64 << 20);
    }

    fn a_view_without_an_upper_stays_read_only(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).read_only().mount();
        let point = mount.root().to_str().unwrap();
        let outcome = tool::overcoat_run(&["mount", "-o", "remount,rw", point], LIMIT);
        assert_eq!(outcome.code, Some(1), "{outcome:?}");
        assert!(outcome.stderr.contains("no upperdir"), "{outcome:?}");
        assert_eq!(tool::overcoat_run(&["mount", "-o", "remount,ro,nodev", point], LIMIT).code, Some(0));
    }

    fn changes_of_a_layer_with_a_filestore_are_told_not_to_show(scratch) {
        overcoat_only!();
        let mount = Spec::of(scratch).mount();
        fsx::write(mount.path("changed"), "x");
        mount.unmount();
        let mut spec = Spec::of(scratch).lowers(&[scratch.upper(), scratch.lower()]);
        spec.upper = Some(scratch.dir("other"));
        let mut arguments = spec.arguments();
        let log = scratch.path("log");
        arguments.splice(1..1, ["--log".into(), log.clone().into()]);
        let outcome = tool::overcoat_run(&arguments, LIMIT);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(outcome.stderr.lines().count(), 1, "{outcome:?}");
        let upper = scratch.upper();
        assert!(outcome.stderr.contains(upper.to_str().unwrap()), "{outcome:?}");
        let logged = String::from_utf8(fsx::read(log)).unwrap();
        assert!(logged.lines().any(|line| line.contains("WARN") && line.contains(upper.to_str().unwrap())), "{logged}");
        assert!(!fsx::exists(scratch.path("mnt/changed")));
        end(scratch);
    }

    fn mount_with_the_helper(scratch) {
        overcoat_only!();
        // mount(8) looks for helpers in /sbin: a private view of it holds a link to the binary.
        let script = "mkdir -p $1/sbin && mount --bind /sbin $1/sbin && \
             mount -t tmpfs none /sbin && cp -P $1/sbin/mount.fuse* /sbin/ 2>/dev/null; \
             ln -sf $2 /sbin/mount.fuse.overcoat && ln -sf $2 /sbin/umount.fuse.overcoat && \
             mount -t fuse.overcoat source $1/mnt -o $3,uhelper=fuse.overcoat && touch $1/mnt/f && findmnt -no SOURCE $1/mnt && \
             umount $1/mnt";
        let mut command = Command::new("unshare");
        scratch.dir("mnt");
        command.args(["-m", "/bin/bash", "-c", script, "bash"]).arg(scratch.root()).arg(tool::overcoat());
        command.arg(options(scratch));
        let outcome = tool::run_limited(&mut command, LIMIT);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert_eq!(outcome.stdout.trim(), "source");
        let left = tool::processes(tool::overcoat(), scratch.root());
        assert!(left.is_empty(), "umount(8) returned before the daemon's end: {left:?}");
        assert_eq!(fsx::names(Spec::of(scratch).mount().root()), ["f"]);
    }

    fn a_log_file(scratch) {
        overcoat_only!();
        let log = scratch.path("log");
        let mut arguments = Spec::of(scratch).arguments();
        arguments.insert(1, "--log".into());
        arguments.insert(2, log.clone().into());
        let outcome = tool::overcoat_run(&arguments, LIMIT);
        assert_eq!(outcome.code, Some(0), "{outcome:?}");
        assert!(fsx::exists(&log));
        end(scratch);
    }
}

#[test]
fn version_and_help() {
    if overcoat_tests::Driver::from_env() != overcoat_tests::Driver::Overcoat {
        return;
    }
    let version = tool::overcoat_run(&["--version"], LIMIT);
    assert_eq!(version.code, Some(0));
    assert!(version.stdout.starts_with("overcoat "), "{version:?}");
    let help = tool::overcoat_run(&["--help"], LIMIT);
    assert_eq!(help.code, Some(0));
    for word in ["mount", "run", "check"] {
        assert!(help.stdout.contains(word), "{word} is not in --help");
    }
}
