//! System calls that `rustix` does not carry, and the only place with `unsafe`.

pub mod fallocate;
pub mod fs_uuid;
pub mod fuse_dev;
pub mod holder;
pub mod map;
pub mod mount;
pub mod mountinfo;
pub mod process;
mod sigbus;
pub mod tree;
pub mod uring;
