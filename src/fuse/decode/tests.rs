use zerocopy::IntoBytes;

use super::*;
use crate::fuse::abi::Opcode;
use crate::fuse::operations;

/// A whole request: header, argument struct, payload.
fn request(op: u32, arg: &[u8], payload: &[u8]) -> Vec<u8> {
    let header = abi::InHeader {
        len: (size_of::<abi::InHeader>() + arg.len() + payload.len()) as u32,
        opcode: op,
        unique: 0x1234,
        nodeid: 7,
        uid: 1,
        gid: 2,
        pid: 3,
        ..Default::default()
    };
    [header.as_bytes(), arg, payload].concat()
}

/// As the table has it.
fn decode(bytes: &[u8], setxattr_ext: bool) -> Result<()> {
    let request = Request::split(bytes, setxattr_ext)?;
    (operations::row(request.opcode.ok_or(Errno::NOSYS)?).check)(&request)
}

#[test]
fn golden_bytes_of_a_mkdir() {
    #[rustfmt::skip]
    let bytes = [
        52, 0, 0, 0,  9, 0, 0, 0,  0xfe, 1, 0, 0, 0, 0, 0, 0,  5, 0, 0, 0, 0, 0, 0, 0,
        0xe8, 3, 0, 0,  0x64, 0, 0, 0,  0x2a, 0, 0, 0,  0, 0, 0, 0,
        0xed, 1, 0, 0,  0x12, 0, 0, 0,  b'd', b'i', b'r', 0,
    ];
    let request = Request::split(&bytes, true).unwrap();
    assert_eq!(request.header.unique, 0x1fe);
    assert_eq!(request.node(), InodeNo(5));
    let caller = request.caller();
    assert_eq!((caller.uid, caller.gid, caller.pid), (1000, 100, 42));
    let NewEntry { name, mode, umask, .. } = mkdir(&request).unwrap();
    assert_eq!((name, mode, umask), (OsStr::new("dir"), 0o755, 0o22));
}

#[test]
fn setattr_keeps_times_before_1970_and_drops_type_bits() {
    let arg = abi::SetattrIn {
        valid: fattr::MODE | fattr::ATIME | fattr::MTIME | fattr::MTIME_NOW,
        mode: 0o104711,
        atime: -2i64 as u64,
        atimensec: 999_999_999,
        ..Default::default()
    };
    let set_attr = |arg: &abi::SetattrIn| {
        let bytes = request(Opcode::Setattr as u32, arg.as_bytes(), &[]);
        setattr(&Request::split(&bytes, true).unwrap())
    };
    let set = set_attr(&arg).unwrap();
    assert_eq!(set.mode, Some(0o4711));
    assert_eq!(set.atime, Some(SetTime::At(Time { sec: -2, nsec: 999_999_999 })));
    assert_eq!(set.mtime, Some(SetTime::Now));
    assert!(set.uid.is_none() && set.size.is_none() && set.ctime.is_none());
    let bad = abi::SetattrIn { atimensec: 1_000_000_000, ..arg };
    assert_eq!(set_attr(&bad).unwrap_err(), Errno::INVAL);
}

#[test]
fn setxattr_is_read_in_both_layouts() {
    let start = abi::SetxattrIn { size: 2, flags: 1 };
    let more = abi::SetxattrExt { setxattr_flags: 1, padding: 0 };
    let long = [start.as_bytes(), more.as_bytes()].concat();
    for (arg, ext) in [(&long[..], true), (start.as_bytes(), false)] {
        let bytes = request(21, arg, b"user.a\0xy");
        let set = setxattr(&Request::split(&bytes, ext).unwrap()).unwrap();
        let Setxattr { name, value, flags, kill_sgid } = set;
        assert_eq!((name, value, flags), (OsStr::new("user.a"), &b"xy"[..], 1));
        assert_eq!(kill_sgid, ext);
    }
}

#[test]
fn names_no_directory_can_hold_are_refused() {
    let lookup = |name: &[u8]| {
        let bytes = request(1, &[], name);
        decode(&bytes, true)
    };
    assert_eq!(lookup(&[&[b'n'; 255][..], &[0]].concat()), Ok(()));
    assert_eq!(lookup(&[&[b'n'; 256][..], &[0]].concat()), Err(Errno::NAMETOOLONG));
    assert_eq!(lookup(b"\xff\n\0"), Ok(()));
    for bad in [&b"\0"[..], b".\0", b"..\0", b"a/b\0"] {
        assert_eq!(lookup(bad), Err(Errno::INVAL));
    }
    assert_eq!(lookup(b"endless"), Err(Errno::IO));
}

#[test]
fn extensions_are_no_part_of_the_payload() {
    let mut header = abi::InHeader { opcode: 16, ..Default::default() };
    let arg = abi::WriteIn { size: 8, ..Default::default() };
    let whole = Request::from_parts(header, arg.as_bytes(), &[1; 8], true).unwrap();
    assert!(write(&whole).is_ok());
    header.total_extlen = 1;
    let short = Request::from_parts(header, arg.as_bytes(), &[1; 8], true).unwrap();
    assert_eq!(write(&short).unwrap_err(), Errno::IO);
    header.total_extlen = 2;
    assert!(Request::from_parts(header, arg.as_bytes(), &[1; 8], true).is_err());
}

/// A payload that makes each operation whole, and how much of its end may be missing.
fn sample(op: Opcode) -> (Vec<u8>, Vec<u8>) {
    let zeros = |n| vec![0u8; n];
    let arg = match op {
        Opcode::Lseek => abi::LseekIn { whence: 3, ..Default::default() }.as_bytes().to_vec(),
        Opcode::Write => abi::WriteIn { size: 9, ..Default::default() }.as_bytes().to_vec(),
        Opcode::Setxattr => {
            let start = abi::SetxattrIn { size: 3, flags: 0 };
            [start.as_bytes(), &[0; 8]].concat()
        }
        Opcode::BatchForget => abi::BatchForgetIn { count: 3, dummy: 0 }.as_bytes().to_vec(),
        _ => zeros(op.arg_len()),
    };
    let payload = match op {
        Opcode::Lookup | Opcode::Mknod | Opcode::Mkdir | Opcode::Unlink => b"na\0".to_vec(),
        Opcode::Rmdir | Opcode::Link | Opcode::Create => b"na\0".to_vec(),
        Opcode::Getxattr | Opcode::Removexattr => b"user.x\0".to_vec(),
        Opcode::Symlink | Opcode::Rename | Opcode::Rename2 => b"na\0other\0".to_vec(),
        Opcode::Setxattr => b"user.x\0val".to_vec(),
        Opcode::Write => vec![1; 9],
        Opcode::BatchForget => vec![2; 48],
        _ => Vec::new(),
    };
    (arg, payload)
}

#[test]
fn a_request_cut_at_any_length_is_an_error() {
    let optional = [Opcode::Getattr, Opcode::Statx, Opcode::Opendir];
    let unread = [Opcode::Releasedir, Opcode::Syncfs];
    for &op in Opcode::ALL {
        let (arg, payload) = sample(op);
        let whole = request(op as u32, &arg, &payload);
        let refused = [Opcode::Interrupt, Opcode::Flush, Opcode::Access, Opcode::Poll];
        match decode(&whole, true) {
            Ok(_) => {}
            Err(Errno::NOSYS) => assert!(refused.contains(&op), "{op:?}"),
            Err(e) => assert_eq!((op, e), (Opcode::Init, Errno::IO)),
        }
        for cut in 0..whole.len() {
            // Once with the length the header claims, once with the header agreeing.
            assert!(decode(&whole[..cut], true).is_err(), "{op:?} cut at {cut}");
            let mut agreed = whole[..cut].to_vec();
            if cut >= 4 {
                agreed[..4].copy_from_slice(&(cut as u32).to_le_bytes());
            }
            let cut_arg_unread = optional.contains(&op) || unread.contains(&op);
            let ok = decode(&agreed, true).is_ok();
            assert!(!ok || (cut_arg_unread && cut >= 40), "{op:?} agreed cut at {cut}");
        }
    }
}

#[test]
fn random_bytes_never_panic() {
    let mut state = 0x9e3779b97f4a7c15u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for _ in 0..20_000 {
        let len = 40 + (next() % 200) as usize;
        let mut bytes: Vec<u8> = (0..len).map(|_| next() as u8).collect();
        bytes[..4].copy_from_slice(&(len as u32).to_le_bytes());
        bytes[4..8].copy_from_slice(&((next() % 56) as u32).to_le_bytes());
        bytes[36] = (next() % 4) as u8;
        bytes[37] = 0;
        let Ok(request) = Request::split(&bytes, next() % 2 == 0) else { continue };
        let request = Request { setxattr_ext: next() % 2 == 0, ..request };
        let decoded = request.opcode.map(|opcode| (operations::row(opcode).check)(&request));
        if request.opcode == Some(Opcode::BatchForget) && decoded == Some(Ok(())) {
            assert!(batch_forget(&request).unwrap().iter().count() < 20);
        }
    }
}
