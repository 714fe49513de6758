//! The state of a file system after FS_IOC_SHUTDOWN: every operation that does not let something go is
//! `EIO`.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::errno::{Errno, Result};

/// Whether the file system was shut down.
#[derive(Debug, Default)]
pub struct Shutdown {
    down: AtomicBool,
}

impl Shutdown {
    /// From now on [`Shutdown::check`] fails.
    pub fn begin(&self) {
        self.down.store(true, Ordering::Release);
    }

    /// `EIO` after [`Shutdown::begin`].
    pub fn check(&self) -> Result<()> {
        if self.down.load(Ordering::Acquire) { Err(Errno::IO) } else { Ok(()) }
    }
}
