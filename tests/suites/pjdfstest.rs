//! `pjdfstest`: what POSIX says of each system call. What passes on a plain ext4 passes on a mount.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use rustix::mount::UnmountFlags;

use overcoat_tests::{Disk, Scratch, Spec, mount_tests, overcoat_only, tool};

use crate::installed;

/// How long one run may take.
const LIMIT: Duration = Duration::from_secs(300);

/// Cases that do not pass on a mount though they do on ext4, and why that cannot be otherwise.
const EXCLUDED: &[(&str, &str)] = &[(
    "link::link_count_max",
    "skips itself: libc answers LINK_MAX from a table of file system types in which FUSE is not",
)];

/// What a case came to: `ok`, `FAILED` or `skipped`.
type Results = BTreeMap<String, String>;

/// A run of the program in one directory.
struct Suite<'a> {
    program: &'a Path,
    scratch: &'a Scratch,
    /// A directory of another file system, for EXDEV.
    other: PathBuf,
}

impl Suite<'_> {
    /// Runs the cases whose name contains `pattern`.
    fn run(&self, place: &Path, pattern: &str, allow_remount: bool) -> Results {
        let config = self.scratch.path("pjdfstest.toml");
        std::fs::write(&config, self.config(allow_remount)).unwrap();
        let mut command = Command::new(self.program);
        command.arg("-c").arg(&config).arg("-p").arg(place).arg(pattern);
        command.env("NO_COLOR", "1").env("PATH", self.path_with_plain_mount());
        let outcome = tool::run_limited(&mut command, LIMIT);
        assert!(outcome.stdout.contains("Summary:"), "did not end: {outcome:?}");
        for line in outcome.stdout.lines().filter(|line| line.ends_with("FAILED")) {
            eprintln!("{}: {line}", place.display());
        }
        outcome.stdout.lines().filter_map(verdict).collect()
    }

    /// All cases. Those that mount read-only run by themselves: others leave files open for writing.
    fn run_all(&self, root: &Path) -> Results {
        let place = ShortPath::to(root);
        std::fs::set_permissions(&place.0, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut results = self.run(&place.0, "::", false);
        results.extend(self.run(&place.0, "::erofs", true));
        results
    }

    fn config(&self, allow_remount: bool) -> String {
        format!(
            "[features]\n\
             posix_fallocate = {{}}\nrename_ctime = {{}}\nstat_st_birthtime = {{}}\n\
             utime_now = {{}}\nutimensat = {{}}\n\
             secondary_fs = {:?}\n\
             [settings]\nnaptime = 0.01\nallow_remount = {allow_remount}\n\
             [dummy_auth]\nentries = [[\"nobody\", {:?}], [\"daemon\", {:?}]]\n",
            self.other,
            group_of("nobody"),
            group_of("daemon"),
        )
    }

    /// The program remounts with mount(8), which would look for an installed helper of Overcoat's.
    fn path_with_plain_mount(&self) -> OsString {
        let dir = self.scratch.dir("bin");
        let script = dir.join("mount");
        std::fs::write(&script, "#!/bin/sh\nPATH=${PATH#*:}\nexec mount -i \"$@\"\n").unwrap();
        std::fs::set_permissions(&script, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut path = dir.into_os_string();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        path
    }
}

/// A directory seen at a short path too: a socket's address holds 107 bytes. Taken away on drop.
struct ShortPath(PathBuf);

impl ShortPath {
    fn to(root: &Path) -> Self {
        let point = std::env::temp_dir().join(format!("overcoat-{}", std::process::id()));
        std::fs::create_dir(&point).unwrap();
        rustix::mount::mount_bind(root, &point).unwrap();
        Self(point)
    }
}

impl Drop for ShortPath {
    fn drop(&mut self) {
        let unmounted = rustix::mount::unmount(&self.0, UnmountFlags::DETACH);
        if let Err(error) =
            unmounted.map_err(Into::into).and_then(|()| std::fs::remove_dir(&self.0))
        {
            eprintln!("cannot take {} away: {error}", self.0.display());
        }
    }
}

/// A line of the report: the case's name, and what it came to.
fn verdict(line: &str) -> Option<(String, String)> {
    let (name, verdict) = line.split_once(char::is_whitespace)?;
    let verdict = verdict.trim();
    let known = matches!(verdict, "ok" | "FAILED" | "skipped");
    (known && name.contains("::")).then(|| (name.to_owned(), verdict.to_owned()))
}

fn group_of(user: &str) -> String {
    tool::run("id", &["-gn", user]).trim().to_owned()
}

mount_tests! {
    fn what_passes_on_ext4_passes_on_a_mount(scratch) {
        overcoat_only!();
        let Some(program) = installed("pjdfstest", "OVERCOAT_PJDFSTEST") else { return };
        let disk = Disk::in_memory(scratch, 256);
        let suite = Suite { program: &program, scratch, other: scratch.dir("other") };
        let expected = suite.run_all(disk.root());
        let mount = Spec::of(scratch).mount();
        let found = suite.run_all(mount.root());
        mount.unmount();

        let wanted: Vec<&String> =
            expected.iter().filter(|(_, verdict)| *verdict == "ok").map(|(name, _)| name).collect();
        assert!(wanted.len() > 350, "only {} cases pass on ext4", wanted.len());
        let passes = |name: &str| found.get(name).is_some_and(|verdict| verdict == "ok");
        let excluded = |name: &str| EXCLUDED.iter().any(|(excluded, _)| *excluded == name);
        let failed: Vec<_> =
            wanted.iter().filter(|name| !passes(name) && !excluded(name)).collect();
        assert!(failed.is_empty(), "pass on ext4 and not here: {failed:#?}");
        for (name, reason) in EXCLUDED {
            assert!(!passes(name), "{name} passes; it is excluded because it {reason}");
        }
        eprintln!("{} cases pass on ext4, {} of them excluded", wanted.len(), EXCLUDED.len());
    }
}
