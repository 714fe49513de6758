//! What works in a mount until the power is cut. It prints `ack WRITER NUMBER` once that is durable.

use std::path::Path;
use std::time::Duration;

use overcoat_tests::history::{History, Op};
use overcoat_tests::{tool, work};

/// How many operations of a history are done between two lines that say so.
const STRIDE: u64 = 20;

/// Mounts `/disk/lower` and `/disk/upper` with `options` and works in it; does not return unless something fails.
pub fn work_until_cut(seed: u64, options: &str) {
    rustix::process::umask(rustix::fs::Mode::empty());
    std::fs::create_dir_all("/mnt").unwrap();
    let options = format!("lowerdir=/disk/lower,upperdir=/disk/upper,{options}");
    let arguments = ["mount", "--log", "/dev/console", "-o", &options, "/mnt"];
    let outcome = tool::overcoat_run(&arguments, Duration::from_secs(60));
    assert_eq!(outcome.code, Some(0), "{outcome:?}");
    println!("begin");
    let root = Path::new("/mnt");
    std::thread::scope(|scope| {
        for number in 0..2 {
            let name = format!("tree{number}");
            scope.spawn(move || told(&name, tree(&root.join(&name), seed + number, &name)));
        }
        let kinds = [
            ("durable", work::Replace::Durable),
            ("synced", work::Replace::Synced),
            ("plain", work::Replace::Plain),
        ];
        for (name, how) in kinds {
            scope.spawn(move || {
                told(name, work::replace(&root.join(name), how, |number| ack(name, number)))
            });
        }
        scope.spawn(|| told("log", work::append(&root.join("log"), |number| ack("log", number))));
        scope.spawn(|| told("bulk", work::bulk(&root.join("bulk"))));
        scope.spawn(|| {
            told("churn", work::churn(&root.join("churn"), |number| ack("churn", number)))
        });
        for journal in ["wal", "delete"] {
            scope.spawn(move || {
                told(
                    journal,
                    work::sqlite(&root.join(journal), journal, |number| ack(journal, number)),
                );
            });
        }
    });
}

fn ack(writer: &str, number: u64) {
    println!("ack {writer} {number}");
}

fn told(writer: &str, done: std::io::Result<()>) {
    println!("failed {writer} {done:?}");
}

fn tree(root: &Path, seed: u64, name: &str) -> std::io::Result<()> {
    let mut history = History::new(seed);
    loop {
        let op = history.plan();
        op.perform(root).map_err(|error| std::io::Error::other(format!("{op:?}: {error}")))?;
        history.apply(&op);
        if let Op::Fsync { .. } = op {
            ack(name, history.done);
        } else if history.done % STRIDE == 0 {
            println!("done {name} {}", history.done);
        }
    }
}
