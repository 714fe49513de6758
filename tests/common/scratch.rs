//! A directory below the target directory, gone at the end of a test.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

static COUNTER: AtomicU32 = AtomicU32::new(0);

/// A fresh directory on the host file system with `lower`, `upper`, `work` and `mnt` by convention.
/// It is removed on drop, unless the test panics: then it stays, for looking at.
pub struct Scratch {
    root: PathBuf,
}

impl Scratch {
    /// A fresh directory whose name starts with `name`.
    pub fn new(name: &str) -> Self {
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let root = base().join(format!("{name}.{}.{number}", std::process::id()));
        std::fs::create_dir_all(&root).unwrap();
        Self { root }
    }

    /// The directory itself.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path below it; nothing is created.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A directory below it, created when missing.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.root.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }

    /// The directory `lower`.
    pub fn lower(&self) -> PathBuf {
        self.dir("lower")
    }

    /// The directory `upper`.
    pub fn upper(&self) -> PathBuf {
        self.dir("upper")
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("left for looking at: {}", self.root.display());
        } else {
            crate::mount::unmount_below(&self.root);
            if let Err(error) = std::fs::remove_dir_all(&self.root) {
                eprintln!("cannot remove {}: {error}", self.root.display());
            }
        }
    }
}

/// Where scratch directories live: `OVERCOAT_TEST_DIR`, or `test-scratch` in the target directory.
pub fn base() -> PathBuf {
    match std::env::var_os("OVERCOAT_TEST_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => crate::tool::target_dir().join("test-scratch"),
    }
}
