//! A seeded generator: the same seed gives the same test on every machine.

/// A stream of pseudo-random numbers.
#[derive(Clone, Debug)]
pub struct Rng(fastrand::Rng);

impl Rng {
    /// The stream of `seed`.
    pub fn new(seed: u64) -> Self {
        Self(fastrand::Rng::with_seed(seed))
    }

    /// A stream with the seed of `OVERCOAT_TEST_SEED`, or of the clock; it is printed, so that a
    /// failure can be run again.
    pub fn from_env(what: &str) -> Self {
        let seed = match std::env::var("OVERCOAT_TEST_SEED") {
            Ok(seed) => seed.parse().expect("OVERCOAT_TEST_SEED is a number"),
            Err(_) => u64::try_from(
                std::time::UNIX_EPOCH.elapsed().unwrap().as_nanos() & u128::from(u32::MAX),
            )
            .unwrap(),
        };
        eprintln!("{what}: OVERCOAT_TEST_SEED={seed}");
        Self(fastrand::Rng::with_seed(seed))
    }

    /// The next number.
    #[expect(clippy::should_implement_trait, reason = "it never ends: an Option would say nothing")]
    pub fn next(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: u64) -> u64 {
        self.0.u64(..end)
    }

    /// True once in `n` times.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    /// One of `items`.
    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[usize::try_from(self.below(items.len() as u64)).unwrap()]
    }
}

/// `len` bytes that depend on `seed`, never zero (so that a hole is never mistaken for data).
pub fn bytes(seed: u64, len: usize) -> Vec<u8> {
    let mut rng = Rng::new(seed);
    let mut data = Vec::with_capacity(len + 8);
    while data.len() < len {
        data.extend(rng.next().to_le_bytes().map(|byte| byte | 1));
    }
    data.truncate(len);
    data
}
