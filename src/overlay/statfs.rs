//! How much there is, and how much is used.

use super::Overlay;
use crate::attr::Caller;
use crate::block::BLOCK_SIZE;
use crate::errno::{Errno, Result};

/// Bytes.
const AMPLE_ROOM: u64 = 1 << 30;

/// As statfs(2) shows it. Block counts are in units of `frsize` bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StatFs {
    pub blocks: u64,
    pub bfree: u64,
    pub bavail: u64,
    pub files: u64,
    pub ffree: u64,
    pub bsize: u32,
    pub namelen: u32,
    pub frsize: u32,
}

/// What the upper takes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Bytes of file data that live files map.
    pub data_bytes: u64,
    /// Bytes of superblock and journal.
    pub metadata_bytes: u64,
    /// Inodes that the upper holds.
    pub inodes: u64,
    /// What the host accounts for: `st_blocks` × 512.
    pub host_bytes: u64,
}

impl Overlay {
    pub fn statfs(&self) -> Result<StatFs> {
        let usage = self.store.usage()?;
        let inodes = self.state.read().tree.len() as u64;
        let host_avail = usage.host_available / BLOCK_SIZE;
        let (blocks, free) = match usage.limit {
            Some(limit) => (limit, limit.saturating_sub(usage.used).min(host_avail)),
            None => (usage.host_total / BLOCK_SIZE, host_avail),
        };
        let files = match self.inode_limit() {
            u64::MAX => inodes.saturating_add(free),
            limit => limit,
        };
        Ok(StatFs {
            blocks,
            bfree: free,
            bavail: free,
            files,
            ffree: files.saturating_sub(inodes),
            bsize: BLOCK_SIZE as u32,
            namelen: 255,
            frsize: BLOCK_SIZE as u32,
        })
    }

    /// Gives all freed blocks back to the host now. Takes a range as if free space had an order, and tells
    /// how much of it is free, in bytes: all of that is the host's then.
    ///
    /// # Errors
    /// EPERM without CAP_SYS_ADMIN in the user namespace of the mount, EROFS without an upper, EINVAL for a range beyond the end, or
    /// where `len` is less than a block or `minlen` more than there is; what the host says.
    pub fn trim(&self, start: u64, len: u64, minlen: u64, caller: &Caller) -> Result<u64> {
        if !caller.administers_mount() {
            return Err(Errno::PERM);
        }
        self.writable()?;
        // What is freed from here on may miss the sync.
        let before = self.statfs()?;
        let (total, free) = (before.blocks * BLOCK_SIZE, before.bfree * BLOCK_SIZE);
        if start >= total || len < BLOCK_SIZE || minlen > total {
            return Err(Errno::INVAL);
        }
        self.syncfs()?;
        self.store.reclaim_now();
        Ok(free.min(len).min(total - start))
    }

    /// Whether the upper can take what a kernel may hold back for it: it has no limit, and the host
    /// is not nearly full.
    pub fn has_ample_room(&self) -> bool {
        let room = self.store.usage();
        room.is_ok_and(|usage| usage.limit.is_none() && usage.host_available >= AMPLE_ROOM)
    }

    pub fn usage(&self) -> Result<Usage> {
        let store = self.store.usage()?;
        let tree = &self.state.read().tree;
        let data_bytes = tree.data_blocks() * BLOCK_SIZE;
        Ok(Usage {
            data_bytes,
            metadata_bytes: (store.used * BLOCK_SIZE).saturating_sub(data_bytes),
            inodes: tree.len() as u64,
            host_bytes: store.host_bytes,
        })
    }
}
