//! Query strings of requests.

use std::future::{Ready, ready};

use actix_web::{FromRequest, HttpRequest, dev::Payload, web};

use super::problem::{FieldError, Kind, Problem};
use crate::exchange::{self, CursorSigner, ExportQuery, ListQuery, QueryError, QueryParameters};

/// The parameters of a request's query string.
pub(super) struct Query<T>(pub(super) T);

impl<T: QueryParameters> FromRequest for Query<T> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(exchange::read(request.query_string()).map(Self).map_err(Problem::from))
    }
}

/// A query that may contain a cursor.
pub(super) struct SignedQuery<T>(pub(super) T);

impl FromRequest for SignedQuery<ListQuery> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(signed(request, ListQuery::parse))
    }
}

impl FromRequest for SignedQuery<ExportQuery> {
    type Error = Problem;
    type Future = Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        ready(signed(request, ExportQuery::parse))
    }
}

fn signed<T>(
    request: &HttpRequest,
    parse: fn(&str, &CursorSigner) -> Result<T, QueryError>,
) -> Result<SignedQuery<T>, Problem> {
    let signer = request.app_data::<web::Data<CursorSigner>>();
    let signer = signer.ok_or_else(|| Problem::internal("CursorSigner is not in the app data"))?;
    Ok(SignedQuery(parse(request.query_string(), signer)?))
}

impl From<QueryError> for Problem {
    fn from(error: QueryError) -> Self {
        let detail = error.to_string();
        match error {
            QueryError::Parameters(errors) => {
                let errors = errors.into_iter().map(|it| FieldError::at_parameter(&it.name, it.error)).collect();
                Self::with_errors(Kind::InvalidQuery, detail, errors)
            }
            QueryError::Cursor(_) => Self::new(Kind::InvalidCursor, detail),
        }
    }
}
