//! `GET /users/export`: all users of a selection, in one answer of any length.

use std::{cmp::Reverse, io, iter, rc::Rc, sync::Arc};

use actix_web::{
    FromRequest, HttpRequest, HttpResponse,
    dev::Payload,
    get,
    http::header::{self, Accept, Header, Quality},
    web::{self, Bytes},
};
use futures_util::{FutureExt, future::LocalBoxFuture, stream};

use super::{
    bulk::{CSV, NDJSON, NDJSON_ALIASES},
    compression::compressible,
    cursor::CursorSigner,
    documented::{ExportParameters, SelectionParameters},
    list::position,
    observe,
    parameters::Parameters,
    policy,
    problem::{Kind, Problem},
    request_info::{self, RequestInfo},
    responses::{ExportProblems, ServerProblems},
};
use crate::{
    domain::User,
    exchange::{Fields, Format, Writer},
    service::{Edge, Page, Position, Selection, UserService},
};

/// Users that are read at a time. What a client that stops reading costs is some of these.
const AT_ONCE: u64 = 500;

const CSV_WITH_HEADER: &str = "text/csv; charset=utf-8; header=present";

/// What is asked of an export.
pub struct ExportQuery {
    /// Which users, in which order.
    pub selection: Selection,
    /// Behind whom.
    pub position: Position,
    /// What of them.
    pub fields: Fields,
    /// Whether each has a cursor.
    pub has_cursors: bool,
}

/// The same, of a request.
pub(super) struct Asked(ExportQuery);

impl FromRequest for Asked {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let parsed = match request.app_data::<web::Data<CursorSigner>>() {
            Some(signer) => ExportQuery::parse(request.query_string(), signer).map(Self),
            None => Err(Problem::internal("no cursor signer is wired")),
        };
        std::future::ready(parsed)
    }
}

impl ExportQuery {
    /// Reads a query (`name=ann&sort=-name`).
    ///
    /// # Errors
    ///
    /// What is wrong with it, in words.
    pub fn read(query: &str, signer: &CursorSigner) -> Result<Self, String> {
        Self::parse(query, signer).map_err(|problem| problem.to_string())
    }

    fn parse(query: &str, signer: &CursorSigner) -> Result<Self, Problem> {
        let mut parameters = Parameters::read(query.strip_prefix('?').unwrap_or(query));
        let fields = parameters.take_list("fields", Fields::parse).unwrap_or_default();
        let has_cursors = parameters.choice("cursors", &[("true", true), ("false", false)]).unwrap_or_default();
        let selection = parameters.selection();
        let cursor = parameters.take("cursor", |text| Ok(text.to_owned()));
        parameters.finish()?;
        let position = position(cursor.as_deref(), &selection, signer)?;
        if matches!(position, Position::Before(_)) {
            return Err(Problem::new(Kind::InvalidCursor, "An export goes on behind a user, and not before one."));
        }
        Ok(Self { selection, position, fields, has_cursors })
    }
}

/// What the client likes best of what there is (RFC 9110, section 12.5.1).
fn format(request: &HttpRequest) -> Result<(Format, &'static str), Problem> {
    let is_any = |value: &header::HeaderValue| value.as_bytes().trim_ascii().is_empty();
    if request.headers().get(header::ACCEPT).is_none_or(is_any) {
        return Ok((Format::Ndjson, NDJSON));
    }
    let not_acceptable = || Problem::new(Kind::NotAcceptable, format!("There are {NDJSON} and {CSV}."));
    let ranges = Accept::parse(request).map_err(|_| not_acceptable())?;
    // The range that says most of a type counts: its place and its quality.
    let place = |of: &[&str]| of.iter().find_map(|of| ranges.iter().position(|it| it.item.essence_str() == *of));
    let liked = |name: &'static str, group| {
        let place = place(&[name, group, "*/*"])?;
        Some((ranges[place].quality, Reverse(place))).filter(|(quality, _)| *quality > Quality::ZERO)
    };
    let aliases = NDJSON_ALIASES.into_iter().filter(|alias| place(&[alias]).is_some());
    let names = iter::once((Format::Ndjson, NDJSON)).chain(aliases.map(|alias| (Format::Ndjson, alias)));
    let names = names.map(|(format, name)| (liked(name, "application/*"), format, name));
    // Of those that are liked alike the first counts.
    let csv = (liked(CSV, "text/*"), Format::Csv, CSV_WITH_HEADER);
    let (quality, format, name) =
        iter::once(csv).chain(names.rev()).max_by_key(|(quality, ..)| *quality).ok_or_else(not_acceptable)?;
    quality.map(|_| (format, name)).ok_or_else(not_acceptable)
}

/// Export users
///
/// Streams all users that match the filters, in the order of `sort`, as NDJSON or CSV depending on `Accept`. Concurrent changes
/// cause neither duplicates nor gaps. A response without its final chunk was interrupted; with `cursors=true` it can be resumed.
#[utoipa::path(
    tag = "users",
    operation_id = "exportUsers",
    params(SelectionParameters, ExportParameters),
    responses(
        (status = 200, description = "A line for each user, in NDJSON an `ExportedUser`", content(
            (String = "application/x-ndjson", example = "{\"id\":\"019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40\",\"name\":\"Ann\",\"email\":\"ann@example.com\"}\n"),
            (String = "text/csv", example = "name,email\r\nAnn,ann@example.com\r\n"),
        )),
        ExportProblems,
        ServerProblems,
    ),
)]
#[get("/users/export")]
pub(super) async fn export(
    query: Asked,
    request: HttpRequest,
    signer: web::Data<CursorSigner>,
    service: web::Data<UserService>,
) -> Result<HttpResponse, Problem> {
    let (format, media_type) = format(&request)?;
    let ExportQuery { selection, position, fields, has_cursors } = query.0;
    let writer = Writer::new(format, fields, has_cursors);
    let info = RequestInfo::of(&request);
    let pages = Pages { service: service.as_ref().clone(), selection: Arc::new(selection), next: None, info };
    // The first users decide about the status.
    let first = pages.service.export(Arc::clone(&pages.selection), position, AT_ONCE).await?;
    let mut begun = Vec::new();
    writer.begin(&mut begun);
    let write = move |mut text: Vec<u8>, selection: &Selection, users: &[(User, Edge)]| {
        for (user, edge) in users {
            let cursor = if has_cursors { signer.cursor(selection, &Position::After(edge.clone())) } else { None };
            writer.user(&mut text, user, cursor.as_deref());
        }
        Bytes::from(text)
    };
    let body = stream::unfold((pages, Some((first, begun)), write), |(mut pages, first, write)| async move {
        let (slice, text) = match first {
            Some(first) => first,
            None => match pages.next.take()?.await {
                Ok(slice) => (slice, Vec::new()),
                Err(problem) => {
                    // It can only be cut off.
                    observe::broken_off(pages.info.as_deref(), &problem);
                    return Some((Err(io::Error::other(problem.to_string())), (pages, None, write)));
                }
            },
        };
        // While these are written and sent, the next ones are read.
        pages.read_on(slice.next.clone());
        let text = write(text, &pages.selection, &slice.users);
        Some((Ok(text), (pages, None, write)))
    });
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CACHE_CONTROL, policy::REVALIDATED)).insert_header((header::VARY, "Accept"));
    response.content_type(media_type);
    if format == Format::Csv {
        response.insert_header((header::CONTENT_DISPOSITION, "attachment; filename=\"users.csv\""));
    }
    Ok(compressible(response.streaming(body)))
}

type ExportPage = Page<(User, Edge)>;

/// Pages as they are read.
struct Pages {
    service: UserService,
    selection: Arc<Selection>,
    next: Option<LocalBoxFuture<'static, Result<ExportPage, Problem>>>,
    info: Option<Rc<RequestInfo>>,
}

impl Pages {
    fn read_on(&mut self, behind: Option<Edge>) {
        let Some(edge) = behind else { return };
        let (service, selection) = (self.service.clone(), Arc::clone(&self.selection));
        let reading = async move { service.export(selection, Position::After(edge), AT_ONCE).await };
        let reading = actix_web::rt::spawn(request_info::on_behalf(self.info.as_deref(), reading));
        let read = reading.map(|read| read.map_err(Problem::internal)?.map_err(Problem::from));
        self.next = Some(read.boxed_local());
    }
}
