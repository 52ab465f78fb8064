//! `POST /users/bulk`: rows in, a line out for each as soon as it is done.

use std::{
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    dev::Payload,
    http::StatusCode,
    post,
    web::{self, Bytes},
};
use futures_util::{Stream, StreamExt, stream};
use serde::Serialize;
use tokio::{sync::mpsc, time::timeout};
use utoipa::{IntoParams, ToSchema};
use uuid::Uuid;

use super::{
    Rules,
    conditions::ListCondition,
    idempotency::{IdempotencyKey, REPLAYED},
    observe,
    parameters::Parameters,
    problem::{FieldError, Kind, Problem, ProblemBody},
    responses::{BulkProblems, ServerProblems},
    tag::{self, Tag},
};
use crate::{
    domain::UserId,
    exchange::{
        Format, Import, MemberFault, ReadError, Refused, Report, Reported, Row, Stop, import, import_all_or_none,
    },
    service::{Mode, Terms, UserService, Written},
};

pub(super) const NDJSON: &str = "application/x-ndjson";
pub(super) const CSV: &str = "text/csv";
/// Longest body of rows that are to be written all or none.
const MOST_BYTES_ALL_OR_NONE: usize = 16 * 1024 * 1024;

/// Query of work in bulk; documents what [`BulkQuery`] reads.
#[derive(IntoParams)]
#[into_params(parameter_in = Query, rename_all = "camelCase")]
#[expect(dead_code, reason = "documents what `BulkQuery` reads")]
struct BulkParameters {
    /// What to do with a row whose email is there already: refuse it, or give the user who has it the row's name and
    /// spelling.
    #[param(inline)]
    mode: Option<ModeParameter>,
    /// Tell what would happen, and change nothing.
    #[param(default = false)]
    dry_run: Option<bool>,
    /// All rows in one transaction, or none: up to 10,000. Nothing is told before the end.
    #[param(default = false)]
    atomic: Option<bool>,
}

#[derive(ToSchema)]
#[schema(rename_all = "camelCase", default = "insert")]
#[expect(dead_code, reason = "documents what `BulkQuery` reads")]
enum ModeParameter {
    Insert,
    Upsert,
}

/// Header of work in bulk that may be sent again.
#[derive(IntoParams)]
#[into_params(parameter_in = Header)]
#[expect(dead_code, reason = "documents what [`IdempotencyKey`] reads")]
struct BulkKeyParameter {
    /// A key of the client's own making, as of `POST /users`. Rows that were done with it are not done again and have the
    /// same lines, so that what was cut off may be sent again from its beginning.
    #[param(
        rename = "Idempotency-Key",
        example = "\"8e03978e-40d5-43e8-bc93-6894a57f9324\"",
        pattern = r#"^("([ !#-\[\]-~]|\\["\\]){1,255}"|[!#-+\--:<-\[\]-~]{1,255})$"#
    )]
    idempotency_key: Option<String>,
}

/// What became of a row: a line of the answer.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BulkLine)]
pub(super) struct Told<'a> {
    /// The line of the body that the row begins in, from 1.
    #[schema(example = 1, minimum = 1)]
    line: u64,
    /// The line that the row ends in, if that is another one. Of `stopped`: the last line of a body in which a quoted cell
    /// is not closed.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = 3, minimum = 1)]
    last_line: Option<u64>,
    /// `stopped`: neither this row nor any behind it was done.
    outcome: ToldOutcome,
    /// The user, where there is one.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<Uuid>,
    /// Why the row was refused, or why it was stopped.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<ProblemBody<'a>>,
}

#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(as = BulkOutcome)]
enum ToldOutcome {
    Created,
    Updated,
    Unchanged,
    Refused,
    Undone,
    Stopped,
}

/// What is asked of many rows.
pub(super) struct BulkQuery(Terms);

impl FromRequest for BulkQuery {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        const YES: [(&str, bool); 2] = [("true", true), ("false", false)];
        let mut parameters = Parameters::read(request.query_string());
        let terms = Terms {
            mode: parameters.choice("mode", &[("insert", Mode::Insert), ("upsert", Mode::Upsert)]).unwrap_or_default(),
            dry_run: parameters.choice("dryRun", &YES).unwrap_or_default(),
            all_or_none: parameters.choice("atomic", &YES).unwrap_or_default(),
        };
        std::future::ready(parameters.finish().map(|()| Self(terms)))
    }
}

/// Write many users
///
/// NDJSON or CSV of any length, a user with `name` and `email` each row; what else an export has is passed over. Each row is
/// written or refused by itself, and has its line in the answer as soon as it is done, in the order of the rows: read while
/// you write. Rows are written some hundred at a time, each piece in a transaction.
///
/// CSV is read strictly by RFC 4180. After a quoted cell that is not closed nothing is read any more: the last line has the
/// outcome `stopped`, and the lines that were not done.
#[utoipa::path(
    tag = "users",
    operation_id = "writeUsers",
    params(BulkParameters, BulkKeyParameter),
    request_body(content(
        (String = "application/x-ndjson", example = "{\"name\":\"Ann\",\"email\":\"ann@example.com\"}\n"),
        (String = "text/csv", example = "name,email\nAnn,ann@example.com\n"),
    )),
    responses(
        (status = 200, description = "A line for each row", body = Told, content_type = "application/x-ndjson", headers(
            ("Idempotency-Replayed" = String, description = "`true` if the first rows were done before"),
        )),
        BulkProblems,
        ServerProblems,
    ),
)]
#[post("/users/bulk")]
pub(super) async fn write(
    query: BulkQuery,
    key: IdempotencyKey,
    condition: ListCondition,
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    let terms = query.0;
    let format = format(&request)?;
    let rules = request.app_data::<Rules>().ok_or_else(|| Problem::internal("no rules are wired"))?;
    if rules.require_if_match && terms.mode == Mode::Upsert && !condition.is_any {
        let detail = "mode=upsert changes users at whatever version they are; say so by If-Match: *.";
        return Err(Problem::new(Kind::PreconditionRequired, detail));
    }
    let tag = tag::tag(&request);
    let once = key.of_bulk().filter(|_| !terms.dry_run);
    let begun = once.map(|once| service.begin(once.key)).transpose()?;
    let report: Report = Arc::new(move |rows| lines(rows, terms.dry_run));
    let import = Import { service: service.as_ref().clone(), terms, once, from_line: 1, report };
    let source = bounded(payload, terms, rules.request_timeout, tag.clone());
    if terms.all_or_none {
        // In a task of its own: it goes on when nobody waits for it any more, and keeps its key meanwhile.
        let importing = async move {
            let _begun = begun;
            import_all_or_none(&import, format, source).await
        };
        let importing = actix_web::rt::spawn(tag::on_behalf(tag.as_deref(), importing));
        let reported = importing.await.map_err(Problem::internal)?.map_err(problem)?;
        let status = if reported.is_kept || reported.tally.refused == 0 {
            StatusCode::OK
        } else {
            StatusCode::UNPROCESSABLE_ENTITY
        };
        return Ok(answer(status, reported.is_replay).body(reported.report));
    }
    // Rows are read and told of by a task of their own, so that the one goes on while the other does. There is no more
    // between the two than one report.
    let (told, mut hears) = mpsc::channel::<Result<Reported, Stop>>(1);
    let about = tag.clone();
    let importing = async move {
        let _begun = begun;
        let tell = async |reported: Reported| told.send(Ok(reported)).await.is_ok();
        match self::import(&import, format, source, tell).await {
            Ok(()) => {}
            Err(Stop::Unheard) => observe::unheard(about.as_deref()),
            // Nobody may be there to hear it.
            Err(stop) => drop(told.send(Err(stop)).await),
        }
    };
    actix_web::rt::spawn(tag::on_behalf(tag.as_deref(), importing));
    // The first rows decide about the status.
    let first = hears.recv().await.transpose().map_err(problem)?;
    let is_replay = first.as_ref().is_some_and(|reported| reported.is_replay);
    let first = first.map(Ok);
    let rest = stream::unfold((hears, first, 0, tag), move |(mut hears, first, last_line, tag)| async move {
        let told = match first {
            Some(first) => first,
            None => hears.recv().await?,
        };
        Some(match told {
            Ok(reported) => (Bytes::from(reported.report), (hears, None, reported.last_line, tag)),
            Err(stop) => {
                let end = match stop {
                    Stop::Read(ReadError::UnclosedQuote { last, .. }) => Some(last),
                    _ => None,
                };
                let problem = problem(stop);
                observe::broken_off(tag.as_deref(), &problem);
                (stopped(last_line + 1, end, &problem), (hears, None, last_line, tag))
            }
        })
    });
    Ok(answer(StatusCode::OK, is_replay).streaming(rest.map(Ok::<_, io::Error>)))
}

fn answer(status: StatusCode, is_replay: bool) -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response.content_type(NDJSON);
    if is_replay {
        response.insert_header((REPLAYED, "true"));
    }
    response
}

fn format(request: &HttpRequest) -> Result<Format, Problem> {
    let media_type = super::body::media_type(request, &[NDJSON, CSV])?;
    Ok(if media_type == CSV { Format::Csv } else { Format::Ndjson })
}

/// The body, as long as it keeps coming.
fn bounded(
    payload: web::Payload,
    terms: Terms,
    idle: Duration,
    tag: Option<Rc<Tag>>,
) -> impl Stream<Item = io::Result<Bytes>> {
    let most = if terms.all_or_none { MOST_BYTES_ALL_OR_NONE } else { usize::MAX };
    stream::unfold((payload, most), move |(mut payload, left)| {
        let tag = tag.clone();
        async move {
            // A time-out tells a slow body (408) from a slow answer (503) by this.
            let arriving = |is: bool| tag.iter().for_each(|tag| tag.arriving.set(is));
            arriving(true);
            let piece = timeout(idle, payload.next()).await;
            arriving(false);
            if let Some(tag) = &tag {
                tag.heard.set(Some(Instant::now()));
            }
            let piece = match piece {
                Ok(None) => return None,
                Ok(Some(Ok(piece))) if piece.len() <= left => Ok(piece),
                Ok(Some(Ok(_))) => Err(io::ErrorKind::FileTooLarge.into()),
                Ok(Some(Err(error))) => Err(io::Error::other(error)),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            let left = left - piece.as_ref().map_or(0, Bytes::len);
            Some((piece, (payload, left)))
        }
    })
}

fn lines(rows: &[Row], is_dry_run: bool) -> Vec<u8> {
    let mut lines = Vec::with_capacity(rows.len() * 80);
    for row in rows {
        let mut refused = None;
        let (outcome, id) = match &row.outcome {
            Ok(Written::Created(id)) => (ToldOutcome::Created, Some(id)),
            Ok(Written::Updated(id)) => (ToldOutcome::Updated, Some(id)),
            Ok(Written::Unchanged(id)) => (ToldOutcome::Unchanged, Some(id)),
            Err(Refused::Undone) => (ToldOutcome::Undone, None),
            Err(Refused::EmailTaken) => {
                refused = Some(Problem::new(Kind::EmailTaken, "Another user has this email."));
                (ToldOutcome::Refused, None)
            }
            Err(Refused::Invalid(faults)) => {
                refused = Some(invalid(faults));
                (ToldOutcome::Refused, None)
            }
        };
        // What is only tried has no id that would mean anything.
        let id =
            id.filter(|_| !(is_dry_run && matches!(outcome, ToldOutcome::Created))).map(|id: &UserId| id.as_uuid());
        let last_line = Some(row.last_line).filter(|last| *last != row.line);
        let problem = refused.as_ref().map(|it| it.to_body(None));
        push(&mut lines, &Told { line: row.line, last_line, outcome, id, problem });
    }
    lines
}

fn push(lines: &mut Vec<u8>, line: &Told) {
    // Texts and numbers always serialize, and a Vec takes them all.
    let _ = serde_json::to_writer(&mut *lines, line);
    lines.push(b'\n');
}

fn invalid(faults: &[MemberFault]) -> Problem {
    let error = |MemberFault { member, fault }: &MemberFault| {
        let pointer = if member.is_empty() { String::new() } else { super::body::pointer(member) };
        FieldError::at_member(pointer, fault.clone())
    };
    Problem::with_errors(Kind::ValidationFailed, "The row is no user; see errors.", faults.iter().map(error).collect())
}

/// The last line of an import that did not come to its end.
fn stopped(line: u64, last_line: Option<u64>, problem: &Problem) -> Bytes {
    let mut text = Vec::new();
    let problem = Some(problem.to_body(None));
    push(&mut text, &Told { line, last_line, outcome: ToldOutcome::Stopped, id: None, problem });
    text.into()
}

fn problem(stop: Stop) -> Problem {
    match stop {
        Stop::Service(error) => error.into(),
        Stop::Read(error) => {
            let kind = match error {
                ReadError::Header(_) => Kind::ValidationFailed,
                ReadError::UnclosedQuote { .. } => Kind::MalformedCsv,
            };
            Problem::new(kind, format!("The rows cannot be read: {error}."))
        }
        Stop::TooMany(most) => Problem::new(Kind::PayloadTooLarge, format!("All or none: at most {most} rows.")),
        Stop::Source(error) if error.kind() == io::ErrorKind::TimedOut => {
            Problem::new(Kind::BodyTimeout, "No more of the body came.")
        }
        Stop::Source(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            Problem::new(Kind::PayloadTooLarge, format!("All or none: at most {MOST_BYTES_ALL_OR_NONE} bytes."))
        }
        Stop::Source(_) | Stop::Unheard => Problem::new(Kind::MalformedJson, "The body ended before its end."),
    }
}
