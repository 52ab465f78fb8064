//! `POST /users/bulk`: imports rows and reports their outcomes.

mod line;
mod report;

use std::{
    io,
    rc::Rc,
    sync::Arc,
    time::{Duration, Instant},
};

use actix_web::{
    HttpRequest, HttpResponse, HttpResponseBuilder,
    body::SizedStream,
    http::StatusCode,
    web::{self, Bytes},
};
use futures_util::{Stream, StreamExt, stream};
use serde::{Deserialize, Serialize};
use tokio::{sync::mpsc, time::timeout};
use utoipa::ToSchema;

pub(super) use self::line::{BulkLine, BulkSummary};
use self::report::{Filter, LineBuffer, Progress, Report, ReportLevel};
use super::{
    HttpOptions,
    access::{Allowed, UsersBulk},
    compression::compressible,
    conditions::ListCondition,
    idempotency::{IdempotencyKey, REPLAYED},
    media_types::{CSV, NDJSON, NDJSON_ALIASES},
    observe,
    problem::{Kind, Problem},
    query::Query,
    request_info::{self, RequestInfo},
    responses::{BulkProblems, ServerProblems},
};
use crate::{
    auth::RateLimits,
    exchange::{
        ChunkReport, Format, Import, ImportError, ReadError, import, import_atomically, query_parameters, word_values,
    },
    service::{UserService, WriteMode, WriteOptions},
};

/// The maximum length of a body with `atomic=true`.
const MAX_ATOMIC_BYTES: usize = 16 * 1024 * 1024;

query_parameters! {
    /// The options of an import.
    pub(super) struct BulkParameters {
        /// `insert` refuses a row whose email address is already in use. `upsert` updates the user's name and the
        /// spelling of the email address.
        mode: Option<BulkMode>,
        /// Report what would happen, without writing anything.
        dry_run: Option<bool>,
        /// Write all rows in one transaction, or none; up to 10,000 rows.
        atomic: Option<bool>,
        /// `end` responds once all rows are processed, which works with every client and proxy. `stream` sends each
        /// line as soon as its row is processed: the client, and every proxy in between, must read while it writes.
        answer: Option<ResponseTime>,
        /// A line for each row (`all`), a line for each refused row and a summary (`refused`), or only a summary
        /// (`summary`).
        report: Option<ReportLevel>,
    }
}

/// The handling of a row whose email address is already in use.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(default = Self::default)]
pub(super) enum BulkMode {
    #[default]
    Insert,
    Upsert,
}

/// When the response is sent.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
#[schema(default = Self::default)]
pub(super) enum ResponseTime {
    /// Once all rows are processed.
    #[default]
    End,
    /// Each line as soon as its row is processed.
    Stream,
}

word_values!(inline BulkMode, ResponseTime, ReportLevel);

impl BulkParameters {
    fn write_options(&self) -> WriteOptions {
        WriteOptions {
            mode: match self.mode.unwrap_or_default() {
                BulkMode::Upsert => WriteMode::Upsert,
                BulkMode::Insert => WriteMode::Insert,
            },
            dry_run: self.dry_run.unwrap_or_default(),
            atomic: self.atomic.unwrap_or_default(),
        }
    }
}

/// Write many users
///
/// Imports NDJSON or CSV of any length. Each row is a user with `name` and `email`; the other members of an export are
/// ignored. Rows are written or refused individually, in chunks of up to 1,000 rows, one transaction per chunk. The
/// response has one line (`BulkLine`) per row, in input order. It is sent when all rows have been processed; with
/// `answer=stream`, each line is sent as soon as its row is processed.
///
/// CSV is parsed strictly by RFC 4180. If a quoted cell is not closed, the rest of the body is not read: the last line
/// has the outcome `stopped` and the range of lines that were not processed.
#[utoipa::path(
    post,
    path = "/users/bulk",
    tag = "users",
    operation_id = "writeUsers",
    params(BulkParameters, IdempotencyKey, ListCondition),
    request_body(content(
        (String = "application/x-ndjson", example = "{\"name\":\"Ann\",\"email\":\"ann@example.com\"}\n"),
        (String = "text/csv", example = "name,email\nAnn,ann@example.com\n"),
    )),
    responses(
        (status = 200, description = "`BulkLine`s; with `report=refused` or `report=summary` also a `BulkSummary`",
            content((String = "application/x-ndjson", example = "{\"line\":1,\"outcome\":\"created\",\"id\":\"019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40\"}\n")),
            headers(
            ("Idempotency-Replayed" = String, description = "`true` if the first chunk is a stored response"),
        )),
        BulkProblems,
        ServerProblems,
    ),
)]
pub(super) async fn write(
    caller: Allowed<UsersBulk>,
    query: Query<BulkParameters>,
    key: IdempotencyKey,
    condition: ListCondition,
    request: HttpRequest,
    payload: web::Payload,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    let Query(parameters) = query;
    let options = parameters.write_options();
    let level = parameters.report.unwrap_or_default();
    let format = format(&request)?;
    caller.charge(&request, RateLimits::MANY)?;
    let http_options =
        request.app_data::<HttpOptions>().ok_or_else(|| Problem::internal("HttpOptions are not in the app data"))?;
    if http_options.require_if_match && options.mode == WriteMode::Upsert && !condition.is_any {
        let detail = "mode=upsert changes users at any version. Send If-Match: * to confirm this.";
        return Err(Problem::new(Kind::PreconditionRequired, detail));
    }
    let info = RequestInfo::of(&request);
    let keyed = key.keyed_bulk_request().filter(|_| !options.dry_run);
    let in_flight = keyed.map(|keyed| service.mark_in_flight(keyed.key)).transpose()?;
    let lines = Arc::new(move |rows: &[_]| line::of_rows(rows, options.dry_run));
    let author = caller.into_author(&request);
    let import = Import { service: service.as_ref().clone(), options, author, keyed, from_line: 1, report: lines };
    let source = body_chunks(payload, options, http_options.request_timeout, info.clone());
    let upload = Upload { import, format, source, in_flight, info: info.clone() };
    if options.atomic {
        return upload.write_atomically(level).await;
    }
    let (is_replay, report) = upload.start(level).await?;
    let mut response = response(StatusCode::OK, is_replay);
    if matches!(parameters.answer.unwrap_or_default(), ResponseTime::Stream) {
        return Ok(response.streaming(report.into_stream()));
    }
    if let Some(info) = info {
        // The request timeout no longer applies: the rows that have been written must be reported. The import limits
        // the time between two chunks of the body.
        info.is_timeout_disabled.set(true);
    }
    respond_at_end(response, report).await.map_err(Problem::internal)
}

/// The rows of a request, and how they are written. The key stays in flight until the import has ended.
struct Upload<S, G> {
    import: Import,
    format: Format,
    source: S,
    in_flight: Option<G>,
    info: Option<Rc<RequestInfo>>,
}

impl<S: Stream<Item = io::Result<Bytes>> + 'static, G: 'static> Upload<S, G> {
    /// Writes all rows or none.
    async fn write_atomically(self, level: ReportLevel) -> Result<HttpResponse, Problem> {
        let Self { import, format, source, in_flight, info } = self;
        // In a separate task, so that it completes even if the client disconnects.
        let importing = async move {
            let _in_flight = in_flight;
            import_atomically(&import, format, source).await
        };
        let importing = actix_web::rt::spawn(request_info::on_behalf(info.as_deref(), importing));
        let chunk = importing.await.map_err(Problem::internal)?.map_err(problem)?;
        let is_ok = chunk.is_committed || chunk.tally.refused == 0;
        let status = if is_ok { StatusCode::OK } else { StatusCode::UNPROCESSABLE_ENTITY };
        Ok(response(status, chunk.is_replay).body(Filter::whole(level, chunk.report)))
    }

    /// Starts a task that imports the rows while this one sends the response, and awaits its first chunk, whose result
    /// decides the status. Returns whether that chunk is a stored response.
    async fn start(self, level: ReportLevel) -> Result<(bool, Report), Problem> {
        let Self { import, format, source, in_flight, info } = self;
        // At most one chunk waits between the two tasks.
        let (sender, mut reports) = mpsc::channel::<Progress>(1);
        let import_info = info.clone();
        let importing = async move {
            let _in_flight = in_flight;
            let on_chunk = async |chunk: ChunkReport| sender.send(Ok(Some(chunk))).await.is_ok();
            let end = match self::import(&import, format, source, on_chunk).await {
                Ok(()) => Ok(None),
                Err(ImportError::Disconnected) => return observe::client_disconnected(import_info.as_deref()),
                Err(error) => Err(error),
            };
            // Fails if the client has disconnected.
            let _ = sender.send(end).await;
        };
        actix_web::rt::spawn(request_info::on_behalf(info.as_deref(), importing));
        let first = reports.recv().await.ok_or_else(|| Problem::internal("the import panicked"))?.map_err(problem)?;
        let is_replay = first.as_ref().is_some_and(|chunk| chunk.is_replay);
        Ok((is_replay, Report::new(reports, first, level, info)))
    }
}

/// Responds once all rows are processed, with the length known. A report that exceeds the buffer is streamed.
async fn respond_at_end(mut response: HttpResponseBuilder, mut report: Report) -> io::Result<HttpResponse> {
    let mut buffer = LineBuffer::new()?;
    while let Some(lines) = report.next().await {
        buffer.push(&lines)?;
        if buffer.is_full() {
            break;
        }
    }
    let (length, lines) = buffer.finish()?;
    let lines = stream::iter(lines);
    Ok(if report.is_over() {
        compressible(response.body(SizedStream::new(length, lines)))
    } else {
        response.streaming(lines.chain(report.into_stream()))
    })
}

fn response(status: StatusCode, is_replay: bool) -> HttpResponseBuilder {
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

/// Streams the body. `max_idle` is the maximum time between two of its chunks.
fn body_chunks(
    payload: web::Payload,
    options: WriteOptions,
    max_idle: Duration,
    info: Option<Rc<RequestInfo>>,
) -> impl Stream<Item = io::Result<Bytes>> {
    let max_bytes = if options.atomic { MAX_ATOMIC_BYTES } else { usize::MAX };
    stream::unfold((payload, max_bytes), move |(mut payload, remaining)| {
        let info = info.clone();
        async move {
            // If the request times out in the meantime, this decides between 408 and 503.
            let set_receiving = |is: bool| info.iter().for_each(|info| info.is_receiving.set(is));
            set_receiving(true);
            let chunk = timeout(max_idle, payload.next()).await;
            set_receiving(false);
            if let Some(info) = &info {
                info.last_chunk_at.set(Some(Instant::now()));
            }
            let chunk = match chunk {
                Ok(None) => return None,
                Ok(Some(Ok(chunk))) if chunk.len() <= remaining => Ok(chunk),
                Ok(Some(Ok(_))) => Err(io::ErrorKind::FileTooLarge.into()),
                Ok(Some(Err(error))) => Err(io::Error::other(error)),
                Err(_) => Err(io::ErrorKind::TimedOut.into()),
            };
            let remaining = remaining - chunk.as_ref().map_or(0, Bytes::len);
            Some((chunk, (payload, remaining)))
        }
    })
}

fn problem(error: ImportError) -> Problem {
    match error {
        ImportError::Service(error) => error.into(),
        ImportError::Read(error) => {
            let kind = match error {
                ReadError::Header(_) => Kind::ValidationFailed,
                ReadError::UnclosedQuote { .. } => Kind::MalformedCsv,
            };
            Problem::new(kind, format!("The rows cannot be read: {error}."))
        }
        ImportError::TooMany(max) => {
            Problem::new(Kind::PayloadTooLarge, format!("atomic=true allows at most {max} rows."))
        }
        ImportError::Source(error) if error.kind() == io::ErrorKind::TimedOut => {
            Problem::new(Kind::BodyTimeout, "The next part of the body did not arrive in time.")
        }
        ImportError::Source(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            Problem::new(Kind::PayloadTooLarge, format!("atomic=true allows at most {MAX_ATOMIC_BYTES} bytes."))
        }
        ImportError::Source(_) | ImportError::Disconnected => {
            Problem::new(Kind::MalformedJson, "The request body is incomplete.")
        }
    }
}
