//! The command line.

use std::path::PathBuf;

/// Measures Overcoat beside its peers. Needs root.
///
/// Prints a table of medians and ratios and of goals reached or not, and writes the same as JSON.
#[derive(clap::Parser, Debug)]
#[command(name = "bench/run")]
pub struct Options {
    /// Smaller sizes and one run: minutes, not hours
    #[arg(long)]
    pub quick: bool,
    /// Workloads to run, in this order
    #[arg(long, value_delimiter = ',', value_name = "WORKLOAD")]
    pub only: Vec<String>,
    /// Peers to compare
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    pub peers: Vec<String>,
    /// How often each workload runs on each peer [default: 5, quick: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    runs: Option<u16>,
    /// The host directory for images and mounts
    #[arg(long, value_name = "DIR", default_value = "target/bench", overrides_with = "dir")]
    pub dir: PathBuf,
    /// A Debian root to work in, in place of one made by debootstrap
    #[arg(long, value_name = "DIR")]
    pub root: Option<PathBuf>,
    /// The Linux Test Project's fsstress; without it, a generator of the same mix
    #[arg(long, value_name = "PATH", env = "FSSTRESS")]
    pub fsstress: Option<PathBuf>,
    /// Where the figures go [default: DIR/figures.json]
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Where a bar chart goes, e.g. doc/bench.svg
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,
}

impl Options {
    pub fn runs(&self) -> usize {
        self.runs.map_or(if self.quick { 1 } else { 5 }, usize::from)
    }

    pub fn json(&self) -> PathBuf {
        self.json.clone().unwrap_or_else(|| self.dir.join("figures.json"))
    }
}
