//! The process between the runner and the command.
//!
//! The runner serves the view, so it may not live in it. The keeper does: it makes the view its root,
//! starts the command, passes signals on, and when the command has ended, or the runner has died, ends all
//! that the command left running. With the keeper goes the last user of the view.

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use overcoat::Errno;
use overcoat::daemon::{self, Fork, Signals};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal};

use super::binds::{self, Bind};
use super::children::{Children, exit_code, signal};
use super::namespace;
use crate::failure::Failure;
use crate::preflight::{describe, errno_text};

/// Signals that runner and keeper take note of instead of being ended by them.
pub const WATCHED: &[i32] =
    &[libc::SIGINT, libc::SIGQUIT, libc::SIGTERM, libc::SIGHUP, libc::SIGCHLD, RUNNER_DIED];

/// Sent by the kernel to the keeper when the runner is gone.
const RUNNER_DIED: i32 = libc::SIGUSR1;

/// How long a command may take to end after it was told to.
const GRACE: Duration = Duration::from_secs(5);

/// What a shell returns for a command that is not there, and for one that cannot be executed.
const NOT_FOUND: i32 = 127;
const NOT_EXECUTABLE: i32 = 126;

/// A command and where it is to run.
pub struct Job {
    pub command: Vec<OsString>,
    pub directory: Option<PathBuf>,
    /// Where the view is mounted when the keeper is let go.
    pub root: PathBuf,
    pub binds: Vec<Bind>,
}

/// The ends of the pipes between runner and keeper.
pub struct Line {
    /// The runner's word that the view is there; nothing if it will not be.
    pub go: OwnedFd,
    /// The keeper's one line if the command could not be started.
    pub trouble: OwnedFd,
}

/// The life of the keeper; gives its exit code, which is the command's.
pub fn run(job: Job, line: Line, signals: &Signals, runner: Pid) -> u8 {
    let mut word = [0];
    let let_go = File::from(line.go).read(&mut word);
    if !matches!(let_go, Ok(1)) {
        return 1;
    }
    match keep(job, signals, runner) {
        Ok(code) => code,
        Err(failure) => {
            // Nobody to tell it to: the runner is gone.
            File::from(line.trouble).write_all(failure.line().as_bytes()).ok();
            failure.code()
        }
    }
}

fn keep(job: Job, signals: &Signals, runner: Pid) -> Result<u8, Failure> {
    die_with(runner, RUNNER_DIED)?;
    let children = Children::adopt()?;
    namespace::split_mounts()?;
    change_root(&job.root)?;
    binds::attach(job.binds)?;
    if job.directory.as_deref().is_none_or(|dir| rustix::process::chdir(dir).is_err()) {
        rustix::process::chdir("/")
            .map_err(|error| Failure::run_time(format!("/ of the view: {}", errno_text(error))))?;
    }
    let keeper = rustix::process::getpid();
    match daemon::fork()
        .map_err(|error| Failure::run_time(format!("no fork: {}", errno_text(error))))?
    {
        Fork::Child => execute(&job.command, signals, keeper),
        Fork::Parent(command) => {
            let code = watch(command, &children, signals)?;
            children.end();
            Ok(code)
        }
    }
}

/// Has this process sent a signal when `parent` dies, which may have happened already.
fn die_with(parent: Pid, number: i32) -> Result<(), Failure> {
    let signal = Signal::from_named_raw(number);
    rustix::process::set_parent_process_death_signal(signal)
        .map_err(|error| Failure::run_time(format!("death signal: {}", errno_text(error))))?;
    if rustix::process::getppid() == Some(parent) {
        Ok(())
    } else {
        Err(Failure::run_time("the runner is gone"))
    }
}

fn change_root(root: &Path) -> Result<(), Failure> {
    let change = || {
        rustix::process::chdir(root)?;
        rustix::process::pivot_root(".", ".")?;
        // The old root now lies over the new one.
        rustix::mount::unmount(".", UnmountFlags::DETACH)?;
        rustix::process::chdir("/")
    };
    change().map_err(|error: Errno| {
        Failure::run_time(format!("the view does not become the root: {}", errno_text(error)))
    })
}

/// Becomes the command.
fn execute(command: &[OsString], signals: &Signals, keeper: Pid) -> ! {
    let Some((program, args)) = command.split_first() else { std::process::exit(NOT_FOUND) };
    if die_with(keeper, libc::SIGKILL).is_err() || signals.unblock().is_err() {
        std::process::exit(NOT_EXECUTABLE);
    }
    let error = Command::new(program).args(args).exec();
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    let reason = if missing { "command not found".to_owned() } else { describe(&error) };
    let line = Failure::run_time(format!("{}: {reason}", Path::new(program).display()));
    eprintln!("overcoat: {}", line.line());
    std::process::exit(if missing { NOT_FOUND } else { NOT_EXECUTABLE });
}

/// Waits for the command to end, and passes on to it what it did not get itself: a terminal's signals
/// reach all processes of its foreground, others the one that they are sent to.
fn watch(command: Pid, children: &Children, signals: &Signals) -> Result<u8, Failure> {
    let mut deadline = None;
    loop {
        if let Some(status) = children.reap(command) {
            return Ok(exit_code(status));
        }
        let taken = match deadline {
            None => Some(signals.wait()),
            Some(deadline) => signals.wait_until(deadline).transpose(),
        };
        let Some(taken) = taken else {
            signal(command, Signal::KILL);
            deadline = None;
            continue;
        };
        let taken =
            taken.map_err(|error| Failure::run_time(format!("signals: {}", errno_text(error))))?;
        match taken.signal {
            libc::SIGCHLD => {}
            RUNNER_DIED => {
                children.end();
                return Err(Failure::run_time("the runner is gone"));
            }
            number => {
                if let Some(number) = Signal::from_named_raw(number).filter(|_| taken.by_process) {
                    signal(command, number);
                }
                if matches!(number, libc::SIGTERM | libc::SIGHUP) {
                    deadline.get_or_insert(Instant::now() + GRACE);
                }
            }
        }
    }
}
