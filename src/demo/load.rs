//! The simulated clients. They call the service layer in this process, one operation after another.

use std::{sync::Arc, time::Duration};

use futures_util::{StreamExt, TryStreamExt, stream};
use orm_pool::RequestContext;
use tokio::{
    sync::watch,
    task::JoinSet,
    time::{Instant, sleep},
};

use super::{figures::Figures, settings::MAX_CLIENTS};
use crate::{
    domain::{Actor, Author, Email, Name, Precondition, UserId},
    service::{Change, Draft, Error, UserService},
};

/// Number of synthetic users.
const USERS: u32 = 1000;
/// Number of synthetic users that are created at the same time.
const CONCURRENT_CREATIONS: usize = 64;
/// Pause of a client between two operations. It bounds the load.
const PAUSE: Duration = Duration::from_millis(5);
/// Pause of a client after a failed operation.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_millis(50);
/// How long a client waits for a response.
const TIMEOUT: Duration = Duration::from_secs(30);

/// The load that the clients create.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// How many of them are active.
    pub(super) clients: u32,
    pub(super) write_percent: u32,
}

/// The clients, and the users that they read and change.
#[derive(Clone, Debug)]
pub(super) struct Load {
    service: UserService,
    users: Arc<[UserId]>,
    figures: Arc<Figures>,
}

fn author() -> Author {
    Author { actor: Actor::Anyone, request_id: None }
}

impl Load {
    /// Creates the synthetic users.
    pub(super) async fn new(service: UserService, figures: Arc<Figures>) -> Result<Self, Error> {
        let create = |number| create(&service, number);
        let users =
            stream::iter(1..=USERS).map(create).buffer_unordered(CONCURRENT_CREATIONS).try_collect::<Vec<_>>().await?;
        Ok(Self { service, users: users.into(), figures })
    }

    /// Runs the clients as planned. Dropping the future stops them.
    pub(super) async fn run(self, plan: watch::Receiver<Plan>) {
        let mut clients = JoinSet::new();
        for number in 0..MAX_CLIENTS {
            clients.spawn(self.clone().client(number, plan.clone()));
        }
        while clients.join_next().await.is_some() {}
    }

    async fn client(self, number: u32, mut plan: watch::Receiver<Plan>) {
        let label: Arc<str> = format!("demo-client-{}", number + 1).into();
        loop {
            let Ok(Plan { write_percent, .. }) = plan.wait_for(|plan| number < plan.clients).await.map(|plan| *plan)
            else {
                return;
            };
            let began = Instant::now();
            let context = RequestContext::new(Arc::clone(&label)).timeout(TIMEOUT);
            let succeeded = Box::pin(context.scope(self.operate(random(100) < write_percent))).await.is_ok();
            self.figures.record(began.elapsed(), succeeded);
            let pause = if succeeded { PAUSE } else { PAUSE_AFTER_FAILURE };
            // Jitter: the clients must not act in step.
            sleep(pause / 2 + pause.mul_f64(f64::from(random(1000)) / 1000.0)).await;
        }
    }

    async fn operate(&self, writes: bool) -> Result<(), Error> {
        let Some(id) = self.users.get(random(USERS) as usize).copied() else { return Ok(()) };
        if !writes {
            return self.service.find(id).await.map(drop);
        }
        let name = Name::parse(&format!("Synthetic User {}", random(1_000_000))).ok();
        let change = Change { name, email: None };
        match self.service.patch(id, Precondition::NONE, change, author()).await {
            // Another client was faster.
            Err(Error::VersionConflict) => Ok(()),
            changed => changed.map(drop),
        }
    }
}

/// Creates a synthetic user. A refusal is not the end: the lab can be used, and disturbed, from the start.
async fn create(service: &UserService, number: u32) -> Result<UserId, Error> {
    // Both are valid by construction.
    let name = Name::parse(&format!("Synthetic User {number}"));
    let email = Email::parse(&format!("user-{number}@demo.example"));
    let (Ok(name), Ok(email)) = (name, email) else { return Err(Error::NotFound) };
    loop {
        let draft = Draft { name: name.clone(), email: email.clone() };
        match service.create(draft, author()).await {
            Err(Error::Unavailable { .. }) => sleep(PAUSE_AFTER_FAILURE).await,
            created => return created.map(|user| user.id),
        }
    }
}

/// Returns a random number below `end`.
fn random(end: u32) -> u32 {
    getrandom::u32().unwrap_or_default() % end
}
