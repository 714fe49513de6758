//! The `/dev/fuse` transport: read a request, dispatch, write the reply.
//!
//! [`workers`] says how many threads do so.

mod workers;

use std::io::IoSlice;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};

use memmap2::MmapMut;
use zerocopy::IntoBytes;

use crate::attr::InodeNo;
use crate::errno::{Errno, Result};
use crate::fuse::abi;
use crate::fuse::dispatch::{Dispatcher, Outcome};
use crate::fuse::reply;
use crate::fuse::request::Request;
use crate::fuse::sched_idle::Scheduling;
use crate::sys::fuse_dev;

pub use workers::{WorkerSettings, Workers};

const PAGE: usize = 4096;

/// What precedes the data of a WRITE.
const WRITE_PREFIX: usize = size_of::<abi::InHeader>() + size_of::<abi::WriteIn>();

/// For how long a lazy worker does not look.
const GATHERING: Duration = Duration::from_millis(5);

/// A worker's buffer: the request, and behind it room for the reply, since a request that carries
/// much is answered with little. Pages are taken when they are first used.
pub struct Buffer {
    map: MmapMut,
}

impl Buffer {
    /// For requests and replies of up to `max_io` bytes of data.
    pub fn new(max_io: u32) -> std::io::Result<Buffer> {
        let data = (max_io as usize).max(abi::MIN_READ_BUFFER).next_multiple_of(PAGE);
        // A page for the header, one for what trails the data, one for a small reply.
        Ok(Buffer { map: MmapMut::map_anon(data + 3 * PAGE)? })
    }

    /// Where a request is read to: its WRITE data then begin on a page boundary.
    fn request_area(&mut self) -> &mut [u8] {
        let end = self.map.len() - PAGE;
        &mut self.map[PAGE - WRITE_PREFIX..end]
    }

    /// The request of `len` bytes last read, and the page-aligned room behind it.
    fn split(&mut self, len: usize) -> (&[u8], &mut [u8]) {
        let start = PAGE - WRITE_PREFIX;
        let end = (start + len).next_multiple_of(PAGE).min(self.map.len());
        let (request, room) = self.map.split_at_mut(end);
        (&request[start..][..len], room)
    }
}

/// How promptly a worker reads.
pub enum Pace {
    /// A client waits for each answer.
    Prompt(Box<dyn Scheduling>),
    /// Another transport carries the requests that a client waits for. What comes here (FORGET) is left to
    /// gather for a moment, as each wakeup of this thread takes time from the client that causes it.
    Lazy,
}

/// What a worker does after a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// It reads the next one.
    Read,
    /// It ends: there are enough others.
    Leave,
    /// It ends: the connection has.
    End,
}

/// Serves requests of `connection` until it ends, or until the worker is not wanted any more. `Ok` when the
/// connection was unmounted, `ECONNABORTED` when it was aborted (`/sys/fs/fuse/connections`) and what is
/// mounted answers no more.
fn serve(
    connection: &Arc<OwnedFd>,
    workers: &Arc<Workers>,
    dispatcher: &Arc<Dispatcher>,
    buffer: &mut Buffer,
    mut pace: Pace,
) -> Result<()> {
    let mut served = Ok(if workers.join() { Next::Read } else { Next::Leave });
    while served == Ok(Next::Read) {
        served = serve_one(connection, workers, dispatcher, buffer, &mut pace);
        if matches!(pace, Pace::Lazy) && served == Ok(Next::Read) {
            std::thread::sleep(GATHERING);
        }
    }
    if let Pace::Prompt(mut scheduling) = pace {
        scheduling.end();
    }
    if served != Ok(Next::Leave) {
        workers.end();
    }
    served.map(drop)
}

/// Serves one request. The caller is a reader before, and after if it is to read.
fn serve_one(
    connection: &Arc<OwnedFd>,
    workers: &Arc<Workers>,
    dispatcher: &Arc<Dispatcher>,
    buffer: &mut Buffer,
    pace: &mut Pace,
) -> Result<Next> {
    let len = match read(connection.as_fd(), buffer.request_area()) {
        Ok(0) | Err(Errno::NODEV) => return Ok(Next::End),
        // The request was withdrawn before it could be read.
        Err(Errno::NOENT) => return Ok(Next::Read),
        len => len?,
    };
    let arrived = Instant::now();
    let (bytes, area) = buffer.split(len);
    let request = match Request::split(bytes, dispatcher.agreed().setxattr_ext()) {
        Ok(request) => request,
        Err(errno) => {
            tracing::error!(len, %errno, "a request that is none");
            return Ok(Next::Read);
        }
    };
    if let Pace::Prompt(scheduling) = pace {
        scheduling.wakeup(arrived, request.header.pid);
    }
    if dispatcher.needs_write_back(&request) {
        answer_after_write_back(connection, dispatcher, request.node(), arrived, bytes.to_vec());
        return Ok(Next::Read);
    }
    let unique = request.header.unique;
    let may_block = dispatcher.may_block(&request);
    if may_block {
        workers.leave();
    }
    let (outcome, has_left) = match dispatcher.dispatch(&request, arrived, area) {
        Outcome::NoRoomYet => {
            if !may_block {
                workers.leave();
            }
            (dispatcher.dispatch_waiting(&request, arrived, area), true)
        }
        Outcome::Reply(reply) => (Some(reply), may_block),
        Outcome::NoReply => (None, may_block),
    };
    if let Some(outcome) = outcome {
        answer(connection.as_fd(), unique, outcome, area);
    }
    Ok(if !has_left || workers.join() { Next::Read } else { Next::Leave })
}

/// Carries out a request whose answer is small, once the kernel has written out what it holds of `ino`.
fn answer_after_write_back(
    connection: &Arc<OwnedFd>,
    dispatcher: &Arc<Dispatcher>,
    ino: InodeNo,
    arrived: Instant,
    bytes: Vec<u8>,
) {
    let (connection, waiting) = (Arc::clone(connection), Arc::clone(dispatcher));
    dispatcher.after_write_back(ino, move || {
        let mut area = [0; 256];
        let Ok(request) = Request::split(&bytes, waiting.agreed().setxattr_ext()) else {
            return;
        };
        if let Some(outcome) = waiting.dispatch_waiting(&request, arrived, &mut area) {
            answer(connection.as_fd(), request.header.unique, outcome, &area);
        }
    });
}

/// Reads one request. Transient errors are retried.
pub fn read(connection: BorrowedFd<'_>, area: &mut [u8]) -> Result<usize> {
    loop {
        match rustix::io::read(connection, &mut *area) {
            Err(errno) if fuse_dev::is_transient(errno) => continue,
            done => return done,
        }
    }
}

/// Writes a reply; `outcome` is the length of its payload in `area`. That nobody waits for it any
/// more (`ENOENT`) is no error, nor that the connection ended: reading will tell.
pub fn answer(connection: BorrowedFd<'_>, unique: u64, outcome: Result<usize>, area: &[u8]) {
    if let Err(errno) = write(connection, unique, outcome, area) {
        match errno {
            Errno::NOENT | Errno::NODEV => tracing::debug!(unique, "nobody waits for the reply"),
            _ => tracing::error!(unique, %errno, "the kernel refused a reply"),
        }
    }
}

fn write(
    connection: BorrowedFd<'_>,
    unique: u64,
    outcome: Result<usize>,
    area: &[u8],
) -> Result<()> {
    let header = reply::out_header(unique, outcome);
    let payload = &area[..outcome.unwrap_or(0)];
    let parts = [IoSlice::new(header.as_bytes()), IoSlice::new(payload)];
    let parts = if payload.is_empty() { &parts[..1] } else { &parts[..] };
    rustix::io::retry_on_intr(|| rustix::io::writev(connection, parts)).map(|_| ())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn write_data_and_reply_room_are_page_aligned() {
        let mut buffer = Buffer::new(1 << 20).unwrap();
        let area = buffer.request_area();
        assert!(area.len() >= WRITE_PREFIX + (1 << 20));
        assert_eq!(area[WRITE_PREFIX..].as_ptr().addr() % PAGE, 0);
        for len in [40, WRITE_PREFIX, WRITE_PREFIX + 1, WRITE_PREFIX + (1 << 20)] {
            let (request, room) = buffer.split(len);
            assert_eq!(request.len(), len);
            assert_eq!(room.as_ptr().addr() % PAGE, 0);
            assert!(room.len() >= 2 * PAGE);
        }
        assert!(buffer.split(WRITE_PREFIX).1.len() > 1 << 20, "room for the largest READ");
    }
}
