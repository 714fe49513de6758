//! What looks inside a filestore: is it whole, what does it hold.

mod check;
mod upper;

pub use check::Report;
pub(crate) use check::check;
pub use upper::{Upper, UpperError, UpperUsage};
