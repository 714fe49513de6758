//! The `-o` options: what they are, and what they make of a mount.

mod lex;
mod value;

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

use overcoat::{Config, Durability, IdMap, Medium, Transport};
use rustix::mount::{MountFlags, MountPropagationFlags};

pub use value::size;

/// An option that cannot be what was meant; shows as one line.
#[derive(Debug, PartialEq, Eq)]
pub struct OptionError(String);

impl OptionError {
    fn new(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Display for OptionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What all `-o` of a command line say together. Where they contradict each other, the last one holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Options {
    /// Topmost first.
    pub lowers: Vec<PathBuf>,
    pub upper: Option<PathBuf>,
    pub medium: Medium,
    pub size_limit: Option<u64>,
    pub inode_limit: Option<u64>,
    pub durability: Durability,
    pub idmap: IdMap,
    squash_to_root: bool,
    pub flags: MountFlags,
    pub propagation: Option<MountPropagationFlags>,
    /// Change the flags of a mount that is there.
    pub remount: bool,
    /// What `/proc/self/mountinfo` shall show in place of the source.
    pub fsname: Option<OsString>,
    /// SELinux labels, as `KEY=LABEL`.
    pub contexts: Vec<String>,
    /// Threads that serve requests: `None` for as many as suit the machine.
    pub threads: Option<u32>,
    pub transport: Transport,
    pub passthrough: bool,
    /// Whether the kernel may hold back written data: `None` for what is best.
    pub writeback: Option<bool>,
    /// Options that mean nothing to Overcoat.
    pub unknown: Vec<String>,
    /// The names of all options, in their order.
    given: Vec<String>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            lowers: Vec::new(),
            upper: None,
            medium: Medium::OwnFile,
            size_limit: None,
            inode_limit: None,
            durability: Durability::Full,
            idmap: IdMap::default(),
            squash_to_root: false,
            flags: MountFlags::empty(),
            propagation: None,
            remount: false,
            fsname: None,
            contexts: Vec::new(),
            threads: None,
            transport: Transport::Auto,
            passthrough: false,
            writeback: None,
            unknown: Vec::new(),
            given: Vec::new(),
        }
    }
}

/// Options that set or clear a flag of the mount.
const FLAGS: &[(&str, MountFlags, bool)] = &[
    ("ro", MountFlags::RDONLY, true),
    ("rw", MountFlags::RDONLY, false),
    ("nodev", MountFlags::NODEV, true),
    ("dev", MountFlags::NODEV, false),
    ("nosuid", MountFlags::NOSUID, true),
    ("suid", MountFlags::NOSUID, false),
    ("noexec", MountFlags::NOEXEC, true),
    ("exec", MountFlags::NOEXEC, false),
    ("noatime", MountFlags::NOATIME, true),
    ("atime", MountFlags::NOATIME, false),
    ("nodiratime", MountFlags::NODIRATIME, true),
    ("diratime", MountFlags::NODIRATIME, false),
    ("relatime", MountFlags::RELATIME, true),
    ("norelatime", MountFlags::RELATIME, false),
    ("strictatime", MountFlags::STRICTATIME, true),
    ("nostrictatime", MountFlags::STRICTATIME, false),
    ("sync", MountFlags::SYNCHRONOUS, true),
    ("async", MountFlags::SYNCHRONOUS, false),
    ("dirsync", MountFlags::DIRSYNC, true),
];

/// Options that say how mount events spread.
const PROPAGATION: &[(&str, MountPropagationFlags)] = &[
    ("private", MountPropagationFlags::PRIVATE),
    ("rprivate", MountPropagationFlags::PRIVATE.union(MountPropagationFlags::REC)),
    ("shared", MountPropagationFlags::SHARED),
    ("rshared", MountPropagationFlags::SHARED.union(MountPropagationFlags::REC)),
    ("slave", MountPropagationFlags::DOWNSTREAM),
    ("rslave", MountPropagationFlags::DOWNSTREAM.union(MountPropagationFlags::REC)),
    ("unbindable", MountPropagationFlags::UNBINDABLE),
    ("runbindable", MountPropagationFlags::UNBINDABLE.union(MountPropagationFlags::REC)),
];

/// Options which ask for nothing that a mount of Overcoat would not be without them: those of fstab and
/// mount(8), those of other overlay file systems, those that are always on, and those that mountinfo shows,
/// which mount(8) hands back when it remounts.
const WITHOUT_EFFECT: &[&str] = &[
    "_netdev",
    "allow_other",
    "auto",
    "auto_unmount",
    "comment",
    "default_permissions",
    "defaults",
    "group",
    "group_id",
    "index",
    "iversion",
    "lazytime",
    "loud",
    "max_read",
    "metacopy",
    "nfs_export",
    "noacl",
    "noauto",
    "nofail",
    "nogroup",
    "noiversion",
    "nolazytime",
    "nomand",
    "nonempty",
    "noowner",
    "nouser",
    "nousers",
    "owner",
    "redirect_dir",
    "silent",
    "static_nlink",
    "subtype",
    "symfollow",
    "uhelper",
    "user",
    "user_id",
    "users",
    "userxattr",
    "workdir",
    "xino",
];

impl Options {
    /// Reads the strings given to `-o`, in their order. Unknown options are gathered, not refused.
    pub fn parse(strings: &[OsString]) -> Result<Self, OptionError> {
        let mut options = Self::default();
        for string in strings {
            for item in lex::items(string.as_bytes())? {
                options.take(item)?;
            }
        }
        options.settle();
        Ok(options)
    }

    /// The options given here that a remount cannot change, and that say something else than those a mount was begun with (`None`: these
    /// are not known).
    pub fn differing_from(&self, begun: Option<&Self>) -> Vec<&'static str> {
        type Same = fn(&Options, &Options) -> bool;
        let fixed: &[(&str, Same)] = &[
            ("lowerdir", |a, b| a.lowers == b.lowers),
            ("lowerdir+", |a, b| a.lowers == b.lowers),
            ("upperdir", |a, b| a.upper == b.upper),
            ("medium", |a, b| a.medium == b.medium),
            ("size", |a, b| a.size_limit == b.size_limit),
            ("nr_inodes", |a, b| a.inode_limit == b.inode_limit),
            ("volatile", |a, b| a.durability == b.durability),
            ("fsync", |a, b| a.durability == b.durability),
            ("uidmapping", |a, b| a.idmap.uid == b.idmap.uid),
            ("gidmapping", |a, b| a.idmap.gid == b.idmap.gid),
            ("squash_to_uid", |a, b| a.idmap.squash_uid == b.idmap.squash_uid),
            ("squash_to_gid", |a, b| a.idmap.squash_gid == b.idmap.squash_gid),
            ("squash_to_root", |a, b| a.squash_to_root == b.squash_to_root),
            ("fsname", |a, b| a.fsname == b.fsname),
            ("context", |a, b| a.contexts == b.contexts),
            ("fscontext", |a, b| a.contexts == b.contexts),
            ("defcontext", |a, b| a.contexts == b.contexts),
            ("rootcontext", |a, b| a.contexts == b.contexts),
            ("threads", |a, b| a.threads == b.threads),
            ("transport", |a, b| a.transport == b.transport),
            ("passthrough", |a, b| a.passthrough == b.passthrough),
            ("writeback", |a, b| a.writeback == b.writeback),
            ("dirsync", |a, b| a.has(MountFlags::DIRSYNC) == b.has(MountFlags::DIRSYNC)),
        ];
        let differs = |(name, same): &&(&'static str, Same)| {
            self.given.iter().any(|given| given == name)
                && !begun.is_some_and(|begun| same(self, begun))
        };
        fixed.iter().filter(differs).map(|(name, _)| *name).collect()
    }

    fn has(&self, flag: MountFlags) -> bool {
        self.flags.contains(flag)
    }

    /// The core's settings.
    pub fn config(&self) -> Config {
        Config {
            lowers: self.lowers.clone(),
            upper: self.upper.clone(),
            medium: self.medium.clone(),
            size_limit: self.size_limit,
            inode_limit: self.inode_limit,
            durability: self.durability,
            idmap: self.idmap.clone(),
        }
    }

    /// `squash_to_uid` and `squash_to_gid` go before `squash_to_root`.
    fn settle(&mut self) {
        if self.squash_to_root {
            self.idmap.squash_uid.get_or_insert(0);
            self.idmap.squash_gid.get_or_insert(0);
        }
    }

    fn take(&mut self, item: &[u8]) -> Result<(), OptionError> {
        match item.iter().position(|&byte| byte == b'=') {
            Some(at) => {
                let key = String::from_utf8_lossy(&item[..at]).into_owned();
                self.take_value(&key, &item[at + 1..])?;
                self.given.push(key);
            }
            None => {
                let word = String::from_utf8_lossy(&lex::decode(item)).into_owned();
                self.take_word(&word)?;
                self.given.push(word);
            }
        }
        Ok(())
    }

    fn take_word(&mut self, word: &str) -> Result<(), OptionError> {
        if let Some(&(_, flag, set)) = FLAGS.iter().find(|(name, ..)| *name == word) {
            self.flags.set(flag, set);
            return Ok(());
        }
        if let Some(&(_, propagation)) = PROPAGATION.iter().find(|(name, _)| *name == word) {
            self.propagation = Some(propagation);
            return Ok(());
        }
        match word {
            "volatile" => self.durability = Durability::Volatile,
            "squash_to_root" => self.squash_to_root = true,
            "remount" => self.remount = true,
            "lowerdir" | "upperdir" | "medium" | "size" | "nr_inodes" | "uidmapping"
            | "gidmapping" | "squash_to_uid" | "squash_to_gid" | "fsname" | "transport"
            | "passthrough" | "fsync" => {
                return Err(OptionError::new(format!("{word} needs a value: {word}=...")));
            }
            _ if without_effect(word) => {}
            _ => self.unknown.push(word.to_owned()),
        }
        Ok(())
    }

    fn take_value(&mut self, key: &str, raw: &[u8]) -> Result<(), OptionError> {
        let bytes = lex::decode(raw);
        let text = || text(key, &bytes);
        match key {
            "lowerdir" => self.lowers = lowers(raw)?,
            "lowerdir+" => self.lowers.push(path(key, bytes)?),
            "upperdir" => self.upper = Some(path(key, bytes)?),
            "medium" => self.medium = medium(bytes)?,
            "size" => self.size_limit = limit(value::size(key, text()?)?),
            "nr_inodes" => self.inode_limit = limit(value::size(key, text()?)?),
            "fsync" => {
                let kept = value::switch(key, text()?)?;
                self.durability = if kept { Durability::Full } else { Durability::Volatile };
            }
            "uidmapping" => self.idmap.uid = value::id_map(key, text()?)?,
            "gidmapping" => self.idmap.gid = value::id_map(key, text()?)?,
            "squash_to_uid" => self.idmap.squash_uid = Some(value::id(key, text()?)?),
            "squash_to_gid" => self.idmap.squash_gid = Some(value::id(key, text()?)?),
            "fsname" => self.fsname = Some(OsString::from_vec(bytes)),
            "threads" => self.threads = Some(value::threads(key, text()?)?),
            "writeback" => self.writeback = Some(value::switch(key, text()?)?),
            "transport" => self.transport = transport(text()?)?,
            "passthrough" => self.passthrough = passthrough(text()?)?,
            "xattr_permissions" => xattr_permissions(text()?)?,
            "context" | "fscontext" | "defcontext" | "rootcontext" => {
                let context = format!("{key}={}", text()?);
                self.contexts.push(context);
            }
            _ if without_effect(key) => {}
            _ => self.unknown.push(format!("{key}={}", String::from_utf8_lossy(&bytes))),
        }
        Ok(())
    }
}

/// For mount(8) and fstab themselves (`x-…`), or of no effect here.
fn without_effect(key: &str) -> bool {
    key.starts_with("x-") || key.starts_with("X-") || WITHOUT_EFFECT.contains(&key)
}

fn text<'a>(key: &str, bytes: &'a [u8]) -> Result<&'a str, OptionError> {
    std::str::from_utf8(bytes)
        .map_err(|_| OptionError::new(format!("{key}: the value is not text")))
}

fn path(key: &str, bytes: Vec<u8>) -> Result<PathBuf, OptionError> {
    if bytes.is_empty() {
        return Err(OptionError::new(format!("{key}= names no directory")));
    }
    Ok(PathBuf::from(OsString::from_vec(bytes)))
}

fn lowers(raw: &[u8]) -> Result<Vec<PathBuf>, OptionError> {
    let members = lex::list(raw, b':')?;
    if members.iter().any(Vec::is_empty) {
        return Err(OptionError::new("lowerdir: an empty name between colons".to_owned()));
    }
    Ok(members.into_iter().map(|member| PathBuf::from(OsString::from_vec(member))).collect())
}

fn limit(value: u64) -> Option<u64> {
    (value > 0).then_some(value)
}

fn medium(bytes: Vec<u8>) -> Result<Medium, OptionError> {
    match bytes.as_slice() {
        b"self" => Ok(Medium::OwnFile),
        b"memory" => Ok(Medium::Memory),
        [b'd', b'i', b'r', b'=', dir @ ..] => Ok(Medium::Dir(path("medium=dir", dir.to_vec())?)),
        other => Err(OptionError::new(format!(
            "medium={}: not one of self, dir=PATH, memory",
            String::from_utf8_lossy(other)
        ))),
    }
}

fn transport(name: &str) -> Result<Transport, OptionError> {
    match name {
        "auto" => Ok(Transport::Auto),
        "uring" => Ok(Transport::Uring),
        "dev" => Ok(Transport::Dev),
        _ => Err(OptionError::new(format!("transport={name}: not one of auto, uring, dev"))),
    }
}

/// Not where it is left to us: it makes opens dearer (`DESIGN.md`, "Passthrough").
fn passthrough(mode: &str) -> Result<bool, OptionError> {
    match mode {
        "on" => Ok(true),
        "auto" | "off" => Ok(false),
        _ => Err(OptionError::new(format!("passthrough={mode}: not one of auto, on, off"))),
    }
}

/// Owners and modes live in the filestore, so that no extended attribute has to stand in for them.
fn xattr_permissions(mode: &str) -> Result<(), OptionError> {
    match mode {
        "0" | "1" | "2" => Ok(()),
        _ => Err(OptionError::new(format!("xattr_permissions={mode}: not one of 0, 1, 2"))),
    }
}

#[cfg(test)]
mod tests;
