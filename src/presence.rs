//! A mount's daemon, found by the mount's device number: who serves it, and when it has let go of the upper.
//!
//! Each mount has a socket in the abstract name space (unix(7)) that is named after its device number. (A number may be given to a
//! new mount while the daemon of the one before has not heard of its end: a counter tells them apart, the highest is the latest.)
//! Nothing is asked there: who wants to wait connects, and reads. One byte comes when the connection to the kernel has
//! ended, the end of the stream when the upper is closed, or the daemon has died. The kernel vouches for the daemon's pid.
//!
//! Any user of the host can take such a name, or let a queue of connections run full. So nobody waits for a connection, a
//! socket counts only if it is of the user who mounted, and a daemon without a socket serves all the same: then an unmount
//! is not waited for.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::net::{AddressFamily, Shutdown, SocketAddrUnix, SocketFlags, SocketType, UCred};
use rustix::net::{connect, shutdown, socket_with, sockopt};

use crate::sys::mountinfo::{self, MountPoint};

/// Major and minor number of a mounted file system.
pub type Device = (u32, u32);

/// The type that mountinfo shows of a mount.
pub const KIND: &[u8] = b"fuse.overcoat";

/// Sent when the connection to the kernel has ended.
const ENDING: u8 = b'E';

/// Most daemons of one device number at a time: all but the last are about to end.
const GENERATIONS: u32 = 16;

/// Between two tries to accept.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Most of those who wait at a time; further ones are sent away.
const MOST_WAITING: usize = 256;

fn name((major, minor): Device, generation: u32) -> String {
    format!("overcoat/mount/{major}:{minor}/{generation}")
}

/// A connection to the daemon of this generation, if there is one and its queue is not full. Does not wait.
fn reach(device: Device, generation: u32) -> Option<(UnixStream, UCred)> {
    let address = SocketAddrUnix::new_abstract_name(name(device, generation).as_bytes()).ok()?;
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).ok()?;
    connect(&socket, &address).ok()?;
    let peer = sockopt::socket_peercred(&socket).ok()?;
    let stream = UnixStream::from(socket);
    stream.set_nonblocking(false).ok()?;
    Some((stream, peer))
}

/// The generation of the latest daemon that `user` runs, and a connection to it.
fn latest(device: Device, user: u32) -> Option<(u32, UnixStream, UCred)> {
    (0..GENERATIONS).rev().find_map(|generation| {
        let (stream, peer) = reach(device, generation)?;
        (peer.uid.as_raw() == user).then_some((generation, stream, peer))
    })
}

/// The daemon's side. Dropped when the upper is closed.
#[derive(Debug)]
pub struct Presence {
    listener: Arc<UnixListener>,
    waiting: Arc<Mutex<Waiting>>,
    thread: Option<JoinHandle<()>>,
}

/// Those who wait.
#[derive(Debug, Default)]
struct Waiting {
    streams: Vec<UnixStream>,
    ending: bool,
}

impl Presence {
    /// Announces that this process serves the mount.
    ///
    /// # Errors
    /// `EADDRINUSE` where other processes have all names, or of socket(2) and of starting a thread.
    pub fn announce(device: Device) -> io::Result<Presence> {
        let user = rustix::process::geteuid().as_raw();
        let first = latest(device, user).map_or(0, |(generation, ..)| generation + 1);
        let mut outcome = Err(io::ErrorKind::AddrInUse.into());
        for generation in first..GENERATIONS {
            let address = SocketAddr::from_abstract_name(name(device, generation))?;
            outcome = UnixListener::bind_addr(&address);
            if outcome.is_ok() {
                break;
            }
        }
        let listener = Arc::new(outcome?);
        let waiting = Arc::new(Mutex::<Waiting>::default());
        let (from, to) = (Arc::clone(&listener), Arc::clone(&waiting));
        let thread = std::thread::Builder::new().name("presence".to_owned());
        let thread = Some(thread.spawn(move || accept(&from, &to))?);
        Ok(Presence { listener, waiting, thread })
    }

    /// Tells those who wait that the connection to the kernel has ended, and the upper is being closed.
    pub fn ending(&self) {
        let mut waiting = self.waiting.lock();
        waiting.ending = true;
        waiting.streams.retain_mut(tell_ending);
    }
}

impl Drop for Presence {
    fn drop(&mut self) {
        // The thread's accept(2) fails from now on.
        if let Err(errno) = shutdown(&self.listener, Shutdown::Both) {
            tracing::warn!(%errno, "shutting the presence's socket down");
            return;
        }
        if self.thread.take().is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the presence thread had panicked");
        }
    }
}

/// Takes those who may wait from the queue, which would be full some day, and forgets those who have left.
fn accept(listener: &UnixListener, waiting: &Mutex<Waiting>) {
    loop {
        let mut stream = match listener.accept() {
            Ok((stream, _)) => stream,
            // Shut down.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            // No descriptor is free, or the one who waited has left.
            Err(_) => {
                std::thread::sleep(ACCEPT_PAUSE);
                continue;
            }
        };
        let mut waiting = waiting.lock();
        waiting.streams.retain_mut(is_there);
        let wanted = may_wait(&stream) && waiting.streams.len() < MOST_WAITING;
        if !wanted || stream.set_nonblocking(true).is_err() {
            continue;
        }
        if !waiting.ending || tell_ending(&mut stream) {
            waiting.streams.push(stream);
        }
    }
}

/// Root, and the user who has mounted.
fn may_wait(stream: &UnixStream) -> bool {
    sockopt::socket_peercred(stream)
        .is_ok_and(|peer| peer.uid.is_root() || peer.uid == rustix::process::geteuid())
}

fn tell_ending(stream: &mut UnixStream) -> bool {
    stream.write_all(&[ENDING]).is_ok()
}

/// Whether the other side has not closed: it never sends anything.
fn is_there(stream: &mut UnixStream) -> bool {
    stream.read(&mut [0]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

/// A daemon that is connected to.
#[derive(Debug)]
pub struct Daemon {
    stream: UnixStream,
    pub pid: u32,
}

/// How far a daemon has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// It serves, as far as can be seen from here.
    Serving,
    /// The connection to the kernel has ended; the upper is not closed yet.
    Ending,
    /// The upper is closed, or the daemon is gone.
    Ended,
}

/// The daemon that `user` runs for the mount with this device number; `None` where it cannot be reached: it is gone, in
/// another network namespace, or somebody has filled the queue of its socket.
pub fn find(device: Device, user: u32) -> Option<Daemon> {
    let (_, stream, peer) = latest(device, user)?;
    let pid = peer.pid.as_raw_nonzero().get().unsigned_abs();
    Some(Daemon { stream, pid })
}

/// The daemon of a mount; `None` where it cannot be reached, as with [`find`].
pub fn of_mount(mount: &MountPoint) -> Option<Daemon> {
    let user = mount.option("user_id")?.parse().ok()?;
    find(mount.device, user)
}

impl Daemon {
    /// Waits until the daemon has come further, at most for `limit`.
    ///
    /// # Errors
    /// Of recv(2).
    pub fn wait(&mut self, limit: Duration) -> io::Result<Stage> {
        self.stream.set_read_timeout(Some(limit.max(Duration::from_millis(1))))?;
        let mut byte = [0];
        match self.stream.read(&mut byte) {
            Ok(0) => Ok(Stage::Ended),
            Ok(_) => Ok(Stage::Ending),
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(Stage::Ended),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(Stage::Serving),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(Stage::Serving),
            Err(error) => Err(error),
        }
    }
}

/// Whether the process `pid` serves a mount that it or this process sees.
pub fn serves_a_mount(pid: u32) -> bool {
    let seen = [mountinfo::mounts_of(pid), mountinfo::mounts()];
    let mut mounts: Vec<MountPoint> =
        seen.into_iter().flatten().flatten().filter(|mount| mount.kind == KIND).collect();
    mounts.sort_unstable_by_key(|mount| mount.device);
    mounts.dedup_by_key(|mount| mount.device);
    mounts.iter().any(|mount| of_mount(mount).is_some_and(|daemon| daemon.pid == pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that no device has: minor numbers have 20 bits.
    const NOWHERE: Device = (0, 1 << 21);

    fn found(device: Device) -> Option<Daemon> {
        find(device, rustix::process::geteuid().as_raw())
    }

    #[test]
    fn who_waits_hears_of_each_stage() {
        assert!(found(NOWHERE).is_none());
        let presence = Presence::announce(NOWHERE).unwrap();
        let mut early = found(NOWHERE).unwrap();
        assert_eq!(early.pid, std::process::id());
        assert_eq!(early.wait(Duration::from_millis(1)).unwrap(), Stage::Serving);
        presence.ending();
        assert_eq!(early.wait(Duration::from_secs(9)).unwrap(), Stage::Ending);
        let mut late = found(NOWHERE).unwrap();
        assert_eq!(late.wait(Duration::from_secs(9)).unwrap(), Stage::Ending);
        drop(presence);
        assert_eq!(early.wait(Duration::from_secs(9)).unwrap(), Stage::Ended);
        assert_eq!(late.wait(Duration::from_secs(9)).unwrap(), Stage::Ended);
        assert!(found(NOWHERE).is_none());
    }

    #[test]
    fn those_who_have_left_are_forgotten() {
        let device = (0, NOWHERE.1 + 3);
        let presence = Presence::announce(device).unwrap();
        for _ in 0..5_000 {
            // The queue may be full for a moment, but not for good.
            while found(device).is_none() {
                std::thread::yield_now();
            }
        }
        let mut last = found(device).unwrap();
        presence.ending();
        assert_eq!(last.wait(Duration::from_secs(9)).unwrap(), Stage::Ending);
        assert!(presence.waiting.lock().streams.len() <= 2);
    }

    #[test]
    fn a_number_may_be_given_out_anew_before_the_end() {
        let device = (0, NOWHERE.1 + 1);
        let old = Presence::announce(device).unwrap();
        let mut of_old = found(device).unwrap();
        let new = Presence::announce(device).unwrap();
        let mut of_new = found(device).unwrap();
        drop(old);
        assert_eq!(of_old.wait(Duration::from_secs(9)).unwrap(), Stage::Ended);
        assert_eq!(of_new.wait(Duration::from_millis(1)).unwrap(), Stage::Serving);
        assert!(found(device).is_some());
        let newest = Presence::announce(device).unwrap();
        drop(new);
        assert_eq!(of_new.wait(Duration::from_secs(9)).unwrap(), Stage::Ended);
        drop(newest);
        assert!(found(device).is_none());
    }

    #[test]
    fn names_that_others_have_taken_hold_up_nobody() {
        let device = (0, NOWHERE.1 + 2);
        let taken = |generation| {
            let address = SocketAddr::from_abstract_name(name(device, generation)).unwrap();
            UnixListener::bind_addr(&address).unwrap()
        };
        // Nobody accepts: the queue runs full, and a connection would wait.
        let _squatter = taken(0);
        let queued: Vec<_> = std::iter::from_fn(|| reach(device, 0)).collect();
        assert!(!queued.is_empty() && reach(device, 0).is_none());
        assert!(find(device, 1 << 30).is_none(), "of another user");
        let presence = Presence::announce(device).unwrap();
        assert_eq!(found(device).unwrap().pid, std::process::id());
        drop(presence);
        let _all: Vec<_> = (1..GENERATIONS).map(taken).collect();
        assert!(Presence::announce(device).is_err());
    }
}
