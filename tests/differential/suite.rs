//! The same random operations on Overcoat and on kernel overlayfs, over the same lowers.
//!
//! `OVERCOAT_TEST_SECONDS` sets how long (30 by default), `OVERCOAT_TEST_SEED` where to start,
//! `OVERCOAT_TEST_OPS` the length of each list (120). A difference is printed with a shortened list, which then
//! belongs into `regressions.rs`.

#![allow(clippy::unwrap_used, reason = "a test helper's failure is the test's failure")]

mod compare;
mod lowers;
mod matrix;
mod op;
mod regressions;
mod view;

use std::time::{Duration, Instant};

use compare::Writeback;
use overcoat_tests::rng::Rng;

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name).map_or(default, |text| text.parse().expect(name))
}

#[test]
fn random_operations_agree_with_overlayfs() {
    if !overcoat_tests::can_mount() {
        return;
    }
    let deadline = Instant::now() + Duration::from_secs(setting("OVERCOAT_TEST_SECONDS", 30));
    let length = usize::try_from(setting("OVERCOAT_TEST_OPS", 120)).unwrap();
    let mut seeds = Rng::from_env("differential");
    let mut runs = 0;
    while runs == 0 || Instant::now() < deadline {
        let seed = seeds.next();
        let ops = op::random(&mut Rng::new(seed), length);
        let writeback = if seed.is_multiple_of(2) { Writeback::On } else { Writeback::Off };
        if let Err(fault) = compare::run(&ops, writeback) {
            eprintln!("list of seed {seed}: {fault}\nshortening…");
            let (ops, fault) = compare::shrink(ops, writeback, fault);
            panic!("{fault}\nwriteback: {writeback:?}\n{ops:#?}");
        }
        runs += 1;
    }
    eprintln!("{runs} lists of {length} operations agree");
}
