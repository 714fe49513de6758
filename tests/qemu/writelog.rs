//! The log of a disk's writes that qemu's driver `blklogwrites` keeps, in the format of the kernel's dm-log-writes:
//! states that a disk with a volatile cache may have had when the power went are made of it.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use overcoat_tests::rng::Rng;

const SECTOR: u64 = 512;
const MAGIC: u64 = 0x6a_7366_7773_6872;
const FLUSH: u64 = 1;

/// One write or flush.
#[derive(Clone, Copy, Debug)]
struct Entry {
    /// Where it goes, and how long it is, in sectors.
    sector: u64,
    sectors: u64,
    flush: bool,
    /// Where its data are in the log, in bytes.
    data: u64,
}

impl Entry {
    /// Where the log went on after it, in bytes.
    fn end(&self) -> u64 {
        self.data + self.sectors * SECTOR
    }
}

/// What becomes of the writes after the last flush.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cache {
    /// All of them are on the disk.
    Kept,
    /// None is.
    Lost,
    /// Some are, some are not, some in part.
    Torn,
}

/// A log as it was when qemu was killed.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    entries: Vec<Entry>,
}

impl WriteLog {
    /// Reads the log up to the first entry that is not whole.
    pub fn read(path: &Path) -> Self {
        let file = File::open(path).unwrap();
        let len = file.metadata().unwrap().len();
        let word = |at: u64| {
            let mut word = [0; 8];
            file.read_exact_at(&mut word, at).unwrap();
            u64::from_le_bytes(word)
        };
        assert_eq!((word(0), word(8)), (MAGIC, 1), "a log of writes");
        let mut entries = Vec::new();
        let mut at = SECTOR;
        while at + SECTOR <= len {
            let entry = Entry {
                sector: word(at),
                sectors: word(at + 8),
                flush: word(at + 16) & FLUSH != 0,
                data: at + SECTOR,
            };
            // A write that was on its way into the log has left a hole.
            if (entry.sectors == 0 && !entry.flush) || entry.end() > len {
                break;
            }
            at = entry.end();
            entries.push(entry);
        }
        Self { file, entries }
    }

    /// How many writes and flushes it holds.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// How long the log was after `count` entries, in bytes.
    pub fn end_of(&self, count: usize) -> u64 {
        count.checked_sub(1).map_or(0, |last| self.entries[last].end())
    }

    /// Makes of the disk as it was before the log what a cut after the first `count` entries may leave.
    pub fn replay(&self, disk: &Path, count: usize, cache: Cache, rng: &mut Rng) {
        let disk = File::options().write(true).open(disk).unwrap();
        let flushed = self.entries[..count].iter().rposition(|entry| entry.flush).unwrap_or(0);
        for (number, entry) in self.entries[..count].iter().enumerate() {
            let sectors = match cache {
                _ if number <= flushed => entry.sectors,
                Cache::Kept => entry.sectors,
                Cache::Lost => 0,
                Cache::Torn if rng.one_in(3) => rng.below(entry.sectors + 1),
                Cache::Torn => {
                    if rng.one_in(2) {
                        entry.sectors
                    } else {
                        0
                    }
                }
            };
            let mut data = vec![0; usize::try_from(sectors * SECTOR).unwrap()];
            self.file.read_exact_at(&mut data, entry.data).unwrap();
            disk.write_all_at(&data, entry.sector * SECTOR).unwrap();
        }
    }
}
