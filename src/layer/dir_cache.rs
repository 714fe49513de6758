//! Open directories of layers, so that a name is looked up in its directory rather than along the
//! whole path.

use super::host_calls::forbid;
use super::source::Directory;
use crate::attr::LowerPath;
use parking_lot::RwLock;
use rustc_hash::FxHashMap;
use std::sync::Arc;

type Map = FxHashMap<LowerPath, Arc<dyn Directory>>;

/// Two generations: what is asked for lives in `recent`; when that is full it becomes `old`, and
/// what was still in `old` is closed.
#[derive(Debug, Default)]
struct Generations {
    recent: Map,
    old: Map,
}

impl Generations {
    /// Adds a directory; returns those to be closed.
    fn put(&mut self, limit: usize, at: LowerPath, dir: Arc<dyn Directory>) -> Map {
        let mut left = Map::default();
        if self.recent.len() >= limit {
            left = std::mem::replace(&mut self.old, std::mem::take(&mut self.recent));
        }
        self.recent.insert(at, dir);
        left
    }
}

/// The cache. Its lock is taken last and not held while the host is asked.
#[derive(Debug)]
pub(super) struct DirCache {
    generations: RwLock<Generations>,
    /// Directories in one generation.
    limit: usize,
}

impl DirCache {
    /// Keeps up to `most` directories open, those excepted that somebody is looking into.
    pub fn new(most: usize) -> DirCache {
        DirCache { generations: RwLock::default(), limit: most / 2 }
    }

    pub fn get(&self, at: &LowerPath) -> Option<Arc<dyn Directory>> {
        if let Some(dir) = self.generations.read().recent.get(at) {
            return Some(dir.clone());
        }
        let (mut generations, no_host_calls) = (self.generations.write(), forbid());
        let (at, dir) = generations.old.remove_entry(at)?;
        let left = generations.put(self.limit, at, dir.clone());
        drop((generations, no_host_calls));
        drop(left);
        Some(dir)
    }

    pub fn insert(&self, at: LowerPath, dir: Arc<dyn Directory>) {
        // What is left over is closed after the lock was given back.
        let (mut generations, no_host_calls) = (self.generations.write(), forbid());
        let left = generations.put(self.limit, at, dir);
        drop((generations, no_host_calls));
        drop(left);
    }

    /// Closes all directories that nobody is looking into.
    pub fn clear(&self) {
        let all = std::mem::take(&mut *self.generations.write());
        drop(all);
    }
}
