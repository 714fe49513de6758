//! A log-linear histogram of durations: each power of two is divided into eight equal buckets, so a
//! value is known to an eighth of itself.

use std::time::Duration;

/// Values are counted in units of 2^6 = 64 ns: what is shorter is not told apart.
const UNIT_BITS: u32 = 6;
/// Buckets per power of two: 2^3.
const SUB_BITS: u32 = 3;
/// Powers of two above the unit: the last bucket begins at 2^36 ns, 69 s.
const OCTAVES: u32 = 30;

pub(super) const BUCKETS: usize = ((OCTAVES - SUB_BITS + 1) << SUB_BITS) as usize + 1;

/// The bucket that counts this many nanoseconds.
pub(super) fn bucket_of(nanos: u64) -> usize {
    let value = nanos >> UNIT_BITS;
    let octave = value.checked_ilog2().unwrap_or(0);
    let shift = octave.saturating_sub(SUB_BITS);
    let bucket = (u64::from(shift) << SUB_BITS) + (value >> shift);
    (bucket as usize).min(BUCKETS - 1)
}

/// The first nanosecond that a bucket counts.
fn lower_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    let shift = (bucket >> SUB_BITS).saturating_sub(1);
    (bucket - (shift << SUB_BITS)) << shift << UNIT_BITS
}

/// How many durations fell into each bucket.
#[derive(Clone, Debug)]
pub struct Histogram {
    buckets: Box<[u64; BUCKETS]>,
}

impl Default for Histogram {
    fn default() -> Histogram {
        Histogram { buckets: Box::new([0; BUCKETS]) }
    }
}

impl Histogram {
    pub(super) fn add(&mut self, bucket: usize, count: u64) {
        self.buckets[bucket] += count;
    }

    /// How many durations there are.
    pub fn count(&self) -> u64 {
        self.buckets.iter().sum()
    }

    /// The duration that this part (0 to 1) of all did not exceed, rounded up to the end of its
    /// bucket; zero where there are none.
    pub fn quantile(&self, part: f64) -> Duration {
        let rank = ((self.count() as f64 * part).ceil() as u64).max(1);
        let mut seen = 0;
        for (bucket, count) in self.buckets.iter().enumerate() {
            seen += count;
            if seen >= rank {
                return Duration::from_nanos(lower_bound(bucket + 1));
            }
        }
        Duration::ZERO
    }

    /// For an exporter: of each bucket that holds anything, where it ends (not included), and how many
    /// durations are shorter than that.
    pub fn cumulative(&self) -> impl Iterator<Item = (Duration, u64)> + '_ {
        let filled = self.buckets.iter().enumerate().filter(|(_, count)| **count > 0);
        filled.scan(0, |seen, (bucket, count)| {
            *seen += count;
            Some((Duration::from_nanos(lower_bound(bucket + 1)), *seen))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for bucket in 0..BUCKETS {
            let start = lower_bound(bucket);
            assert_eq!(bucket_of(start), bucket);
            if bucket > 0 {
                assert_eq!(bucket_of(start - 1), bucket - 1);
            }
        }
        assert_eq!(bucket_of(u64::MAX), BUCKETS - 1);
        assert_eq!(lower_bound(BUCKETS - 1), 1 << 36);
    }

    #[test]
    fn a_bucket_is_an_eighth_of_what_it_counts() {
        for bucket in 16..BUCKETS - 1 {
            let (start, end) = (lower_bound(bucket), lower_bound(bucket + 1));
            assert!((end - start) * 8 <= start, "{start}..{end}");
        }
    }

    #[test]
    fn quantiles_are_rounded_up() {
        let mut histogram = Histogram::default();
        assert_eq!(histogram.quantile(0.5), Duration::ZERO);
        (1..=1000).for_each(|micros| histogram.add(bucket_of(micros * 1000), 1));
        for (part, exact) in [(0.5, 500.0), (0.99, 990.0), (0.999, 999.0), (1.0, 1000.0)] {
            let micros = histogram.quantile(part).as_secs_f64() * 1e6;
            assert!((exact..=exact * 1.13).contains(&micros), "{part}: {micros}");
        }
        assert_eq!(histogram.cumulative().last().map(|(_, count)| count), Some(1000));
    }
}
