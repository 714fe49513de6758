//! What an operation costs, and a file takes in memory, as the upper grows in one directory.

use std::fs::File;
use std::time::Instant;

use crate::Result;
use crate::figure::Unit;
use crate::image::Noise;
use crate::trial::Trial;

/// Operations that are timed at each size.
const SAMPLE: usize = 1000;
/// A peer that took so many seconds gets no larger directory.
const PATIENCE: u64 = 120;

pub fn run(trial: &mut Trial<'_>) -> Result {
    let view = trial.mount()?;
    let resident = |key: &str| match view.daemon {
        Some(pid) => crate::tool::kib(&format!("/proc/{pid}/status"), key).map(Some),
        None => Ok(None),
    };
    if let Some(idle) = resident("VmRSS")? {
        trial.record("memory: idle", Unit::Mib, idle as f64 / 1024.0);
    }
    let (idle, begin) = (resident("RssAnon")?, Instant::now());
    let name = |number: usize| view.path(&format!("file-{number:07}"));
    let mut made = 0;
    for size in [1000, 10_000, 100_000, trial.size(1_000_000, 100_000)] {
        if made >= size || begin.elapsed().as_secs() > PATIENCE {
            break;
        }
        for number in made..size {
            File::create_new(name(number))?;
        }
        made = size;
        if let (Some(idle), Some(now)) = (idle, resident("RssAnon")?) {
            let bytes = now.saturating_sub(idle) as f64 * 1024.0 / size as f64;
            trial.record(&format!("memory: per file at {size}"), Unit::Bytes, bytes);
        }
        let mut noise = Noise(size as u64);
        let chosen: Vec<_> = (0..SAMPLE).map(|_| name(noise.next() % size)).collect();
        let mut timed = |what: &str, act: &dyn Fn(usize) -> std::io::Result<()>| -> Result {
            let start = Instant::now();
            (0..SAMPLE).try_for_each(act)?;
            let micros = start.elapsed().as_secs_f64() * 1e6 / SAMPLE as f64;
            trial.record(&format!("scale: {what} at {size}"), Unit::Micros, micros);
            Ok(())
        };
        let fresh = |number: usize| view.path(&format!("fresh-{number}"));
        let moved = |number: usize| view.path(&format!("moved-{number}"));
        timed("create", &|number| File::create_new(fresh(number)).map(drop))?;
        timed("open", &|number| File::open(&chosen[number]).map(drop))?;
        timed("rename", &|number| std::fs::rename(fresh(number), moved(number)))?;
        timed("unlink", &|number| std::fs::remove_file(moved(number)))?;
    }
    view.unmount().map(drop)
}
