//! The state lock, which forbids host calls on layers to the thread that holds it.

use super::state::State;
use crate::layer::{NoHostCalls, forbid_host_calls};
use parking_lot::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::ops::{Deref, DerefMut};

/// The one lock around [`State`].
pub(super) struct StateLock(RwLock<State>);

/// Access to the state. Its thread makes no host call on a layer as long as it has it.
pub(super) struct Locked<G> {
    guard: G,
    _no_host_calls: NoHostCalls,
}

pub(super) type ReadState<'a> = Locked<RwLockReadGuard<'a, State>>;
pub(super) type WriteState<'a> = Locked<RwLockWriteGuard<'a, State>>;

impl StateLock {
    pub fn new(state: State) -> StateLock {
        StateLock(RwLock::new(state))
    }

    pub fn read(&self) -> ReadState<'_> {
        Locked { guard: self.0.read(), _no_host_calls: forbid_host_calls() }
    }

    pub fn write(&self) -> WriteState<'_> {
        Locked { guard: self.0.write(), _no_host_calls: forbid_host_calls() }
    }
}

impl<G: Deref<Target = State>> Deref for Locked<G> {
    type Target = State;

    fn deref(&self) -> &State {
        &self.guard
    }
}

impl<G: DerefMut<Target = State>> DerefMut for Locked<G> {
    fn deref_mut(&mut self) -> &mut State {
        &mut self.guard
    }
}
