//! The command line of `bench/run`.

use std::path::PathBuf;

use clap::{Parser, ValueEnum};

use crate::{peers::Peer, results::Part};

/// Benchmarks users-api and its peers.
#[derive(Clone, Parser)]
#[command(bin_name = "bench/run")]
pub struct Options {
    /// A short run of a few minutes: few rounds, peers, clients and workloads, on PostgreSQL. Leaves docs/ unchanged
    #[arg(long)]
    pub quick: bool,

    /// Only these parts, separated by commas; figures of other parts are kept from the last run on this machine
    #[arg(long, value_name = "WORDS", value_delimiter = ',', num_args = 1..)]
    pub only: Vec<Part>,

    /// Only these peers in the rounds, separated by commas; users-api always takes part
    #[arg(long, value_name = "WORDS", value_delimiter = ',', num_args = 1..)]
    pub peers: Vec<Peer>,

    /// Only these numbers of clients (of 1, 16, 64 and 256), separated by commas
    #[arg(long, value_name = "NUMBERS", value_delimiter = ',', num_args = 1..)]
    pub clients: Vec<usize>,

    /// Number of rounds [default: 5, quick 2]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
    pub rounds: Option<u16>,

    /// Seconds per measurement [default: 4, quick 2]
    #[arg(long, value_name = "S", value_parser = clap::value_parser!(u16).range(1..=3600))]
    pub seconds: Option<u16>,

    /// Directory for the databases during the run: on a disk, with 8 GB free for a full run
    #[arg(long, value_name = "DIR", default_value = "/var/tmp")]
    pub folder: PathBuf,

    /// A peer whose build failed
    #[arg(long, hide = true)]
    pub unbuilt: Vec<String>,
}

impl Options {
    pub fn parts(&self) -> Vec<Part> {
        if !self.only.is_empty() {
            self.only.clone()
        } else if self.quick {
            vec![Part::Get, Part::First, Part::Post]
        } else {
            Part::value_variants().to_vec()
        }
    }

    pub fn peers(&self) -> Vec<Peer> {
        let mut peers = if !self.peers.is_empty() {
            self.peers.clone()
        } else if self.quick {
            vec![Peer::ActixSeaorm, Peer::ExpressSequelize, Peer::Pgbench]
        } else {
            Peer::value_variants().to_vec()
        };
        peers.push(Peer::UsersApi);
        peers.sort();
        peers.dedup();
        peers
    }

    pub fn rounds(&self) -> usize {
        self.rounds.unwrap_or(if self.quick { 2 } else { 5 }).into()
    }

    pub fn seconds(&self) -> u64 {
        self.seconds.unwrap_or(if self.quick { 2 } else { 4 }).into()
    }
}
