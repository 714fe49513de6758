//! Many mounts of one image at once: what they take in memory.

use crate::figure::Unit;
use crate::trial::Trial;
use crate::view::View;
use crate::{Result, tool};

/// Much of the standard library, as a start of a service would read it.
const IMPORTS: &str = "import argparse, asyncio, base64, collections, csv, ctypes, datetime, decimal, email, \
    hashlib, http.client, http.server, inspect, json, logging, multiprocessing, os, pickle, re, shutil, \
    sqlite3, ssl, statistics, subprocess, tarfile, tempfile, typing, unittest, urllib.request, uuid, \
    xml.etree.ElementTree, zipfile";

pub fn run(trial: &mut Trial<'_>) -> Result {
    let count = trial.size(50, 10);
    let mut views = Vec::new();
    for number in 0..count {
        views.push(View::mount(trial.peer, trial.mount_dirs(number)?)?);
    }
    trial.settle()?;
    tool::drop_caches()?;
    let before = cached()?;
    let script = format!("python3 -B -c '{IMPORTS}'");
    trial.time(&format!("fleet: python in {count} mounts"), Unit::Seconds, || {
        views.iter().try_for_each(|view| view.shell(&script).map(drop))
    })?;
    let cache = cached()?.saturating_sub(before) as f64 / 1024.0;
    trial.record(&format!("fleet: page cache of {count} mounts"), Unit::Mib, cache);
    let resident =
        views.iter().filter_map(|view| view.daemon).map(proportional).sum::<Result<u64>>()?;
    if resident > 0 {
        let mib = resident as f64 / 1024.0;
        trial.record(&format!("fleet: daemons of {count} mounts"), Unit::Mib, mib);
    }
    views.into_iter().try_for_each(|view| view.unmount().map(drop))
}

fn cached() -> Result<u64> {
    tool::kib("/proc/meminfo", "Cached")
}

/// A process' share of what is resident.
fn proportional(pid: u32) -> Result<u64> {
    tool::kib(&format!("/proc/{pid}/smaps_rollup"), "Pss")
}
