//! A command in a throw-away view of a root directory.
//!
//! ```text
//! runner: serves the view          keeper: lives in it, and keeps order         command
//!   namespaces of its own
//!   fork ──────────────────────────→ waits
//!   mounts the view, lets it go ───→ makes it its root, attaches /proc … ─fork─→ exec
//!   serves                           passes signals on                           …
//!                                    ends what the command left running ←──────── exit
//!   unmounts, tells what changed ←── exit
//! ```
//!
//! Nothing is left behind however it ends: mounts are in the runner's namespace and go with it, the
//! filestore is unlinked, directories are made in a tmpfs of that namespace only.

mod binds;
mod children;
mod keeper;
mod namespace;
mod report;

use std::ffi::OsString;
use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use overcoat::daemon::{self, Fork, Signals};
use overcoat::{Config, Durability, Errno, IdMap, Medium, Mount};
use rustix::fs::{Access, Mode};
use rustix::mount::MountFlags;
use rustix::pipe::PipeFlags;
use rustix::process::{Pid, Signal};
use tracing::Level;

use crate::args::RunArgs;
use crate::failure::Failure;
use crate::log::{self, Sink};
use crate::options::{self, Options};
use crate::preflight::{self, errno_text};
use crate::settings;
use children::{Children, exit_code, signal};
use keeper::{Job, Line};

/// Directories of which the runner's namespace can do without the first that there is: the view is mounted
/// below it, on a tmpfs.
const WORKSPACES: &[&str] = &["/sys/kernel", "/sys", "/mnt", "/srv", "/opt"];

/// What is asked for, with absolute paths.
struct Request {
    lowers: Vec<PathBuf>,
    keep: Option<PathBuf>,
    size_limit: Option<u64>,
    command: Vec<OsString>,
}

impl Request {
    fn read(args: RunArgs) -> Result<Self, Failure> {
        let size = args.size.as_deref().map(|size| options::size("--size", size)).transpose()?;
        let lowers = if args.lowers.is_empty() { vec![PathBuf::from("/")] } else { args.lowers };
        for lower in &lowers {
            preflight::directory("--lower", lower)?;
        }
        preflight::fuse_device()?;
        if let Some(keep) = &args.keep {
            make_directory(keep)?;
        }
        let real = |path: &PathBuf| {
            path.canonicalize()
                .map_err(|error| Failure::run_time(format!("{}: {error}", path.display())))
        };
        Ok(Self {
            lowers: lowers.iter().map(real).collect::<Result<_, _>>()?,
            keep: args.keep.as_ref().map(real).transpose()?,
            size_limit: size.filter(|&size| size > 0),
            command: if args.command.is_empty() { vec![shell()] } else { args.command },
        })
    }

    fn of_root(&self) -> bool {
        self.lowers.iter().any(|lower| lower == Path::new("/"))
    }
}

fn shell() -> OsString {
    std::env::var_os("SHELL").filter(|shell| !shell.is_empty()).unwrap_or_else(|| "/bin/sh".into())
}

fn make_directory(path: &Path) -> Result<(), Failure> {
    match rustix::fs::mkdir(path, Mode::from_raw_mode(0o755)) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => preflight::directory("--keep", path),
        Err(error) => {
            Err(Failure::run_time(format!("--keep {}: {}", path.display(), errno_text(error))))
        }
    }
}

/// Runs the command of `args`; gives its exit code.
pub fn run(args: RunArgs) -> Result<u8, Failure> {
    // The command's own stderr: only what it must be told.
    log::start(Sink::Stderr, Level::WARN);
    let request = Request::read(args)?;
    let directory = std::env::current_dir().ok();
    let as_user = namespace::enter()?;
    let signals = Signals::block(keeper::WATCHED)
        .map_err(|error| Failure::run_time(format!("signals: {}", errno_text(error))))?;
    let children = Children::adopt()?;
    let binds = binds::gather(request.of_root())?;
    if let Some(at) = directory.as_deref().and_then(|dir| binds::read_only_at(&binds, dir)) {
        eprintln!(
            "overcoat: {} is a file system of its own, and not part of the view of /",
            at.display()
        );
    }
    let medium = medium(&request);
    let workspace = Workspace::make(&request)?;
    let config = config(&request, medium, &workspace, as_user);
    let job = Job { command: request.command, directory, root: workspace.root(), binds };
    let keeper = Keeper::start(job, &signals)?;
    let mount = match view(config, &workspace) {
        Ok(mount) => mount,
        Err(failure) => {
            drop(keeper.go);
            children.end();
            return Err(failure);
        }
    };
    let code = keeper.see_through(&children, &signals);
    children.end();
    // From here on a signal may end this process: no command is left to be told.
    signals.unblock().map_err(|error| Failure::run_time(format!("signals: {error}")))?;
    finish(&mount, code, request.keep.as_deref())
}

/// An unlinked file where the machine keeps big temporary files, else memory.
fn medium(request: &Request) -> Medium {
    if request.keep.is_some() {
        return Medium::OwnFile;
    }
    let chosen = std::env::var_os("TMPDIR").map(PathBuf::from);
    let places = chosen.into_iter().chain(["/var/tmp", "/tmp"].map(PathBuf::from));
    let usable = |dir: &PathBuf| {
        dir.is_absolute()
            && dir.is_dir()
            && rustix::fs::access(dir, Access::WRITE_OK | Access::EXEC_OK).is_ok()
    };
    places.into_iter().find(usable).map_or(Medium::Memory, Medium::Dir)
}

fn config(request: &Request, medium: Medium, workspace: &Workspace, as_user: bool) -> Config {
    // A user's namespace has no name for most owners of the host: all is root's, as the user is there.
    let squash = as_user.then_some(0);
    Config {
        lowers: request.lowers.clone(),
        upper: Some(request.keep.clone().unwrap_or_else(|| workspace.upper())),
        medium,
        size_limit: request.size_limit,
        inode_limit: None,
        durability: match request.keep {
            Some(_) => Durability::Full,
            None => Durability::Volatile,
        },
        idmap: IdMap { squash_uid: squash, squash_gid: squash, ..IdMap::default() },
    }
}

fn view(config: Config, workspace: &Workspace) -> Result<Mount, Failure> {
    // In the runner alone: the keeper, whose child the command is, has been started.
    daemon::shed_inherited_limits().map_err(Failure::run_time)?;
    Mount::builder(config, workspace.root())
        .settings(settings::of(&Options::default(), OsString::from("overcoat"), false))
        .upper_may_lie_in_layer()
        .start()
        .map_err(Failure::run_time)
}

/// A tmpfs that only this process and its children see.
struct Workspace {
    place: PathBuf,
}

impl Workspace {
    fn make(request: &Request) -> Result<Self, Failure> {
        let in_use = |place: &&&str| {
            let used = request.lowers.iter().chain(&request.keep);
            used.into_iter().any(|path| path.starts_with(place))
        };
        let place = WORKSPACES
            .iter()
            .find(|place| Path::new(place).is_dir() && !in_use(place))
            .ok_or_else(|| Failure::run_time("no directory to mount the view at"))?;
        let workspace = Self { place: PathBuf::from(place) };
        let make = || {
            let flags = MountFlags::NODEV | MountFlags::NOSUID;
            rustix::mount::mount("overcoat", &workspace.place, "tmpfs", flags, c"mode=0755")?;
            rustix::fs::mkdir(workspace.root(), Mode::from_raw_mode(0o755))?;
            rustix::fs::mkdir(workspace.upper(), Mode::from_raw_mode(0o755))
        };
        match make() {
            Ok(()) => Ok(workspace),
            Err(error) => {
                Err(Failure::run_time(format!("tmpfs at {place}: {}", errno_text(error))))
            }
        }
    }

    fn root(&self) -> PathBuf {
        self.place.join("root")
    }

    fn upper(&self) -> PathBuf {
        self.place.join("upper")
    }
}

/// The runner's side of the keeper.
struct Keeper {
    pid: Pid,
    go: OwnedFd,
    trouble: OwnedFd,
}

impl Keeper {
    fn start(job: Job, signals: &Signals) -> Result<Self, Failure> {
        let failed = |error| Failure::run_time(format!("no keeper: {}", errno_text(error)));
        let (wait, go) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let (trouble, tell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).map_err(failed)?;
        let runner = rustix::process::getpid();
        match daemon::fork().map_err(failed)? {
            Fork::Parent(pid) => Ok(Self { pid, go, trouble }),
            Fork::Child => {
                drop((go, trouble));
                let code = keeper::run(job, Line { go: wait, trouble: tell }, signals, runner);
                std::process::exit(i32::from(code));
            }
        }
    }

    /// Lets the keeper go and waits for its end, passing signals on.
    fn see_through(self, children: &Children, signals: &Signals) -> Result<u8, Failure> {
        File::from(self.go)
            .write_all(b"g")
            .map_err(|error| Failure::run_time(format!("no keeper: {error}")))?;
        let status = loop {
            if let Some(status) = children.reap(self.pid) {
                break status;
            }
            let taken = signals
                .wait()
                .map_err(|error| Failure::run_time(format!("signals: {}", errno_text(error))))?;
            let number = Signal::from_named_raw(taken.signal);
            if let Some(number) =
                number.filter(|_| taken.by_process && taken.signal != libc::SIGCHLD)
            {
                signal(self.pid, number);
            }
        };
        let mut trouble = String::new();
        match File::from(self.trouble).read_to_string(&mut trouble) {
            Ok(0) | Err(_) => Ok(exit_code(status)),
            Ok(_) => Err(Failure::run_time(trouble)),
        }
    }
}

/// Unmounts and tells what changed.
fn finish(mount: &Mount, code: Result<u8, Failure>, keep: Option<&Path>) -> Result<u8, Failure> {
    mount
        .stop()
        .map_err(|error| Failure::run_time(format!("unmounting: {}", errno_text(error))))?;
    let code = code?;
    let mut report = report::Report::default();
    mount.changes(&mut |change| report.take(&change));
    let usage = mount
        .usage()
        .map_err(|error| Failure::run_time(format!("what is used: {}", errno_text(error))))?;
    eprint!("{}", report.text(&usage, keep));
    Ok(code)
}
