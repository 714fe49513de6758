//! Other programs, and what `/proc` tells.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Result;

/// Runs a command to its end; fails with what it said.
pub fn run(command: &mut Command) -> Result<String> {
    let shown = format!("{command:?}");
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{shown}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let tail = said.lines().rev().take(3).collect::<Vec<_>>().join("; ");
    Err(format!("{shown}: {}: {tail}", output.status).into())
}

/// Runs a shell script with arguments `$1`, `$2`….
pub fn shell(script: &str, arguments: &[&Path]) -> Result<String> {
    run(Command::new("sh").args(["-euc", script, "sh"]).args(arguments))
}

/// A program given by an environment variable, else from `PATH`.
pub fn find(variable: &str, name: &str) -> Result<PathBuf> {
    if let Some(path) = std::env::var_os(variable) {
        return Ok(path.into());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .map(|dir| dir.join(name))
        .find(|candidate| candidate.is_file())
        .ok_or_else(|| format!("{name} is not in PATH, nor given by {variable}").into())
}

/// The oldest process with this argument, a daemon that serves a mount point for one.
pub fn process_with_argument(argument: &Path) -> Option<u32> {
    let entries = std::fs::read_dir("/proc").ok()?;
    entries
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|pid: &u32| *pid != std::process::id())
        .filter(|pid| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.split(|byte| *byte == 0).any(|word| OsStr::from_bytes(word) == argument)
        })
        .min()
}

/// A value in KiB of a file such as `/proc/meminfo`.
pub fn kib(file: &str, key: &str) -> Result<u64> {
    let text = std::fs::read_to_string(file)?;
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().trim_end_matches(" kB").parse().ok())
        .ok_or_else(|| format!("{file} has no {key}").into())
}

/// Writes a file system back, so that what came before does not weigh on what comes. Not all of them, as
/// sync(2) would: that waits for whatever else the machine is doing.
pub fn settle(place: &Path) -> Result {
    Ok(rustix::fs::syncfs(std::fs::File::open(place)?)?)
}

/// Forgets clean pages, entries and inodes: a cold start.
pub fn drop_caches() -> Result {
    Ok(std::fs::write("/proc/sys/vm/drop_caches", "3")?)
}
