//! What is taken, what is free, and what is on its way from the one to the other.
//!
//! A block's life: free → taken (`alloc`) → freed → *ready* (nothing durable refers to it) →
//! *in flight* (I/O that began earlier has ended; being punched) → free. Without durability a freed
//! block is ready at once. With it, so is a *young* block, allocated after the last sync point; an
//! old one waits until the sync point after the free is on stable storage.

use std::collections::VecDeque;
use std::time::Instant;

use rustix::io::Errno;

use super::allocator::{Extents, FreeMap};
use super::extent::ExtentSet;
use super::{Extent, extent};
use crate::block::StoreBlock;
use crate::errno::Result;

/// Old blocks freed in one epoch.
#[derive(Debug)]
struct Batch {
    epoch: u64,
    extents: Vec<Extent>,
}

/// Protected by the filestore's allocator mutex.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) map: FreeMap,
    pub(super) limit: Option<u64>,
    /// Blocks allocated and not freed.
    pub(super) used: u64,
    /// Sync points so far.
    pub(super) epoch: u64,
    young: Option<ExtentSet>,
    ready: Vec<Extent>,
    ready_blocks: u64,
    /// When the first of `ready` came.
    pub(super) ready_since: Option<Instant>,
    old: VecDeque<Batch>,
    old_blocks: u64,
    /// When the first of `old` came, or when the last attempt to sync them ended.
    pub(super) old_since: Option<Instant>,
    in_flight: u64,
    /// Everything in use is known, so that the file's tail may be cut.
    pub(super) live: bool,
    /// The reclaimer is to end.
    pub(super) stop: bool,
}

/// How the room for an allocation is judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Budget {
    /// Used blocks and freed ones that are not yet punched stay within the limit. The first try.
    Strict,
    /// Used blocks stay within the limit. The second try, after a reclaim.
    Used,
    /// No limit. For metadata that record a removal.
    Boundless,
}

impl Space {
    pub(super) fn new(limit: Option<u64>, durable: bool) -> Space {
        Space {
            map: FreeMap::new(),
            limit,
            used: 0,
            epoch: 1,
            young: durable.then(ExtentSet::default),
            ready: Vec::new(),
            ready_blocks: 0,
            ready_since: None,
            old: VecDeque::new(),
            old_blocks: 0,
            old_since: None,
            in_flight: 0,
            live: false,
            stop: false,
        }
    }

    /// Blocks freed and not yet given back to the host.
    pub(super) fn pending(&self) -> u64 {
        self.ready_blocks + self.old_blocks + self.in_flight
    }

    /// Of these, the ones that wait for a sync.
    pub(super) fn old_blocks(&self) -> u64 {
        self.old_blocks
    }

    fn check_budget(&self, len: u64, budget: Budget) -> Result<()> {
        let taken = match budget {
            Budget::Strict => self.used + self.pending(),
            Budget::Used => self.used,
            Budget::Boundless => return Ok(()),
        };
        let fits = taken.checked_add(len).is_some_and(|sum| sum <= self.limit.unwrap_or(u64::MAX));
        if fits { Ok(()) } else { Err(Errno::NOSPC) }
    }

    fn taken(&mut self, e: Extent) {
        self.used += e.len;
        if let Some(young) = &mut self.young {
            young.insert(e);
        }
    }

    /// # Errors
    /// `ENOSPC` beyond the budget.
    pub(super) fn alloc(
        &mut self,
        len: u64,
        hint: Option<StoreBlock>,
        budget: Budget,
    ) -> Result<Extents> {
        self.check_budget(len, budget)?;
        let got = self.map.alloc(len, hint)?;
        got.iter().for_each(|e| self.taken(*e));
        Ok(got)
    }

    /// [`Space::alloc`] in one piece.
    ///
    /// # Errors
    /// `ENOSPC` beyond the budget.
    pub(super) fn alloc_run(&mut self, len: u64, budget: Budget) -> Result<Extent> {
        self.check_budget(len, budget)?;
        let got = self.map.alloc_run(len)?;
        self.taken(got);
        Ok(got)
    }

    pub(super) fn take(&mut self, e: Extent) -> Result<()> {
        self.map.take(e)?;
        self.used += e.len;
        Ok(())
    }

    /// Freed by a record in the journal. True when something became ready or began to wait.
    pub(super) fn free(&mut self, e: Extent) -> bool {
        let Some(mut young) = self.young.take() else {
            self.free_ready(e);
            return true;
        };
        let before = (self.ready_blocks, self.old_since);
        let mut aged = Extents::new();
        young.remove(e, |inside| self.free_ready(inside), |outside| aged.push(outside));
        self.young = Some(young);
        aged.into_iter().for_each(|e| self.free_old(e));
        before != (self.ready_blocks, self.old_since)
    }

    /// Freed, and nothing durable refers to it.
    pub(super) fn free_ready(&mut self, e: Extent) {
        self.used = self.used.saturating_sub(e.len);
        if let Some(young) = &mut self.young {
            young.remove(e, |_| {}, |_| {});
        }
        self.push_ready(e);
    }

    /// Freed, and something durable may refer to it.
    pub(super) fn free_old(&mut self, e: Extent) {
        self.used = self.used.saturating_sub(e.len);
        self.old_blocks += e.len;
        self.old_since.get_or_insert_with(Instant::now);
        match self.old.back_mut().filter(|b| b.epoch == self.epoch) {
            Some(batch) => batch.extents.push(e),
            None => self.old.push_back(Batch { epoch: self.epoch, extents: vec![e] }),
        }
    }

    /// Not used and not known to be empty on the host: takes it through the reclaimer.
    fn push_ready(&mut self, e: Extent) {
        self.ready_blocks += e.len;
        self.ready_since.get_or_insert_with(Instant::now);
        self.ready.push(e);
    }

    /// Makes all free runs below the end pending, since nobody knows whether they are empty.
    pub(super) fn distrust_free(&mut self) {
        let runs: Vec<Extent> = self.map.runs().collect();
        for e in runs {
            if self.map.take(e).is_ok() {
                self.push_ready(e);
            }
        }
    }

    /// A state that recovery may go back to is here: what is allocated from now on is young. The new epoch.
    pub(super) fn advance_epoch(&mut self) -> u64 {
        self.epoch += 1;
        if let Some(young) = &mut self.young {
            young.clear();
        }
        self.epoch
    }

    /// All that was appended before `epoch` began is on stable storage. True when something became ready.
    pub(super) fn synced(&mut self, epoch: u64) -> bool {
        let ready_before = self.ready_blocks;
        while self.old.front().is_some_and(|b| b.epoch < epoch) {
            for e in self.old.pop_front().map(|b| b.extents).unwrap_or_default() {
                self.old_blocks -= e.len;
                self.push_ready(e);
            }
        }
        if self.old.is_empty() {
            self.old_since = None;
        }
        self.ready_blocks > ready_before
    }

    /// Takes all that is ready, merged.
    pub(super) fn take_ready(&mut self) -> Vec<Extent> {
        let mut batch = std::mem::take(&mut self.ready);
        self.in_flight += std::mem::take(&mut self.ready_blocks);
        self.ready_since = None;
        extent::merge(&mut batch);
        batch
    }

    /// What [`Space::take_ready`] gave is empty on the host now.
    ///
    /// # Errors
    /// `EUCLEAN` when it was free already (freed twice): nothing is changed then.
    pub(super) fn emptied(&mut self, e: Extent) -> Result<()> {
        self.in_flight = self.in_flight.saturating_sub(e.len);
        self.map.insert(e)
    }
}
