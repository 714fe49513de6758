//! Error numbers: what the core returns and what travels to the kernel.

pub use rustix::io::Errno;

/// The result of every core operation.
pub type Result<T> = std::result::Result<T, Errno>;

/// The error number in an `io::Error`, or `EIO` where it has none.
pub fn of_io(err: &std::io::Error) -> Errno {
    Errno::from_io_error(err).unwrap_or(Errno::IO)
}
