//! What works on which kernel: the table in `doc/OPERATIONS.md`, and a quick part of the mount tests.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use overcoat_tests::{Scratch, tool};

use crate::initramfs::Archive;
use crate::kernels::{self, Kernel};
use crate::machine::{self, Boot};

/// The mount tests that run in a guest, in whole names, and the first series that has what they are about.
const TESTS: [(&str, &str); 23] = [
    ("copy_up::hard_links_in_a_lower_stay_one_file", "5.10"),
    ("copy_up::metadata_copies_no_data", "5.10"),
    ("data::a_shared_mapping_writes_through", "5.10"),
    ("data::append_goes_to_the_end", "5.10"),
    ("layers::opaque_in_three_spellings", "5.10"),
    ("passthrough::an_open_of_a_lower_file_is_passed_through", "6.12"),
    // Before 6.1, setgid without group execute is no privilege for the VFS.
    ("permissions::writing_clears_setuid_and_setgid", "6.1"),
    ("stat::everything_seen_is_seen_again", "5.10"),
    ("persistence::kill_and_mount", "5.10"),
    ("persistence::unmount_and_mount", "5.10"),
    ("rename::a_merged_directory_moves_with_all_below", "5.10"),
    ("rename::exchange", "5.10"),
    ("space::a_punched_lower_range_is_a_hole", "5.10"),
    ("space::copy_file_range", "5.10"),
    // FALLOC_FL_ZERO_RANGE is not passed on before.
    ("space::fallocate_modes", "6.1"),
    ("stat::birth_times", "6.12"),
    ("times::changes_set_the_right_times", "5.10"),
    ("tree::a_read_only_view", "5.10"),
    ("tree::every_type_of_node", "5.10"),
    ("tree::unlink_hides_and_create_brings_back", "5.10"),
    ("unnamed::descriptors_outlive_the_name", "5.10"),
    ("unnamed::tmpfile_gets_a_name", "6.1"),
    ("xattr::all_namespaces_on_lower_and_upper", "5.10"),
];

/// Those for the kernel of a series.
fn tests_for(version: &str) -> Vec<&'static str> {
    let place =
        |version: &str| kernels::ALL.iter().position(|series| series.version == version).unwrap();
    TESTS
        .iter()
        .filter(|(_, since)| place(since) <= place(version))
        .map(|(name, _)| *name)
        .collect()
}

/// How long a guest may take for all.
const LIMIT: Duration = Duration::from_secs(300);

/// The table's columns behind the kernel's release, by the names that the guest prints.
const COLUMNS: [&str; 8] = [
    "protocol",
    "transport",
    "passthrough",
    "birth-times",
    "tmpfile",
    "kill-priv",
    "idmapped",
    "resend",
];

/// The kernel of a series; `None`, after a line that says why, where there is none and need not be.
pub fn kernel(version: &str) -> Option<Kernel> {
    if !overcoat_tests::have(&["qemu-system-x86_64", "setpriv", "busybox", "mkfs.ext4", "xz"]) {
        return None;
    }
    let series = kernels::ALL.into_iter().find(|series| series.version == version).unwrap();
    match series.get() {
        Ok(kernel) => Some(kernel),
        Err(reason) => {
            let required = std::env::var_os("CI").is_some_and(|value| value == "true");
            assert!(!required, "no kernel {version}: {reason}");
            eprintln!("skipped: no kernel {version}: {reason}");
            None
        }
    }
}

/// The program of the mount tests, built in the profile of this test.
fn mount_tests() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["test", "--quiet", "--no-run", "--package", "overcoat-tests", "--test", "mount"]);
    cargo.args(["--message-format", "json", "--target-dir"]).arg(tool::target_dir());
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    if !cfg!(debug_assertions) {
        cargo.arg("--release");
    }
    let messages = String::from_utf8(tool::output(&mut cargo).stdout).unwrap();
    let paths =
        messages.split("\"executable\":\"").skip(1).filter_map(|rest| rest.split('"').next());
    let programs: Vec<&str> = paths.filter(|path| path.contains("/mount-")).collect();
    assert_eq!(programs.len(), 1, "{messages}");
    PathBuf::from(programs[0])
}

/// A fresh ext4 in a sparse file.
fn disk(path: &Path) {
    std::fs::File::create(path).unwrap().set_len(3 << 30).unwrap();
    tool::run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), path.as_os_str()]);
}

/// The row of the table in `doc/OPERATIONS.md` for a series: its release, and the cells by column.
fn documented(version: &str) -> (String, Vec<String>) {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../doc/OPERATIONS.md");
    let page = std::fs::read_to_string(page).unwrap();
    let rows = page.lines().filter_map(|line| line.strip_prefix("| ")?.strip_suffix(" |"));
    let mut rows = rows.map(|row| row.split(" | ").map(str::to_owned).collect::<Vec<_>>());
    let row = rows
        .find(|row| row.len() == COLUMNS.len() + 1 && row[0].starts_with(&format!("{version}.")));
    let row = row.unwrap_or_else(|| panic!("doc/OPERATIONS.md has no row for Linux {version}"));
    (row[0].clone(), row[1..].to_vec())
}

fn on_kernel(version: &str) {
    let Some(kernel) = kernel(version) else { return };
    let scratch = Scratch::new(&format!("linux-{version}"));
    let mut archive = Archive::for_guest(&kernel);
    archive.program("bin/mount-tests", &mount_tests());
    let tests = tests_for(version);
    archive.file("tests", tests.join("\n").as_bytes());
    let initramfs = scratch.path("initramfs");
    archive.write(&initramfs);
    let image = scratch.path("disk");
    disk(&image);
    let console = scratch.path("console");
    let boot = Boot {
        kernel: &kernel,
        initramfs: &initramfs,
        disk: &image,
        write_log: None,
        console: console.clone(),
        arguments: &["kernel"],
    };
    let lines: Vec<String> =
        boot.start().lines_until_end(LIMIT).into_iter().map(|line| line.text).collect();
    let printed = || format!("{}\n--- console:\n{}", lines.join("\n"), machine::tail(&console));

    assert_eq!(lines.last().map(String::as_str), Some("end"), "it did not end\n{}", printed());
    let found: BTreeMap<&str, &str> =
        lines.iter().filter_map(|line| line.strip_prefix("feature ")?.split_once(' ')).collect();
    let row: Vec<&str> =
        COLUMNS.iter().map(|column| found.get(column).copied().unwrap_or("failed")).collect();
    eprintln!("| {} | {} |", kernel.release, row.join(" | "));
    let (_, want) = documented(version);
    assert_eq!(
        row,
        want,
        "Linux {}: other than doc/OPERATIONS.md has it\n{}",
        kernel.release,
        printed()
    );

    let passed =
        lines.iter().filter(|line| line.starts_with("test ") && line.ends_with("... ok")).count();
    let runs = if found["transport"] == "io_uring" { 2 } else { 1 };
    assert_eq!(passed, tests.len() * runs, "Linux {}\n{}", kernel.release, printed());
}

#[test]
fn linux_5_10() {
    on_kernel("5.10");
}

#[test]
fn linux_6_1() {
    on_kernel("6.1");
}

#[test]
fn linux_6_12() {
    on_kernel("6.12");
}

#[test]
fn linux_7() {
    on_kernel("7");
}
