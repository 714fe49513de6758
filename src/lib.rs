//! Overcoat: read-only layers below, an in-memory upper above, one sparse file for the data.
//!
//! Imports point down only (`tests/layering.rs` checks it):
//!
//! ```text
//! cli → fuse, control → overlay → upper, layer → filestore / journal → sys
//! ```
//!
//! | module | what it is |
//! |---|---|
//! | [`errno`], [`attr`], [`block`], [`name`], [`posix_acl`], [`config`] | vocabulary: leaves that everything may use |
//! | [`metrics`] | counters and latencies of a mount: a leaf that everything may fill |
//! | [`sys`] | system calls; the only place with `unsafe` |
//! | [`filestore`] | one sparse host file: blocks, extents, holes, usage; knows no inode |
//! | [`journal`] | the record codec and the log that lives in the filestore |
//! | [`layer`] | read-only lower directories and how a stack of them merges; knows no upper |
//! | [`upper`] | the in-memory tree, a state machine driven by journal records; knows no layer |
//! | [`overlay`] | merge semantics: every file system operation on the merged view |
//! | [`control`] | what looks inside: usage, check, diff |
//! | [`fuse`] | the wire: kernel structs, decode, encode, mount, transports |
//!
//! Lock order (outer first): overlay per-file I/O lock → overlay state → filestore allocator.
//! The filestore's I/O gate is taken last and never held while another lock is acquired.

pub mod attr;
pub mod block;
pub mod config;
pub mod control;
pub mod errno;
pub mod filestore;
pub mod fuse;
pub mod journal;
pub mod layer;
pub mod metrics;
pub mod name;
pub mod overlay;
pub mod posix_acl;
pub mod sys;
pub mod upper;

/// The reference model and its random operations. They drive [`overlay::Overlay`] itself, without a kernel, and so
/// are part of this crate: `cargo test -p overcoat --lib model::`.
#[cfg(test)]
#[path = "../tests/model/mod.rs"]
mod model;
