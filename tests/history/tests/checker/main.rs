//! The checker finds planted faults, and none in correct histories.

#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "tests fail by panicking")]

mod allowances;
mod correct;
mod database;
mod fault;
mod faults_of_creations;
mod faults_of_feed;
mod faults_of_readers;
mod faults_of_refusals;
mod faults_of_state;
mod faults_of_versions;
mod random;
mod simulation;
mod size;
