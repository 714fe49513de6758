//! The operations, with selectors in place of names and inodes: what they select is decided when
//! they run, so that a sequence stays meaningful when steps are left out.

use proptest::prelude::*;

/// Selects one of what there is.
pub type Pick = u8;

/// A name in a directory.
#[derive(Clone, Copy, Debug)]
pub struct At {
    pub dir: Pick,
    /// Below 200 one of the names that are there, else any.
    pub name: Pick,
}

#[derive(Clone, Copy, Debug)]
pub enum Make {
    File,
    Dir,
    Symlink(u8),
    Regular,
    Device(u32),
    Block,
    Fifo,
    Socket,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Set {
    pub mode: Option<u32>,
    pub owner: Option<u32>,
    pub group: Option<u32>,
    pub size: Option<u64>,
    /// Seconds; 0 is "now".
    pub atime: Option<i64>,
    pub mtime: Option<i64>,
    pub kill: bool,
}

#[derive(Clone, Debug)]
pub enum Op {
    Lookup(At),
    Make {
        at: At,
        what: Make,
        mode: u32,
        umask: u32,
        who: u32,
    },
    Tmpfile {
        dir: Pick,
        mode: u32,
    },
    Link {
        what: Pick,
        to: At,
    },
    Unlink(At),
    Rmdir(At),
    Rename {
        from: At,
        to: At,
        flags: u32,
    },
    Open {
        file: Pick,
        trunc: bool,
    },
    Write {
        file: Pick,
        at: u64,
        len: u64,
        kill: bool,
    },
    Read {
        file: Pick,
        at: u64,
        len: u64,
    },
    Fallocate {
        file: Pick,
        at: u64,
        len: u64,
        mode: u32,
    },
    Seek {
        file: Pick,
        at: u64,
    },
    Copy {
        from: Pick,
        at: u64,
        to: Pick,
        to_at: u64,
        len: u64,
    },
    Setattr {
        what: Pick,
        set: Set,
    },
    SetXattr {
        what: Pick,
        name: u8,
        len: u16,
        flags: u32,
    },
    RemoveXattr {
        what: Pick,
        name: u8,
    },
    ReadXattrs {
        what: Pick,
    },
    StartReading {
        dir: Pick,
    },
    ReadOn {
        cursor: Pick,
        count: u8,
        plus: bool,
    },
    Forget(Pick),
    ForgetAll,
    Fsync(Pick),
    Checkpoint,
    /// What the threads beside the requests do now and then.
    Upkeep,
    Remount,
    Kill,
}

fn at() -> impl Strategy<Value = At> {
    (any::<u8>(), any::<u8>()).prop_map(|(dir, name)| At { dir, name })
}

/// Offsets around the edges of blocks, mostly.
fn offset() -> impl Strategy<Value = u64> {
    let edge = (0..9_u64, -2..3_i64).prop_map(|(b, d)| (b * 4096).saturating_add_signed(d));
    prop_oneof![3 => edge, 1 => 0..40_000_u64]
}

fn length() -> impl Strategy<Value = u64> {
    prop_oneof![2 => 0..200_u64, 3 => offset()]
}

fn mode() -> impl Strategy<Value = u32> {
    prop_oneof![Just(0o644), Just(0o755), Just(0o6777), Just(0o2755), 0..0o10000_u32]
}

fn set() -> impl Strategy<Value = Set> {
    let maybe = |odds: f64| proptest::bool::weighted(odds);
    let time = || (maybe(0.3), -5_000_000_000..5_000_000_000_i64, any::<bool>());
    let ids = (maybe(0.3), maybe(0.3), 0..3_u32);
    let size = (maybe(0.3), offset());
    (maybe(0.4), mode(), ids, size, time(), time(), any::<bool>()).prop_map(
        |(m, mode, (u, g, id), (s, size), (a, at, an), (t, mt, tn), kill)| Set {
            mode: m.then_some(mode),
            owner: u.then_some(id),
            group: g.then_some(id),
            size: s.then_some(size),
            atime: a.then_some(if an { 0 } else { at }),
            mtime: t.then_some(if tn { 0 } else { mt }),
            kill,
        },
    )
}

fn make() -> impl Strategy<Value = Make> {
    prop_oneof![
        6 => Just(Make::File),
        5 => Just(Make::Dir),
        1 => (1..=255_u8).prop_map(Make::Symlink),
        1 => Just(Make::Regular),
        1 => prop_oneof![Just(0), Just(0x103)].prop_map(Make::Device),
        1 => Just(Make::Block),
        1 => Just(Make::Fifo),
        1 => Just(Make::Socket),
    ]
}

/// One operation.
pub fn op() -> impl Strategy<Value = Op> {
    let pick = any::<u8>;
    let falloc = prop_oneof![
        2 => Just(0), 2 => Just(1), 3 => Just(3), 2 => Just(0x10), 2 => Just(0x11),
        1 => Just(0x08), 1 => Just(0x20), 1 => Just(2),
    ];
    let flags = prop_oneof![4 => Just(0), 1 => Just(1), 3 => Just(2), 1 => Just(4), 1 => Just(5)];
    let names = prop_oneof![
        4 => (at(), make(), mode(), prop_oneof![Just(0o22), Just(0o77), Just(0)], 0..3_u32)
            .prop_map(|(at, what, mode, umask, who)| Op::Make { at, what, mode, umask, who }),
        1 => at().prop_map(Op::Lookup),
        1 => (pick(), mode()).prop_map(|(dir, mode)| Op::Tmpfile { dir, mode }),
        2 => (pick(), at()).prop_map(|(what, to)| Op::Link { what, to }),
        4 => at().prop_map(Op::Unlink),
        3 => at().prop_map(Op::Rmdir),
        6 => (at(), at(), flags).prop_map(|(from, to, flags)| Op::Rename { from, to, flags }),
    ];
    let data = prop_oneof![
        1 => (pick(), any::<bool>()).prop_map(|(file, trunc)| Op::Open { file, trunc }),
        6 => (pick(), offset(), length(), any::<bool>())
            .prop_map(|(file, at, len, kill)| Op::Write { file, at, len, kill }),
        1 => (pick(), offset(), length()).prop_map(|(file, at, len)| Op::Read { file, at, len }),
        5 => (pick(), offset(), length(), falloc)
            .prop_map(|(file, at, len, mode)| Op::Fallocate { file, at, len, mode }),
        2 => (pick(), offset()).prop_map(|(file, at)| Op::Seek { file, at }),
        2 => (pick(), offset(), pick(), offset(), length())
            .prop_map(|(from, at, to, to_at, len)| Op::Copy { from, at, to, to_at, len }),
    ];
    let attributes = prop_oneof![
        4 => (pick(), set()).prop_map(|(what, set)| Op::Setattr { what, set }),
        2 => (pick(), 0..5_u8, prop_oneof![4 => 0..100_u16, 1 => 0..5000_u16], 0..3_u32)
            .prop_map(|(what, name, len, flags)| Op::SetXattr { what, name, len, flags }),
        1 => (pick(), 0..5_u8).prop_map(|(what, name)| Op::RemoveXattr { what, name }),
        1 => pick().prop_map(|what| Op::ReadXattrs { what }),
    ];
    let reading = prop_oneof![
        1 => pick().prop_map(|dir| Op::StartReading { dir }),
        2 => (pick(), 0..6_u8, any::<bool>())
            .prop_map(|(cursor, count, plus)| Op::ReadOn { cursor, count, plus }),
    ];
    let rest = prop_oneof![
        4 => pick().prop_map(Op::Forget),
        1 => Just(Op::ForgetAll),
        1 => pick().prop_map(Op::Fsync),
        1 => Just(Op::Checkpoint),
        1 => Just(Op::Upkeep),
        1 => Just(Op::Remount),
        1 => Just(Op::Kill),
    ];
    prop_oneof![10 => names, 9 => data, 4 => attributes, 2 => reading, 4 => rest]
}
