//! A request in a slot, and its answer in the same place.

use std::time::Instant;

use zerocopy::{FromBytes, IntoBytes};

use crate::errno::{Errno, Result};
use crate::fuse::abi;
use crate::fuse::dispatch::{Dispatcher, Outcome};
use crate::fuse::reply;
use crate::fuse::request::Request;
use crate::sys::uring::Slot;

/// Room for the names that come with a request, or for the reply to one that brings data.
pub struct Scratch(Box<[u8; 4096]>);

impl Default for Scratch {
    fn default() -> Scratch {
        Scratch(Box::new([0; 4096]))
    }
}

/// A slot with a request in it, or with the answer.
pub struct Exchange<'a> {
    header: &'a mut abi::RingHeader,
    payload: &'a mut [u8],
}

impl<'a> Exchange<'a> {
    pub fn of(slot: &'a mut Slot) -> Exchange<'a> {
        let (header, payload) = slot.parts();
        let header = abi::RingHeader::mut_from_bytes(header);
        Exchange { header: header.expect("slots are laid out for this header"), payload }
    }

    /// Bytes of the request's payload, or of the answer's.
    pub fn payload_len(&self) -> usize {
        (self.header.entry.payload_size as usize).min(self.payload.len())
    }

    /// What the kernel knows the request by.
    pub fn commit_id(&self) -> u64 {
        self.header.entry.commit_id
    }

    /// The request that the kernel put here.
    pub fn request(&self, dispatcher: &Dispatcher) -> Result<Request<'_>> {
        let len = self.payload_len();
        let (header, _) = abi::InHeader::read_from_prefix(self.header.in_out.as_bytes())
            .map_err(|_| Errno::IO)?;
        let ext = dispatcher.agreed().setxattr_ext();
        Request::from_parts(header, self.header.op_in.as_bytes(), &self.payload[..len], ext)
    }

    /// Puts an error in the request's place.
    pub fn refuse(self, errno: Errno) {
        let asked = abi::InHeader::read_from_prefix(self.header.in_out.as_bytes());
        let (asked, _) = asked.expect("the area is longer than the header");
        self.header.put_reply(asked.unique, Err(errno));
    }

    /// Carries the request out and puts the answer in its place. False, with the request as it was, where
    /// there is no room now, but may be in a moment: see [`Dispatcher::dispatch`].
    #[must_use]
    pub fn answer(self, arrived: Instant, scratch: &mut Scratch, dispatcher: &Dispatcher) -> bool {
        self.answer_by(scratch, dispatcher, |request, area| {
            dispatcher.dispatch(request, arrived, area)
        })
    }

    /// As [`Exchange::answer`], and waits for room where it may come.
    pub fn answer_waiting(self, arrived: Instant, scratch: &mut Scratch, dispatcher: &Dispatcher) {
        self.answer_by(scratch, dispatcher, |request, area| {
            let reply = dispatcher.dispatch_waiting(request, arrived, area);
            reply.map_or(Outcome::NoReply, Outcome::Reply)
        });
    }

    /// The two share the payload's memory, so the short one of them is moved: names are taken to
    /// `scratch` before the reply is written, and what follows long data is a short reply, which is
    /// put together in `scratch`. An error writes nothing there.
    fn answer_by(
        self,
        scratch: &mut Scratch,
        dispatcher: &Dispatcher,
        dispatch: impl FnOnce(&Request<'_>, &mut [u8]) -> Outcome,
    ) -> bool {
        let Exchange { header, payload } = self;
        let scratch = &mut scratch.0[..];
        let len = (header.entry.payload_size as usize).min(payload.len());
        let asked = abi::InHeader::read_from_prefix(header.in_out.as_bytes());
        let (asked, _) = asked.expect("the area is longer than the header");
        let op_in = header.op_in.as_bytes();
        let ext = dispatcher.agreed().setxattr_ext();
        let is_long = len > scratch.len();
        let (names, area) = if is_long {
            (&payload[..len], &mut scratch[..])
        } else {
            scratch[..len].copy_from_slice(&payload[..len]);
            (&scratch[..len], &mut payload[..])
        };
        let outcome = match Request::from_parts(asked, op_in, names, ext) {
            Ok(request) => dispatch(&request, area),
            Err(errno) => Outcome::Reply(Err(errno)),
        };
        let reply = match outcome {
            Outcome::NoRoomYet => {
                payload_back(payload, scratch, len, is_long);
                return false;
            }
            Outcome::Reply(reply) => reply,
            Outcome::NoReply => Ok(0),
        };
        if let (true, Ok(len)) = (is_long, reply) {
            payload[..len].copy_from_slice(&scratch[..len]);
        }
        header.put_reply(asked.unique, reply);
        true
    }
}

/// A reply that was begun may have overwritten the names.
fn payload_back(payload: &mut [u8], scratch: &[u8], len: usize, is_long: bool) {
    if !is_long {
        payload[..len].copy_from_slice(&scratch[..len]);
    }
}

impl abi::RingHeader {
    fn put_reply(&mut self, unique: u64, outcome: Result<usize>) {
        let out = reply::out_header(unique, outcome);
        self.in_out.as_mut_bytes()[..size_of::<abi::OutHeader>()].copy_from_slice(out.as_bytes());
        self.entry.payload_size = outcome.unwrap_or(0) as u32;
    }
}
