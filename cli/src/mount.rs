//! The mount command.

use std::ffi::OsString;
use std::os::fd::RawFd;
use std::path::{Path, PathBuf};

use overcoat::daemon::{self, Place, Side, Signals};
use overcoat::{Config, Medium, Mount, MountBuilder};
use tracing::Level;

use crate::args::MountCall;
use crate::call_options;
use crate::failure::Failure;
use crate::log::{self, Sink};
use crate::options::Options;
use crate::preflight::{self, errno_text};
use crate::remount;
use crate::settings;

/// The source that mountinfo shows where none was given.
const DEFAULT_SOURCE: &str = "overcoat";

/// A mount which can be made as far as can be known beforehand.
struct Plan {
    options: Options,
    builder: MountBuilder,
    mountpoint: PathBuf,
}

/// Mounts. Returns when the mount answers, or with `-f` when it has ended.
/// `inherited` are the descriptors which this process was started with.
pub fn run(call: MountCall, inherited: Vec<RawFd>) -> Result<(), Failure> {
    let options = call_options::read(&call)?;
    call_options::tell_unknown(&call, &options)?;
    if options.remount {
        return remount::run(&options, &preflight::mountpoint(&call.mountpoint)?);
    }
    let plan = plan(options, &call)?;
    if call.fake {
        return Ok(());
    }
    let sink = match (&call.log, call.foreground) {
        (None, true) => Sink::Stderr,
        (path, _) => Sink::open(path.as_deref()).map_err(|error| {
            let path = path.as_deref().unwrap_or(Path::new("/dev/log"));
            Failure::run_time(format!("log {}: {error}", path.display()))
        })?,
    };
    if call.foreground {
        log::start(sink, Level::INFO);
        let (mount, signals) = start(plan, Place::Foreground)?;
        return serve(mount, signals);
    }
    let side = daemon::split().map_err(|error| {
        Failure::run_time(format!("{}: {}", error.call, errno_text(error.errno)))
    })?;
    match side {
        Side::Foreground(waiting) => waiting.outcome().map_err(Failure::run_time),
        Side::Daemon(reporter) => {
            log::start(sink, Level::INFO);
            match start(plan, Place::Background) {
                Ok((mount, signals)) => {
                    reporter.ready(inherited).map_err(|error| {
                        Failure::run_time(format!("becoming a daemon: {}", errno_text(error)))
                    })?;
                    serve(mount, signals).inspect_err(|failure| {
                        tracing::error!("{}", failure.line());
                    })
                }
                Err(failure) => {
                    reporter.failed(failure.line());
                    std::process::exit(i32::from(failure.code()));
                }
            }
        }
    }
}

fn start(plan: Plan, place: Place) -> Result<(Mount, Signals), Failure> {
    let signals = daemon::block_ending_signals(place)
        .map_err(|error| Failure::run_time(format!("signals: {}", errno_text(error))))?;
    daemon::shed_inherited_limits().map_err(Failure::run_time)?;
    if !plan.options.contexts.is_empty() && Path::new("/sys/fs/selinux/enforce").exists() {
        tracing::warn!("SELinux labels are not set: {}", plan.options.contexts.join(","));
    }
    let mount = plan.builder.start().map_err(Failure::run_time)?;
    if let Some(propagation) = plan.options.propagation {
        if let Err(error) = rustix::mount::mount_change(&plan.mountpoint, propagation) {
            tracing::warn!("propagation stays as it is: {}", errno_text(error));
        }
    }
    Ok((mount, signals))
}

fn serve(mount: Mount, signals: Signals) -> Result<(), Failure> {
    daemon::serve(mount, signals).map_err(|error| {
        Failure::run_time(format!("the connection to the kernel broke: {}", errno_text(error)))
    })
}

fn plan(options: Options, call: &MountCall) -> Result<Plan, Failure> {
    if options.lowers.is_empty() && options.upper.is_none() {
        return Err(Failure::usage(
            "nothing to mount: give lowerdir=, upperdir=, or a source that holds 'lower' and 'upper'",
        ));
    }
    let config = absolute(options.config())?;
    for lower in &config.lowers {
        preflight::directory("lowerdir", lower)?;
    }
    if let Some(upper) = &config.upper {
        preflight::directory("upperdir", upper)?;
    }
    if config.upper.is_none() && config.medium != Medium::OwnFile {
        let line = "medium= is for changes, and without upperdir= the mount is read-only: name one";
        return Err(Failure::run_time(line.to_owned()));
    }
    let mountpoint = preflight::mountpoint(&call.mountpoint)?;
    preflight::fuse_device()?;
    let source = options.fsname.clone().or_else(|| call.source.clone());
    let source = source.unwrap_or_else(|| OsString::from(DEFAULT_SOURCE));
    let settings = settings::of(&options, source, config.upper.is_none());
    let builder = Mount::builder(config, &mountpoint).settings(settings);
    builder.check().map_err(Failure::run_time)?;
    Ok(Plan { options, builder, mountpoint })
}

/// The daemon leaves the directory that it was started in.
fn absolute(mut config: Config) -> Result<Config, Failure> {
    let make = |path: &Path| {
        std::path::absolute(path)
            .map_err(|error| Failure::run_time(format!("{}: {error}", path.display())))
    };
    config.lowers = config.lowers.iter().map(|path| make(path)).collect::<Result<_, _>>()?;
    config.upper = config.upper.as_deref().map(make).transpose()?;
    if let Medium::Dir(dir) = &config.medium {
        preflight::directory("medium=dir:", dir)?;
        config.medium = Medium::Dir(make(dir)?);
    }
    Ok(config)
}
