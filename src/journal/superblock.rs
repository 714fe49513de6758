//! The superblock: two slots, in blocks 0 and 1, written in turns; the later whole one counts.

use super::Result;
use crate::block::{BLOCK_SIZE, StoreBlock};
use crate::filestore::{Filestore, OpenError};

/// Blocks that the superblock takes.
pub(super) const BLOCKS: u64 = 2;
/// The block behind them.
pub(super) const END: StoreBlock = StoreBlock(BLOCKS);
const SIZE: usize = 512;
const MAGIC: &[u8; 8] = b"OVERCOAT";

/// How the records of the journal are written, and what they mean.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub enum Format {
    One = 1,
    /// What this program writes.
    Two = 2,
}

const CLEAN: u32 = 1;
const VOLATILE: u32 = 2;

/// What both slots hold, the later of which is in force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Superblock {
    pub(super) format: Format,
    pub(super) uuid: [u8; 16],
    /// Counts the writes; its lowest bit is the slot.
    pub(super) generation: u64,
    /// First block of the journal's first segment.
    pub(super) head: StoreBlock,
    /// That segment's sequence number.
    pub(super) head_sequence: u64,
    /// Unmounted in order, with nothing left to give back to the host.
    pub(super) clean: bool,
    /// The last mount did not keep order between its writes and the disk.
    pub(super) volatile: bool,
    /// The boot during which it was last mounted.
    pub(super) boot: [u8; 16],
    /// Seconds since 1970.
    pub(super) created: i64,
}

/// What one slot holds.
enum Slot {
    Whole(Superblock),
    Newer(u32),
    Damaged,
    NoMagic,
}

fn array<const N: usize>(bytes: &[u8; SIZE], at: usize) -> [u8; N] {
    std::array::from_fn(|i| bytes[at + i])
}

impl Superblock {
    pub(super) fn encode(&self) -> [u8; SIZE] {
        let mut out = [0; SIZE];
        let flags = (u32::from(self.clean) * CLEAN) | (u32::from(self.volatile) * VOLATILE);
        out[..8].copy_from_slice(MAGIC);
        out[8..12].copy_from_slice(&(self.format as u32).to_le_bytes());
        out[12..16].copy_from_slice(&(BLOCK_SIZE as u32).to_le_bytes());
        out[16..32].copy_from_slice(&self.uuid);
        out[32..40].copy_from_slice(&self.generation.to_le_bytes());
        out[40..48].copy_from_slice(&self.head.0.to_le_bytes());
        out[48..56].copy_from_slice(&self.head_sequence.to_le_bytes());
        out[56..60].copy_from_slice(&flags.to_le_bytes());
        out[64..80].copy_from_slice(&self.boot);
        out[80..88].copy_from_slice(&self.created.to_le_bytes());
        let crc = crc32fast::hash(&out[..SIZE - 4]);
        out[SIZE - 4..].copy_from_slice(&crc.to_le_bytes());
        out
    }

    fn decode(bytes: &[u8; SIZE]) -> Slot {
        let u32_at = |at| u32::from_le_bytes(array(bytes, at));
        let u64_at = |at| u64::from_le_bytes(array(bytes, at));
        if &bytes[..8] != MAGIC {
            return Slot::NoMagic;
        }
        if crc32fast::hash(&bytes[..SIZE - 4]) != u32_at(SIZE - 4) {
            return Slot::Damaged;
        }
        let (version, features) = (u32_at(8), u32_at(60));
        let format = match version {
            1 => Format::One,
            2 => Format::Two,
            _ => return Slot::Newer(version),
        };
        if features != 0 || u64::from(u32_at(12)) != BLOCK_SIZE {
            return Slot::Newer(version);
        }
        let flags = u32_at(56);
        Slot::Whole(Superblock {
            format,
            uuid: array(bytes, 16),
            generation: u64_at(32),
            head: StoreBlock(u64_at(40)),
            head_sequence: u64_at(48),
            clean: flags & CLEAN != 0,
            volatile: flags & VOLATILE != 0,
            boot: array(bytes, 64),
            created: i64::from_le_bytes(array(bytes, 80)),
        })
    }

    /// Reads the slot in force; and whether the other one is damaged.
    pub(super) fn read(store: &Filestore) -> Result<(Superblock, bool), OpenError> {
        let host = |err| OpenError::Host("read", err);
        let len = store.host_len().map_err(host)?;
        if len == 0 {
            return Err(OpenError::Truncated);
        }
        let mut slots = [[0; SIZE]; 2];
        for (n, slot) in slots.iter_mut().enumerate() {
            store.gate().read_at(StoreBlock(n as u64).offset(), slot).map_err(host)?;
        }
        match slots.each_ref().map(Superblock::decode) {
            [Slot::Newer(v), _] | [_, Slot::Newer(v)] => Err(OpenError::NewerVersion(v)),
            [Slot::Whole(a), Slot::Whole(b)] => {
                Ok((if a.generation > b.generation { a } else { b }, false))
            }
            [Slot::Whole(one), _] | [_, Slot::Whole(one)] => Ok((one, true)),
            [Slot::NoMagic, Slot::NoMagic] => Err(OpenError::NotAFilestore),
            _ if len < BLOCKS * BLOCK_SIZE => Err(OpenError::Truncated),
            _ => Err(OpenError::DamagedSuperblock),
        }
    }

    /// Writes the slot that is not in force. On failure the generation stays, so that the next
    /// attempt takes the same slot.
    pub(super) fn write(&mut self, store: &Filestore) -> Result<()> {
        self.generation += 1;
        let slot = StoreBlock(self.generation & 1);
        let written = store.gate().write_at(slot.offset(), &self.encode());
        if written.is_err() {
            self.generation -= 1;
        }
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comes_back_and_notices_every_flipped_byte() {
        let sb = Superblock {
            format: Format::One,
            uuid: [7; 16],
            generation: 9,
            head: StoreBlock(2),
            head_sequence: 1,
            clean: true,
            volatile: false,
            boot: [3; 16],
            created: -5,
        };
        let bytes = sb.encode();
        assert!(matches!(Superblock::decode(&bytes), Slot::Whole(back) if back == sb));
        for i in 0..SIZE {
            let mut bad = bytes;
            bad[i] ^= 0x40;
            assert!(!matches!(Superblock::decode(&bad), Slot::Whole(_)), "byte {i}");
        }
    }
}
