//! The service with and without authentication: what verifying an API key costs.

use anyhow::{Result, ensure};

use crate::{
    api_key::ApiKey,
    auth_results::{Access, AuthFigure},
    engines::Database,
    http,
    loads::{CLIENTS, Load, Measured},
    measure::{Run, Stage, Variant},
    peers::Peer,
    seed,
};

const LOADS: [Load; 2] = [Load::Get, Load::Post];

/// Approximate duration on one engine in seconds.
pub fn weight(run: &Run) -> f64 {
    (run.rounds() * LOADS.len() * Access::ALL.len()) as f64 * run.weight()
}

/// The settings of a service that requires a key of every caller and limits none.
fn locked() -> [(&'static str, String); 2] {
    [("USERS_API__AUTH__MODE", "required".to_owned()), ("USERS_API__LIMITS__PER_CALLER", "0".to_owned())]
}

/// The settings of a service that requires no key.
fn open() -> [(&'static str, String); 1] {
    [("USERS_API__AUTH__MODE", "off".to_owned())]
}

/// Measures the service with each access in turn, in an order that changes from round to round.
pub async fn auth(run: &mut Run, stage: &mut Stage) -> Result<()> {
    let key = ApiKey::create(&stage.database).await?;
    check(run, &stage.database, &key).await?;
    for round in 0..run.rounds() {
        for load in LOADS {
            let mut order = Access::ALL;
            order.rotate_left(round % Access::ALL.len());
            for access in order {
                let figure = measure(run, stage, &key, load, access, round).await?;
                record(run, figure);
            }
        }
        run.results.save()?;
    }
    Ok(())
}

/// Checks that the service accepts the key and refuses requests without it.
async fn check(run: &Run, database: &Database, key: &ApiKey) -> Result<()> {
    let path = format!("/users/{}", seed::id(1));
    let service = Peer::UsersApi.start(database, &run.work, &locked()).await?;
    let mut client = service.client().await?;
    let without = client.send_for_status(&http::get(&path)).await?;
    let with = client.send_for_status(&http::get_authorized(&path, &key.authorization())).await?;
    ensure!((without, with) == (401, 200), "GET {path} returned status {without} without a key, {with} with one");
    service.stop().await
}

async fn measure(
    run: &Run,
    stage: &mut Stage,
    key: &ApiKey,
    load: Load,
    access: Access,
    round: usize,
) -> Result<AuthFigure> {
    let (locked, open) = (locked(), open());
    let variant = match access {
        Access::Key => Variant { peer: Peer::UsersApi, variables: &locked, key: Some(key) },
        Access::Off | Access::Control => Variant { peer: Peer::UsersApi, variables: &open, key: None },
    };
    let Stage { database, loads, .. } = stage;
    let Measured { per_second, p50_ms, p99_ms, errors } =
        run.wrk(database, loads, variant, load, CLIENTS, round).await?;
    Ok(AuthFigure { engine: database.engine, load, access, round, per_second, p50_ms, p99_ms, errors })
}

fn record(run: &mut Run, figure: AuthFigure) {
    let AuthFigure { engine, load, access, round, per_second, errors, .. } = &figure;
    let failed = if *errors > 0 { format!(", {errors} FAILED") } else { String::new() };
    let text = format!(
        "auth on {engine}, round {} of {}, {}, {}: {per_second:.0}/s{failed}",
        round + 1,
        run.rounds(),
        load.name(),
        access.name()
    );
    run.progress.advance(run.weight(), &text);
    run.results.auth.add(figure);
}
