//! A small ext4 of its own, on a loop device.

use std::path::{Path, PathBuf};

use rustix::mount::{MountFlags, UnmountFlags};

use crate::{Scratch, tool};

/// A small file system; taken away on drop.
pub struct Disk {
    point: PathBuf,
    /// The tmpfs that holds the image, if that is in memory.
    memory: Option<PathBuf>,
}

impl Disk {
    /// A disk of that many MiB at `disk` in the scratch directory, its image on the host's disk.
    pub fn on_disk(scratch: &Scratch, mib: u64) -> Self {
        Self { point: make(&scratch.path("disk.img"), scratch, mib), memory: None }
    }

    /// The same with its image in memory, so that syncs cost nothing.
    pub fn in_memory(scratch: &Scratch, mib: u64) -> Self {
        let memory = scratch.dir("memory");
        rustix::mount::mount("tmpfs", &memory, "tmpfs", MountFlags::empty(), None).unwrap();
        Self { point: make(&memory.join("disk.img"), scratch, mib), memory: Some(memory) }
    }

    /// Its root.
    pub fn root(&self) -> &Path {
        &self.point
    }

    /// A directory on it, created when missing.
    pub fn dir(&self, name: &str) -> PathBuf {
        let path = self.point.join(name);
        std::fs::create_dir_all(&path).unwrap();
        path
    }
}

fn make(image: &Path, scratch: &Scratch, mib: u64) -> PathBuf {
    std::fs::File::create(image).unwrap().set_len(mib << 20).unwrap();
    // Blocks of 4 KiB, which mkfs gives only larger disks by itself, so that holes are as elsewhere.
    let options = ["-qF", "-b4096", "-O^has_journal"].map(std::ffi::OsStr::new);
    tool::run("mkfs.ext4", &[&options[..], &[image.as_os_str()]].concat());
    let point = scratch.dir("disk");
    tool::run("mount", &["-oloop".as_ref(), image.as_os_str(), point.as_os_str()]);
    point
}

impl Drop for Disk {
    fn drop(&mut self) {
        for point in std::iter::once(&self.point).chain(&self.memory) {
            if let Err(error) = rustix::mount::unmount(point, UnmountFlags::DETACH) {
                eprintln!("umount {}: {error}", point.display());
            }
        }
    }
}
