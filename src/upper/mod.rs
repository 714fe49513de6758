//! The in-memory upper: a state machine that changes by journal records and by nothing else.
//!
//! A live operation and a replay take the same road, [`Tree::apply`], so what was journalled is what
//! there is. Blocks that a change sets free are returned to the caller, who owns the filestore.

mod dir;
mod extent_map;
mod format1;
mod inode;
mod tree;

pub use dir::{Below, Dentry, Dir};
pub use extent_map::{ExtentMap, Segment, Source};
pub use format1::Format1;
pub use inode::{Inode, Kind, Origin};
pub use tree::{Broken, KnownLayer, Tree};
