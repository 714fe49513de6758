//! Real work on a Debian root, nothing of it over the network.

use crate::Result;
use crate::figure::Unit;
use crate::image::PACKAGES;
use crate::trial::Trial;

pub fn apt(trial: &mut Trial<'_>) -> Result {
    let view = trial.mount()?;
    trial.settle()?;
    let script = format!(
        "export DEBIAN_FRONTEND=noninteractive; \
         apt-get install -y --no-download --no-install-recommends {PACKAGES}"
    );
    trial.time("apt: install", Unit::Seconds, || view.shell(&script))?;
    view.unmount().map(drop)
}

/// In this order, each on what those before it left.
const STEPS: &[(&str, &str)] = &[
    ("cp -a of 10,000 files", "cp -a /srv/tree /srv/copy"),
    ("find", "find / -xdev -type f -size +1M"),
    ("tar c", "tar -C /srv -cf /srv/tree.tar tree"),
    ("tar x", "mkdir /srv/x; tar -C /srv/x -xf /srv/tree.tar"),
    ("rm -rf of 10,000 files", "rm -rf /srv/x"),
    ("rm -rf of 10,000 lower files", "rm -rf /srv/tree"),
    ("gcc of 120 files", COMPILE),
    ("git add", "cd /srv/copy; git init -q; git add -A"),
    (
        "git commit",
        "cd /srv/copy; git -c gc.auto=0 -c user.name=b -c user.email=b@localhost commit -qm all",
    ),
    ("git checkout", "cd /srv/copy; rm -rf group*; git checkout -q ."),
    (
        "pip install",
        "pip3 install -q --break-system-packages --root-user-action=ignore --no-index \
         --find-links /srv/wheels first second",
    ),
    ("300 sqlite commits", "python3 -c \"$SQLITE\""),
];
const COMPILE: &str = "make -s -j2 -C /srv/src";
const SQLITE: &str = "
import sqlite3
db = sqlite3.connect('/srv/t.db')
db.execute('create table t (a integer primary key, b text)')
for i in range(300):
    db.execute('insert into t values (?, ?)', (i, 'x' * 100))
    db.commit()
";

pub fn run(trial: &mut Trial<'_>) -> Result {
    let view = trial.mount()?;
    for (row, script) in STEPS {
        trial.settle()?;
        let script = script.replace("$SQLITE", SQLITE);
        trial.time(&format!("work: {row}"), Unit::Seconds, || view.shell(&script))?;
    }
    view.unmount().map(drop)
}

/// The compile alone, where each command has an upper of its own.
pub fn compile(trial: &mut Trial<'_>) -> Result {
    let view = trial.mount()?;
    trial.settle()?;
    trial.time("work: gcc of 120 files", Unit::Seconds, || view.shell(COMPILE))?;
    view.unmount().map(drop)
}
