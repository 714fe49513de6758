//! What each operation does: call the overlay, encode the answer. A file for each family; the table
//! [`operations`](super::operations) says which handler is whose.

pub mod attrs;
pub mod control;
pub mod data;
pub mod dirs;
pub mod layers;
pub mod names;
pub mod open;
