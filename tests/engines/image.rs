//! A small image made without a registry: busybox, some files, and both kinds of whiteout.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use overcoat_tests::{Scratch, fsx, tool};

/// What it is called once loaded.
pub const NAME: &str = "localhost/overcoat-test:1";

/// What it takes to make one.
pub const PROGRAMS: &[&str] = &["busybox", "umoci", "skopeo"];

/// The programs that busybox is linked as.
const APPLETS: &[&str] = &[
    "cat", "chmod", "echo", "find", "ln", "ls", "mkdir", "mv", "rm", "sh", "sleep", "stat", "sync",
];

/// The archive of an image of three layers, for `podman load`. Its view:
///
/// | path | what |
/// |---|---|
/// | `/data/kept` | of the lowest layer |
/// | `/data/opaque/new` | in a directory that hides `old` of the lowest layer |
/// | `/data/gone` | whited out by the topmost layer |
/// | `/dir/a`, `/dir/b` | of the lowest layer |
pub fn archive(scratch: &Scratch) -> PathBuf {
    let layout = scratch.path("layout");
    let base = base(scratch);
    let opaque = scratch.dir("image-opaque");
    fsx::write(opaque.join("new"), "new\n");
    umoci(&["init", "--layout"], &layout, &[]);
    let image = tagged(&layout);
    umoci(&["new", "--image"], &image, &[]);
    umoci(&["insert", "--image"], &image, &[base.as_path(), "/".as_ref()]);
    umoci(&["insert", "--image"], &image, &["--opaque".as_ref(), &opaque, "/data/opaque".as_ref()]);
    umoci(&["insert", "--image"], &image, &["--whiteout".as_ref(), "/data/gone".as_ref()]);
    let archive = scratch.path("image.tar");
    let mut source = OsString::from("oci:");
    source.push(&image);
    let mut target = OsString::from("oci-archive:");
    target.push(&archive);
    target.push(format!(":{NAME}"));
    tool::run(
        "skopeo",
        &["--insecure-policy".as_ref(), "copy".as_ref(), source.as_os_str(), &target],
    );
    archive
}

fn tagged(layout: &Path) -> PathBuf {
    let mut image = layout.as_os_str().to_owned();
    image.push(":latest");
    image.into()
}

fn umoci(command: &[&str], image: &Path, rest: &[&Path]) {
    let command = command.iter().map(AsRef::as_ref);
    let arguments: Vec<&Path> = command.chain([image]).chain(rest.iter().copied()).collect();
    tool::run("umoci", &arguments);
}

fn base(scratch: &Scratch) -> PathBuf {
    let base = scratch.dir("image-base");
    for dir in ["bin", "data/opaque", "dir", "etc", "tmp"] {
        std::fs::create_dir_all(base.join(dir)).unwrap();
    }
    let busybox = tool::find("busybox").unwrap();
    std::fs::copy(busybox, base.join("bin/busybox")).unwrap();
    for applet in APPLETS {
        std::os::unix::fs::symlink("busybox", base.join("bin").join(applet)).unwrap();
    }
    for (name, text) in
        [("data/kept", "kept\n"), ("data/gone", "gone\n"), ("data/opaque/old", "old\n")]
    {
        fsx::write(base.join(name), text);
    }
    for name in ["a", "b"] {
        fsx::write(base.join("dir").join(name), name);
    }
    base
}
