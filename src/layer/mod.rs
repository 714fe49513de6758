//! Read-only directory trees of the host, and how a stack of them merges into one.
//!
//! A [`Stack`] answers by path: a [`LowerPath`](crate::attr::LowerPath) names an object of one layer, and a merged directory
//! is the list of its directories, topmost first. No state is kept but a bounded number of open
//! directories, so layers of any size cost nothing at the start.
//!
//! What a layer is stands in `source.rs`; directories of the host (`host/`) are the only kind of it.
//!
//! What is changed in a layer on the host while a stack is open may or may not be seen.

mod descriptors;
mod dir_cache;
mod error;
mod file_cache;
mod host;
mod host_calls;
mod listing;
mod merge;
mod number;
mod object;
mod owner;
mod source;
mod stack;

#[cfg(test)]
mod tests;

pub use error::{LayerError, check_overlap};
pub use host_calls::{NoHostCalls, forbid as forbid_host_calls};
pub use listing::{Entry, Listing};
pub use object::OpenFile;
pub use source::{FileKey, LowerFile, Want};
pub use stack::{LowerNode, Stack};
