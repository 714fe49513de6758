//! Test programs that others wrote for file systems, run on real mounts. They are not built here:
//!
//! | program | from | found by |
//! |---|---|---|
//! | `pjdfstest` | `cargo install pjdfstest` | `OVERCOAT_PJDFSTEST`, or `PATH` |
//! | `fsx` | `cargo install fsx` | `OVERCOAT_FSX`, or `PATH` |
//!
//! A test whose program is missing is skipped with a line that says so, unless `OVERCOAT_TEST_REQUIRED` is
//! set: then it fails.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's failure")]

mod fsx;
mod pjdfstest;

use std::path::PathBuf;

/// Where the program is: what `variable` says, or the first of that name in `PATH`. `None`, with a line that
/// says so, where there is none.
///
/// # Panics
/// When there is none and `OVERCOAT_TEST_REQUIRED` is set.
fn installed(name: &str, variable: &str) -> Option<PathBuf> {
    let told = std::env::var_os(variable).map(PathBuf::from);
    let found = told.or_else(|| {
        let path = std::env::var_os("PATH")?;
        std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
    });
    if found.is_none() {
        let required = std::env::var_os("OVERCOAT_TEST_REQUIRED").is_some();
        assert!(!required, "no {name} here: cargo install {name}, or set {variable}");
        eprintln!("skipped: no {name}");
    }
    found
}
