//! Tests on real mounts, a file per family. See `tests/common/lib.rs` for what they need.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's failure")]

mod accounting;
mod bad_input;
mod big_directory;
mod callers;
mod carried_over;
mod coherence;
mod command_line;
mod copy_up;
mod data;
mod documented;
mod full_disk;
mod inherited;
mod ioctl;
mod kill;
mod layers;
mod letting_go;
mod library;
mod locks;
mod names;
mod passthrough;
mod peers;
mod permissions;
mod persistence;
mod rename;
mod slow_layer;
mod space;
mod stat;
mod throw_away;
mod times;
mod transport;
mod tree;
mod unnamed;
mod xattr;
