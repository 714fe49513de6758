//! The upper's history: the record codec and the log that keeps it in the filestore.

pub mod record;
