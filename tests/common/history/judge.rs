//! What a power cut left of a history.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{History, Inode, Kind, Op, Tree, Version, XATTR};
use crate::fsx;

/// What is found below a directory.
#[derive(Debug, Default)]
struct Found {
    /// The inode on the file system, and what it is.
    names: BTreeMap<String, (u64, Inode)>,
    /// Data of the files.
    data: BTreeMap<String, Vec<u8>>,
}

impl Found {
    fn below(root: &Path, directory: &str) -> std::io::Result<Self> {
        let mut found = Self::default();
        found.walk(root, directory)?;
        Ok(found)
    }

    fn walk(&mut self, root: &Path, directory: &str) -> std::io::Result<()> {
        for entry in std::fs::read_dir(root.join(directory))? {
            let name = entry?.file_name().into_string().expect("a name of the history");
            let name = if directory.is_empty() { name } else { format!("{directory}/{name}") };
            let path = root.join(&name);
            let about = std::fs::symlink_metadata(&path)?;
            let kind = if about.is_dir() {
                self.walk(root, &name)?;
                Kind::Directory
            } else if about.is_symlink() {
                Kind::Symlink(std::fs::read_link(&path)?.to_string_lossy().into_owned())
            } else {
                self.data.insert(name.clone(), std::fs::read(&path)?);
                Kind::File
            };
            let value = if kind == Kind::File { fsx::get_xattr(&path, XATTR).ok() } else { None };
            let xattr = value.and_then(|value| String::from_utf8(value).ok()?.parse().ok());
            let inode = Inode { kind, mode: about.mode() & 0o7777, xattr };
            self.names.insert(name, (about.ino(), inode));
        }
        Ok(())
    }

    /// The names that differ from those of `tree`.
    fn differences(&self, tree: &Tree) -> Vec<String> {
        let mut wrong: Vec<String> = tree
            .names
            .keys()
            .filter(|name| !self.names.contains_key(*name))
            .map(|name| format!("no {name}"))
            .collect();
        let (mut numbers, mut inodes) = (BTreeMap::new(), BTreeMap::new());
        for (name, (ino, inode)) in &self.names {
            match tree.names.get(name) {
                None => wrong.push(format!("{name} is there")),
                Some(number) if tree.inodes[number] != *inode => {
                    wrong.push(format!("{name} is {inode:?} instead of {:?}", tree.inodes[number]));
                }
                Some(number) => {
                    let one = *numbers.entry(*ino).or_insert(*number) == *number;
                    let other = *inodes.entry(*number).or_insert(*ino) == *ino;
                    if !one || !other {
                        wrong.push(format!("{name} is linked otherwise"));
                    }
                }
            }
        }
        wrong
    }
}

/// Looks at what a power cut left of the history of `seed` below `root`. The first `durable` operations were
/// acknowledged by an fsync behind them; at most `ahead` more were begun.
///
/// The tree has to be one that existed, not before that fsync. A file that was synced and not changed since is
/// as it was. Of any other, each byte is one that the file held there at some time since its last sync, and it is not
/// longer or shorter than it was in that time.
///
/// # Errors
/// What is wrong.
pub fn judge(root: &Path, seed: u64, durable: u64, ahead: u64) -> Result<u64, String> {
    let found = Found::below(root, "").map_err(|error| error.to_string())?;
    let mut history = History::new(seed);
    let mut trees = Vec::new();
    while history.done < durable + ahead {
        if history.done >= durable {
            trees.push((history.done, history.tree.clone()));
        }
        let op = history.plan();
        history.apply(&op);
        if let (Op::Fsync { path }, true) = (&op, history.done <= durable) {
            history.settle(path);
        }
    }
    let like: Vec<_> =
        trees.iter().filter(|(_, tree)| found.differences(tree).is_empty()).collect();
    if like.is_empty() {
        let nearest = trees.iter().map(|(at, tree)| (found.differences(tree), at));
        let (wrong, at) = nearest.min_by_key(|(wrong, _)| wrong.len()).expect("a tree");
        return Err(format!(
            "no tree of operations {durable} to {} is like that; that of {at} but for: {}",
            durable + ahead,
            wrong.join(", ")
        ));
    }
    let mut wrong = String::new();
    for (at, tree) in like {
        let judged = found.data.iter().try_for_each(|(name, data)| {
            judge_data(data, &history.files[&tree.names[name]]).map_err(|reason| {
                format!("{name} after operation {at} (durable: {durable}): {reason}")
            })
        });
        match judged {
            Ok(()) => return Ok(*at),
            Err(reason) => wrong = reason,
        }
    }
    Err(wrong)
}

fn judge_data(data: &[u8], versions: &[Version]) -> Result<(), String> {
    let lengths = || versions.iter().map(|version| version.data.len());
    let (least, most) = (lengths().min().unwrap_or(0), lengths().max().unwrap_or(0));
    if !(least..=most).contains(&data.len()) {
        return Err(format!("{} bytes, not {least} to {most}", data.len()));
    }
    let known = |at: usize| versions.iter().any(|version| version.data.get(at) == Some(&data[at]));
    match (0..data.len()).find(|at| !known(*at)) {
        None => Ok(()),
        Some(at) => {
            let zeros = data[at..].iter().take_while(|byte| **byte == 0).count();
            let times: Vec<u64> = versions.iter().map(|version| version.at).collect();
            Err(format!(
                "byte {at} of {} was never there ({zeros} zeros); operations {times:?}",
                data.len()
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_history_done_to_a_file_system_is_as_its_model() {
        let scratch = crate::Scratch::new("history");
        let mut history = History::new(5);
        history.make_layer(scratch.root());
        rustix::process::umask(rustix::fs::Mode::empty());
        for _ in 0..400 {
            let op = history.plan();
            op.perform(scratch.root()).unwrap_or_else(|error| panic!("{op:?}: {error}"));
            history.apply(&op);
        }
        assert_eq!(judge(scratch.root(), 5, 400, 1), Ok(400));
        assert!(judge(scratch.root(), 5, 450, 1).is_err(), "operations are missing");
        let path = (*history.names_of(|kind| *kind == Kind::File)[0]).clone();
        let len = history.data(&path).len().max(1);
        fsx::write(scratch.path(&path), vec![0; len]);
        assert!(judge(scratch.root(), 5, 400, 1).is_err(), "data are missing");
    }
}
