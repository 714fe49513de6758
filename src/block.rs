//! Blocks and byte offsets. A file block, a filestore block and a byte of the filestore are three
//! types, so that one cannot stand for another. Bare numbers are lengths in blocks, and bytes of a file.

use std::ops::{Add, AddAssign, Range, Sub};

/// Bytes in a block: the unit of allocation, of extents and of data copy-up.
pub const BLOCK_SIZE: u64 = 4096;

/// Bytes in a unit of `st_blocks`.
pub const SECTOR_SIZE: u64 = 512;

/// Blocks that hold `bytes` bytes.
pub const fn blocks_for(bytes: u64) -> u64 {
    bytes.div_ceil(BLOCK_SIZE)
}

/// A block of a file, counted from the file's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct FileBlock(pub u64);

/// A block of the filestore, counted from the filestore's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct StoreBlock(pub u64);

/// A byte of the filestore, counted from the filestore's start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct StoreOffset(pub u64);

impl FileBlock {
    /// The first block of a file.
    pub const ZERO: FileBlock = FileBlock(0);

    /// The block that holds byte `offset` of the file.
    pub const fn containing(offset: u64) -> FileBlock {
        FileBlock(offset / BLOCK_SIZE)
    }

    /// The first block that begins at byte `offset` of the file or behind it.
    pub const fn at_or_after(offset: u64) -> FileBlock {
        FileBlock(offset.div_ceil(BLOCK_SIZE))
    }

    /// The first byte of this block, in the file.
    pub const fn offset(self) -> u64 {
        self.0 * BLOCK_SIZE
    }

    /// This block and those behind it, `len` in all. Saturates.
    pub const fn run(self, len: u64) -> Range<FileBlock> {
        self..FileBlock(self.0.saturating_add(len))
    }
}

impl StoreBlock {
    /// The first byte of this block.
    pub const fn offset(self) -> StoreOffset {
        StoreOffset(self.0 * BLOCK_SIZE)
    }
}

/// `block + n` is the block `n` blocks on; `a - b` is the number of blocks from `b` to `a`.
macro_rules! counts {
    ($($name:ident),*) => {$(
        impl Add<u64> for $name {
            type Output = $name;
            fn add(self, count: u64) -> $name {
                $name(self.0 + count)
            }
        }
        impl AddAssign<u64> for $name {
            fn add_assign(&mut self, count: u64) {
                self.0 += count;
            }
        }
        impl Sub for $name {
            type Output = u64;
            fn sub(self, from: $name) -> u64 {
                self.0 - from.0
            }
        }
    )*};
}
counts!(FileBlock, StoreBlock, StoreOffset);
