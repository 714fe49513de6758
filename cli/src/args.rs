//! The command line's forms and what clap makes of them.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use clap::error::ErrorKind;
use clap::{ArgAction, Args, Parser, Subcommand};

use crate::failure::Failure;

/// How a command line was called, and with what.
#[derive(Debug)]
pub enum Call {
    Mount(MountCall),
    Run(RunArgs),
    Usage(InspectArgs),
    Check(CheckArgs),
    Unmount(UnmountCall),
    /// Text for stdout: help or the version.
    Print(String),
}

/// A request to mount, from whichever form.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct MountCall {
    pub foreground: bool,
    /// Called by an engine or by mount(8), which may pass options that are none of ours.
    pub tolerant: bool,
    /// Everything but the mount itself.
    pub fake: bool,
    pub log: Option<PathBuf>,
    pub options: Vec<OsString>,
    pub source: Option<OsString>,
    pub mountpoint: PathBuf,
}

/// A request to unmount, as umount(8) makes it of its helpers.
#[derive(Debug, PartialEq, Eq)]
pub struct UnmountCall {
    pub target: PathBuf,
    pub lazy: bool,
    pub force: bool,
    /// Remount read-only where it is in use.
    pub or_read_only: bool,
}

#[derive(Parser, Debug)]
#[command(
    name = "overcoat",
    version,
    about = "A writable layer in memory over read-only directories, with all file data in one sparse file",
    override_usage = "overcoat mount [-f] [-o OPTIONS]... [SOURCE] MOUNTPOINT\n       \
                      overcoat -o OPTIONS [SOURCE] MOUNTPOINT\n       \
                      overcoat run [--lower DIR]... [--keep DIR] [--size SIZE] [-- COMMAND...]\n       \
                      overcoat usage|check ...",
    after_help = "Unmount with 'umount MOUNTPOINT' or 'fusermount3 -u MOUNTPOINT'.\n\
                  All options of -o are in overcoat(1)."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Mount layers at a directory; returns when the mount answers
    #[command(
        after_help = MOUNT_HELP,
        override_usage = "overcoat mount [-f] [--log FILE] [-o OPTIONS]... [SOURCE] MOUNTPOINT"
    )]
    Mount(MountArgs),
    /// Run a command in a throw-away view of a root directory, and tell what it changed
    #[command(
        after_help = RUN_HELP,
        override_usage = "overcoat run [--lower DIR]... [--keep DIR] [--size SIZE] [-- COMMAND...]"
    )]
    Run(RunArgs),
    /// Show how much space on the host an upper directory's changes take
    Usage(InspectArgs),
    /// Verify a filestore that is not mounted; exit code 1 if it is damaged
    Check(CheckArgs),
}

const MOUNT_HELP: &str = "Options of -o (all of them in overcoat(1)):
  lowerdir=A:B:C            read-only layers, the leftmost on top
  upperdir=DIR              where changes are kept; without it the mount is read-only
  medium=self|dir=D|memory  the file that holds all changes: in upperdir (the default, kept
                            over an unmount), unlinked in D, or in memory (both gone then)
  size=N, nr_inodes=N       limits of what changes may take (k, m, g, t)
  volatile                  fsync returns at once
  transport=auto|uring|dev  how requests travel; auto takes io_uring where it can be had
  ro, nodev, nosuid, noexec, noatime ...    as mount(8)

Example: overcoat mount -o lowerdir=/srv/base,upperdir=/srv/changes /mnt";

const RUN_HELP: &str = "\
The view shows / (or the layers given) as it is; whatever COMMAND changes in it stays in the view.
When COMMAND ends, what it changed is listed on stderr (+ added, ~ modified, - deleted; twenty names
of each) and forgotten, unless --keep is given. The exit code is COMMAND's. This is a view of files
and no sandbox: /dev, /proc and /sys, the network and the host name are the machine's own.

Example: overcoat run -- sh -c 'rm -rf /usr/share; echo hello >/etc/motd'";

#[derive(Args, Debug)]
struct MountArgs {
    /// Stay in the foreground; log to stderr
    #[arg(short, long)]
    foreground: bool,
    /// Comma-separated mount options; may be repeated
    #[arg(short, value_name = "OPTIONS", action = ArgAction::Append)]
    options: Vec<OsString>,
    /// Append log lines to FILE instead of sending them to the system log
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// Where to mount. SOURCE is the name that findmnt(8) shows [default: overcoat]; without
    /// lowerdir= and upperdir=, a SOURCE directory gives its 'lower' and 'upper' as these
    #[arg(value_name = "[SOURCE] MOUNTPOINT", num_args = 1..=2, required = true)]
    places: Vec<OsString>,
}

/// The bare form: what engines call as a mount program.
#[derive(Parser, Debug)]
#[command(name = "overcoat", version, disable_help_flag = true)]
struct Bare {
    #[command(flatten)]
    mount: MountArgs,
    /// Accepted for callers which pass it
    #[arg(short, long)]
    debug: bool,
}

/// The form in which mount(8) calls its helpers.
#[derive(Parser, Debug)]
#[command(name = "mount.fuse.overcoat", version)]
struct Helper {
    source: OsString,
    mountpoint: PathBuf,
    #[arg(short, value_name = "OPTIONS", action = ArgAction::Append)]
    options: Vec<OsString>,
    /// Tolerate unknown options (always so)
    #[arg(short)]
    sloppy: bool,
    /// Do everything but the mount
    #[arg(short)]
    fake: bool,
    /// Accepted: there is no mtab to leave alone
    #[arg(short)]
    no_mtab: bool,
    #[arg(short)]
    verbose: bool,
    /// The type and subtype
    #[arg(short, value_name = "TYPE")]
    type_name: Option<OsString>,
    #[arg(short = 'N', value_name = "NAMESPACE", hide = true)]
    namespace: Option<OsString>,
}

/// The form in which umount(8) calls its helpers.
#[derive(Parser, Debug)]
#[command(name = "umount.fuse.overcoat", version)]
struct UnmountHelper {
    target: PathBuf,
    /// Detach it now; it ends when its last user leaves
    #[arg(short)]
    lazy: bool,
    /// End it although it is in use
    #[arg(short)]
    force: bool,
    /// Remount it read-only where it is in use
    #[arg(short)]
    read_only: bool,
    /// Accepted: there is no mtab to leave alone
    #[arg(short)]
    no_mtab: bool,
    #[arg(short)]
    verbose: bool,
    /// The type and subtype
    #[arg(short, value_name = "TYPE")]
    type_name: Option<OsString>,
    #[arg(short = 'N', value_name = "NAMESPACE", hide = true)]
    namespace: Option<OsString>,
}

#[derive(Args, Debug)]
pub struct RunArgs {
    /// A layer of the root that the command sees; the first one is on top [default: /]
    #[arg(long = "lower", value_name = "DIR")]
    pub lowers: Vec<PathBuf>,
    /// Keep what changed in DIR; a later run with the same DIR goes on
    #[arg(long, value_name = "DIR")]
    pub keep: Option<PathBuf>,
    /// Let changes take at most SIZE bytes (k, m, g, t)
    #[arg(long, value_name = "SIZE")]
    pub size: Option<String>,
    /// The command [default: $SHELL, or /bin/sh]
    #[arg(value_name = "COMMAND", last = true)]
    pub command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub struct InspectArgs {
    /// An upper directory, or the filestore in it
    pub place: PathBuf,
}

#[derive(Args, Debug)]
pub struct CheckArgs {
    /// A filestore, or the upper directory that holds one
    pub file: PathBuf,
}

const SUBCOMMANDS: &[&str] = &["mount", "run", "usage", "check", "help"];

/// Reads a command line, `argv[0]` included.
pub fn parse(argv: Vec<OsString>) -> Result<Call, Failure> {
    if called_as(argv.first(), &["mount.fuse.overcoat", "mount.overcoat"]) {
        return parse_helper(argv);
    }
    if called_as(argv.first(), &["umount.fuse.overcoat", "umount.overcoat"]) {
        return parse_unmount_helper(argv);
    }
    match argv.get(1) {
        None => Err(Failure::usage("nothing to do (see overcoat --help)")),
        Some(first) if is_general(first) => parse_general(argv),
        Some(_) => match Bare::try_parse_from(&argv) {
            Ok(bare) if bare.mount.options.is_empty() && !is_place(&argv[1]) => {
                Err(Failure::usage(format!(
                    "no command '{}' (see overcoat --help)",
                    argv[1].to_string_lossy()
                )))
            }
            Ok(bare) => mount_call(bare.mount, true).map(Call::Mount),
            Err(error) => from_clap(&error),
        },
    }
}

/// A subcommand, or a question about the program as a whole.
fn is_general(first: &OsStr) -> bool {
    matches!(first.to_str(), Some("-h" | "--help")) || SUBCOMMANDS.iter().any(|name| first == *name)
}

/// Whether a first argument can be what a bare mount begins with, rather than a command misspelt.
fn is_place(first: &OsStr) -> bool {
    let bytes = first.as_encoded_bytes();
    bytes.starts_with(b"-") || bytes.contains(&b'/') || Path::new(first).exists()
}

fn called_as(name: Option<&OsString>, helpers: &[&str]) -> bool {
    let name = name.map(Path::new).and_then(Path::file_name);
    name.is_some_and(|name| helpers.iter().any(|helper| name == *helper))
}

fn parse_unmount_helper(argv: Vec<OsString>) -> Result<Call, Failure> {
    match UnmountHelper::try_parse_from(argv) {
        Ok(helper) => Ok(Call::Unmount(UnmountCall {
            target: helper.target,
            lazy: helper.lazy,
            force: helper.force,
            or_read_only: helper.read_only,
        })),
        Err(error) => from_clap(&error),
    }
}

fn parse_general(argv: Vec<OsString>) -> Result<Call, Failure> {
    let run = argv.get(1).is_some_and(|first| first == "run");
    match Cli::try_parse_from(argv) {
        Ok(Cli { command: Command::Mount(args) }) => mount_call(args, false).map(Call::Mount),
        Ok(Cli { command: Command::Run(args) }) => Ok(Call::Run(args)),
        Ok(Cli { command: Command::Usage(args) }) => Ok(Call::Usage(args)),
        Ok(Cli { command: Command::Check(args) }) => Ok(Call::Check(args)),
        Err(error) if run && error.kind() == ErrorKind::UnknownArgument => from_clap(&error)
            .map_err(|failure| {
                Failure::usage(format!("{}; the command goes after '--'", failure.line()))
            }),
        Err(error) => from_clap(&error),
    }
}

fn parse_helper(argv: Vec<OsString>) -> Result<Call, Failure> {
    match Helper::try_parse_from(argv) {
        Ok(helper) => Ok(Call::Mount(MountCall {
            foreground: false,
            tolerant: true,
            fake: helper.fake,
            log: None,
            options: helper.options,
            source: Some(helper.source),
            mountpoint: helper.mountpoint,
        })),
        Err(error) => from_clap(&error),
    }
}

fn mount_call(args: MountArgs, tolerant: bool) -> Result<MountCall, Failure> {
    let mut places = args.places;
    let mountpoint = places.pop().ok_or_else(|| Failure::usage("no mountpoint given"))?;
    Ok(MountCall {
        foreground: args.foreground,
        tolerant,
        fake: false,
        log: args.log,
        options: args.options,
        source: places.pop(),
        mountpoint: mountpoint.into(),
    })
}

/// Help and version go to stdout; of an error the statement is kept, not the usage that follows it.
fn from_clap(error: &clap::Error) -> Result<Call, Failure> {
    if !error.use_stderr() {
        return Ok(Call::Print(error.render().to_string()));
    }
    let text = error.render().to_string();
    let statement: Vec<&str> =
        text.lines().map(str::trim).take_while(|line| !line.is_empty()).collect();
    let statement = statement.join(" ");
    let statement = statement.strip_prefix("error: ").unwrap_or(&statement);
    Err(Failure::usage(format!("{statement} (see overcoat --help)")))
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn call(words: &[&str]) -> Result<Call, Failure> {
        parse(words.iter().map(OsString::from).collect())
    }

    fn mount(words: &[&str]) -> MountCall {
        match call(words).unwrap() {
            Call::Mount(mount) => mount,
            other => panic!("not a mount: {other:?}"),
        }
    }

    #[test]
    fn the_forms_of_a_mount_agree() {
        let plain = mount(&["overcoat", "mount", "-o", "lowerdir=a", "-o", "ro", "src", "/mnt"]);
        assert_eq!(plain.options, ["lowerdir=a", "ro"]);
        assert_eq!(plain.source.as_deref(), Some(OsStr::new("src")));
        assert_eq!(plain.mountpoint, Path::new("/mnt"));
        assert!(!plain.tolerant && !plain.foreground);

        let containerd = mount(&["/usr/bin/overcoat", "src", "/mnt", "-o", "lowerdir=a", "-oro"]);
        assert_eq!(containerd, MountCall { tolerant: true, ..plain });

        let podman = mount(&["overcoat", "-o", "lowerdir=a,upperdir=b,", "/merged"]);
        assert_eq!((podman.source, podman.mountpoint), (None, "/merged".into()));
    }

    #[test]
    fn mount_8_calls_the_helper_with_the_options_last() {
        for name in ["/sbin/mount.fuse.overcoat", "mount.overcoat"] {
            let helper =
                mount(&[name, "/dir", "/mnt", "-n", "-s", "-v", "-t", "fuse.overcoat", "-o", "rw"]);
            assert_eq!(helper.source.as_deref(), Some(OsStr::new("/dir")));
            assert_eq!(helper.mountpoint, Path::new("/mnt"));
            assert!(helper.tolerant && !helper.fake && !helper.foreground);
            assert!(mount(&[name, "-f", "/dir", "/mnt"]).fake);
        }
    }

    #[test]
    fn umount_8_calls_the_helper_with_the_target_first() {
        let words = ["/sbin/umount.fuse.overcoat", "/mnt", "-n", "-l", "-v", "-t", "fuse.overcoat"];
        let Call::Unmount(helper) = call(&words).unwrap() else { panic!("not an unmount") };
        assert_eq!(helper.target, Path::new("/mnt"));
        assert!(helper.lazy && !helper.force && !helper.or_read_only);
        assert_eq!(call(&["umount.overcoat"]).unwrap_err().code(), 2);
    }

    #[test]
    fn a_command_keeps_its_own_options() {
        let Call::Run(run) =
            call(&["overcoat", "run", "--lower", "a", "--", "sh", "-c", "x"]).unwrap()
        else {
            panic!("not a run");
        };
        assert_eq!(run.command, ["sh", "-c", "x"]);
        assert_eq!(run.lowers, [Path::new("a")]);
    }

    #[test]
    fn errors_are_one_line() {
        for words in [
            &["overcoat"][..],
            &["overcoat", "mount"],
            &["overcoat", "mount", "--what", "/mnt"],
            &["overcoat", "mount", "a", "b", "c"],
            &["overcoat", "-o"],
            &["overcoat", "run", "ls"],
            &["mount.overcoat", "/dir"],
            &["overcoat", "check"],
        ] {
            let failure = call(words).unwrap_err();
            assert_eq!(failure.code(), 2, "{words:?}");
            assert!(!failure.line().contains(['\n', '?']), "{words:?}: {}", failure.line());
        }
    }

    #[test]
    fn the_manual_names_every_command_and_flag() {
        let page = include_str!("../../doc/overcoat.1").replace(r"\-", "-");
        for command in Cli::command().get_subcommands() {
            assert!(page.contains(&format!(".SS {}\n", command.get_name())), "{command}");
            for flag in command.get_arguments().filter_map(clap::Arg::get_long) {
                assert!(page.contains(&format!("--{flag}")), "{command} --{flag}");
            }
        }
    }

    #[test]
    fn the_version_is_the_first_line() {
        for words in [["overcoat", "--version"], ["mount.fuse.overcoat", "-V"]] {
            let Call::Print(text) = call(&words).unwrap() else { panic!("no text") };
            let version = concat!(" ", env!("CARGO_PKG_VERSION"));
            assert!(text.lines().next().is_some_and(|line| line.ends_with(version)), "{text}");
        }
    }
}
