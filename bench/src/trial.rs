//! One run of one workload on one peer.

use std::path::PathBuf;
use std::time::Instant;

use crate::figure::{Figures, Unit};
use crate::mount_dirs::MountDirs;
use crate::options::Options;
use crate::peer::Peer;
use crate::view::View;
use crate::{Result, tool};

pub struct Trial<'a> {
    options: &'a Options,
    pub peer: &'a dyn Peer,
    pub lower: PathBuf,
    figures: &'a mut Figures,
}

impl<'a> Trial<'a> {
    pub fn new(
        options: &'a Options,
        peer: &'a dyn Peer,
        lower: PathBuf,
        figures: &'a mut Figures,
    ) -> Self {
        Self { options, peer, lower, figures }
    }

    /// A size: the first for a full run, the second for a quick one.
    pub fn size(&self, full: usize, quick: usize) -> usize {
        if self.options.quick { quick } else { full }
    }

    /// Directories for a mount; those of different numbers exist side by side.
    pub fn mount_dirs(&self, number: usize) -> Result<MountDirs> {
        let base = self.options.dir.join("mounts").join(number.to_string());
        MountDirs::new(&base, self.lower.clone(), self.peer.upper_on_tmpfs())
    }

    /// A view of the image with a fresh upper.
    pub fn mount(&self) -> Result<View<'a>> {
        View::mount(self.peer, self.mount_dirs(0)?)
    }

    /// Writes back what came before.
    pub fn settle(&self) -> Result {
        tool::settle(&self.options.dir)
    }

    pub fn record(&mut self, row: &str, unit: Unit, value: f64) {
        self.figures.record(row, unit, self.peer.name(), value);
    }

    /// Records how long `act` takes, in seconds or milliseconds.
    pub fn time<T>(&mut self, row: &str, unit: Unit, act: impl FnOnce() -> Result<T>) -> Result<T> {
        let start = Instant::now();
        let done = act()?;
        let seconds = start.elapsed().as_secs_f64();
        self.record(row, unit, if unit == Unit::Millis { seconds * 1e3 } else { seconds });
        Ok(done)
    }
}
