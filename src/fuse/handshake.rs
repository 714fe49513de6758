//! The first requests of a connection: INIT, read and answered over `/dev/fuse` whatever the transport.

use std::os::fd::{AsFd, OwnedFd};

use zerocopy::IntoBytes;

use crate::errno::Errno;
use crate::fuse::abi::{self, Opcode};
use crate::fuse::dev;
use crate::fuse::init::{self, Answer, Negotiated, Wishes};
use crate::fuse::mount::MountError;
use crate::fuse::request::Request;

/// Reads and answers INIT, twice if the kernel speaks a newer major version.
pub fn shake_hands(
    device: &OwnedFd,
    wishes: &Wishes,
) -> std::result::Result<Negotiated, MountError> {
    let device = device.as_fd();
    let mut area = vec![0; abi::MIN_READ_BUFFER];
    for _ in 0..2 {
        let len = dev::read(device, &mut area).map_err(MountError::Handshake)?;
        let request = Request::split(&area[..len], false).map_err(MountError::Handshake)?;
        if request.opcode != Some(Opcode::Init) {
            return Err(MountError::Handshake(Errno::PROTO));
        }
        let unique = request.header.unique;
        let answer = |out: &abi::InitOut| {
            dev::answer(device, unique, Ok(size_of::<abi::InitOut>()), out.as_bytes());
        };
        match init::negotiate(request.arg, wishes) {
            Answer::Agreed(out, agreed) => {
                answer(&out);
                tracing::debug!(?agreed, "connected");
                return Ok(agreed);
            }
            Answer::AskAgain(out) => answer(&out),
            Answer::TooOld(major, minor) => {
                dev::answer(device, unique, Err(Errno::PROTO), &[]);
                return Err(MountError::TooOld(major, minor));
            }
            Answer::Malformed => return Err(MountError::Handshake(Errno::PROTO)),
        }
    }
    Err(MountError::Handshake(Errno::PROTO))
}
