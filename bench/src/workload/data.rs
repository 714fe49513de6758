//! Throughput on a file of the upper, by fio.

use std::path::Path;
use std::process::Command;

use crate::figure::Unit;
use crate::trial::Trial;
use crate::{Result, tool};

/// Rows, and what fio is told. The first lays the file out for those that follow.
const JOBS: &[(&str, &str)] = &[
    ("sequential write, 1 MiB", "--rw=write --bs=1m"),
    ("sequential read, 1 MiB", "--rw=read --bs=1m"),
    ("sequential write, 4 KiB", "--rw=write --bs=4k"),
    ("sequential read, 4 KiB", "--rw=read --bs=4k"),
    ("random read, 4 KiB", "--rw=randread --bs=4k"),
    ("random write, 4 KiB", "--rw=randwrite --bs=4k"),
    ("random read, 4 KiB, O_DIRECT", "--rw=randread --bs=4k --direct=1"),
    ("random write, 4 KiB, O_DIRECT", "--rw=randwrite --bs=4k --direct=1"),
    ("random read, 4 KiB, mmap", "--rw=randread --bs=4k --ioengine=mmap"),
    ("random write, 4 KiB, mmap", "--rw=randwrite --bs=4k --ioengine=mmap"),
];

pub fn run(trial: &mut Trial<'_>) -> Result {
    let mib = trial.size(512, 128);
    let seconds = trial.size(10, 3);
    let view = trial.mount()?;
    for (row, job) in JOBS {
        trial.settle()?;
        let rate = fio(&view.path("data"), job, mib, seconds)?;
        trial.record(&format!("data: {row}"), Unit::MegabytesPerSecond, rate);
    }
    view.unmount().map(drop)
}

/// Bytes moved, in MB/s. Reads are warm, writes are not flushed; both end after some seconds.
pub fn fio(file: &Path, job: &str, mib: usize, seconds: usize) -> Result<f64> {
    let mut command = Command::new("fio");
    command
        .args(["--name=bench", "--output-format=json", "--ioengine=psync", "--invalidate=0"])
        .args([format!("--size={mib}m"), format!("--runtime={seconds}")])
        .arg(format!("--filename={}", file.display()))
        .args(job.split(' '));
    let said: serde_json::Value = serde_json::from_str(&tool::run(&mut command)?)?;
    let side = if job.contains("read") { "read" } else { "write" };
    let rate = said["jobs"][0][side]["bw_bytes"].as_f64();
    rate.map(|rate| rate / 1e6).ok_or_else(|| "fio says no bandwidth".into())
}
