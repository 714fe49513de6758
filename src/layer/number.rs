//! Inode numbers of lower objects: the host's own wherever that is possible, so that programs without large-file support
//! work on layers whose numbers fit 32 bits.

use crate::attr::{InodeNo, LayerId};

/// Bits of a number that the host's inode number may take where something stands above it.
const HOST_BITS: u32 = 48;

/// Marks a number made by hashing.
const HASHED: u64 = 1 << 63;

/// How many devices besides the main one get a number of their own: more would reach [`HASHED`].
const DEVICES: usize = 1 << (63 - HOST_BITS);

/// The devices that the roots of layers lie on, each once, in the order of first appearance from the bottom layer. The
/// first is the main device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Devices(Vec<u64>);

impl Devices {
    /// `roots`: the device of each layer's root, the bottom layer's first.
    pub fn new(roots: impl IntoIterator<Item = u64>) -> Devices {
        let mut devices = Vec::new();
        for dev in roots {
            if !devices.contains(&dev) {
                devices.push(dev);
            }
        }
        Devices(devices)
    }

    /// The number of host inode `ino` on device `dev`.
    ///
    /// On the main device it is `ino` itself. On the device of another layer's root it is the place of that device
    /// in the list << 48 | `ino`. On any other device (a file system mounted inside a layer), and where `ino` does not
    /// fit, it is a hash with the top bit set. A device's place in the list does not depend on layers added on top.
    ///
    /// Different inodes may get the same number where a file system has inode numbers of more than 48 bits. 0 is not
    /// a number, 1 is the merged root's ([`InodeNo::ROOT`]), and [`InodeNo::NODE_IDS`] are no inode's, so such host
    /// inodes of the main device are hashed.
    pub fn number(&self, dev: u64, ino: u64) -> InodeNo {
        match self.0.iter().position(|&known| known == dev) {
            Some(0) if ino > InodeNo::ROOT.0 && !InodeNo::NODE_IDS.contains(&ino) => InodeNo(ino),
            Some(index @ 1..DEVICES) if ino >> HOST_BITS == 0 => {
                InodeNo((index as u64) << HOST_BITS | ino)
            }
            // A device number may be another one after a reboot: a device of the list is hashed by its place.
            Some(index) => hashed(index as u64, ino),
            None => hashed(dev.wrapping_add(self.0.len() as u64), ino),
        }
    }
}

/// The number in an upper of format 1: layer and host inode number side by side where they fit. Otherwise (an inode of
/// another device inside the layer, or a number of more than 48 bits) a hash with the top bit set.
pub(super) fn number_in_format1(layer: LayerId, root_dev: u64, dev: u64, ino: u64) -> InodeNo {
    let same_device = dev == root_dev;
    if same_device && ino >> HOST_BITS == 0 && layer.0 < 0x8000 {
        return InodeNo(u64::from(layer.0) << HOST_BITS | ino);
    }
    // The root's device number may differ after a reboot, so it stays out of the hash.
    let dev = if same_device { 0 } else { dev.wrapping_add(1) };
    let hash = mix(mix(mix(u64::from(layer.0)) ^ dev) ^ ino);
    InodeNo(hash | HASHED)
}

fn hashed(dev: u64, ino: u64) -> InodeNo {
    InodeNo(mix(mix(dev) ^ ino) | HASHED)
}

/// The finaliser of SplitMix64: a bijection that spreads every input bit over the word.
pub(super) fn mix(x: u64) -> u64 {
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
        let number = |layer| number_in_format1(layer, 9, 9, 77);
        assert_eq!(number(LayerId(3)), InodeNo(3 << 48 | 77));
        assert_eq!(number(LayerId::HOST_UPPER), InodeNo(0x7fff << 48 | 77));
    }

    #[test]
    fn numbers_by_layer_never_meet_the_upper_s() {
        for ino in [1, 2, (1 << 48) - 1, 1 << 48, u64::MAX] {
            for dev in [1, 2] {
                assert!(number_in_format1(LayerId(1), 1, dev, ino).0 >= 1 << 48);
            }
        }
    }

    #[test]
    fn hashed_numbers_by_layer_differ_and_carry_the_top_bit() {
        let mut seen = HashSet::new();
        for layer in 1..20 {
            for dev in 2..20 {
                for ino in 0..100 {
                    let n = number_in_format1(LayerId(layer), 1, dev, ino).0;
                    assert!(n & HASHED != 0 && seen.insert(n));
                }
            }
        }
    }

    #[test]
    fn a_large_inode_does_not_depend_on_the_device_number() {
        let big = 1 << 50;
        let number = |root_dev, dev| number_in_format1(LayerId(1), root_dev, dev, big);
        assert_eq!(number(5, 5), number(8, 8));
        assert_ne!(number(5, 5), number(8, 5));
        let devices = |second| Devices::new([5, second]);
        assert_eq!(devices(6).number(6, big), devices(7).number(7, big));
    }

    #[test]
    fn the_main_device_shows_the_host_s_own_numbers() {
        let devices = Devices::new([7, 7, 9, 7]);
        for ino in [2, 77, u64::from(u32::MAX), 1 << 48, 1 << 62] {
            assert_eq!(devices.number(7, ino), InodeNo(ino));
        }
    }

    #[test]
    fn other_devices_stand_above_the_inode_in_the_order_of_appearance() {
        let devices = Devices::new([7, 9, 7, 8, 9]);
        assert_eq!(devices.number(9, 77), InodeNo(1 << 48 | 77));
        assert_eq!(devices.number(8, 1), InodeNo(2 << 48 | 1));
        // Layers on top change nothing.
        let more = Devices::new([7, 9, 7, 8, 9, 3, 4]);
        for dev in [7, 8, 9] {
            assert_eq!(more.number(dev, 77), devices.number(dev, 77));
        }
    }

    #[test]
    fn zero_and_the_root_s_number_are_never_given_out() {
        let devices = Devices::new([7, 9]);
        let all = [(7, 0), (7, 1), (9, 0), (9, 1), (3, 0), (3, 1)];
        let numbers: HashSet<u64> = all.map(|(dev, ino)| devices.number(dev, ino).0).into();
        assert_eq!(numbers.len(), all.len());
        assert!(numbers.iter().all(|&n| n > 1));
    }

    #[test]
    fn nested_devices_are_hashed() {
        let devices = Devices::new([7, 9]);
        let mut seen = HashSet::new();
        for dev in (0..20).filter(|dev| ![7, 9].contains(dev)) {
            for ino in 0..100 {
                let n = devices.number(dev, ino).0;
                assert!(n & HASHED != 0 && seen.insert(n));
            }
        }
    }

    #[test]
    fn more_devices_than_have_room_above_the_inode() {
        let devices = Devices::new(0..DEVICES as u64 + 2);
        let last = DEVICES as u64 - 1;
        assert_eq!(devices.number(last, 5), InodeNo(last << 48 | 5));
        assert!(devices.number(last + 1, 5).0 & HASHED != 0);
    }
}
