//! `users-api demo`: a temporary database, simulated clients, and a lab that changes the pool while they run.
//!
//! Optional: nothing of it is used by `serve`. The clients call the service layer in this process, and everything above
//! the round trips to the database is real. Two things are simulated, by [`Simulation`]: the distance to the database, and
//! a database that does not respond.

mod figures;
mod lab;
mod load;
mod settings;
mod simulation;

pub use self::{
    lab::{Lab, LabError, LabReport},
    settings::{LabChange, LabSettings, NotAllowed},
    simulation::Simulation,
};
