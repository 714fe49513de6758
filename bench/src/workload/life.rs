//! From mount to answer, unmount, and what it takes to be rid of a large upper.

use std::fs::File;

use crate::Result;
use crate::figure::Unit;
use crate::trial::Trial;
use crate::view::View;

pub fn run(trial: &mut Trial<'_>) -> Result {
    let count = trial.size(100_000, 10_000);
    let (peer, dirs) = (trial.peer, trial.mount_dirs(0)?);
    let view = trial.time("life: mount to answer", Unit::Millis, || View::mount(peer, dirs))?;
    for number in 0..count {
        let dir = view.path(&format!("d{}", number / 100));
        if number % 100 == 0 {
            std::fs::create_dir(&dir)?;
        }
        File::create_new(dir.join(format!("f{number}")))?;
    }
    let full = format!("{count} files");
    let dirs = trial.time(&format!("life: unmount, {full}"), Unit::Millis, || view.unmount())?;
    trial.settle()?;
    let again = format!("life: remount to answer, {full}");
    let view = trial.time(&again, Unit::Millis, || View::mount(peer, dirs))?;
    let dirs = view.unmount()?;
    trial.settle()?;
    trial.time(&format!("life: delete an upper of {full}"), Unit::Millis, || {
        Ok(std::fs::remove_dir_all(&dirs.upper)?)
    })
}
