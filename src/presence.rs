//! A mount's daemon, found by the mount's device number: who serves it, and when it has let go of the upper.
//!
//! Each mount has a socket in the abstract name space (unix(7)) that is named after its device number. (A number may be given to a
//! new mount while the daemon of the one before has not heard of its end: a counter tells them apart, the highest is the latest.)
//! Nobody answers there: who wants to wait connects, which the kernel does alone, and reads. One byte comes when the connection to the kernel has
//! ended, the end of the stream when the upper is closed, or the daemon has died. The kernel vouches for the daemon's pid.

use std::io::{self, Read, Write};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::time::Duration;

use parking_lot::Mutex;

/// Major and minor number of a mounted file system.
pub type Device = (u32, u32);

/// The type that mountinfo shows of a mount.
pub const KIND: &[u8] = b"fuse.overcoat";

/// Sent when the connection to the kernel has ended.
const ENDING: u8 = b'E';

/// Most daemons of one device number at a time: all but the last are about to end.
const GENERATIONS: u32 = 16;

fn address((major, minor): Device, generation: u32) -> io::Result<SocketAddr> {
    SocketAddr::from_abstract_name(format!("overcoat/mount/{major}:{minor}/{generation}"))
}

/// The latest daemon's generation, and a connection to it.
fn latest(device: Device) -> Option<(u32, UnixStream)> {
    let connect = |generation| {
        let stream = UnixStream::connect_addr(&address(device, generation).ok()?).ok()?;
        Some((generation, stream))
    };
    (0..GENERATIONS).rev().find_map(connect)
}

/// The daemon's side. Dropped when the upper is closed.
#[derive(Debug)]
pub struct Presence {
    listener: UnixListener,
    /// Those who wait, kept until the end.
    waiting: Mutex<Vec<UnixStream>>,
}

impl Presence {
    /// Announces that this process serves the mount.
    ///
    /// # Errors
    /// `EADDRINUSE` where another process has the name, or of socket(2).
    pub fn announce(device: Device) -> io::Result<Presence> {
        let generation = latest(device).map_or(0, |(generation, _)| generation + 1);
        if generation == GENERATIONS {
            return Err(io::ErrorKind::AddrInUse.into());
        }
        let listener = UnixListener::bind_addr(&address(device, generation)?)?;
        listener.set_nonblocking(true)?;
        Ok(Presence { listener, waiting: Mutex::default() })
    }

    /// Tells those who wait that the connection to the kernel has ended, and the upper is being closed.
    pub fn ending(&self) {
        let mut waiting = self.waiting.lock();
        while let Ok((mut stream, _)) = self.listener.accept() {
            if stream.write_all(&[ENDING]).is_ok() {
                waiting.push(stream);
            }
        }
    }
}

/// A daemon that is connected to.
#[derive(Debug)]
pub struct Daemon {
    stream: UnixStream,
    pub pid: u32,
    pub user: u32,
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

/// The daemon that serves the mount with this device number; `None` where it cannot be reached: it is gone, or in another
/// network namespace.
pub fn find(device: Device) -> Option<Daemon> {
    let (_, stream) = latest(device)?;
    let peer = rustix::net::sockopt::socket_peercred(&stream).ok()?;
    let pid = peer.pid.as_raw_nonzero().get().unsigned_abs();
    Some(Daemon { stream, pid, user: peer.uid.as_raw() })
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
    let seen = [crate::sys::mountinfo::mounts_of(pid), crate::sys::mountinfo::mounts()];
    let mut devices: Vec<Device> = seen
        .into_iter()
        .flatten()
        .flatten()
        .filter(|mount| mount.kind == KIND)
        .map(|mount| mount.device)
        .collect();
    devices.sort_unstable();
    devices.dedup();
    devices.into_iter().any(|device| find(device).is_some_and(|daemon| daemon.pid == pid))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Numbers that no device has: minor numbers have 20 bits.
    const NOWHERE: Device = (0, 1 << 21);

    #[test]
    fn who_waits_hears_of_each_stage() {
        assert!(find(NOWHERE).is_none());
        let presence = Presence::announce(NOWHERE).unwrap();
        let mut early = find(NOWHERE).unwrap();
        assert_eq!(early.pid, std::process::id());
        assert_eq!(early.wait(Duration::from_millis(1)).unwrap(), Stage::Serving);
        presence.ending();
        assert_eq!(early.wait(Duration::from_secs(9)).unwrap(), Stage::Ending);
        let mut late = find(NOWHERE).unwrap();
        drop(presence);
        assert_eq!(early.wait(Duration::from_secs(9)).unwrap(), Stage::Ended);
        assert_eq!(late.wait(Duration::from_secs(9)).unwrap(), Stage::Ended);
        assert!(find(NOWHERE).is_none());
    }

    #[test]
    fn a_number_may_be_given_out_anew_before_the_end() {
        let device = (0, NOWHERE.1 + 1);
        let old = Presence::announce(device).unwrap();
        let mut of_old = find(device).unwrap();
        let new = Presence::announce(device).unwrap();
        let mut of_new = find(device).unwrap();
        drop(old);
        assert_eq!(of_old.wait(Duration::from_secs(9)).unwrap(), Stage::Ended);
        assert_eq!(of_new.wait(Duration::from_millis(1)).unwrap(), Stage::Serving);
        assert!(find(device).is_some());
        let newest = Presence::announce(device).unwrap();
        drop(new);
        assert_eq!(of_new.wait(Duration::from_secs(9)).unwrap(), Stage::Ended);
        drop(newest);
        assert!(find(device).is_none());
    }
}
