//! Inode numbers of lower objects: the same after every remount, and the same for all hard links
//! that lie in one layer.

use crate::attr::{InodeNo, LayerId};

/// Bits of a number that the host's inode may take; the layer stands above them.
const HOST_BITS: u32 = 48;

/// Marks a number made by hashing; no [`LayerId`] has this bit when shifted into place.
const HASHED: u64 = 1 << 63;

/// The number of host inode `ino` on device `dev` in `layer`, whose root lies on `root_dev`.
///
/// Layer and host inode side by side where they fit; otherwise (an inode of another device inside
/// the layer, or one of more than 48 bits) a hash with the top bit set.
pub fn number(layer: LayerId, root_dev: u64, dev: u64, ino: u64) -> InodeNo {
    let same_device = dev == root_dev;
    if same_device && ino >> HOST_BITS == 0 && layer.0 < 0x8000 {
        return InodeNo(u64::from(layer.0) << HOST_BITS | ino);
    }
    // The root's device number may differ after a reboot, so it stays out of the hash.
    let dev = if same_device { 0 } else { dev.wrapping_add(1) };
    let hash = mix(mix(mix(u64::from(layer.0)) ^ dev) ^ ino);
    InodeNo(hash | HASHED)
}

/// The finaliser of SplitMix64: a bijection that spreads every input bit over the word.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn layer_and_inode_side_by_side() {
        assert_eq!(number(LayerId(3), 9, 9, 77), InodeNo(3 << 48 | 77));
        assert_eq!(number(LayerId::HOST_UPPER, 9, 9, 77), InodeNo(0x7fff << 48 | 77));
    }

    #[test]
    fn numbers_of_the_upper_and_of_layers_never_meet() {
        for ino in [1, 2, (1 << 48) - 1, 1 << 48, u64::MAX] {
            for dev in [1, 2] {
                assert!(number(LayerId(1), 1, dev, ino).0 >= 1 << 48);
            }
        }
    }

    #[test]
    fn hashed_numbers_differ_and_carry_the_top_bit() {
        let mut seen = HashSet::new();
        for layer in 1..20 {
            for dev in 2..20 {
                for ino in 0..100 {
                    let n = number(LayerId(layer), 1, dev, ino).0;
                    assert!(n & HASHED != 0 && seen.insert(n));
                }
            }
        }
    }

    #[test]
    fn a_large_inode_does_not_depend_on_the_device_number() {
        let big = 1 << 50;
        assert_eq!(number(LayerId(1), 5, 5, big), number(LayerId(1), 8, 8, big));
        assert_ne!(number(LayerId(1), 5, 5, big), number(LayerId(1), 8, 5, big));
    }
}
