//! Overcoat in the hands of others: podman with it as `mount_program`, and a whole Debian in a mount.
//! See `tests/common/lib.rs` for what the tests need.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's failure")]

mod containers;
mod image;
mod install;
mod podman;
mod rootfs;
