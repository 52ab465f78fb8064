//! The lab of `users-api demo`. These routes do not exist in `serve`, and are not part of the API.

use std::time::Duration;

use actix_web::{FromRequest, HttpRequest, HttpResponse, dev::Payload, web};
use futures_util::future::LocalBoxFuture;
use serde::{Deserialize, de::DeserializeOwned};

use super::{
    access::{Allowed, OpsRead},
    body::{media_type, read},
    live::Live,
    problem::{FieldError, Kind, Problem},
};
use crate::{
    demo::{Lab, LabChange, LabError, NotAllowed},
    domain::ValidationError,
};

/// The longest disturbance, in seconds.
const MAX_SECONDS: u32 = 30;

/// The lab, and its live state.
#[derive(Clone)]
pub(super) struct Demo {
    lab: Lab,
    live: Live,
}

impl Demo {
    pub(super) fn new(lab: Lab) -> Self {
        let of_lab = lab.clone();
        Self { lab, live: Live::new("demo", move |_| of_lab.report()) }
    }

    pub(super) fn lab(&self) -> Lab {
        self.lab.clone()
    }

    fn respond(&self) -> HttpResponse {
        HttpResponse::Ok().json(self.lab.report())
    }
}

/// A disturbance of the database.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Disturbance {
    seconds: u32,
}

/// Registers the routes.
pub(super) fn routes(config: &mut web::ServiceConfig) {
    config
        .route("/demo", web::get().to(report))
        .route("/demo", web::patch().to(change))
        .route("/demo/live", web::get().to(live))
        .route("/demo/outage", web::put().to(outage))
        .route("/demo/slow-statement", web::post().to(slow_statement));
}

async fn report(_: Allowed<OpsRead>, demo: web::Data<Demo>) -> HttpResponse {
    demo.respond()
}

async fn live(caller: Allowed<OpsRead>, request: HttpRequest, demo: web::Data<Demo>) -> Result<HttpResponse, Problem> {
    demo.live.respond(&caller, &request)
}

async fn change(_: Allowed<OpsRead>, change: Json<LabChange>, demo: web::Data<Demo>) -> Result<HttpResponse, Problem> {
    demo.lab.change(&change.0).await.map_err(refused)?;
    Ok(demo.respond())
}

async fn outage(
    _: Allowed<OpsRead>,
    disturbance: Json<Disturbance>,
    demo: web::Data<Demo>,
) -> Result<HttpResponse, Problem> {
    demo.lab.stop_database(disturbance.0.duration()?);
    Ok(demo.respond())
}

async fn slow_statement(
    _: Allowed<OpsRead>,
    disturbance: Json<Disturbance>,
    demo: web::Data<Demo>,
) -> Result<HttpResponse, Problem> {
    demo.lab.hold_connection(disturbance.0.duration()?);
    Ok(demo.respond())
}

/// A body in JSON. A page of another origin cannot send it: its browser asks before (CORS), and gets no permission.
struct Json<T>(T);

impl<T: DeserializeOwned> FromRequest for Json<T> {
    type Error = Problem;
    type Future = LocalBoxFuture<'static, Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        let (request, payload) = (request.clone(), payload.take());
        Box::pin(async move {
            media_type(request.head(), &["application/json", "application/merge-patch+json"])?;
            let body = read(&request, payload).await?;
            let malformed = |error: serde_json::Error| Problem::new(Kind::MalformedJson, error.to_string());
            serde_json::from_slice(&body).map(Self).map_err(malformed)
        })
    }
}

impl Disturbance {
    fn duration(&self) -> Result<Duration, Problem> {
        if self.seconds > MAX_SECONDS {
            let allowed = format!("must be a whole number from 0 to {MAX_SECONDS}");
            return Err(refused(LabError::NotAllowed(vec![NotAllowed { field: "seconds", allowed }])));
        }
        Ok(Duration::from_secs(self.seconds.into()))
    }
}

fn refused(error: LabError) -> Problem {
    match error {
        LabError::NotAllowed(values) => {
            let errors = values.into_iter().map(|NotAllowed { field, allowed }| {
                FieldError::at_member(format!("/{field}"), ValidationError::new("out-of-range", allowed))
            });
            Problem::with_errors(Kind::ValidationFailed, "A value is not allowed.", errors.collect())
        }
        LabError::Pool(error) => Problem::internal(error),
    }
}
