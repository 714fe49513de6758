//! What the tests on real mounts share.
//!
//! | module | what it is |
//! |---|---|
//! | [`scratch`] | a directory below the target directory, gone at the end of a test |
//! | [`mount`] | a mounted view as a guard: mounts, unmounts and waits for the daemon's end |
//! | [`manifest`] | everything that can be seen of a tree, and the difference of two trees |
//! | [`disk`] | a small file system of its own |
//! | [`fsx`] | system calls the standard library has no name for, with panics instead of errors |
//! | [`rng`] | a small seeded generator |
//! | [`store`] | looking at a filestore from outside |
//! | [`tool`] | running programs |
//! | [`history`], [`work`] | writers, and what a power cut may leave of their work |
//!
//! The tests need root and `/dev/fuse`, some of them programs besides. Without these they are skipped with a
//! line that says so, unless `OVERCOAT_TEST_REQUIRED` is set: then they fail.
//!
//! `OVERCOAT_BIN` names the binary to test (otherwise the one of this workspace is built, in the
//! profile of the test). `OVERCOAT_TEST_DRIVER=overlayfs` runs the tests on kernel overlayfs
//! instead, as far as they apply: what fails there is a doubtful test or a known limit of overlayfs.
//! `OVERCOAT_TEST_OPTIONS=transport=uring` (or any other mount options) adds to the options of every
//! mount that does not say otherwise.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's failure")]

pub mod disk;
pub mod fsx;
pub mod history;
pub mod manifest;
pub mod mount;
pub mod rng;
pub mod scratch;
pub mod store;
pub mod tool;
pub mod work;

pub use disk::Disk;
pub use manifest::Manifest;
pub use mount::{Driver, Mount, Spec};
pub use scratch::Scratch;

/// Whether this machine can run the tests on real mounts.
///
/// # Panics
/// When it cannot and `OVERCOAT_TEST_REQUIRED` is set.
pub fn can_mount() -> bool {
    if !rustix::process::geteuid().is_root() {
        skip("not root");
        return false;
    }
    if !std::path::Path::new("/dev/fuse").exists() {
        skip("no /dev/fuse");
        return false;
    }
    true
}

/// Sets a flag when it goes, by a panic too: the threads of a scope that go on until then end with the test.
pub struct SetOnDrop<'a>(pub &'a std::sync::atomic::AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, std::sync::atomic::Ordering::Relaxed);
    }
}

/// Whether all of `programs` are installed.
///
/// # Panics
/// When one is not and `OVERCOAT_TEST_REQUIRED` is set.
pub fn have(programs: &[&str]) -> bool {
    let missing: Vec<&str> =
        programs.iter().copied().filter(|program| tool::find(program).is_none()).collect();
    if !missing.is_empty() {
        skip(&format!("not installed: {}", missing.join(" ")));
    }
    missing.is_empty()
}

fn skip(reason: &str) {
    let required = std::env::var_os("OVERCOAT_TEST_REQUIRED").is_some();
    assert!(!required, "cannot be tested here: {reason}");
    eprintln!("skipped: {reason}");
}

/// Declares tests that need a real mount: `mount_tests! { fn name(scratch) { ... } }`.
/// `scratch` is a fresh [`Scratch`].
#[macro_export]
macro_rules! mount_tests {
    ($($(#[$meta:meta])* fn $name:ident($scratch:ident) $body:block)*) => {$(
        #[test]
        $(#[$meta])*
        fn $name() {
            if !$crate::can_mount() {
                return;
            }
            let $scratch = &$crate::Scratch::new(stringify!($name));
            $body
        }
    )*};
}

/// Skips the rest of a test that asks for what only Overcoat does.
#[macro_export]
macro_rules! overcoat_only {
    () => {
        if $crate::Driver::from_env() != $crate::Driver::Overcoat {
            eprintln!("skipped: overcoat only");
            return;
        }
    };
}
