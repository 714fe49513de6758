//! Read-only directory trees of the host, and how a stack of them merges into one.
//!
//! A [`Stack`] answers by path: a [`LowerPath`](crate::attr::LowerPath) names an object of one layer, and a merged directory
//! is the list of its directories, topmost first. No state is kept but a bounded number of open
//! directories, so layers of any size cost nothing at the start.
//!
//! Nothing in a layer is ever changed: every descriptor is read-only, and access times are kept
//! (`O_NOATIME` where the host allows it, and a private `noatime` copy of the mount where it can be
//! had). Names go below a layer's root one way only (`tree.rs`): never through a symbolic link, never
//! above the root, never into a directory mounted inside.
//!
//! What is changed in a layer on the host while a stack is open may or may not be seen.

mod cache;
mod dir;
mod error;
mod identity;
mod listing;
mod merge;
mod number;
mod object;
mod owner;
mod stack;
mod tree;
mod whiteout;
mod xattr;

#[cfg(test)]
mod tests;

pub use error::{LayerError, check_overlap};
pub use identity::LayerIdentity;
pub use listing::Listing;
pub use object::OpenFile;
pub use stack::{FileKey, LowerNode, Stack};
