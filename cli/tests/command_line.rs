//! What the command says and returns when nothing gets mounted.
#![allow(clippy::unwrap_used, reason = "a failure is the test's")]

use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Command, Output};

fn overcoat(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_overcoat")).args(args).output().unwrap()
}

/// Asserts the exit code and that stderr is one line, and gives that line.
#[track_caller]
fn refused(output: &Output, code: i32) -> String {
    let stderr = String::from_utf8(output.stderr.clone()).unwrap();
    assert_eq!(output.status.code(), Some(code), "{stderr}");
    assert_eq!(stderr.lines().count(), 1, "{stderr}");
    assert!(stderr.ends_with('\n') && stderr.starts_with("overcoat: "), "{stderr}");
    assert_eq!(output.stdout, b"");
    stderr
}

struct Place {
    dir: tempfile::TempDir,
}

impl Place {
    /// A directory with `lower`, `upper` and `mnt` in it, and a file.
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["lower/inside", "upper/inside", "mnt"] {
            std::fs::create_dir_all(dir.path().join(name)).unwrap();
        }
        std::fs::write(dir.path().join("file"), "x").unwrap();
        Self { dir }
    }

    fn path(&self, name: &str) -> String {
        self.dir.path().join(name).into_os_string().into_string().unwrap()
    }

    fn mount(&self, lower: &str, upper: &str, mountpoint: &str) -> Output {
        let options = format!("lowerdir={},upperdir={}", self.path(lower), self.path(upper));
        overcoat(&["mount", "-o", &options, &self.path(mountpoint)])
    }
}

#[test]
fn wrong_usage_is_code_2_and_one_line() {
    for (args, said) in [
        (&[][..], "nothing to do"),
        (&["mount"], "MOUNTPOINT"),
        (&["mount", "/tmp"], "nothing to mount"),
        (&["/tmp"], "nothing to mount"),
        (&["mount", "-o", "lowerdir=/,what=ever", "/tmp"], "unknown option 'what=ever'"),
        (&["mount", "-o", "lowerdir=/,size=much", "/tmp"], "size=much"),
        (&["mount", "-o", "lowerdir=/,transport=pigeon", "/tmp"], "transport=pigeon"),
        (&["mount", "-o", "lowerdir=/,upperdir", "/tmp"], "upperdir needs a value"),
        (&["mount", "--colour", "/tmp"], "--colour"),
        (&["mount", "-o"], "-o"),
        (&["check"], "FILE"),
        (&["run", "ls"], "'ls' found (see overcoat --help); the command goes after '--'"),
        (&["umount", "/tmp"], "no command 'umount'"),
        (&["chekc"], "no command 'chekc'"),
    ] {
        let line = refused(&overcoat(args), 2);
        assert!(line.contains(said), "{args:?}: {line}");
    }
}

#[test]
fn bad_directories_are_code_1_and_one_line() {
    let place = Place::new();
    for (lower, upper, mountpoint, said) in [
        ("none", "upper", "mnt", "lowerdir"),
        ("file", "upper", "mnt", "not a directory"),
        ("lower", "none", "mnt", "upperdir"),
        ("lower", "file", "mnt", "not a directory"),
        ("lower", "lower", "mnt", "lowerdir"),
        ("lower", "lower/inside", "mnt", "inside"),
        ("upper/inside", "upper", "mnt", "inside"),
        ("lower", "upper", "none", "mountpoint"),
        ("lower", "upper", "file", "not a directory"),
    ] {
        let line = refused(&place.mount(lower, upper, mountpoint), 1);
        assert!(line.contains(said), "{lower} {upper} {mountpoint}: {line}");
    }
    let left = std::fs::read_dir(place.path("upper")).unwrap().count();
    assert_eq!(left, 1, "nothing is made in the upper directory");
}

#[test]
fn a_directory_in_place_of_the_log_is_refused() {
    let place = Place::new();
    let options = format!("lowerdir={}", place.path("lower"));
    let log = place.path("mnt");
    let output = overcoat(&["mount", "--log", &log, "-o", &options, &place.path("mnt")]);
    if Path::new("/dev/fuse").exists() {
        assert!(refused(&output, 1).contains("log "));
    }
}

#[test]
fn engines_may_pass_options_that_are_not_ours() {
    let place = Place::new();
    let options = format!("lowerdir={},odd=1,,", place.path("none"));
    let output = overcoat(&["-o", &options, "overlay", &place.path("mnt")]);
    let stderr = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{stderr}");
    let lines: Vec<_> = stderr.lines().collect();
    assert_eq!(lines.len(), 2, "{stderr}");
    assert!(lines[0].contains("ignoring unknown option 'odd=1'"), "{stderr}");
    assert!(lines[1].contains("lowerdir"), "{stderr}");
}

#[test]
fn a_source_that_holds_lower_and_upper_stands_for_both() {
    let place = Place::new();
    let helper = place.path("mount.fuse.overcoat");
    symlink(env!("CARGO_BIN_EXE_overcoat"), &helper).unwrap();
    let call = |source: &str, target: &str, more: &[&str]| {
        let mut command = Command::new(&helper);
        command.args([&place.path(source), &place.path(target)]).args(more).output().unwrap()
    };
    // It gets as far as the mountpoint.
    let output = call("", "none", &["-o", "rw,noatime", "-t", "fuse.overcoat"]);
    assert!(refused(&output, 1).contains("mountpoint"));
    assert!(refused(&call("lower", "mnt", &[]), 2).contains("nothing to mount"));
    if Path::new("/dev/fuse").exists() {
        assert!(call("", "mnt", &["-f"]).status.success(), "-f of mount(8) is 'fake'");
    }
    assert!(refused(&Command::new(&helper).output().unwrap(), 2).contains("SOURCE"));
}

#[test]
fn what_is_no_filestore_is_told() {
    let place = Place::new();
    for (name, said) in [
        ("none", "none: No such file or directory"),
        ("file", "file: not a filestore"),
        ("lower", "no .overcoat.filestore in it"),
    ] {
        for command in ["check", "usage"] {
            let line = refused(&overcoat(&[command, &place.path(name)]), 1);
            assert!(line.contains(said), "{command} {name}: {line}");
        }
    }
}

#[test]
fn help_and_version_go_to_stdout() {
    for args in [&["--help"][..], &["-h"], &["mount", "--help"], &["run", "--help"]] {
        let output = overcoat(args);
        assert!(output.status.success() && output.stderr.is_empty(), "{args:?}");
        assert!(String::from_utf8(output.stdout).unwrap().contains("overcoat"), "{args:?}");
    }
    let version = String::from_utf8(overcoat(&["--version"]).stdout).unwrap();
    let expected = format!("overcoat {}", env!("CARGO_PKG_VERSION"));
    assert_eq!(version.lines().next(), Some(expected.as_str()));
}
