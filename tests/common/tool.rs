//! Running programs.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};

/// The target directory that this test binary was built in, with the profile's name.
fn profile_dir() -> PathBuf {
    let test = std::env::current_exe().unwrap();
    test.parent().and_then(Path::parent).unwrap().to_owned()
}

/// The target directory that this test binary was built in.
pub fn target_dir() -> PathBuf {
    profile_dir().parent().unwrap().to_owned()
}

/// The `overcoat` binary under test: `OVERCOAT_BIN`, or the workspace's own, built on first use in the
/// profile of this test.
pub fn overcoat() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| match std::env::var_os("OVERCOAT_BIN") {
        Some(path) => PathBuf::from(path),
        None => build_overcoat(),
    })
}

fn build_overcoat() -> PathBuf {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["build", "--quiet", "--package", "overcoat-cli", "--bin", "overcoat"]);
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    cargo.arg("--target-dir").arg(target_dir());
    if profile_dir().ends_with("release") {
        cargo.arg("--release");
    }
    assert!(cargo.status().unwrap().success(), "the binary under test does not build");
    profile_dir().join("overcoat")
}

/// Where a program is installed.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(program)).find(|path| path.is_file())
}

/// Runs `program` to its end.
///
/// # Panics
/// When it cannot be started or fails; the message holds what it printed.
pub fn run<S: AsRef<OsStr>>(program: &str, args: &[S]) -> String {
    let output = output(Command::new(program).args(args));
    assert!(
        output.status.success(),
        "{program} {:?}: {}\n{}{}",
        args.iter().map(AsRef::as_ref).collect::<Vec<_>>(),
        output.status,
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Runs `command` to its end, with its output captured and no input.
pub fn output(command: &mut Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// What a run of `overcoat` came to.
#[derive(Debug)]
pub struct Outcome {
    /// The exit code; `None` when a signal ended it or the time limit was hit.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `overcoat ARGS` until it has ended and closed its output, at most `limit` long.
pub fn overcoat_run<S: AsRef<OsStr>>(args: &[S], limit: Duration) -> Outcome {
    run_limited(Command::new(overcoat()).args(args), limit)
}

/// Runs `command` until it has ended and closed its output; kills it after `limit`.
pub fn run_limited(command: &mut Command, limit: Duration) -> Outcome {
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let pid = Pid::from_child(&child);
    let watchdog = Watchdog::start(pid, limit);
    let output = child.wait_with_output().unwrap();
    let timed_out = watchdog.stop();
    Outcome {
        code: if timed_out { None } else { output.status.code() },
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Kills a process that outlives its limit.
struct Watchdog {
    stop: std::sync::mpsc::Sender<()>,
    thread: std::thread::JoinHandle<bool>,
}

impl Watchdog {
    fn start(pid: Pid, limit: Duration) -> Self {
        let (stop, stopped) = std::sync::mpsc::channel();
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).unwrap();
        let thread = std::thread::spawn(move || {
            if stopped.recv_timeout(limit) == Err(std::sync::mpsc::RecvTimeoutError::Timeout) {
                // It may have ended just now.
                rustix::process::pidfd_send_signal(&pidfd, rustix::process::Signal::KILL).ok();
                return true;
            }
            false
        });
        Self { stop, thread }
    }

    /// Whether the limit was hit.
    fn stop(self) -> bool {
        self.stop.send(()).ok();
        self.thread.join().unwrap()
    }
}

/// Waits until the process of `pidfd` has ended.
///
/// # Panics
/// When `limit` passes first.
pub fn wait_for_exit(pidfd: impl std::os::fd::AsFd, limit: Duration) {
    let deadline = Instant::now() + limit;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).unwrap();
        let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => panic!("the daemon is still there after {limit:?}"),
            Ok(_) => return,
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => panic!("poll: {error}"),
        }
    }
}

/// The processes whose executable is `program` and which were given an argument that contains `word`.
pub fn processes(program: &Path, word: &Path) -> Vec<Pid> {
    let word = word.as_os_str().as_encoded_bytes();
    let program = program.canonicalize().unwrap_or_else(|_| program.to_owned());
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap() {
        let entry = entry.unwrap();
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else {
            continue;
        };
        // Both fail when the process ends meanwhile; a zombie has no executable.
        let Ok(exe) = std::fs::read_link(entry.path().join("exe")) else { continue };
        let Ok(cmdline) = std::fs::read(entry.path().join("cmdline")) else { continue };
        if exe == program && cmdline.windows(word.len()).any(|window| window == word) {
            found.extend(Pid::from_raw(pid));
        }
    }
    found
}

/// Calls `ready` every few milliseconds until it returns true.
///
/// # Panics
/// When `limit` passes first.
pub fn eventually(what: &str, limit: Duration, mut ready: impl FnMut() -> bool) {
    let deadline = Instant::now() + limit;
    while !ready() {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
