//! Tests that need a kernel other than the one that runs: guests of qemu, emulated, with Debian's kernels.
//!
//! | module | what it is |
//! |---|---|
//! | [`kernels`] | downloads kernels as packages and unpacks them |
//! | [`initramfs`] | makes the guest's root |
//! | [`machine`] | boots, listens, kills |
//! | [`matrix`] | features and mount tests, kernel by kernel |
//! | [`power`] | power cuts, five states of a disk; with `OVERCOAT_TEST_CUTS=200` so many |
//! | [`writelog`] | the log of a disk's writes, of which states after a cut are made |
//! | `guest/` | the program that runs in the guest |
//!
//! A kernel that cannot be had fails its test where `CI` is `true`; elsewhere the test is skipped with a line that
//! says why.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's failure")]

mod initramfs;
mod kernels;
mod machine;
mod matrix;
mod power;
mod writelog;
