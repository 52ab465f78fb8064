//! `GET /users/export`: exports all users of a selection in one response.

use std::io;

use actix_web::{
    HttpRequest, HttpResponse,
    http::header,
    web::{self, Bytes},
};
use futures_util::stream;

use super::{
    access::{Allowed, UsersRead},
    compression::compressible,
    feed_position::FeedPosition,
    media_types::{CSV, NDJSON, NDJSON_ALIASES, Offer, negotiate},
    observe, policy,
    problem::{Kind, Problem},
    query::SignedQuery,
    request_info::{self, RequestInfo},
    responses::{ExportProblems, ServerProblems},
};
use crate::{
    auth::RateLimits,
    exchange::{CursorSigner, Export, ExportError, ExportParameters, ExportQuery, Format, SelectionParameters},
    service::UserService,
};

/// The number of users read at a time. A client that stops reading occupies the memory of two such pages.
const PAGE_SIZE: u64 = 500;

const CSV_WITH_HEADER: &str = "text/csv; charset=utf-8; header=present";

/// The default is NDJSON.
const OFFERS: [Offer<Format>; 4] = [
    Offer::new(Format::Ndjson, NDJSON),
    Offer::alias(Format::Ndjson, NDJSON_ALIASES[0]),
    Offer::alias(Format::Ndjson, NDJSON_ALIASES[1]),
    Offer::new(Format::Csv, CSV),
];

/// Export users
///
/// Streams all users that match the filters, in the order of `sort`, as NDJSON or CSV depending on `Accept`. Concurrent
/// changes cause neither duplicates nor gaps. A response without its final chunk was aborted; with `cursors=true` the
/// export can be resumed.
#[utoipa::path(
    get,
    path = "/users/export",
    tag = "users",
    operation_id = "exportUsers",
    params(SelectionParameters, ExportParameters),
    responses(
        (status = 200, description = "A line for each user; in NDJSON an `ExportedUser`", content(
            (String = "application/x-ndjson", example = "{\"id\":\"019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40\",\"name\":\"Ann\",\"email\":\"ann@example.com\"}\n"),
            (String = "text/csv", example = "name,email\r\nAnn,ann@example.com\r\n"),
        ), headers(("Feed-Position" = String, description = "The feed has every change after this position"))),
        ExportProblems,
        ServerProblems,
    ),
)]
pub(super) async fn export(
    caller: Allowed<UsersRead>,
    query: SignedQuery<ExportQuery>,
    position: FeedPosition,
    request: HttpRequest,
    signer: web::Data<CursorSigner>,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    let not_acceptable = || Problem::new(Kind::NotAcceptable, format!("Available media types: {NDJSON}, {CSV}."));
    let Offer { format, name, .. } = negotiate(&request, &OFFERS).ok_or_else(not_acceptable)?;
    caller.charge(&request, RateLimits::MANY)?;
    let info = RequestInfo::of(&request);
    let spawn = {
        let info = info.clone();
        move |reading| actix_web::rt::spawn(request_info::on_behalf(info.as_deref(), reading))
    };
    let (service, signer) = (service.as_ref().clone(), signer.as_ref().clone());
    // The first page is read before the response starts, so that an error gets its own status.
    let export = Export::start(service, query.0, signer, format, PAGE_SIZE, spawn).await?;
    let body = stream::unfold(export, move |mut export| {
        let info = info.clone();
        async move {
            let chunk = match export.next().await? {
                Ok(chunk) => Ok(Bytes::from(chunk.text)),
                Err(error) => {
                    let problem = Problem::from(error);
                    observe::response_aborted(info.as_deref(), &problem);
                    Err(io::Error::other(problem.to_string()))
                }
            };
            Some((chunk, export))
        }
    });
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, policy::REVALIDATED)).insert_header((header::VARY, "Accept"));
    position.insert(&mut response);
    response.content_type(if format == Format::Csv { CSV_WITH_HEADER } else { name });
    if format == Format::Csv {
        response.insert_header((header::CONTENT_DISPOSITION, "attachment; filename=\"users.csv\""));
    }
    Ok(compressible(response.streaming(body)))
}

impl From<ExportError> for Problem {
    fn from(error: ExportError) -> Self {
        match error {
            ExportError::Service(error) => error.into(),
            ExportError::Task(error) => Self::internal(error),
        }
    }
}
