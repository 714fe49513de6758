use std::path::Path;

use overcoat::IdRange;
use proptest::prelude::*;

use super::*;

fn parse(string: &str) -> Options {
    Options::parse(&[OsString::from(string)]).unwrap()
}

fn error(string: &str) -> String {
    Options::parse(&[OsString::from(string)]).unwrap_err().to_string()
}

#[test]
fn what_podman_passes_is_understood() {
    let options = parse(
        "lowerdir=l/A:l/B,upperdir=id/diff,workdir=id/work,,volatile,\
         context=\"system_u:object_r:container_file_t:s0:c1,c2\",private,\
         uidmapping=:0:100000:65536,gidmapping=:0:100000:65536,xattr_permissions=2,",
    );
    assert_eq!(options.lowers, [Path::new("l/A"), Path::new("l/B")]);
    assert_eq!(options.upper.as_deref(), Some(Path::new("id/diff")));
    assert_eq!(options.durability, Durability::Volatile);
    assert_eq!(options.contexts, ["context=system_u:object_r:container_file_t:s0:c1,c2"]);
    assert_eq!(options.propagation, Some(MountPropagationFlags::PRIVATE));
    let range = IdRange { outside: 0, inside: 100_000, count: 65_536 };
    assert_eq!((options.idmap.uid, options.idmap.gid), (vec![range], vec![range]));
    assert_eq!(options.unknown, Vec::<String>::new());
}

#[test]
fn repeated_strings_add_up_and_the_last_word_holds() {
    let strings: Vec<OsString> =
        ["ro,nodev", "", "rw,lowerdir=a", "lowerdir=b,dev,noatime"].map(OsString::from).to_vec();
    let options = Options::parse(&strings).unwrap();
    assert_eq!(options.flags, MountFlags::NOATIME);
    assert_eq!(options.lowers, [Path::new("b")]);
}

#[test]
fn colons_and_commas_in_names_are_escaped() {
    let options = parse(r"lowerdir=a\:b:c\,d:e\\f,upperdir=/u\:v");
    assert_eq!(options.lowers, [Path::new("a:b"), Path::new("c,d"), Path::new(r"e\f")]);
    assert_eq!(options.upper.as_deref(), Some(Path::new("/u:v")));
}

#[test]
fn squash_to_an_id_goes_before_squash_to_root() {
    let both = parse("squash_to_uid=7,squash_to_root").idmap;
    assert_eq!((both.squash_uid, both.squash_gid), (Some(7), Some(0)));
}

#[test]
fn mediums_sizes_and_durability() {
    assert_eq!(parse("medium=dir=/var/tmp").medium, Medium::Dir("/var/tmp".into()));
    assert_eq!(parse("medium=dir=/a\\,b").medium, Medium::Dir("/a,b".into()));
    assert_eq!(parse("medium=memory").medium, Medium::Memory);
    assert_eq!(parse("medium=memory,medium=self").medium, Medium::OwnFile);
    assert_eq!(parse("size=1g").size_limit, Some(1 << 30));
    assert_eq!(parse("size=1g,size=0").size_limit, None);
    assert_eq!(parse("nr_inodes=10k").inode_limit, Some(10 << 10));
    assert_eq!(parse("fsync=0").durability, Durability::Volatile);
    assert_eq!(parse("volatile,fsync=1").durability, Durability::Full);
}

#[test]
fn options_for_others_are_no_concern_of_ours() {
    let options =
        parse("x-systemd.automount,X-mount.mkdir=0755,_netdev,metacopy=on,defaults,rw,user_id=0");
    assert_eq!(options, Options { given: options.given.clone(), ..Options::default() });
}

#[test]
fn unknown_options_are_named() {
    assert_eq!(parse("what,why=not,ro").unknown, ["what", "why=not"]);
}

#[test]
fn wrong_values_are_errors_that_name_the_option() {
    for (string, said) in [
        ("size=much", "size=much"),
        ("medium=tape", "medium=tape"),
        ("medium=dir=", "medium=dir="),
        ("upperdir=", "upperdir"),
        ("upperdir", "upperdir needs a value"),
        ("lowerdir=a::b", "lowerdir"),
        ("uidmapping=0:1", "uidmapping"),
        ("squash_to_uid=root", "squash_to_uid"),
        ("transport=pigeon", "transport=pigeon"),
        ("passthrough=maybe", "not one of auto, on, off"),
        ("threads=0", "threads"),
        ("context=\"open", "unbalanced quote"),
    ] {
        let line = error(string);
        assert!(line.contains(said), "{string}: {line}");
        assert!(!line.contains('\n'), "{string}: {line}");
    }
}

/// The words of the patterns of this module's match arms: `"a" | "b" => …`.
fn words_of_arms() -> impl Iterator<Item = &'static str> {
    let lines = include_str!("mod.rs").lines().map(str::trim);
    let arms = lines.filter(|line| line.starts_with('"') || line.starts_with("| \""));
    let words = arms.flat_map(|line| line.split('"').skip(1).step_by(2));
    words.filter(|word| word.bytes().all(|byte| byte.is_ascii_lowercase() || b"_+".contains(&byte)))
}

#[test]
fn the_manual_names_every_option() {
    let page = include_str!("../../../doc/overcoat.1").replace(r"\-", "-");
    let named: Vec<_> =
        page.split(|c: char| !c.is_ascii_alphanumeric() && !"_+-".contains(c)).collect();
    let flags = FLAGS.iter().map(|(name, ..)| *name);
    let all: Vec<_> = flags
        .chain(PROPAGATION.iter().map(|(name, _)| *name))
        .chain(WITHOUT_EFFECT.iter().copied())
        .chain(words_of_arms())
        .collect();
    for known in ["size", "volatile", "lowerdir+", "rootcontext", "rslave", "xino"] {
        assert!(all.contains(&known), "{known} was not looked for");
    }
    let missing: Vec<_> = all.iter().filter(|name| !named.contains(name)).collect();
    assert!(missing.is_empty(), "not in doc/overcoat.1: {missing:?}");
}

proptest! {
    /// Any directories, written with their escapes, are read back as they are.
    #[test]
    fn directories_survive_the_option_string(
        lowers in prop::collection::vec(prop::collection::vec(1u8.., 1..10), 1..5),
        upper in prop::collection::vec(1u8.., 1..10),
        volatile in any::<bool>(),
    ) {
        let encoded: Vec<_> = lowers.iter().map(|lower| lex::encode(lower)).collect();
        let mut string = b"lowerdir=".to_vec();
        string.extend(encoded.join(&b':'));
        string.extend(b",,upperdir=");
        string.extend(lex::encode(&upper));
        if volatile {
            string.extend(b",volatile");
        }
        let options = Options::parse(&[OsString::from_vec(string)]).unwrap();
        let as_path = |bytes: &Vec<u8>| PathBuf::from(OsString::from_vec(bytes.clone()));
        prop_assert_eq!(options.lowers, lowers.iter().map(as_path).collect::<Vec<_>>());
        prop_assert_eq!(options.upper, Some(as_path(&upper)));
        prop_assert_eq!(options.durability == Durability::Volatile, volatile);
        prop_assert!(options.unknown.is_empty());
    }

    /// No string panics, and what is wrong is told in one line.
    #[test]
    fn any_bytes_are_options_or_one_line_of_error(raw in prop::collection::vec(any::<u8>(), 0..80)) {
        if let Err(error) = Options::parse(&[OsString::from_vec(raw)]) {
            prop_assert!(!error.to_string().is_empty());
        }
    }

    /// Every word that sets a flag undoes its opposite.
    #[test]
    fn the_last_flag_of_a_pair_holds(words in prop::collection::vec(0..FLAGS.len(), 1..12)) {
        let string = words.iter().map(|&nth| FLAGS[nth].0).collect::<Vec<_>>().join(",");
        let flags = parse(&string).flags;
        for &(_, flag, _) in FLAGS {
            let last = words.iter().rev().map(|&nth| FLAGS[nth]).find(|entry| entry.1 == flag);
            prop_assert_eq!(flags.contains(flag), last.is_some_and(|(_, _, set)| set));
        }
    }
}

#[test]
fn a_remount_may_say_what_is_the_case() {
    let begun = parse("lowerdir=/a:/b,upperdir=/u,size=10m,volatile,noatime");
    let differing = |options| parse(options).differing_from(Some(&begun));
    assert!(differing("remount,ro").is_empty());
    assert!(differing("remount,rw,nodev,user_id=0,default_permissions").is_empty());
    assert!(differing("remount,ro,lowerdir=/a:/b,upperdir=/u,size=10240k,volatile").is_empty());
    assert_eq!(differing("remount,size=20m"), ["size"]);
    assert_eq!(differing("remount,size=0"), ["size"]);
    assert_eq!(differing("remount,fsync=1"), ["fsync"]);
    assert_eq!(
        differing("remount,upperdir=/v,dirsync,nr_inodes=5"),
        ["upperdir", "nr_inodes", "dirsync"]
    );
    assert_eq!(differing("remount,squash_to_root"), ["squash_to_root"]);
    assert_eq!(parse("remount,ro,size=1m").differing_from(None), ["size"]);
}
