//! What things cost; run with `cargo test --release -- --ignored --nocapture figures`.

use super::*;
use rustix::time::{ClockId, clock_gettime};

/// This thread's processor time in microseconds.
fn cpu_time() -> f64 {
    let t = clock_gettime(ClockId::ThreadCPUTime);
    t.tv_sec as f64 * 1e6 + t.tv_nsec as f64 / 1e3
}

fn per_call(what: &str, calls: usize, mut call: impl FnMut(usize)) {
    (0..calls).for_each(&mut call);
    // The least of a few rounds, in processor time: other work on the machine counts little.
    let round = |call: &mut dyn FnMut(usize)| {
        let start = cpu_time();
        (0..calls).for_each(call);
        cpu_time() - start
    };
    let least = (0..5).map(|_| round(&mut call)).fold(f64::MAX, f64::min);
    let each = least / calls as f64;
    println!("{what:<56} {each:8.2} µs");
}

#[test]
#[ignore = "prints figures"]
fn figures_of_lookups() {
    const FILES: usize = 1000;
    for count in [1, 10] {
        let l = Layers::new(count);
        for layer in 0..count {
            l.file(layer, &format!("usr/lib/only{layer}"));
        }
        (0..FILES).for_each(|i| _ = l.file(count - 1, &format!("usr/lib/f{i}")));
        (0..FILES).for_each(|i| _ = l.file(0, &format!("usr/lib/t{i}")));
        for layer in 0..count {
            (0..100).for_each(|i| _ = l.dir(layer, &format!("usr/lib/d{i}")));
        }
        for way in WAYS {
            let s = l.stack_by(way);
            let dirs = s.find("usr/lib").expect("there").dirs;
            let named = |what: &str| format!("{count:>2} layers, {way:?}: {what}");
            let lookup = |name: String| s.lookup(&dirs, name.as_bytes()).expect("a lookup");
            per_call(&named("hit at the top"), FILES, |i| {
                lookup(format!("t{i}"));
            });
            per_call(&named("hit at the bottom"), FILES, |i| {
                lookup(format!("f{i}"));
            });
            per_call(&named("miss"), FILES, |i| {
                lookup(format!("none{i}"));
            });
            per_call(&named("directory in all"), 100, |i| {
                lookup(format!("d{i}"));
            });
            let at = lookup("f7".into()).expect("there").at;
            per_call(&named("stat"), FILES, |_| _ = s.stat(&at).expect("attributes"));
            per_call(&named("open_file"), FILES, |_| drop(s.open_file(&at).expect("opened")));
            per_call(&named("getxattr of none"), FILES, |_| {
                s.getxattr(&at, b"security.capability").expect_err("none");
            });
        }
    }
}

#[test]
#[ignore = "prints figures"]
fn figures_of_listings() {
    const FILES: usize = 100_000;
    for count in [1, 10] {
        let l = Layers::new(count);
        (0..count).for_each(|layer| _ = l.dir(layer, "d"));
        for i in 0..FILES {
            let name = format!("d/file-{:016x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            std::fs::write(l.path(i % count, &name), "").expect("written");
        }
        let s = l.stack();
        let dirs = s.find("d").expect("there").dirs;
        let listing = s.list(&dirs).expect("a listing");
        assert_eq!(listing.len(), FILES);
        let bytes = listing.memory() as f64 / FILES as f64;
        println!("{count:>2} layers: {bytes:.1} bytes an entry, names of 21 bytes");
        per_call(&format!("{count:>2} layers: list of {FILES}"), 5, |_| {
            s.list(&dirs).expect("a listing");
        });
        per_call("get of a name", FILES, |i| {
            let name = format!("file-{:016x}", i.wrapping_mul(0x9e37_79b9_7f4a_7c15));
            listing.get(name.as_bytes()).expect("listed");
        });
    }
}
