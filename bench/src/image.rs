//! The read-only layers that views are mounted over, made once and kept.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};

use crate::{Result, tool};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Image {
    Empty,
    /// Just enough of a root for fsstress.
    Stress,
    /// A minimal Debian, with the packages that `apt` is to install in its cache.
    Base,
    /// That with the packages installed, sources to compile, a tree of 10,000 files, and wheels.
    Work,
    /// One file of 1 GiB, and a program.
    Big,
}

/// The files of the tree in `Image::Work`.
pub const TREE_FILES: usize = 10_000;
pub const PACKAGES: &str = "gcc libc6-dev git python3 python3-pip make";
/// Packages for pip, of what Python brings: the same everywhere, and nothing comes over the network.
const WHEELS: &str = r#"
import pathlib, sys, zipfile
library = pathlib.Path(f"/usr/lib/python{sys.version_info.major}.{sys.version_info.minor}")
for name in ("first", "second"):
    with zipfile.ZipFile(f"/srv/wheels/{name}-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        for source in sorted(library.rglob("*.py")):
            wheel.write(source, name / source.relative_to(library))
        about = f"{name}-1.0.dist-info/"
        wheel.writestr(about + "METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        wheel.writestr(about + "WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(about + "RECORD", "")
"#;

/// Where images are kept.
pub struct Images {
    dir: PathBuf,
    root: Option<PathBuf>,
    fsstress: Option<PathBuf>,
}

impl Images {
    /// Keeps images in `dir`. `root`: a Debian root in place of one made by debootstrap. `fsstress`: that program,
    /// in place of one found in `PATH`.
    pub fn new(dir: PathBuf, root: Option<PathBuf>, fsstress: Option<PathBuf>) -> Self {
        let fsstress = fsstress.or_else(|| tool::find("FSSTRESS", "fsstress").ok());
        Self { dir, root, fsstress }
    }

    /// The directory of an image, which is made where it is missing.
    pub fn get(&self, image: Image) -> Result<PathBuf> {
        let name = format!("{image:?}").to_lowercase();
        let (dir, complete) = (self.dir.join(&name), self.dir.join(format!("{name}.complete")));
        if image == Image::Stress || !complete.exists() {
            eprintln!("bench: making the image {name}");
            tool::shell("rm -rf \"$1\"; mkdir -p \"$1\"", &[&dir])?;
            self.make(image, &dir.canonicalize()?)?;
            File::create(complete)?;
            tool::settle(&self.dir)?;
        }
        Ok(dir.canonicalize()?)
    }

    fn make(&self, image: Image, dir: &Path) -> Result {
        match image {
            Image::Empty => Ok(()),
            Image::Stress => self.stress(dir),
            Image::Base => self.base(dir),
            Image::Work => self.work(dir),
            Image::Big => big(dir),
        }
    }

    fn stress(&self, dir: &Path) -> Result {
        let own = std::env::current_exe()?;
        let generator = self.fsstress.as_deref().unwrap_or(&own);
        let script = "cd \"$1\"; mkdir dev proc tmp; \
             for program in \"$2\" /bin/sh /bin/rm /bin/mkdir; do \
               for file in \"$program\" $(ldd \"$program\" | grep -o '/[^ ]*'); do \
                 mkdir -p \".${file%/*}\"; cp -L \"$file\" \".$file\"; \
               done; \
             done; cp -L \"$2\" generator";
        tool::shell(script, &[dir, generator])?;
        if self.fsstress.is_none() {
            File::create(dir.join("generator.own"))?;
        }
        Ok(())
    }

    fn base(&self, dir: &Path) -> Result {
        match &self.root {
            Some(root) => tool::shell("cp -a \"$2/.\" \"$1\"", &[dir, root])?,
            None => tool::shell("debootstrap --variant=minbase bookworm \"$1\" >&2", &[dir])?,
        };
        let script = format!(
            "chroot \"$1\" apt-get update; \
             chroot \"$1\" apt-get install -y --no-install-recommends --download-only {PACKAGES}"
        );
        tool::shell(&script, &[dir]).map(drop)
    }

    fn work(&self, dir: &Path) -> Result {
        let script = format!(
            "cp -a \"$2/.\" \"$1\"; mount -t proc proc \"$1/proc\"; trap 'umount \"$1/proc\"' EXIT; \
             DEBIAN_FRONTEND=noninteractive chroot \"$1\" \
               apt-get install -y --no-install-recommends {PACKAGES}; \
             chroot \"$1\" apt-get clean; mkdir \"$1/srv/wheels\"; chroot \"$1\" python3 -c '{WHEELS}'"
        );
        tool::shell(&script, &[dir, &self.get(Image::Base)?])?;
        sources(&dir.join("srv/src"))?;
        tree(&dir.join("srv/tree"))
    }
}

/// 120 C files and a Makefile.
fn sources(dir: &Path) -> Result {
    std::fs::create_dir_all(dir)?;
    for number in 0..120 {
        let mut text = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n".to_owned();
        for function in 0..20 {
            text += &format!(
                "int f{number}_{function}(const char *s, int n) {{\n  char b[64];\n  \
                 snprintf(b, sizeof b, \"%s %d\", s, n);\n  return (int)strlen(b) + atoi(s) * n;\n}}\n"
            );
        }
        std::fs::write(dir.join(format!("part{number}.c")), text)?;
    }
    let rules = "all: $(patsubst %.c,%.o,$(wildcard *.c))\n\tar rc all.a $^\n";
    Ok(std::fs::write(dir.join("Makefile"), rules)?)
}

/// Files of 0 to 24 KiB, most of them small, in directories of fifty.
fn tree(dir: &Path) -> Result {
    let mut noise = Noise(1);
    for directory in 0..TREE_FILES / 50 {
        let dir = dir.join(format!("group{}/part{directory}", directory % 12));
        std::fs::create_dir_all(&dir)?;
        for file in 0..50 {
            let length = noise.next() % 156 * (noise.next() % 157);
            let bytes: Vec<u8> = (0..length).map(|_| b"abcdefgh"[noise.next() % 8]).collect();
            std::fs::write(dir.join(format!("file{file}.txt")), bytes)?;
        }
    }
    Ok(())
}

fn big(dir: &Path) -> Result {
    let mut noise = Noise(2);
    let block: Vec<u8> = (0..1 << 20).map(|_| noise.next() as u8).collect();
    let mut file = File::create(dir.join("big"))?;
    for _ in 0..1024 {
        file.write_all(&block)?;
    }
    file.sync_all()?;
    tool::shell("cp -L /bin/true \"$1/true\"", &[dir]).map(drop)
}

/// Numbers that look random and are the same every time (SplitMix64).
pub struct Noise(pub u64);

impl Noise {
    pub fn next(&mut self) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed >> 33) as usize
    }
}
