//! The counters of one mount: operations, errors, latencies, bytes, caches and transport.
//!
//! A leaf: every module may fill it, and it knows none of them. Recording takes no lock: counters are
//! atomic and split into shards, one of which each thread uses, so that threads rarely share a cache
//! line. Reading adds the shards up; figures that belong together may differ by what happened meanwhile.
//!
//! Each metric has a name, a unit and a help text ([`Description`]), for whoever exports it.

mod histogram;

use std::cell::Cell;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::time::Duration;

use zerocopy::FromZeros as _;

use histogram::BUCKETS;
pub use histogram::Histogram;

/// The most shards; there are no more than CPUs.
const MAX_SHARDS: usize = 16;

/// In what a metric is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unit {
    /// Things or events.
    Count,
    Bytes,
    Nanoseconds,
}

/// What a metric is, for an exporter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Description {
    /// In lower case with underscores, without a prefix and without the unit.
    pub name: &'static str,
    pub unit: Unit,
    pub help: &'static str,
}

/// What [`Snapshot::operations`] counts, as three metrics with the operation's name as a label.
pub const OPERATIONS: Description =
    Description { name: "operations", unit: Unit::Count, help: "Requests that were answered." };
pub const OPERATION_ERRORS: Description = Description {
    name: "operation_errors",
    unit: Unit::Count,
    help: "Requests that were answered with an error.",
};
pub const OPERATION_LATENCY: Description = Description {
    name: "operation_latency",
    unit: Unit::Nanoseconds,
    help: "Time from a request's arrival in the daemon to its answer.",
};

macro_rules! operations {
    ($($name:ident = $label:literal,)*) => {
        /// The operations of a file system.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Operation { $($name),* }

        impl Operation {
            pub const ALL: &[Operation] = &[$(Operation::$name),*];

            /// The name in exported figures.
            pub fn name(self) -> &'static str {
                match self { $(Operation::$name => $label),* }
            }
        }
    };
}

operations! {
    Lookup = "lookup",
    Forget = "forget",
    Getattr = "getattr",
    Setattr = "setattr",
    Readlink = "readlink",
    Symlink = "symlink",
    Mknod = "mknod",
    Mkdir = "mkdir",
    Unlink = "unlink",
    Rmdir = "rmdir",
    Rename = "rename",
    Link = "link",
    Open = "open",
    Read = "read",
    Write = "write",
    Statfs = "statfs",
    Release = "release",
    Fsync = "fsync",
    Setxattr = "setxattr",
    Getxattr = "getxattr",
    Listxattr = "listxattr",
    Removexattr = "removexattr",
    Opendir = "opendir",
    Readdir = "readdir",
    Releasedir = "releasedir",
    Fsyncdir = "fsyncdir",
    Create = "create",
    Ioctl = "ioctl",
    Fallocate = "fallocate",
    Readdirplus = "readdirplus",
    Lseek = "lseek",
    CopyFileRange = "copy_file_range",
    Syncfs = "syncfs",
    Tmpfile = "tmpfile",
    Statx = "statx",
    Destroy = "destroy",
    Other = "other",
}

macro_rules! described {
    ($(#[$meta:meta])* $kind:ident { $($name:ident: $label:literal, $unit:ident, $help:literal;)* }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum $kind { $($name),* }

        impl $kind {
            pub const ALL: &[$kind] = &[$($kind::$name),*];

            pub fn description(self) -> Description {
                match self {
                    $($kind::$name => Description { name: $label, unit: Unit::$unit, help: $help }),*
                }
            }
        }
    };
}

described! {
    /// What only grows.
    Counter {
        BytesRead: "read", Bytes, "Bytes returned to READ requests.";
        BytesWritten: "written", Bytes, "Bytes accepted from WRITE requests.";
        LayerFileHits: "layer_file_hits", Count, "Uses of a layer's file whose descriptor was open.";
        LayerFileOpens: "layer_file_opens", Count, "Layer files that were opened for reading.";
        HandedOver: "handed_over", Count, "Requests that a queue's thread left to another thread.";
        Invalidations: "invalidations", Count, "Notifications that told the kernel to drop what it cached.";
        SchedIdleEntries: "sched_idle_entries", Count, "Times that a thread entered SCHED_IDLE.";
        SchedIdleStarved: "sched_idle_starved", Count, "Times that a thread left SCHED_IDLE since it waited for its CPU.";
    }
}

described! {
    /// What goes up and down.
    Gauge {
        WorkerThreads: "worker_threads", Count, "Threads that read /dev/fuse and answer.";
        HelperThreads: "helper_threads", Count, "Threads that do what takes long for other threads.";
        RingSlots: "ring_slots", Count, "io_uring slots that are registered with the kernel.";
        BackingFiles: "backing_files", Count, "Files that the kernel reads by itself (passthrough).";
    }
}

const OPS: usize = Operation::ALL.len();

/// Of one operation in one shard: errors, nanoseconds, and the histogram whose sum is the count.
#[repr(C)]
#[derive(zerocopy::FromZeros)]
struct OpCells {
    errors: AtomicU64,
    nanos: AtomicU64,
    buckets: [AtomicU64; BUCKETS],
}

/// On its own cache lines. Memory of operations that never happen is not touched.
#[repr(C, align(128))]
#[derive(zerocopy::FromZeros)]
struct Shard {
    ops: [OpCells; OPS],
    counters: [AtomicU64; Counter::ALL.len()],
}

/// The counters of one mount.
pub struct Metrics {
    shards: Box<[Box<Shard>]>,
    gauges: [AtomicI64; Gauge::ALL.len()],
}

impl Default for Metrics {
    fn default() -> Metrics {
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let shard = |_| match Shard::new_box_zeroed() {
            Ok(shard) => shard,
            // As any other allocation that fails.
            Err(_) => std::alloc::handle_alloc_error(std::alloc::Layout::new::<Shard>()),
        };
        Metrics {
            shards: (0..cpus.min(MAX_SHARDS)).map(shard).collect(),
            gauges: [const { AtomicI64::new(0) }; Gauge::ALL.len()],
        }
    }
}

/// The number of the calling thread, for the choice of a shard.
fn thread_number() -> usize {
    static NEXT: AtomicUsize = AtomicUsize::new(0);
    thread_local!(static NUMBER: Cell<usize> = const { Cell::new(usize::MAX) });
    NUMBER.with(|number| {
        if number.get() == usize::MAX {
            number.set(NEXT.fetch_add(1, Relaxed));
        }
        number.get()
    })
}

impl Metrics {
    fn shard(&self) -> &Shard {
        &self.shards[thread_number() % self.shards.len()]
    }

    /// Counts an operation that took so long.
    pub fn record(&self, operation: Operation, took: Duration, failed: bool) {
        let cells = &self.shard().ops[operation as usize];
        let nanos = took.as_nanos() as u64;
        cells.buckets[histogram::bucket_of(nanos)].fetch_add(1, Relaxed);
        cells.nanos.fetch_add(nanos, Relaxed);
        if failed {
            cells.errors.fetch_add(1, Relaxed);
        }
    }

    /// Adds to a counter.
    pub fn add(&self, counter: Counter, amount: u64) {
        self.shard().counters[counter as usize].fetch_add(amount, Relaxed);
    }

    /// Moves a gauge up (or down, by a negative number).
    pub fn shift(&self, gauge: Gauge, by: i64) {
        self.gauges[gauge as usize].fetch_add(by, Relaxed);
    }

    /// All figures as they are now.
    pub fn snapshot(&self) -> Snapshot {
        let operations = Operation::ALL.iter().map(|&operation| self.figures(operation));
        let sum = |counter: Counter| {
            self.shards.iter().map(|shard| shard.counters[counter as usize].load(Relaxed)).sum()
        };
        Snapshot {
            operations: operations.filter(|figures| figures.latency.count() > 0).collect(),
            counters: Counter::ALL.iter().map(|&counter| (counter, sum(counter))).collect(),
            gauges: Gauge::ALL
                .iter()
                .map(|&gauge| (gauge, self.gauges[gauge as usize].load(Relaxed)))
                .collect(),
        }
    }

    fn figures(&self, operation: Operation) -> OperationFigures {
        let mut figures = OperationFigures {
            operation,
            errors: 0,
            total: Duration::ZERO,
            latency: Histogram::default(),
        };
        for shard in &self.shards {
            let cells = &shard.ops[operation as usize];
            figures.errors += cells.errors.load(Relaxed);
            figures.total += Duration::from_nanos(cells.nanos.load(Relaxed));
            for (at, bucket) in cells.buckets.iter().enumerate() {
                figures.latency.add(at, bucket.load(Relaxed));
            }
        }
        figures
    }
}

/// Figures of one operation.
#[derive(Clone, Debug)]
pub struct OperationFigures {
    pub operation: Operation,
    pub errors: u64,
    /// The sum of all latencies.
    pub total: Duration,
    /// Its count is the number of operations.
    pub latency: Histogram,
}

/// All figures of a mount at a time.
#[derive(Clone, Debug)]
pub struct Snapshot {
    /// Those that happened at all.
    pub operations: Vec<OperationFigures>,
    pub counters: Vec<(Counter, u64)>,
    pub gauges: Vec<(Gauge, i64)>,
}

impl Snapshot {
    /// The value of a counter.
    pub fn counter(&self, wanted: Counter) -> u64 {
        self.counters.iter().find(|(counter, _)| *counter == wanted).map_or(0, |(_, value)| *value)
    }
}

/// One line: where the time of a workload goes.
impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("served")?;
        for figures in &self.operations {
            let micros = |part| figures.latency.quantile(part).as_nanos().div_ceil(1000);
            let (name, count) = (figures.operation.name(), figures.latency.count());
            write!(f, " {name} {count} (p50 {} us, p99 {} us),", micros(0.5), micros(0.99))?;
        }
        let errors: u64 = self.operations.iter().map(|figures| figures.errors).sum();
        let (read, written) =
            (self.counter(Counter::BytesRead), self.counter(Counter::BytesWritten));
        write!(f, " {errors} with an error; read {read} bytes, wrote {written} bytes")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    #[test]
    fn figures_of_all_threads_add_up() {
        let metrics = Metrics::default();
        std::thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for at in 0..1000 {
                        let took = Duration::from_micros(10);
                        metrics.record(Operation::Read, took, at % 10 == 0);
                        metrics.add(Counter::BytesRead, 7);
                        metrics.shift(Gauge::WorkerThreads, if at % 2 == 0 { 1 } else { -1 });
                    }
                });
            }
        });
        let snapshot = metrics.snapshot();
        let [read] = &snapshot.operations[..] else { panic!("operations that never happened") };
        assert_eq!(
            (read.operation, read.latency.count(), read.errors),
            (Operation::Read, 8000, 800)
        );
        assert_eq!(read.total, Duration::from_millis(80));
        assert_eq!(snapshot.counter(Counter::BytesRead), 56_000);
        assert!(snapshot.gauges.iter().all(|(_, value)| *value == 0));
        let line = snapshot.to_string();
        assert!(line.starts_with("served read 8000 (p50 11 us, p99 11 us),"), "{line}");
        assert!(line.ends_with(" 800 with an error; read 56000 bytes, wrote 0 bytes"), "{line}");
    }

    #[test]
    fn names_differ() {
        let described = Counter::ALL.iter().map(|counter| counter.description());
        let described = described.chain(Gauge::ALL.iter().map(|gauge| gauge.description()));
        let own = [OPERATIONS, OPERATION_ERRORS, OPERATION_LATENCY];
        let mut names: Vec<&str> = described.chain(own).map(|it| it.name).collect();
        names.sort_unstable();
        assert!(names.windows(2).all(|pair| pair[0] != pair[1]));
        assert!(names.iter().all(|name| name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_')));
    }

    /// What figures add to a request: a clock read at its end (transports read the clock at each wakeup
    /// anyway), and the record. The bound leaves room for a debug build on a busy machine; `cargo test
    /// --release -- --nocapture recording` tells the figure, which is to stay below 50 ns.
    #[test]
    fn recording_is_cheap() {
        let metrics = Metrics::default();
        let arrived = Instant::now();
        let record = || metrics.record(Operation::Lookup, arrived.elapsed(), false);
        let clock = || _ = std::hint::black_box(Instant::now());
        let (record, clock) = (cost(record), cost(clock));
        eprintln!("{record:?} an operation, of which reading the clock takes {clock:?}");
        assert!(record < Duration::from_micros(2), "{record:?}");
    }

    /// The best of many rounds.
    fn cost(what: impl Fn()) -> Duration {
        const TIMES: u32 = 10_000;
        let round = || {
            let start = Instant::now();
            (0..TIMES).for_each(|_| what());
            start.elapsed() / TIMES
        };
        (0..100).map(|_| round()).min().unwrap_or_default()
    }
}
