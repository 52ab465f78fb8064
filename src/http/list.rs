//! Lists: which users, in which order, what of them; `Link` out.

use std::{borrow::Cow, fmt::Write as _};

use actix_web::{FromRequest, HttpRequest, dev::Payload, web};
use chrono::{DateTime, Utc};
use url::form_urlencoded;

use super::{
    cursor::CursorSigner,
    problem::{FieldError, Kind, Problem},
    user::Fields,
};
use crate::{
    domain::{Email, Fault, Prefix, UserId},
    service::{Count, Filter, Position, Selection, Slice, Sort, SortKey},
};

const DEFAULT_LIMIT: u64 = 20;
const MAX_LIMIT: u64 = 100;
const MAX_IDS: usize = 100;

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
        let fields = parameters.take("fields", Fields::parse).unwrap_or_default();
        let count = parameters.take("count", count);
        let selection = parameters.selection();
        let cursor = parameters.take("cursor", |text| Ok(text.to_owned()));
        let same = parameters.same(limit);
        parameters.finish()?;
        let position = match cursor {
            None => Position::First,
            Some(cursor) => signer.decode(&selection, &cursor).ok_or_else(|| {
                let detail = "Cursors come from the Link header of an earlier answer to the same query, and are used \
                              as they are. Only limit, fields and count may change.";
                Problem::new(Kind::InvalidCursor, detail)
            })?,
        };
        Ok(Self { selection, position, limit, fields, count, same })
    }

    /// The `Link` header (RFC 8288) of this page.
    pub(super) fn links(&self, slice: &Slice, signer: &CursorSigner) -> String {
        let same = &self.same;
        let mut links = format!("</users?{same}>; rel=\"first\"");
        let mut link = |position, relation| {
            if let Some(cursor) = signer.encode(&self.selection, &position) {
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

/// The parameters of a query that have not been taken yet, and the faults found so far.
struct Parameters<'a> {
    given: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    taken: Vec<&'static str>,
    errors: Vec<FieldError>,
}

impl<'a> Parameters<'a> {
    fn read(query: &'a str) -> Self {
        let given = form_urlencoded::parse(query.as_bytes()).collect();
        Self { given, taken: Vec::new(), errors: Vec::new() }
    }

    fn take<T>(&mut self, name: &'static str, parse: impl FnOnce(&str) -> Result<T, Fault>) -> Option<T> {
        self.taken.push(name);
        let mut values = self.given.iter().filter(|(given, _)| given == name).map(|(_, value)| value);
        let value = values.next()?;
        let fault = if values.next().is_some() {
            Fault::new("duplicate-parameter", "the parameter is given more than once")
        } else {
            match parse(value) {
                Ok(value) => return Some(value),
                Err(fault) => fault,
            }
        };
        self.errors.push(FieldError::at_parameter(name, fault));
        None
    }

    /// The parameters that say which users are meant, and in which order.
    fn selection(&mut self) -> Selection {
        let filter = Filter {
            email: self.take("email", Email::parse),
            name: self.take("name", Prefix::parse),
            text: self.take("q", Prefix::parse),
            created_after: self.take("createdAfter", moment),
            created_before: self.take("createdBefore", moment),
            ids: self.take("ids", ids),
        };
        Selection { filter, sort: self.take("sort", sort).unwrap_or_default() }
    }

    /// The same query, for other pages: the cursor is theirs.
    fn same(&self, limit: u64) -> String {
        let same = format!("limit={limit}");
        let others = self.given.iter().filter(|(name, _)| !["limit", "cursor"].contains(&name.as_ref()));
        form_urlencoded::Serializer::new(same).extend_pairs(others).finish()
    }

    fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in &self.given {
            if !self.taken.contains(&name.as_ref()) {
                let known = self.taken.join(", ");
                let fault = Fault::new("unknown-parameter", format!("there is no such parameter; there are {known}"));
                self.errors.push(FieldError::at_parameter(name, fault));
            }
        }
        let Some(first) = self.errors.first() else { return Ok(()) };
        let detail = format!("Parameter {}: {}.", first.parameter.as_deref().unwrap_or_default(), first.message);
        Err(Problem::with_errors(Kind::InvalidQuery, detail, self.errors))
    }
}

fn limit(text: &str) -> Result<u64, Fault> {
    let fault = || Fault::new("out-of-range", format!("limit is a whole number from 1 to {MAX_LIMIT}"));
    text.parse().ok().filter(|limit| (1..=MAX_LIMIT).contains(limit)).ok_or_else(fault)
}

fn count(text: &str) -> Result<Count, Fault> {
    match text {
        "exact" => Ok(Count::Exact),
        "estimated" => Ok(Count::Estimated),
        _ => Err(Fault::new("unknown-value", "count is exact or estimated")),
    }
}

fn sort(text: &str) -> Result<Sort, Fault> {
    let (descending, key) = text.strip_prefix('-').map_or((false, text), |key| (true, key));
    let key = match key {
        "createdAt" => SortKey::Created,
        "name" => SortKey::Name,
        "email" => SortKey::Email,
        _ => return Err(Fault::new("unknown-value", "sort is createdAt, name or email, or one of them after a minus")),
    };
    Ok(Sort { key, descending })
}

fn moment(text: &str) -> Result<DateTime<Utc>, Fault> {
    let fault = || Fault::new("malformed", "a time is RFC 3339 such as 2026-11-21T10:15:30Z; a plus is sent as %2B");
    DateTime::parse_from_rfc3339(text).map(|time| time.to_utc()).map_err(|_| fault())
}

fn ids(text: &str) -> Result<Vec<UserId>, Fault> {
    let ids = text.split(',').map(str::parse).collect::<Result<Vec<UserId>, Fault>>()?;
    if ids.len() > MAX_IDS {
        return Err(Fault::new("too-many", format!("ids are at most {MAX_IDS}")));
    }
    Ok(ids)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
