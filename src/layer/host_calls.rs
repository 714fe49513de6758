//! The law that no host call on a layer is made while a lock is held that others need in order to go on: a layer may
//! hang (a FUSE daemon that stopped, a server that is gone), and then only those may wait that need the layer.
//!
//! Who takes such a lock calls [`forbid`] and keeps what it returns as long as the lock. In debug builds, tests above all,
//! a host call on a layer by the same thread is a panic meanwhile. In release builds nothing of this exists.

use std::marker::PhantomData;

#[cfg(debug_assertions)]
thread_local! {
    static FORBIDDEN: std::cell::Cell<u32> = const { std::cell::Cell::new(0) };
}

/// While this lives, its thread makes no host call on a layer.
#[derive(Debug)]
#[must_use]
pub struct NoHostCalls(PhantomData<*const ()>);

/// Forbids host calls on layers to this thread until the returned value is dropped. Calls may nest.
pub fn forbid() -> NoHostCalls {
    #[cfg(debug_assertions)]
    FORBIDDEN.set(FORBIDDEN.get() + 1);
    NoHostCalls(PhantomData)
}

impl Drop for NoHostCalls {
    fn drop(&mut self) {
        #[cfg(debug_assertions)]
        FORBIDDEN.set(FORBIDDEN.get() - 1);
    }
}

/// Called where the host is about to be asked.
pub(super) fn check() {
    #[cfg(debug_assertions)]
    assert!(
        FORBIDDEN.get() == 0 || std::thread::panicking(),
        "a host call on a layer while a lock is held that others need"
    );
}

#[cfg(all(test, debug_assertions))]
mod tests {
    use super::*;

    #[test]
    fn a_host_call_is_found_while_forbidden_only() {
        check();
        let outer = forbid();
        drop(forbid());
        assert!(std::panic::catch_unwind(check).is_err());
        drop(outer);
        check();
    }
}
