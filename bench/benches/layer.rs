//! What a look-up, an open and a listing of layers cost: `cargo bench -p overcoat-bench --bench layer`.

use std::path::PathBuf;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use overcoat::internals::{IdMap, Stack};
use tempfile::TempDir;

/// Files of a kind in the directory that names are looked up in.
const FILES: usize = 1000;
/// Entries of the directory that is listed.
const ENTRIES: usize = 100_000;

/// Directories to be layers; number 0 is the topmost.
fn layers(count: usize) -> (TempDir, Vec<PathBuf>) {
    let base = tempfile::tempdir().expect("a directory");
    let layers = (0..count).map(|layer| base.path().join(layer.to_string())).collect();
    (base, layers)
}

fn write(path: PathBuf) {
    std::fs::create_dir_all(path.parent().expect("a parent")).expect("made");
    std::fs::write(path, "x").expect("written");
}

fn lookups(criterion: &mut Criterion) {
    for count in [1, 10] {
        let (_base, layers) = layers(count);
        for (number, layer) in layers.iter().enumerate() {
            write(layer.join(format!("usr/lib/only{number}")));
            for directory in 0..100 {
                std::fs::create_dir_all(layer.join(format!("usr/lib/d{directory}"))).expect("made");
            }
        }
        for file in 0..FILES {
            write(layers[count - 1].join(format!("usr/lib/f{file}")));
            write(layers[0].join(format!("usr/lib/t{file}")));
        }
        let stack = Stack::open(None, &layers, &IdMap::default()).expect("a stack");
        let find = |dirs: &[_], name: String| stack.lookup(dirs, name.as_bytes()).expect("looked");
        let root = stack.root().expect("a root").dirs;
        let usr = find(&root, "usr".into()).expect("there").dirs;
        let dirs = find(&usr, "lib".into()).expect("there").dirs;
        let at = find(&dirs, "f7".into()).expect("there").at;
        let mut group = criterion.benchmark_group("layer");
        let mut numbers = (0..).map(|number| number % FILES);
        let mut next = || numbers.next().expect("endless");
        for (what, prefix, modulus) in [
            ("look-up of a file in the top layer", "t", FILES),
            ("look-up of a file in the bottom layer", "f", FILES),
            ("look-up of a name that is not there", "none", FILES),
            ("look-up of a directory in all layers", "d", 100),
        ] {
            group.bench_function(BenchmarkId::new(what, count), |bencher| {
                bencher.iter(|| find(&dirs, format!("{prefix}{}", next() % modulus)));
            });
        }
        group.bench_function(BenchmarkId::new("stat", count), |bencher| {
            bencher.iter(|| stack.stat(&at).expect("attributes"));
        });
        group.bench_function(BenchmarkId::new("open_file", count), |bencher| {
            bencher.iter(|| stack.open_file(&at).expect("opened"));
        });
        group.bench_function(BenchmarkId::new("getxattr of none", count), |bencher| {
            bencher.iter(|| stack.getxattr(&at, b"security.capability").expect_err("none"));
        });
    }
}

fn listings(criterion: &mut Criterion) {
    let name = |number: usize| format!("file-{:016x}", number.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    for count in [1, 10] {
        let (_base, layers) = layers(count);
        for number in 0..ENTRIES {
            write(layers[number % count].join("d").join(name(number)));
        }
        let stack = Stack::open(None, &layers, &IdMap::default()).expect("a stack");
        let root = stack.root().expect("a root").dirs;
        let dirs = stack.lookup(&root, b"d").expect("looked").expect("there").dirs;
        let listing = stack.list(&dirs).expect("a listing");
        assert_eq!(listing.len(), ENTRIES);
        let bytes = listing.memory() as f64 / ENTRIES as f64;
        println!("{count} layers: {bytes:.1} bytes an entry, names of 21 bytes");
        let mut group = criterion.benchmark_group("listing");
        group.sample_size(10);
        group.bench_function(BenchmarkId::new("list of 100,000 entries", count), |bencher| {
            bencher.iter(|| stack.list(&dirs).expect("a listing"));
        });
        let mut numbers = (0..).map(|number| number % ENTRIES);
        group.bench_function(BenchmarkId::new("name in a listing of 100,000", count), |bencher| {
            bencher.iter(|| {
                let name = name(numbers.next().expect("endless"));
                assert!(listing.get(name.as_bytes()).is_some());
            });
        });
    }
}

criterion_group!(benches, lookups, listings);
criterion_main!(benches);
