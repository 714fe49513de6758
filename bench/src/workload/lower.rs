//! Files of the image: read at native speed, and written without being copied.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::process::{Command, Stdio};
use std::time::Instant;

use crate::Result;
use crate::figure::Unit;
use crate::trial::Trial;
use crate::view::View;

use super::data::fio;

/// What is read of the large file.
const LENGTH: usize = 256 << 20;
const EXECUTIONS: usize = 200;

pub fn run(trial: &mut Trial<'_>) -> Result {
    let view = trial.mount()?;
    for row in [None, Some("lower: warm read"), Some("lower: warm read, again")] {
        let rate = read(&view)?;
        if let Some(row) = row {
            trial.record(row, Unit::MegabytesPerSecond, rate);
        }
    }
    let rate = fio(&view.path("big"), "--readonly --rw=read --bs=1m --ioengine=mmap", 256, 10)?;
    trial.record("lower: warm mmap", Unit::MegabytesPerSecond, rate);
    execute(&view)?;
    let micros = execute(&view)?;
    trial.record("lower: warm exec", Unit::Micros, micros);
    drop(view.unmount()?);
    one_byte(trial)
}

fn read(view: &View<'_>) -> Result<f64> {
    let file = File::open(view.path("big"))?;
    let mut buffer = vec![0; 1 << 17];
    let start = Instant::now();
    for offset in (0..LENGTH as u64).step_by(buffer.len()) {
        file.read_exact_at(&mut buffer, offset)?;
    }
    Ok(LENGTH as f64 / 1e6 / start.elapsed().as_secs_f64())
}

fn execute(view: &View<'_>) -> Result<f64> {
    let start = Instant::now();
    for _ in 0..EXECUTIONS {
        let status = Command::new(view.path("true")).stdin(Stdio::null()).status()?;
        if !status.success() {
            return Err(format!("true: {status}").into());
        }
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / EXECUTIONS as f64)
}

/// One byte into a file of 1 GiB, and what it takes on the host.
fn one_byte(trial: &mut Trial<'_>) -> Result {
    let view = trial.mount()?;
    let before = view.upper_kib()?;
    trial.settle()?;
    trial.time("lower: write 1 byte of 1 GiB", Unit::Millis, || {
        let file = File::options().write(true).open(view.path("big"))?;
        Ok(file.write_all_at(b"x", 512 << 20)?)
    })?;
    trial.settle()?;
    let taken = view.upper_kib()?.saturating_sub(before);
    if trial.peer.name() != crate::goal::PLAIN {
        trial.record("lower: blocks of 1 byte of 1 GiB", Unit::Kib, taken as f64);
    }
    view.unmount().map(drop)
}
