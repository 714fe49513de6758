//! The peers and workloads that the command line names.

use crate::Result;
use crate::options::Options;
use crate::peer::{self, Peer};
use crate::workload::{self, Workload};

/// All peers, or those that are named.
pub fn peers(options: &Options) -> Result<Vec<Box<dyn Peer>>> {
    let all = peer::all();
    let known: Vec<_> = all.iter().map(|peer| peer.name()).collect();
    check("peer", &options.peers, &known)?;
    let wanted =
        |name: &str| options.peers.is_empty() || options.peers.iter().any(|peer| peer == name);
    Ok(all.into_iter().filter(|peer| wanted(peer.name())).collect())
}

/// All workloads, or those that are named, in the order in which they are named.
pub fn workloads(options: &Options) -> Result<Vec<&'static Workload>> {
    let all = workload::ALL;
    let known: Vec<_> = all.iter().map(|workload| workload.name).collect();
    check("workload", &options.only, &known)?;
    if options.only.is_empty() {
        return Ok(all.iter().collect());
    }
    let find = |name: &String| all.iter().find(|workload| workload.name == name);
    Ok(options.only.iter().filter_map(find).collect())
}

fn check(what: &str, asked: &[String], known: &[&str]) -> Result {
    match asked.iter().find(|name| !known.contains(&name.as_str())) {
        Some(name) => Err(format!("no {what} is called {name}: {}", known.join(", ")).into()),
        None => Ok(()),
    }
}
