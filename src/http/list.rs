//! Lists: which users, in which order, what of them; `Link` out.

use std::fmt::Write as _;

use actix_web::{FromRequest, HttpRequest, dev::Payload, web};

use super::{
    cursor::CursorSigner,
    parameters::Parameters,
    problem::{Kind, Problem},
};
use crate::{
    domain::ValidationError,
    exchange::Fields,
    service::{Count, Page, Position, Selection},
};

const DEFAULT_LIMIT: u64 = 20;
const MAX_LIMIT: u64 = 100;

/// What is asked of a list.
pub(super) struct ListQuery {
    pub(super) selection: Selection,
    pub(super) position: Position,
    pub(super) limit: u64,
    pub(super) fields: Fields,
    pub(super) count: Option<Count>,
    /// The query, without the cursor.
    same: String,
}

impl FromRequest for ListQuery {
    type Error = Problem;
    type Future = std::future::Ready<Result<Self, Problem>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let parsed = match request.app_data::<web::Data<CursorSigner>>() {
            Some(signer) => Self::parse(request.query_string(), signer),
            None => Err(Problem::internal("no cursor signer is wired")),
        };
        std::future::ready(parsed)
    }
}

impl ListQuery {
    fn parse(query: &str, signer: &CursorSigner) -> Result<Self, Problem> {
        let mut parameters = Parameters::read(query);
        let limit = parameters.take("limit", limit).unwrap_or(DEFAULT_LIMIT);
        let fields = parameters.take_list("fields", Fields::parse).unwrap_or_default();
        let count = parameters.choice("count", &[("exact", Count::Exact), ("estimated", Count::Estimated)]);
        let selection = parameters.selection();
        let cursor = parameters.take("cursor", |text| Ok(text.to_owned()));
        let same = parameters.same(limit);
        parameters.finish()?;
        let position = position(cursor.as_deref(), &selection, signer)?;
        Ok(Self { selection, position, limit, fields, count, same })
    }

    /// The `Link` header (RFC 8288) of this page.
    pub(super) fn links(&self, slice: &Page, signer: &CursorSigner) -> String {
        let same = &self.same;
        let mut links = format!("</users?{same}>; rel=\"first\"");
        let mut link = |position, relation| {
            if let Some(cursor) = signer.cursor(&self.selection, &position) {
                // Writing into a String does not fail.
                let _ = write!(links, ", </users?{same}&cursor={cursor}>; rel=\"{relation}\"");
            }
        };
        if let Some(edge) = &slice.previous {
            link(Position::Before(edge.clone()), "prev");
        }
        if let Some(edge) = &slice.next {
            link(Position::After(edge.clone()), "next");
        }
        links
    }
}

/// Where a cursor points to; without one, the beginning.
pub(super) fn position(
    cursor: Option<&str>,
    selection: &Selection,
    signer: &CursorSigner,
) -> Result<Position, Problem> {
    let Some(cursor) = cursor else { return Ok(Position::First) };
    signer.decode(selection, cursor).ok_or_else(|| {
        let detail = "Cursors come from an earlier answer to the same query, and are used as they are. Only limit, fields \
                      and count may change.";
        Problem::new(Kind::InvalidCursor, detail)
    })
}

fn limit(text: &str) -> Result<u64, ValidationError> {
    let fault = || ValidationError::new("out-of-range", format!("limit is a whole number from 1 to {MAX_LIMIT}"));
    text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(fault)
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;
    use proptest::prelude::*;
    use url::form_urlencoded;

    use super::*;

    fn parse(query: &str) -> Result<ListQuery, Problem> {
        ListQuery::parse(query, &CursorSigner::new(""))
    }

    #[test]
    fn another_page_is_one_of_the_same_query() {
        let query = parse("name=J%C3%BCrgen+K&limit=7&sort=-email&fields=id,email").ok().unwrap();
        assert_eq!(query.same, "limit=7&name=J%C3%BCrgen+K&sort=-email&fields=id%2Cemail");
        assert_eq!(parse("").ok().unwrap().same, "limit=20");
    }

    #[test]
    fn a_time_may_have_any_offset() {
        for text in ["1970-01-01T01:00:00%2B01:00", "1970-01-01T00:00:00Z", "1969-12-31t23:59:59.9999999999z"] {
            let query = parse(&format!("createdAfter={text}")).ok().unwrap();
            assert!((query.selection.filter.created_after.unwrap() - DateTime::UNIX_EPOCH).abs().num_seconds() == 0);
        }
        assert!(parse("createdAfter=1970-01-01T01:00:00+01:00").is_err(), "a plus is a space");
    }

    proptest! {
        #[test]
        fn no_query_panics(query in any::<String>()) {
            let _ = parse(&query);
        }

        #[test]
        fn no_value_panics(
            name in "limit|cursor|email|name|q|createdAfter|createdBefore|ids|sort|fields|count", value in any::<String>()
        ) {
            let pair: String = form_urlencoded::Serializer::new(String::new()).append_pair(&name, &value).finish();
            let _ = parse(&pair);
        }
    }
}
