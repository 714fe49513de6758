//! Random layers, merged by the stack and by a naive model.

use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const NAMES: [&str; 4] = ["a", "b", "c", "d"];

/// What lies under one name of a layer.
#[derive(Clone, Debug)]
enum Node {
    File,
    Link,
    /// A whiteout that takes the name's place.
    Gone(Spelling),
    Dir(Dir),
}

#[derive(Clone, Debug, Default)]
struct Dir {
    opaque: Option<Spelling>,
    /// Names with a `.wh.` beside them.
    hides: BTreeSet<&'static str>,
    names: BTreeMap<&'static str, Node>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Spelling {
    /// Device, or `trusted.overlay.`.
    Kernel,
    /// Attribute, or `user.overlay.`.
    User,
    Aufs,
}

fn spelling() -> impl Strategy<Value = Spelling> {
    prop_oneof![Just(Spelling::Kernel), Just(Spelling::User), Just(Spelling::Aufs)]
}

fn name() -> impl Strategy<Value = &'static str> {
    prop::sample::select(&NAMES[..])
}

fn dir(depth: u32) -> BoxedStrategy<Dir> {
    let opaque = prop_oneof![4 => Just(None), 1 => spelling().prop_map(Some)];
    let hides = prop::collection::btree_set(name(), 0..2);
    let names = prop::collection::btree_map(name(), node(depth), 0..4);
    (opaque, hides, names).prop_map(|(opaque, hides, names)| Dir { opaque, hides, names }).boxed()
}

fn node(depth: u32) -> BoxedStrategy<Node> {
    let leaf = prop_oneof![
        3 => Just(Node::File),
        1 => Just(Node::Link),
        2 => prop_oneof![Just(Spelling::Kernel), Just(Spelling::User)].prop_map(Node::Gone),
    ];
    if depth == 0 {
        return leaf.boxed();
    }
    prop_oneof![2 => leaf, 3 => dir(depth - 1).prop_map(Node::Dir)].boxed()
}

impl Dir {
    fn write(&self, l: &Layers, layer: usize, path: &str) {
        l.dir(layer, path);
        let by_attribute = |n: &Node| matches!(n, Node::Gone(Spelling::User));
        // One attribute says both things, so the other spelling of the two is taken.
        let attribute_whiteouts = self.names.values().any(by_attribute);
        if attribute_whiteouts {
            l.xattr(layer, path, "user.overlay.opaque", b"x");
        }
        match self.opaque {
            Some(Spelling::Kernel) => {
                l.xattr(layer, path, "trusted.overlay.opaque", b"y");
            }
            Some(Spelling::User) if !attribute_whiteouts => {
                l.xattr(layer, path, "user.overlay.opaque", b"y");
            }
            Some(_) => {
                l.empty(layer, &format!("{path}/.wh..wh..opq"));
            }
            None => {}
        }
        for name in &self.hides {
            l.empty(layer, &format!("{path}/.wh.{name}"));
        }
        for (name, node) in &self.names {
            node.write(l, layer, &format!("{path}/{name}"));
        }
    }
}

impl Node {
    fn write(&self, l: &Layers, layer: usize, path: &str) {
        match self {
            Node::File => _ = l.file(layer, path),
            Node::Link => {
                std::os::unix::fs::symlink(layer.to_string(), l.path(layer, path)).expect("linked");
            }
            Node::Gone(Spelling::User) => {
                l.empty(layer, path).xattr(layer, path, "user.overlay.whiteout", b"");
            }
            Node::Gone(_) => _ = l.whiteout(layer, path),
            Node::Dir(dir) => dir.write(l, layer, path),
        }
    }
}

/// The merged view: what shows at each path, files and links with the layer they are from.
#[derive(Debug, PartialEq, Eq)]
enum Shown {
    File(usize),
    Link(usize),
    Dir(usize),
}

/// The naive merge of `dirs`, topmost first.
fn merge(dirs: &[(usize, &Dir)], path: &str, view: &mut BTreeMap<String, Shown>) {
    for name in NAMES {
        let mut merged: Vec<(usize, &Dir)> = Vec::new();
        for &(layer, dir) in dirs {
            let path = format!("{path}/{name}");
            match dir.names.get(name) {
                Some(Node::Dir(found)) => {
                    merged.push((layer, found));
                    if found.opaque.is_some() {
                        break;
                    }
                }
                Some(_) if !merged.is_empty() => break,
                Some(Node::File) => {
                    view.insert(path, Shown::File(layer));
                    break;
                }
                Some(Node::Link) => {
                    view.insert(path, Shown::Link(layer));
                    break;
                }
                Some(Node::Gone(_)) => break,
                None => {}
            }
            if dir.hides.contains(name) {
                break;
            }
        }
        if !merged.is_empty() {
            let path = format!("{path}/{name}");
            view.insert(path.clone(), Shown::Dir(merged.len()));
            merge(&merged, &path, view);
        }
    }
}

/// The stack's view, by listing and looking up.
fn walk(s: &Stack, path: &str, view: &mut BTreeMap<String, Shown>) {
    let dir = s.find(path).expect("a directory");
    for entry in s.listing(path).iter() {
        let name = std::str::from_utf8(entry.name).expect("a name of the model");
        let path = format!("{path}/{name}");
        let node = s.lookup(&dir.dirs, entry.name).expect("a lookup").expect("listed");
        let shown = match entry.file_type {
            crate::attr::FileType::Directory => Shown::Dir(node.dirs.len()),
            crate::attr::FileType::Symlink => {
                let target = s.readlink(&node.at).expect("a target");
                Shown::Link(std::str::from_utf8(&target).expect("text").parse().expect("a layer"))
            }
            _ => Shown::File(s.content_at(&node.at).parse().expect("a layer")),
        };
        let is_dir = entry.file_type == crate::attr::FileType::Directory;
        view.insert(path.clone(), shown);
        if is_dir {
            walk(s, &path, view);
        }
    }
    // What is not listed is not found.
    let listing = s.listing(path);
    for name in NAMES {
        let found = s.lookup(&dir.dirs, name.as_bytes()).expect("a lookup");
        assert_eq!(found.is_some(), listing.get(name.as_bytes()).is_some(), "{path}/{name}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 200, ..Default::default() })]

    #[test]
    fn eight_layers_merge_as_in_the_model(trees in prop::collection::vec(dir(2), 8)) {
        if !is_root("mknod and trusted attributes") {
            return Ok(());
        }
        let l = Layers::new(trees.len());
        trees.iter().enumerate().for_each(|(i, tree)| tree.write(&l, i, ""));
        let showing = trees.iter().position(|t| t.opaque.is_some()).map_or(trees.len(), |i| i + 1);
        let tops: Vec<_> = trees.iter().enumerate().take(showing).collect();
        let mut want = BTreeMap::new();
        merge(&tops, "", &mut want);
        for way in WAYS {
            let mut got = BTreeMap::new();
            walk(&l.stack_by(way), "", &mut got);
            prop_assert_eq!(&got, &want);
        }
    }
}
