//! A request: the kernel's bytes, taken apart.
//!
//! A request has three parts: the header, the operation's argument struct, and the payload (names,
//! data). Over `/dev/fuse` they lie in a row; over io_uring each has an area of its own. Bytes are
//! checked before they are believed: nothing here panics or reads past an end.

use zerocopy::FromBytes;

use crate::attr::{Caller, InodeNo};
use crate::errno::{Errno, Result};
use crate::fuse::abi::{self, Opcode};

/// One request, its operation not yet decoded.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    pub header: abi::InHeader,
    /// `None`: an operation unknown here.
    pub opcode: Option<Opcode>,
    /// The operation's argument struct. May be longer than the struct (the io_uring area is).
    pub arg: &'a [u8],
    /// What follows it.
    pub payload: &'a [u8],
    /// SETXATTR has its longer layout.
    pub setxattr_ext: bool,
}

impl<'a> Request<'a> {
    /// Splits a request as `/dev/fuse` delivers it.
    ///
    /// # Errors
    /// `EIO` where it contradicts itself: there is then no trustworthy `unique` to answer to.
    pub fn split(bytes: &'a [u8], setxattr_ext: bool) -> Result<Request<'a>> {
        let (header, rest) = abi::InHeader::read_from_prefix(bytes).map_err(|_| Errno::IO)?;
        if header.len as usize != bytes.len() {
            return Err(Errno::IO);
        }
        let arg_len = match Opcode::from_raw(header.opcode) {
            // A cut argument is the decoder's to refuse, which can still answer the request.
            Some(op) => arg_len(op, setxattr_ext, rest.len()).min(rest.len()),
            None => 0,
        };
        let (arg, payload) = rest.split_at(arg_len);
        Request::from_parts(header, arg, payload, setxattr_ext)
    }

    /// Puts together a request whose parts arrived apart.
    ///
    /// # Errors
    /// `EIO` where the extensions are longer than the payload that holds them.
    pub fn from_parts(
        header: abi::InHeader,
        arg: &'a [u8],
        payload: &'a [u8],
        setxattr_ext: bool,
    ) -> Result<Request<'a>> {
        let extensions = usize::from(header.total_extlen) * 8;
        let end = payload.len().checked_sub(extensions).ok_or(Errno::IO)?;
        let opcode = Opcode::from_raw(header.opcode);
        Ok(Request { header, opcode, arg, payload: &payload[..end], setxattr_ext })
    }

    /// The node id that the request is about.
    pub fn node(&self) -> InodeNo {
        InodeNo(self.header.nodeid)
    }

    /// The client. Where id-mapped mounts were negotiated, the ids are `u32::MAX` except in requests
    /// that make an inode.
    pub fn caller(&self) -> Caller {
        Caller { uid: self.header.uid, gid: self.header.gid, pid: self.header.pid }
    }

    /// The argument struct.
    ///
    /// # Errors
    /// `EIO` where the request is too short for it.
    pub fn arg<T: FromBytes>(&self) -> Result<T> {
        T::read_from_prefix(self.arg).map(|(arg, _)| arg).map_err(|_| Errno::IO)
    }
}

/// How long the argument struct of `op` is in a request of which `rest` bytes follow the header.
fn arg_len(op: Opcode, setxattr_ext: bool, rest: usize) -> usize {
    match op {
        Opcode::Init => rest,
        Opcode::Setxattr if setxattr_ext => op.arg_len() + size_of::<abi::SetxattrExt>(),
        _ => op.arg_len(),
    }
}
