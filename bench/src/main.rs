//! `bench/run`: Overcoat beside its peers, on one host directory, in turn.
//!
//! A *peer* (`peer/`) mounts a view of an *image* (`image.rs`) with a fresh upper; a *workload* (`workload/`,
//! a file per family) uses the view and records *figures* (`figure.rs`); Overcoat's are held against its
//! *goals* (`goal.rs`) in the *report* (`report.rs`) and the *plot* (`plot.rs`).

mod figure;
mod goal;
mod image;
mod mount_dirs;
mod options;
mod peer;
mod plot;
mod report;
mod select;
mod tool;
mod trial;
mod view;
mod workload;

use std::process::ExitCode;

use clap::Parser as _;

use figure::Figures;
use image::Images;
use options::Options;
use peer::Peer;
use trial::Trial;
use workload::Workload;

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    if let Some(outcome) = workload::stress::hidden_command().or_else(peer::null::hidden_command) {
        return outcome;
    }
    match measure(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result {
    let images =
        Images::new(options.dir.join("images"), options.root.clone(), options.fsstress.clone());
    let mut figures = Figures::default();
    let peers = available(options, &images, &mut figures)?;
    let workloads = select::workloads(options)?;
    for workload in workloads {
        for turn in 0..options.runs() {
            for peer in &peers {
                one(options, &images, workload, turn, peer.as_ref(), &mut figures);
            }
        }
    }
    let names: Vec<_> = peers.iter().map(|peer| peer.name()).collect();
    print!("{}", report::table(&figures, &names));
    std::fs::write(options.json(), report::json(&figures, &names, options))?;
    if let Some(path) = &options.plot {
        std::fs::write(path, plot::svg(&figures, &names))?;
    }
    Ok(())
}

/// One run of a workload on a peer. What fails is said and counts as not measured.
fn one(
    options: &Options,
    images: &Images,
    workload: &Workload,
    turn: usize,
    peer: &dyn Peer,
    figures: &mut Figures,
) {
    if !(workload.suits)(peer) {
        return;
    }
    eprintln!("bench: {} on {}, run {}", workload.name, peer.name(), turn + 1);
    let outcome = images
        .get(workload.image)
        .and_then(|lower| (workload.run)(&mut Trial::new(options, peer, lower, figures)));
    if let Err(error) = outcome {
        let gap = format!("{} on {}: {error}", workload.name, peer.name());
        eprintln!("bench: {gap}");
        if !figures.gaps.contains(&gap) {
            figures.gaps.push(gap);
        }
    }
}

/// The peers asked for that can be had; the others are said.
fn available(
    options: &Options,
    images: &Images,
    figures: &mut Figures,
) -> Result<Vec<Box<dyn Peer>>> {
    let lower = images.get(image::Image::Empty)?;
    let mut found = Vec::new();
    for peer in select::peers(options)? {
        let tried = peer.check().and_then(|()| {
            Trial::new(options, peer.as_ref(), lower.clone(), figures).mount()?.unmount()
        });
        match tried {
            Ok(_) => found.push(peer),
            Err(error) => {
                eprintln!("bench: {} is skipped: {error}", peer.name());
                figures.gaps.push(format!("{}: {error}", peer.name()));
            }
        }
    }
    Ok(found)
}
