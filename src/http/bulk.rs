//! `POST /users/bulk`: rows in, a report of them out.

mod line;
mod report;

use std::{
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    body::SizedStream,
    dev::Payload,
    http::StatusCode,
    post,
    web::{self, Bytes},
};
use futures_util::{Stream, StreamExt, stream};
use tokio::{sync::mpsc, time::timeout};

pub(super) use self::line::{BulkLine, BulkSummary};
use self::report::{Choice, Filter, Held, Progress, Report};
use super::{
    HttpOptions,
    compression::compressible,
    conditions::ListCondition,
    documented::{BulkParameters, KeyParameter, ListConditionParameters},
    idempotency::{IdempotencyKey, REPLAYED},
    observe,
    parameters::Parameters,
    problem::{Kind, Problem},
    request_info::{self, RequestInfo},
    responses::{BulkProblems, ServerProblems},
};
use crate::{
    exchange::{ChunkReport, Format, Import, ImportError, ReadError, import, import_all_or_none},
    service::{Mode, UserService, WriteOptions},
};

/// What NDJSON is sent as, and the other names that it goes by.
pub(super) const NDJSON: &str = "application/x-ndjson";
pub(super) const NDJSON_ALIASES: [&str; 2] = ["application/ndjson", "application/jsonl"];
pub(super) const CSV: &str = "text/csv";
/// Longest body of rows that are to be written all or none.
const MOST_BYTES_ALL_OR_NONE: usize = 16 * 1024 * 1024;

/// How rows are written and reported.
pub(super) struct BulkQuery {
    terms: WriteOptions,
    answer: Answer,
    choice: Choice,
}

/// When the answer is sent.
#[derive(Clone, Copy, Default)]
enum Answer {
    /// Once all rows are done.
    #[default]
    End,
    /// A line as soon as its row is done.
    Stream,
}

impl FromRequest for BulkQuery {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        const YES: [(&str, bool); 2] = [("true", true), ("false", false)];
        const CHOICES: [(&str, Choice); 3] =
            [("all", Choice::All), ("refused", Choice::Refused), ("summary", Choice::Summary)];
        let mut parameters = Parameters::read(request.query_string());
        let terms = WriteOptions {
            mode: parameters.choice("mode", &[("insert", Mode::Insert), ("upsert", Mode::Upsert)]).unwrap_or_default(),
            dry_run: parameters.choice("dryRun", &YES).unwrap_or_default(),
            all_or_none: parameters.choice("atomic", &YES).unwrap_or_default(),
        };
        let answer =
            parameters.choice("answer", &[("end", Answer::End), ("stream", Answer::Stream)]).unwrap_or_default();
        let choice = parameters.choice("report", &CHOICES).unwrap_or_default();
        std::future::ready(parameters.finish().map(|()| Self { terms, answer, choice }))
    }
}

/// Write many users
///
/// NDJSON or CSV of any length. Each row is a user with `name` and `email`; other members of an export are ignored. Rows are
/// accepted or refused individually, and the response has one line (`BulkLine`) per row, in input order. It is sent when all rows
/// have been processed; `answer=stream` sends each line as soon as its row is written. Rows are written in chunks of a few
/// hundred, one transaction per chunk.
///
/// CSV is read strictly by RFC 4180. After a quoted cell that is not closed nothing is read any more: the last line has the
/// outcome `stopped`, and the lines that were not done.
#[utoipa::path(
    tag = "users",
    operation_id = "writeUsers",
    params(BulkParameters, KeyParameter, ListConditionParameters),
    request_body(content(
        (String = "application/x-ndjson", example = "{\"name\":\"Ann\",\"email\":\"ann@example.com\"}\n"),
        (String = "text/csv", example = "name,email\nAnn,ann@example.com\n"),
    )),
    responses(
        (status = 200, description = "Lines, each a `BulkLine`; with `report=refused` or `report=summary` also a `BulkSummary`",
            content((String = "application/x-ndjson", example = "{\"line\":1,\"outcome\":\"created\",\"id\":\"019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40\"}\n")),
            headers(
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
    let BulkQuery { terms, answer, choice } = query;
    let format = format(&request)?;
    let rules = request.app_data::<HttpOptions>().ok_or_else(|| Problem::internal("no HTTP options are wired"))?;
    if rules.require_if_match && terms.mode == Mode::Upsert && !condition.is_any {
        let detail = "mode=upsert changes users at whatever version they are; say so by If-Match: *.";
        return Err(Problem::new(Kind::PreconditionRequired, detail));
    }
    let info = RequestInfo::of(&request);
    let keyed = key.of_bulk().filter(|_| !terms.dry_run);
    let begun = keyed.map(|keyed| service.begin(keyed.key)).transpose()?;
    let of_rows = Arc::new(move |rows: &[_]| line::of_rows(rows, terms.dry_run));
    let import = Import { service: service.as_ref().clone(), terms, keyed, from_line: 1, report: of_rows };
    let source = bounded(payload, terms, rules.request_timeout, info.clone());
    if terms.all_or_none {
        // In a task of its own: it goes on when nobody waits for it any more, and keeps its key meanwhile.
        let importing = async move {
            let _begun = begun;
            import_all_or_none(&import, format, source).await
        };
        let importing = actix_web::rt::spawn(request_info::on_behalf(info.as_deref(), importing));
        let reported = importing.await.map_err(Problem::internal)?.map_err(problem)?;
        let status = if reported.is_kept || reported.tally.refused == 0 {
            StatusCode::OK
        } else {
            StatusCode::UNPROCESSABLE_ENTITY
        };
        return Ok(response(status, reported.is_replay).body(Filter::whole(choice, reported.report)));
    }
    // Rows are read and told of by a task of their own, so that the one goes on while the other does. There is no more
    // between the two than one report.
    let (sender, mut reports) = mpsc::channel::<Progress>(1);
    let about = info.clone();
    let importing = async move {
        let _begun = begun;
        let tell = async |reported: ChunkReport| sender.send(Ok(Some(reported))).await.is_ok();
        let end = match self::import(&import, format, source, tell).await {
            Ok(()) => Ok(None),
            Err(ImportError::Unheard) => return observe::unheard(about.as_deref()),
            Err(stop) => Err(stop),
        };
        // Fails if the client has disconnected.
        let _ = sender.send(end).await;
    };
    actix_web::rt::spawn(request_info::on_behalf(info.as_deref(), importing));
    // The first rows decide about the status.
    let first = reports.recv().await.ok_or_else(|| Problem::internal("the import panicked"))?.map_err(problem)?;
    let mut response = response(StatusCode::OK, first.as_ref().is_some_and(|reported| reported.is_replay));
    let mut report = Report::new(reports, first, choice, info.clone());
    if matches!(answer, Answer::Stream) {
        return Ok(response.streaming(report.into_stream()));
    }
    if let Some(info) = info {
        // From here on the import bounds its own time: rows are written that have to be reported.
        info.is_unbounded.set(true);
    }
    let mut held = Held::new().map_err(Problem::internal)?;
    while let Some(lines) = report.next().await {
        held.push(&lines).map_err(Problem::internal)?;
        if held.is_full() {
            break;
        }
    }
    let (length, held) = held.finish().map_err(Problem::internal)?;
    let held = stream::iter(held);
    Ok(if report.is_over() {
        compressible(response.body(SizedStream::new(length, held)))
    } else {
        response.streaming(held.chain(report.into_stream()))
    })
}

fn response(status: StatusCode, is_replay: bool) -> actix_web::HttpResponseBuilder {
    let mut response = HttpResponse::build(status);
    response.content_type(NDJSON);
    if is_replay {
        response.insert_header((REPLAYED, "true"));
    }
    response
}

fn format(request: &HttpRequest) -> Result<Format, Problem> {
    let media_type = super::body::media_type(request.head(), &[NDJSON, CSV, NDJSON_ALIASES[0], NDJSON_ALIASES[1]])?;
    Ok(if media_type == CSV { Format::Csv } else { Format::Ndjson })
}

/// The body, as long as it keeps coming.
fn bounded(
    payload: web::Payload,
    terms: WriteOptions,
    idle: Duration,
    info: Option<Rc<RequestInfo>>,
) -> impl Stream<Item = io::Result<Bytes>> {
    let most = if terms.all_or_none { MOST_BYTES_ALL_OR_NONE } else { usize::MAX };
    stream::unfold((payload, most), move |(mut payload, left)| {
        let info = info.clone();
        async move {
            // A time-out tells a slow body (408) from a slow answer (503) by this.
            let arriving = |is: bool| info.iter().for_each(|info| info.arriving.set(is));
            arriving(true);
            let piece = timeout(idle, payload.next()).await;
            arriving(false);
            if let Some(info) = &info {
                info.heard.set(Some(Instant::now()));
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

fn problem(stop: ImportError) -> Problem {
    match stop {
        ImportError::Service(error) => error.into(),
        ImportError::Read(error) => {
            let kind = match error {
                ReadError::Header(_) => Kind::ValidationFailed,
                ReadError::UnclosedQuote { .. } => Kind::MalformedCsv,
            };
            Problem::new(kind, format!("The rows cannot be read: {error}."))
        }
        ImportError::TooMany(most) => Problem::new(Kind::PayloadTooLarge, format!("All or none: at most {most} rows.")),
        ImportError::Source(error) if error.kind() == io::ErrorKind::TimedOut => {
            Problem::new(Kind::BodyTimeout, "No more of the body came.")
        }
        ImportError::Source(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            Problem::new(Kind::PayloadTooLarge, format!("All or none: at most {MOST_BYTES_ALL_OR_NONE} bytes."))
        }
        ImportError::Source(_) | ImportError::Unheard => {
            Problem::new(Kind::MalformedJson, "The body ended before its end.")
        }
    }
}
