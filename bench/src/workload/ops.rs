//! Microseconds per operation: on files of one directory a thread, by descriptors and names alone.

use std::fs::File;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::sync::Barrier;
use std::time::{Duration, Instant};

use rustix::fd::OwnedFd;
use rustix::fs::{AtFlags, Mode, OFlags, RawDir, XattrFlags};
use rustix::io::Errno;

use crate::Result;
use crate::figure::Unit;
use crate::trial::Trial;

/// A directory of one thread.
struct Place {
    dir: OwnedFd,
    log: File,
}

impl Place {
    fn new(path: &Path) -> Result<Self> {
        std::fs::create_dir(path)?;
        let log = File::options().append(true).create(true).open(path.join("log"))?;
        Ok(Self { dir: File::open(path)?.into(), log })
    }

    fn open(&self, name: &str, flags: OFlags) -> rustix::io::Result<File> {
        rustix::fs::openat(&self.dir, name, flags | OFlags::CLOEXEC, Mode::from(0o644))
            .map(File::from)
    }

    fn create(&self, name: &str) -> rustix::io::Result<File> {
        self.open(name, OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY)
    }
}

struct Step {
    /// `None`: needed, not measured.
    row: Option<&'static str>,
    /// One in so many names takes part.
    every: usize,
    act: fn(&Place, &str) -> io::Result<()>,
}

const fn step(row: &'static str, act: fn(&Place, &str) -> io::Result<()>) -> Step {
    Step { row: Some(row), every: 1, act }
}

const BLOCK: [u8; 4096] = [7; 4096];

/// In this order: each works on what those before it left.
const STEPS: &[Step] = &[
    step("create", |place, name| Ok(place.create(name).map(drop)?)),
    // Closing a file that was open for writing makes the next stat ask the daemon once.
    step("first stat of a new file", stat),
    step("stat", stat),
    Step { row: None, every: 1, act: missing },
    step("negative stat", missing),
    step("open+close", |place, name| Ok(place.open(name, OFlags::RDONLY).map(drop)?)),
    step("chmod", |place, name| {
        Ok(rustix::fs::chmodat(&place.dir, name, Mode::from(0o600), AtFlags::empty())?)
    }),
    step("setxattr", |place, name| {
        let file = place.open(name, OFlags::RDONLY)?;
        Ok(rustix::fs::fsetxattr(file, "user.bench", b"value", XattrFlags::empty())?)
    }),
    step("rename", |place, name| {
        Ok(rustix::fs::renameat(&place.dir, name, &place.dir, format!("{name}.renamed"))?)
    }),
    step("unlink", |place, name| unlink(place, &format!("{name}.renamed"), AtFlags::empty())),
    step("mkdir", |place, name| Ok(rustix::fs::mkdirat(&place.dir, name, Mode::from(0o755))?)),
    step("rmdir", |place, name| unlink(place, name, AtFlags::REMOVEDIR)),
    step("create+4k+close", |place, name| place.create(name)?.write_all_at(&BLOCK, 0)),
    Step { row: None, every: 1, act: read },
    step("open+read+close", read),
    step("append of 100 bytes", |place, _| {
        // At its end, whatever offset is given.
        place.log.write_all_at(&BLOCK[..100], 0)
    }),
    Step {
        row: Some("fsync"),
        every: 25,
        act: |place, name| {
            let file = place.open(name, OFlags::WRONLY)?;
            file.write_all_at(&BLOCK, 0)?;
            file.sync_all()
        },
    },
    step("unlink of 4k", |place, name| unlink(place, name, AtFlags::empty())),
];

fn stat(place: &Place, name: &str) -> io::Result<()> {
    Ok(rustix::fs::statat(&place.dir, name, AtFlags::SYMLINK_NOFOLLOW).map(drop)?)
}

fn missing(place: &Place, name: &str) -> io::Result<()> {
    match rustix::fs::statat(&place.dir, format!("{name}.missing"), AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => Ok(()),
        Err(error) => Err(error.into()),
        Ok(_) => Err(io::Error::other("a name that was never made is there")),
    }
}

fn read(place: &Place, name: &str) -> io::Result<()> {
    place.open(name, OFlags::RDONLY)?.read_exact_at(&mut [0; 4096], 0)
}

fn unlink(place: &Place, name: &str, flags: AtFlags) -> io::Result<()> {
    Ok(rustix::fs::unlinkat(&place.dir, name, flags)?)
}

pub fn run(trial: &mut Trial<'_>) -> Result {
    let count = trial.size(5000, 1000);
    let view = trial.mount()?;
    for threads in [1, 2] {
        let places = (0..threads)
            .map(|thread| Place::new(&view.path(&format!("of{threads}-{thread}"))))
            .collect::<Result<Vec<_>>>()?;
        for step in STEPS {
            if step.row == Some("create") || step.row == Some("fsync") {
                trial.settle()?;
            }
            let time = together(&places, count, step)?;
            let Some(row) = step.row else { continue };
            let operations = count.div_ceil(step.every) * threads;
            let plural = if threads == 1 { "thread" } else { "threads" };
            let micros = time.as_secs_f64() * 1e6 / operations as f64;
            trial.record(&format!("ops: {row}, {threads} {plural}"), Unit::Micros, micros);
        }
    }
    if trial.peer.has_layers() {
        listing(trial, &view.path("listing"))?;
    }
    view.unmount().map(drop)
}

/// A step in all places at once; from the common start to the last end.
fn together(places: &[Place], count: usize, step: &Step) -> Result<Duration> {
    let names: Vec<_> =
        (0..count).step_by(step.every).map(|number| format!("f{number:06}")).collect();
    let start = Barrier::new(places.len());
    let times = std::thread::scope(|scope| {
        let threads: Vec<_> = places
            .iter()
            .map(|place| {
                scope.spawn(|| -> io::Result<_> {
                    start.wait();
                    let begin = Instant::now();
                    names.iter().try_for_each(|name| (step.act)(place, name))?;
                    Ok((begin, Instant::now()))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|_| Err(io::Error::other("a panic"))))
            .collect::<io::Result<Vec<_>>>()
    })
    .map_err(|error| format!("{}: {error}", step.row.unwrap_or("preparation")))?;
    let begin = times.iter().map(|(begin, _)| *begin).min();
    let end = times.iter().map(|(_, end)| *end).max();
    Ok(begin.zip(end).map(|(begin, end)| end - begin).unwrap_or_default())
}

/// Lists a large directory, as it was left and then once more.
fn listing(trial: &mut Trial<'_>, path: &Path) -> Result {
    let count = trial.size(100_000, 10_000);
    let place = Place::new(path)?;
    for number in 0..count {
        drop(place.create(&format!("f{number:06}"))?);
    }
    for row in ["first", "again"] {
        let dir = File::open(path)?;
        let start = Instant::now();
        let mut buffer = Vec::with_capacity(1 << 16);
        let mut entries = RawDir::new(dir.as_fd(), buffer.spare_capacity_mut());
        let mut seen = 0;
        while let Some(entry) = entries.next() {
            entry?;
            seen += 1;
        }
        let micros = start.elapsed().as_secs_f64() * 1e6;
        if seen != count + 3 {
            return Err(format!("{seen} entries are listed of {count} and `.`, `..`, `log`").into());
        }
        trial.record(&format!("ops: readdir per entry, {row}"), Unit::Micros, micros / seen as f64);
    }
    Ok(())
}
