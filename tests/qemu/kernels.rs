//! Debian's kernels: downloaded as packages, unpacked below the target directory, never installed.
//!
//! The packages come from the Debian mirror that this machine's apt is set up with, by way of an apt
//! configuration of their own (sources, lists and cache below the target directory).

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use overcoat_tests::tool;

/// A kernel series, and the Debian suite that has it.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// The beginning of the version: `6.1` is every 6.1.x.
    pub version: &'static str,
    suite: &'static str,
}

/// The series that are tested, the oldest first.
pub const ALL: [Series; 4] = [
    Series { version: "5.10", suite: "bullseye" },
    Series { version: "6.1", suite: "bookworm" },
    Series { version: "6.12", suite: "trixie" },
    Series { version: "7", suite: "sid" },
];

/// Modules that the guests use. Those that are built into a kernel need no file.
const MODULES: [&str; 6] = ["virtio_pci", "virtio_blk", "fuse", "xfs", "loop", "overlay"];

/// An unpacked kernel.
#[derive(Debug)]
pub struct Kernel {
    /// Its release, as `uname -r` has it.
    pub release: String,
    /// What qemu boots.
    pub image: PathBuf,
    /// Uncompressed modules, in the order in which they can be inserted.
    pub modules: Vec<PathBuf>,
}

impl Series {
    /// The newest kernel of the series. It is downloaded unless that has been done before.
    ///
    /// # Errors
    /// Why it cannot be had, in one line or a few.
    pub fn get(self) -> Result<Kernel, String> {
        let place = tool::target_dir().join("qemu").join(self.version);
        let unpacked = place.join("kernel");
        if !unpacked.exists() {
            let packages = Packages::of(self.suite, &place.join("apt"))?;
            let fresh = place.join("kernel.new");
            remove(&fresh)?;
            packages.unpack(self.version, &fresh)?;
            std::fs::rename(&fresh, &unpacked).map_err(|error| error.to_string())?;
            remove(&place.join("apt"))?;
        }
        read_back(&unpacked).map_err(|error| format!("{}: {error}", unpacked.display()))
    }
}

fn remove(directory: &Path) -> Result<(), String> {
    match std::fs::remove_dir_all(directory) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(format!("{}: {error}", directory.display()))
        }
        _ => Ok(()),
    }
}

fn read_back(unpacked: &Path) -> std::io::Result<Kernel> {
    let entries = unpacked.join("modules").read_dir()?;
    let mut modules =
        entries.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<PathBuf>>>()?;
    modules.sort();
    let release = std::fs::read_to_string(unpacked.join("release"))?;
    Ok(Kernel { release, image: unpacked.join("vmlinuz"), modules })
}

/// An apt configuration that knows one suite of the machine's Debian mirror.
struct Packages {
    place: PathBuf,
}

impl Packages {
    fn of(suite: &str, place: &Path) -> Result<Self, String> {
        let make = |directory: &str| std::fs::create_dir_all(place.join(directory));
        make("state/lists/partial")
            .and_then(|()| make("cache/archives/partial"))
            .and_then(|()| std::fs::write(place.join("status"), ""))
            .and_then(|()| {
                std::fs::write(
                    place.join("sources.list"),
                    format!("deb {} {suite} main\n", mirror()?),
                )
            })
            .map_err(|error| error.to_string())?;
        let packages = Self { place: place.to_owned() };
        packages.apt("apt-get", &["-q", "update"])?;
        Ok(packages)
    }

    /// Runs a program of apt with this configuration.
    fn apt(&self, program: &str, arguments: &[&str]) -> Result<String, String> {
        let path = |name: &str| self.place.join(name).display().to_string();
        let mut command = Command::new(program);
        command.current_dir(&self.place);
        for option in [
            format!("Dir::State={}", path("state")),
            format!("Dir::State::status={}", path("status")),
            format!("Dir::Cache={}", path("cache")),
            format!("Dir::Etc::SourceList={}", path("sources.list")),
            "Dir::Etc::SourceParts=-".into(),
            "APT::Architecture=amd64".into(),
            "APT::Architectures=amd64".into(),
            "APT::Sandbox::User=root".into(),
            "Acquire::Languages=none".into(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".into(),
            // An old suite is not signed again.
            "Acquire::Check-Valid-Until=false".into(),
        ] {
            command.arg("-o").arg(option);
        }
        run(command.args(arguments))
    }

    /// Downloads the newest kernel of a series and lays what is needed of it into `place`.
    fn unpack(&self, version: &str, place: &Path) -> Result<(), String> {
        let names = self.apt("apt-cache", &["pkgnames", "linux-"])?;
        let names: BTreeSet<&str> = names.lines().collect();
        let begin = format!("linux-image-{version}.");
        let newest = names
            .iter()
            .filter(|name| name.starts_with(&begin) && name.ends_with("-cloud-amd64"))
            .max_by_key(|name| numbers(name))
            .ok_or_else(|| format!("the mirror has no {begin}*-cloud-amd64"))?;
        let release = &newest["linux-image-".len()..];
        // Newer Debian has the kernel and its modules in packages of their own.
        for part in ["image", "binary", "modules"] {
            let package = format!("linux-{part}-{release}");
            if names.contains(package.as_str()) {
                self.apt("apt-get", &["-q", "download", &package])?;
            }
        }
        let root = self.place.join("root");
        for entry in self.place.read_dir().map_err(|error| error.to_string())? {
            let file = entry.map_err(|error| error.to_string())?.path();
            if file.extension().is_some_and(|extension| extension == "deb") {
                run(Command::new("dpkg-deb").arg("-x").arg(&file).arg(&root))?;
            }
        }
        select(&root, release, place).map_err(|error| format!("{newest}: {error}"))
    }
}

/// The numbers in a version, for comparing.
fn numbers(version: &str) -> Vec<u64> {
    version
        .split(|letter: char| !letter.is_ascii_digit())
        .filter_map(|digits| digits.parse().ok())
        .collect()
}

/// The Debian mirror of this machine: where its own release comes from.
fn mirror() -> std::io::Result<String> {
    let about = std::fs::read_to_string("/etc/os-release")?;
    let codename = about
        .lines()
        .find_map(|line| line.strip_prefix("VERSION_CODENAME="))
        .ok_or_else(|| std::io::Error::other("/etc/os-release names no release"))?;
    let format = "$(REPO_URI) $(RELEASE) $(COMPONENT)";
    let targets = run(Command::new("apt-get").args([
        "indextargets",
        "--format",
        format,
        "Created-By: Packages",
    ]))
    .map_err(std::io::Error::other)?;
    let end = format!(" {codename} main");
    targets
        .lines()
        .find_map(|line| line.strip_suffix(&end))
        .map(str::to_owned)
        .ok_or_else(|| std::io::Error::other(format!("apt has no mirror for{end}")))
}

fn run(command: &mut Command) -> Result<String, String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("{program}: {error}"))?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    if output.status.success() {
        return Ok(printed);
    }
    let errors = String::from_utf8_lossy(&output.stderr);
    Err(format!("{program}: {}: {errors}", output.status))
}

/// Copies image and modules out of the unpacked packages.
fn select(root: &Path, release: &str, place: &Path) -> std::io::Result<()> {
    let boot = format!("boot/vmlinuz-{release}");
    let merged = format!("usr/lib/modules/{release}");
    let candidates = [root.join(boot), root.join(&merged).join("vmlinuz")];
    let image = candidates.iter().find(|path| path.exists());
    let image = image.ok_or_else(|| std::io::Error::other("no vmlinuz in it"))?;
    let tree = [root.join(&merged), root.join(format!("lib/modules/{release}"))];
    let tree = tree.iter().find(|path| path.join("kernel").exists());
    let tree = tree.ok_or_else(|| std::io::Error::other("no modules in it"))?;

    std::fs::create_dir_all(place.join("modules"))?;
    std::fs::write(place.join("release"), release)?;
    std::fs::copy(image, place.join("vmlinuz"))?;
    let mut files = BTreeMap::new();
    index_modules(tree, &mut files)?;
    let mut chosen = Chosen { files, done: BTreeSet::new(), place: place.join("modules") };
    MODULES.iter().try_for_each(|module| chosen.take(module))
}

/// Finds all module files below `directory`, by the names that modules call each other by.
fn index_modules(directory: &Path, files: &mut BTreeMap<String, PathBuf>) -> std::io::Result<()> {
    for entry in directory.read_dir()? {
        let path = entry?.path();
        if path.is_dir() && !path.is_symlink() {
            index_modules(&path, files)?;
        } else if let Some((name, _)) =
            path.file_name().and_then(|name| name.to_str()?.split_once(".ko"))
        {
            files.insert(name.replace('-', "_"), path);
        }
    }
    Ok(())
}

/// Modules on their way into the initramfs.
struct Chosen {
    files: BTreeMap<String, PathBuf>,
    done: BTreeSet<String>,
    place: PathBuf,
}

impl Chosen {
    /// Takes a module, after those that it depends on.
    fn take(&mut self, module: &str) -> std::io::Result<()> {
        if !self.done.insert(module.to_owned()) {
            return Ok(());
        }
        // What has no file is built into the kernel.
        let Some(file) = self.files.get(module) else { return Ok(()) };
        let code = uncompressed(file)?;
        for needed in dependencies(&code) {
            self.take(&needed)?;
        }
        let number = self.place.read_dir()?.count();
        std::fs::write(self.place.join(format!("{number:02}-{module}.ko")), code)
    }
}

fn uncompressed(file: &Path) -> std::io::Result<Vec<u8>> {
    let program = match file.extension().and_then(|extension| extension.to_str()) {
        Some("xz") => "xz",
        Some("zst") => "zstd",
        Some("gz") => "gzip",
        _ => return std::fs::read(file),
    };
    let output = Command::new(program).arg("-dc").arg(file).stdin(Stdio::null()).output()?;
    if !output.status.success() {
        return Err(std::io::Error::other(format!("{program} -dc {}: failed", file.display())));
    }
    Ok(output.stdout)
}

/// The modules that a module names in its `depends=` line.
fn dependencies(code: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(at) = code.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let list = code[at + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    String::from_utf8_lossy(list)
        .split(',')
        .filter(|name| !name.is_empty())
        .map(|name| name.replace('-', "_"))
        .collect()
}
