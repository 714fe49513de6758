//! What is measured: a file per family.

mod data;
mod fleet;
mod life;
mod lower;
mod ops;
mod scale;
pub mod stress;
mod work;

use crate::Result;
use crate::image::Image;
use crate::peer::Peer;
use crate::trial::Trial;

pub struct Workload {
    pub name: &'static str,
    pub image: Image,
    pub suits: fn(&dyn Peer) -> bool,
    /// Mounts, measures, records.
    pub run: fn(&mut Trial<'_>) -> Result,
}

/// All, in the order of the report.
pub const ALL: &[Workload] = &[
    Workload { name: "fsstress", image: Image::Stress, suits: with_layers, run: stress::run },
    Workload { name: "ops", image: Image::Empty, suits: on_host, run: ops::run },
    Workload { name: "apt", image: Image::Base, suits: with_layers_on_host, run: work::apt },
    Workload { name: "work", image: Image::Work, suits: with_layers_on_host, run: work::run },
    Workload { name: "compile", image: Image::Work, suits: in_sandbox, run: work::compile },
    Workload { name: "data", image: Image::Empty, suits: on_host, run: data::run },
    Workload { name: "lower", image: Image::Big, suits: with_layers_on_host, run: lower::run },
    Workload { name: "life", image: Image::Empty, suits: with_layers_on_host, run: life::run },
    Workload { name: "fleet", image: Image::Work, suits: with_shared_layers, run: fleet::run },
    Workload { name: "scale", image: Image::Empty, suits: with_layers_on_host, run: scale::run },
];

fn with_layers(peer: &dyn Peer) -> bool {
    peer.has_layers()
}

fn with_layers_on_host(peer: &dyn Peer) -> bool {
    peer.shows_on_host() && peer.has_layers()
}

fn on_host(peer: &dyn Peer) -> bool {
    peer.shows_on_host()
}

/// Only where the compile of `work` cannot be had with the rest.
fn in_sandbox(peer: &dyn Peer) -> bool {
    !peer.shows_on_host()
}

/// Where an image is shared, not copied.
fn with_shared_layers(peer: &dyn Peer) -> bool {
    with_layers_on_host(peer) && peer.name() != crate::goal::PLAIN
}
