//! What looks inside a filestore: is it whole, what does it hold.

mod check;

pub use check::{Report, check};
