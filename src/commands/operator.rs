//! The operator of a command.

use nix::unistd::{Uid, User};

use crate::domain::Actor;

/// Returns the user of the operating system that runs this process, as the actor of its changes: by name, or by uid if it
/// has none, as in a container.
pub(super) fn operator() -> Actor {
    let uid = Uid::effective();
    let user = User::from_uid(uid).ok().flatten();
    Actor::CommandLine(user.map_or_else(|| uid.to_string(), |user| user.name).into())
}
