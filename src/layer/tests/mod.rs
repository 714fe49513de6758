//! Tests of a stack on real directories. Those that need devices or `trusted.` attributes say so and
//! pass when they are not run as root.

mod marks;
mod model;
mod objects;
mod safety;

use super::host::{HostLayer, Walk};
use super::stack::StackedLayer;
use super::{Listing, LowerNode, Stack};
use crate::attr::{LayerId, LowerPath};
use crate::config::IdMap;
use rustix::fs::{CWD, FileType, Mode, XattrFlags, makedev, mknodat, setxattr};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// How a stack reaches its layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// The best this host and user allow.
    Best,
    Openat2,
    NameByName,
}

const WAYS: [Way; 3] = [Way::Best, Way::Openat2, Way::NameByName];

/// Directories to be layers; number 0 is the topmost.
struct Layers {
    base: TempDir,
    count: usize,
}

impl Layers {
    fn new(count: usize) -> Layers {
        let base = tempfile::tempdir().expect("a directory");
        let layers = Layers { base, count };
        (0..count).for_each(|i| std::fs::create_dir(layers.path(i, "")).expect("made"));
        layers
    }

    fn path(&self, layer: usize, path: &str) -> PathBuf {
        // An absolute path would lead out of the layer.
        self.base.path().join(format!("{layer}")).join(path.trim_start_matches('/'))
    }

    /// A file whose content is its layer's number.
    fn file(&self, layer: usize, path: &str) -> &Layers {
        self.parents(layer, path);
        std::fs::write(self.path(layer, path), layer.to_string()).expect("written");
        self
    }

    fn empty(&self, layer: usize, path: &str) -> &Layers {
        self.parents(layer, path);
        std::fs::write(self.path(layer, path), "").expect("written");
        self
    }

    fn dir(&self, layer: usize, path: &str) -> &Layers {
        std::fs::create_dir_all(self.path(layer, path)).expect("made");
        self
    }

    fn parents(&self, layer: usize, path: &str) {
        let parent = self.path(layer, path).parent().expect("a parent").to_owned();
        std::fs::create_dir_all(parent).expect("made");
    }

    /// A character device 0:0.
    fn whiteout(&self, layer: usize, path: &str) -> &Layers {
        self.parents(layer, path);
        let mode = Mode::from_raw_mode(0o600);
        let path = self.path(layer, path);
        mknodat(CWD, &path, FileType::CharacterDevice, mode, makedev(0, 0)).expect("a whiteout");
        self
    }

    fn xattr(&self, layer: usize, path: &str, name: &str, value: &[u8]) -> &Layers {
        setxattr(self.path(layer, path), name, value, XattrFlags::empty()).expect("set");
        self
    }

    fn lowers(&self) -> Vec<PathBuf> {
        (0..self.count).map(|i| self.path(i, "")).collect()
    }

    fn stack(&self) -> Stack {
        self.stack_by(Way::Best)
    }

    fn stack_by(&self, way: Way) -> Stack {
        let walk = match way {
            Way::Best => {
                return Stack::open(None, &self.lowers(), &IdMap::default()).expect("a stack");
            }
            Way::Openat2 => Walk::Openat2,
            Way::NameByName => Walk::NameByName,
        };
        let layers = (0..self.count).map(|i| {
            let id = LayerId((self.count - i) as u16);
            let layer = HostLayer::open_degraded(&self.path(i, ""), id == LayerId(1), walk);
            StackedLayer { id, layer: Box::new(layer.expect("a layer")) }
        });
        Stack::of(layers.collect(), &IdMap::default())
    }

    /// The host's number of an object, which is shown as all layers lie on one device.
    fn host_ino(&self, layer: usize, path: &str) -> u64 {
        use std::os::unix::fs::MetadataExt;
        std::fs::symlink_metadata(self.path(layer, path)).expect("there").ino()
    }

    /// Runs `check` on a stack that goes each way.
    fn each_way(&self, check: impl Fn(&Stack)) {
        for way in WAYS {
            check(&self.stack_by(way));
        }
    }
}

impl Stack {
    /// Follows a path through the merged view.
    fn find(&self, path: &str) -> Option<LowerNode> {
        let root = self.root().expect("a root");
        path.split('/').filter(|name| !name.is_empty()).try_fold(root, |node, name| {
            self.lookup(&node.dirs, name.as_bytes()).expect("a lookup")
        })
    }

    /// A directory's listing, after checking that lookups say the same.
    fn listing(&self, path: &str) -> Listing {
        let dir = self.find(path).expect("a directory");
        let listing = self.list(&dir.dirs).expect("a listing");
        self.find_numbers(&dir.dirs, &listing, 0..listing.len());
        for entry in listing.iter() {
            let node = self.lookup(&dir.dirs, entry.name).expect("a lookup").expect("listed");
            assert_eq!(node.attr.file_type(), entry.file_type, "{entry:?}");
            assert_eq!(entry.ino, Some(node.attr.ino), "{entry:?} {node:?}");
        }
        listing
    }

    /// A directory's names, separated by spaces.
    fn names(&self, path: &str) -> String {
        let listing = self.listing(path);
        let names = listing.iter().map(|e| String::from_utf8_lossy(e.name).into_owned());
        names.collect::<Vec<_>>().join(" ")
    }

    /// A file's content.
    fn content(&self, path: &str) -> String {
        self.content_at(&self.find(path).expect("a file").at)
    }

    fn content_at(&self, at: &LowerPath) -> String {
        let file = self.open_file(at).expect("opened").file;
        let mut content = vec![0; 1 << 16];
        let len = file.read_at(&mut content, 0).expect("read");
        content.truncate(len);
        String::from_utf8(content).expect("text")
    }
}

fn is_root(what: &str) -> bool {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let of_the_host = map.split_whitespace().eq(["0", "0", "4294967295"]);
    let root = rustix::process::geteuid().is_root() && of_the_host;
    if !root {
        eprintln!("skipped: {what} needs root");
    }
    root
}

fn os(name: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(name))
}
