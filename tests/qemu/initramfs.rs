//! The guest's root: busybox, the program under test, the guest's own programs, and their libraries.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use overcoat_tests::tool;

use crate::kernels::Kernel;

/// The guest's init: it inserts the modules, mounts the disk and hands over to `overcoat-guest`.
const INIT: &[u8] = include_bytes!("init.sh");

/// A cpio archive in the making (format `newc`).
#[derive(Debug, Default)]
pub struct Archive {
    bytes: Vec<u8>,
    entries: u32,
    directories: BTreeSet<PathBuf>,
}

const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

impl Archive {
    /// What every guest needs, with the modules of `kernel`.
    pub fn for_guest(kernel: &Kernel) -> Self {
        let mut archive = Self::default();
        archive.file("init", INIT);
        for directory in ["proc", "sys", "dev", "tmp", "disk", "bin", "modules", "root", "etc"] {
            archive.directory(Path::new(directory));
        }
        archive.file("etc/passwd", b"root:x:0:0::/root:/bin/sh\n");
        archive.file("etc/group", b"root:x:0:\n");
        let busybox = tool::find("busybox").unwrap();
        archive.file("bin/busybox", &std::fs::read(busybox).unwrap());
        for module in &kernel.modules {
            let name = module.file_name().unwrap().to_str().unwrap();
            archive.file(&format!("modules/{name}"), &std::fs::read(module).unwrap());
        }
        archive.program("bin/overcoat", tool::overcoat());
        archive.program("bin/overcoat-guest", Path::new(env!("CARGO_BIN_EXE_overcoat-guest")));
        archive
    }

    /// A program, and the libraries that it is linked with at the paths where the host has them.
    pub fn program(&mut self, name: &str, program: &Path) {
        self.file(name, &std::fs::read(program).unwrap());
        let libraries = tool::output(Command::new("ldd").arg(program));
        for line in String::from_utf8_lossy(&libraries.stdout).lines() {
            let words = line.split_whitespace().filter(|word| word.starts_with('/'));
            for library in words.map(Path::new) {
                let name = library.strip_prefix("/").unwrap();
                if self.directories.insert(name.to_owned()) {
                    self.file(name.to_str().unwrap(), &std::fs::read(library).unwrap());
                }
            }
        }
    }

    /// An executable file.
    pub fn file(&mut self, name: &str, data: &[u8]) {
        let name = Path::new(name);
        self.directory(name.parent().unwrap());
        self.entry(name, PROGRAM, data);
    }

    fn directory(&mut self, name: &Path) {
        if name.as_os_str().is_empty() || !self.directories.insert(name.to_owned()) {
            return;
        }
        self.directory(name.parent().unwrap());
        self.entry(name, DIRECTORY, &[]);
    }

    fn entry(&mut self, name: &Path, mode: u32, data: &[u8]) {
        let name = name.to_str().unwrap();
        self.entries += 1;
        let size = u32::try_from(data.len()).unwrap();
        let name_size = u32::try_from(name.len()).unwrap() + 1;
        let links = if mode == DIRECTORY { 2 } else { 1 };
        let fields = [self.entries, mode, 0, 0, links, 0, size, 0, 0, 0, 0, name_size, 0]
            .map(|field| format!("{field:08x}"));
        self.bytes.extend_from_slice(format!("070701{}{name}\0", fields.concat()).as_bytes());
        self.pad();
        self.bytes.extend_from_slice(data);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }

    /// Writes the archive.
    pub fn write(mut self, path: &Path) {
        self.entry(Path::new("TRAILER!!!"), 0, &[]);
        std::fs::write(path, &self.bytes).unwrap();
    }
}
