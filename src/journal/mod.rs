//! The upper's history: the record codec and the log that keeps it in the filestore.
//!
//! Opening goes by types: [`open`] or [`open_or_create`] reads the superblock and finds out how much
//! of the journal holds ([`Recovering`]); [`Recovering::replay`] hands out its frames, after which
//! the caller marks the extents in use ([`Replayed`]); [`Replayed::start`] makes the log appendable.
//! Mediums that end with the mount have no journal: [`unkept`] gives a log that forgets.
//!
//! Lock order: the owner keeps the [`Log`] inside its own state lock; its methods take the
//! filestore's allocator lock, and those that say so wait for the host.

mod chain;
#[cfg(test)]
mod file_tests;
mod log;
pub mod record;
mod replay;
mod segment;
mod superblock;
mod sync;
#[cfg(test)]
mod tests;

pub use log::{Log, Urgency};
pub use replay::{Recovering, Recovery, Replayed, open_or_create, open_read_only, unkept};
#[cfg(test)]
pub(crate) use replay::{over, testing};
pub use superblock::Format;

type Result<T, E = rustix::io::Errno> = std::result::Result<T, E>;

/// Bytes that nobody can guess.
///
/// # Errors
/// Of getrandom(2): `ENOSYS` before Linux 3.17, `EPERM` where a seccomp filter forbids it.
fn random<const LEN: usize>() -> Result<[u8; LEN]> {
    const { assert!(LEN <= 256, "getrandom(2) gives this many at once, whatever interrupts it") };
    let mut bytes = [0; LEN];
    rustix::rand::getrandom(&mut bytes, rustix::rand::GetRandomFlags::empty())?;
    Ok(bytes)
}
