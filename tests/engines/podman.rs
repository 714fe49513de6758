//! A podman of its own: storage, locks, events and state lie in a scratch directory.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use overcoat_tests::tool::Outcome;
use overcoat_tests::{Scratch, fsx, mount, tool};
use rustix::process::{Pid, Resource, getrlimit};

use crate::image;

/// How long one call of podman may take.
const LIMIT: Duration = Duration::from_secs(120);

/// podman with Overcoat as its `mount_program`.
pub struct Podman {
    root: PathBuf,
    /// podman takes no more than 50 characters for the directory of what need not outlive the machine's run.
    run: PathBuf,
}

impl Podman {
    /// One with the test image loaded; `None` where podman is not installed.
    pub fn with_image(scratch: &Scratch) -> Option<Self> {
        let programs = [&["podman", "conmon", "runc"], image::PROGRAMS].concat();
        if !overcoat_tests::have(&programs) {
            return None;
        }
        let root = scratch.dir("p");
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let run = PathBuf::from(format!("/run/overcoat-test.{}.{number}", std::process::id()));
        fsx::mkdir(&run);
        fsx::write(root.join("storage.conf"), storage_conf(&root, &run));
        fsx::write(root.join("containers.conf"), containers_conf(&root));
        let podman = Self { root, run };
        let archive = image::archive(scratch);
        podman.run(&["load", "-q", "-i", archive.to_str().unwrap()]);
        Some(podman)
    }

    /// Runs `podman ARGS` and gives what it printed, without the last line's end.
    ///
    /// # Panics
    /// When it fails.
    #[track_caller]
    pub fn run(&self, args: &[&str]) -> String {
        let outcome = self.outcome(args);
        assert_eq!(outcome.code, Some(0), "podman {args:?}: {outcome:?}");
        outcome.stdout.trim_end().to_owned()
    }

    /// Runs `podman ARGS`.
    pub fn outcome(&self, args: &[&str]) -> Outcome {
        let mut command = Command::new("podman");
        command.env("CONTAINERS_STORAGE_CONF", self.root.join("storage.conf"));
        command.env("CONTAINERS_CONF", self.root.join("containers.conf"));
        tool::run_limited(command.args(args), LIMIT)
    }

    /// Runs a shell script in the running container `name`.
    #[track_caller]
    pub fn exec(&self, name: &str, script: &str) -> String {
        self.run(&["exec", name, "sh", "-ec", script])
    }

    /// What `podman diff` says of what the test does: podman itself makes some files in `/etc` and `/run`.
    #[track_caller]
    pub fn diff(&self, name: &str) -> Vec<String> {
        let own = ["/etc", "/run", "/dev", "/proc", "/sys"];
        let is_own = |line: &&str| own.iter().any(|dir| line[2..].starts_with(dir));
        let said = self.run(&["container", "diff", name]);
        let mut lines: Vec<String> =
            said.lines().filter(|line| !is_own(line)).map(str::to_owned).collect();
        lines.sort();
        lines
    }

    /// The daemons that serve its containers.
    pub fn daemons(&self) -> Vec<Pid> {
        tool::processes(tool::overcoat(), &self.root)
    }

    /// Removes all images and asserts that neither a mount nor a process nor a layer is left.
    pub fn assert_nothing_left(&self) {
        self.assert_no_container_left();
        self.run(&["rmi", "--all"]);
        let storage = self.storage();
        assert_eq!(fsx::names(&storage), [".has-mount-program", "l"]);
        assert!(fsx::names(storage.join("l")).is_empty());
    }

    /// Asserts that no container is left, nor a mount or a process of one.
    pub fn assert_no_container_left(&self) {
        tool::eventually("the end of all containers", LIMIT, || {
            self.run(&["ps", "-aq"]).is_empty()
        });
        // podman mounts its storage on itself while it is in use.
        let mut mounts = mount::mounts_below(&self.root);
        mounts.retain(|point| *point != self.storage());
        assert!(mounts.is_empty(), "{mounts:?}");
        for program in ["conmon", "runc"] {
            let program = tool::find(program).unwrap();
            tool::eventually("the end of all of the engine's processes", LIMIT, || {
                tool::processes(&program, &self.root).is_empty()
            });
        }
        tool::eventually("the end of all daemons", LIMIT, || self.daemons().is_empty());
    }

    /// Where the layers are.
    pub fn storage(&self) -> PathBuf {
        self.root.join("graph/overlay")
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // Containers, where a test failed while it had some.
        if std::thread::panicking() {
            self.outcome(&["rm", "--all", "--force", "--time", "0"]);
        }
        for dir in [&self.run, &self.root] {
            mount::unmount_below(dir);
        }
        if let Err(error) = std::fs::remove_dir_all(&self.run) {
            eprintln!("cannot remove {}: {error}", self.run.display());
        }
    }
}

fn storage_conf(root: &Path, run: &Path) -> String {
    format!(
        "[storage]\ndriver = \"overlay\"\nrunroot = \"{run}\"\ngraphroot = \"{root}/graph\"\n\
         [storage.options.overlay]\nmount_program = \"{program}\"\n",
        root = root.display(),
        run = run.display(),
        program = tool::overcoat().display()
    )
}

/// Works without CAP_SYS_RESOURCE, a network, systemd, and beside any other podman.
fn containers_conf(root: &Path) -> String {
    // Within the limits of whoever runs the tests; podman lowers its own number of processes to the kernel's.
    let limit = |resource, most| getrlimit(resource).maximum.map_or(most, |limit| limit.min(most));
    let (files, processes) = (limit(Resource::Nofile, 1 << 20), limit(Resource::Nproc, 1 << 15));
    format!(
        "[containers]\nnetns = \"none\"\n\
         default_ulimits = [\"nofile={files}:{files}\", \"nproc={processes}:{processes}\"]\n\
         [engine]\nruntime = \"runc\"\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n\
         lock_type = \"file\"\ntmp_dir = \"{root}/tmp\"\n",
        root = root.display()
    )
}
