//! A host file for tests that fails, dies or loses power when told to.

use std::collections::BTreeMap;
use std::io::{IoSlice, IoSliceMut};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::io::Errno;

use super::Backing;
use crate::errno::Result;
use crate::sys::map::Window;

const SECTOR: usize = 512;
type Sector = [u8; SECTOR];

/// What happens at the n-th call that changes the file (counted from 0).
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// That call fails; later ones work.
    Once(u64, Errno),
    /// That call and all after it fail.
    From(u64, Errno),
    /// That call does what it should, and fails all the same; later ones work.
    Late(u64, Errno),
    /// That call, where it is a write, writes half of what it should and says so.
    Short(u64),
    /// The same, and the call after it fails.
    ShortThen(u64, Errno),
    /// That call changes only part of what it should, and nothing changes after: a kill.
    Kill(u64),
    /// The n-th read (counted from 0 by itself) fails; all else works.
    Read(u64, Errno),
}

/// How much of a call is done, and what it says then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Whole,
    Late(Errno),
    Short,
    /// Half, and death.
    Half,
}

#[derive(Clone, Debug, Default)]
struct State {
    now: BTreeMap<u64, Sector>,
    len: u64,
    durable: BTreeMap<u64, Sector>,
    durable_len: u64,
    /// Contents that sectors had since the last sync, oldest first.
    since: BTreeMap<u64, Vec<Sector>>,
    lens: Vec<u64>,
    calls: u64,
    reads: u64,
    fault: Option<Fault>,
    /// The fault has happened.
    struck: bool,
    /// Bytes that fit on the host.
    room: Option<u64>,
    /// A copy-on-write host: bytes that can still be written or reserved.
    copy_on_write: Option<u64>,
    sync_time: Duration,
}

/// A file in memory. Clones are the same file.
#[derive(Clone, Debug, Default)]
pub struct Faulty(Arc<Mutex<State>>);

/// A seeded random generator: the same seed gives the same numbers on every machine.
#[derive(Clone, Debug)]
pub struct Rng(fastrand::Rng);

impl Rng {
    pub fn new(seed: u64) -> Rng {
        Rng(fastrand::Rng::with_seed(seed))
    }

    pub fn draw(&mut self) -> u64 {
        self.0.u64(..)
    }

    /// Below `n`; 0 where `n` is 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.0.u64(..n.max(1))
    }
}

impl State {
    fn sector(&self, n: u64) -> Sector {
        self.now.get(&n).copied().unwrap_or([0; SECTOR])
    }

    fn put(&mut self, n: u64, s: Sector) {
        self.since.entry(n).or_default().push(s);
        if s == [0; SECTOR] {
            self.now.remove(&n);
        } else {
            self.now.insert(n, s);
        }
    }

    fn write(&mut self, mut offset: u64, mut data: &[u8]) {
        self.grow(offset + data.len() as u64);
        while !data.is_empty() {
            let (n, at) = (offset / SECTOR as u64, (offset % SECTOR as u64) as usize);
            let k = data.len().min(SECTOR - at);
            let mut s = self.sector(n);
            s[at..at + k].copy_from_slice(&data[..k]);
            self.put(n, s);
            offset += k as u64;
            data = &data[k..];
        }
    }

    fn zero(&mut self, offset: u64, len: u64) {
        let sectors: Vec<u64> = self
            .now
            .range(offset / SECTOR as u64..(offset + len) / SECTOR as u64)
            .map(|(n, _)| *n)
            .collect();
        sectors.into_iter().for_each(|n| self.put(n, [0; SECTOR]));
    }

    fn grow(&mut self, len: u64) {
        if len > self.len {
            self.len = len;
            self.lens.push(len);
        }
    }

    /// Of a copy-on-write host: takes room for `len` bytes.
    fn take_room(&mut self, len: u64) -> Result<()> {
        let Some(left) = &mut self.copy_on_write else { return Ok(()) };
        *left = left.checked_sub(len).ok_or(Errno::NOSPC)?;
        Ok(())
    }

    /// Counts a call that changes the file.
    fn step(&mut self) -> Result<Step> {
        let n = self.calls;
        self.calls += 1;
        let step = match self.fault {
            Some(Fault::Once(at, err)) if n == at => Err(err),
            Some(Fault::From(at, err)) if n >= at => Err(err),
            Some(Fault::ShortThen(at, err)) if n == at + 1 => Err(err),
            Some(Fault::Kill(at)) if n > at => Err(Errno::IO),
            Some(Fault::Late(at, err)) if n == at => Ok(Step::Late(err)),
            Some(Fault::Short(at) | Fault::ShortThen(at, _)) if n == at => Ok(Step::Short),
            Some(Fault::Kill(at)) if n == at => Ok(Step::Half),
            _ => Ok(Step::Whole),
        };
        self.struck |= step != Ok(Step::Whole);
        step
    }
}

impl Faulty {
    /// A file with these bytes, all durable.
    pub fn with(bytes: &[u8]) -> Faulty {
        let file = Faulty::default();
        {
            let mut s = file.0.lock();
            s.write(0, bytes);
        }
        file.settle();
        file
    }

    /// Everything is durable now.
    pub fn settle(&self) {
        let mut s = self.0.lock();
        let State { now, durable, since, .. } = &mut *s;
        for n in std::mem::take(since).into_keys() {
            match now.get(&n) {
                Some(sector) => durable.insert(n, *sector),
                None => durable.remove(&n),
            };
        }
        s.durable_len = s.len;
        s.lens.clear();
    }

    pub fn set_fault(&self, fault: Option<Fault>) {
        self.0.lock().fault = fault;
    }

    /// Makes a change that is done whole or, at a kill, not at all.
    fn change(&self, change: impl FnOnce(&mut State)) -> Result<()> {
        let mut s = self.0.lock();
        match s.step()? {
            Step::Whole | Step::Short => change(&mut s),
            Step::Late(err) => {
                change(&mut s);
                return Err(err);
            }
            Step::Half => {}
        }
        Ok(())
    }

    /// The host is full at this many bytes.
    pub fn set_room(&self, room: Option<u64>) {
        self.0.lock().room = room;
    }

    /// How long each sync takes from now on.
    pub fn set_sync_time(&self, time: Duration) {
        self.0.lock().sync_time = time;
    }

    /// Makes the host a copy-on-write file system that has this many bytes left: each write takes some, each punch
    /// gives some back.
    pub fn set_copy_on_write(&self, left: u64) {
        self.0.lock().copy_on_write = Some(left);
    }

    /// Whether the fault has happened.
    pub fn has_struck(&self) -> bool {
        self.0.lock().struck
    }

    /// Whether it is killed: nothing works any more.
    pub fn is_dead(&self) -> bool {
        let s = self.0.lock();
        s.struck && matches!(s.fault, Some(Fault::Kill(_)))
    }

    /// Another file that is the same now.
    pub fn fork(&self) -> Faulty {
        Faulty(Arc::new(Mutex::new(self.0.lock().clone())))
    }

    /// Reads so far.
    pub fn reads(&self) -> u64 {
        self.0.lock().reads
    }

    /// Calls so far that change the file.
    pub fn calls(&self) -> u64 {
        self.0.lock().calls
    }

    /// The page cache's view: what a killed daemon leaves.
    pub fn bytes(&self) -> Vec<u8> {
        let s = self.0.lock();
        let mut out = vec![0; s.len as usize];
        for (n, sector) in &s.now {
            let at = *n as usize * SECTOR;
            if at < out.len() {
                let k = SECTOR.min(out.len() - at);
                out[at..at + k].copy_from_slice(&sector[..k]);
            }
        }
        out
    }

    /// The file as a power cut leaves it: of each sector written since the last sync, any of the
    /// contents it had since then.
    pub fn after_power_cut(&self, rng: &mut Rng) -> Faulty {
        let s = self.0.lock();
        let mut now = s.durable.clone();
        for (n, contents) in &s.since {
            let k = rng.below(contents.len() as u64 + 1) as usize;
            if k > 0 {
                now.insert(*n, contents[k - 1]);
            }
        }
        let k = rng.below(s.lens.len() as u64 + 1) as usize;
        let len = if k > 0 { s.lens[k - 1] } else { s.durable_len };
        now.retain(|n, _| n * (SECTOR as u64) < len);
        let state = State { durable: now.clone(), now, len, durable_len: len, ..State::default() };
        Faulty(Arc::new(Mutex::new(state)))
    }
}

impl Backing for Faulty {
    fn read_at(&self, bufs: &mut [IoSliceMut<'_>], offset: u64) -> Result<usize> {
        let mut s = self.0.lock();
        s.reads += 1;
        match s.fault {
            Some(Fault::Read(at, err)) if s.reads == at + 1 => {
                s.struck = true;
                return Err(err);
            }
            _ => {}
        }
        let mut done = 0;
        for buf in bufs {
            let mut rest: &mut [u8] = buf;
            while !rest.is_empty() && offset + (done as u64) < s.len {
                let at = offset + done as u64;
                let within = (at % SECTOR as u64) as usize;
                let n = rest.len().min(SECTOR - within).min((s.len - at) as usize);
                let (now, later) = rest.split_at_mut(n);
                match s.now.get(&(at / SECTOR as u64)) {
                    Some(sector) => now.copy_from_slice(&sector[within..within + n]),
                    None => now.fill(0),
                }
                rest = later;
                done += n;
            }
        }
        Ok(done)
    }
    fn write_at(&self, bufs: &[IoSlice<'_>], offset: u64) -> Result<usize> {
        let data: Vec<u8> = bufs.iter().flat_map(|b| b.iter().copied()).collect();
        let mut s = self.0.lock();
        s.take_room(data.len() as u64)?;
        let step = s.step()?;
        let done = match step {
            Step::Whole | Step::Late(_) => data.len(),
            Step::Short => data.len().div_ceil(2),
            Step::Half => data.len() / 2,
        };
        s.write(offset, &data[..done]);
        match step {
            Step::Whole | Step::Short => Ok(done),
            Step::Late(err) => Err(err),
            Step::Half => Err(Errno::IO),
        }
    }
    fn punch(&self, offset: u64, len: u64) -> Result<()> {
        self.change(|s| {
            s.zero(offset, len);
            s.copy_on_write = s.copy_on_write.map(|left| left + len);
        })
    }
    fn allocate(&self, offset: u64, len: u64) -> Result<()> {
        if self.0.lock().room.is_some_and(|room| offset + len > room) {
            return Err(Errno::NOSPC);
        }
        self.0.lock().take_room(len)?;
        self.change(|s| s.grow(offset + len))
    }
    fn allocate_zeroed(&self, offset: u64, len: u64) -> Result<()> {
        self.allocate(offset, len)?;
        self.0.lock().zero(offset, len);
        Ok(())
    }
    fn set_len(&self, len: u64) -> Result<()> {
        self.change(|s| {
            if len < s.len {
                let gone = s.len.next_multiple_of(SECTOR as u64) - len;
                s.zero(len, gone);
            }
            s.len = len;
            s.lens.push(len);
        })
    }
    fn sync(&self) -> Result<()> {
        let time = self.0.lock().sync_time;
        std::thread::sleep(time);
        let step = self.0.lock().step()?;
        match step {
            Step::Half => return Err(Errno::IO),
            _ => self.settle(),
        }
        match step {
            Step::Late(err) => Err(err),
            _ => Ok(()),
        }
    }
    fn length(&self) -> Result<u64> {
        Ok(self.0.lock().len)
    }
    fn host_bytes(&self) -> Result<u64> {
        Ok(self.0.lock().now.len() as u64 * SECTOR as u64)
    }
    fn host_space(&self) -> Result<(u64, u64)> {
        Ok((1 << 40, 1 << 40))
    }
    fn needs_space_to_overwrite(&self) -> bool {
        self.0.lock().copy_on_write.is_some()
    }
    fn map(&self, _offset: u64, _len: usize) -> Result<Option<Window>> {
        Ok(None)
    }
    fn next_data(&self, offset: u64) -> Result<Option<(u64, u64)>> {
        let s = self.0.lock();
        let mut sectors = s.now.range(offset / SECTOR as u64..).map(|(n, _)| *n);
        let Some(first) = sectors.next() else { return Ok(None) };
        let end = sectors.fold(first + 1, |end, n| if n == end { end + 1 } else { end });
        Ok(Some(((first * SECTOR as u64).max(offset), end * SECTOR as u64)))
    }
    fn fd(&self) -> Option<BorrowedFd<'_>> {
        None
    }
}
