//! The parameters of a query: each is taken once, by name, and what is left over is unknown.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use url::form_urlencoded;

use super::problem::{FieldError, Kind, Problem};
use crate::{
    domain::{Email, Prefix, UserId, ValidationError},
    service::{Filter, Selection, Sort, SortKey},
};

const MAX_IDS: usize = 100;

/// The parameters of a query that have not been taken yet, and the faults found so far.
pub(super) struct Parameters<'a> {
    given: Vec<(Cow<'a, str>, Cow<'a, str>)>,
    taken: Vec<&'static str>,
    errors: Vec<FieldError>,
}

impl<'a> Parameters<'a> {
    pub(super) fn read(query: &'a str) -> Self {
        let given = form_urlencoded::parse(query.as_bytes()).collect();
        Self { given, taken: Vec::new(), errors: Vec::new() }
    }

    pub(super) fn take<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, ValidationError>,
    ) -> Option<T> {
        self.taken.push(name);
        let mut values = self.given.iter().filter(|(given, _)| given == name).map(|(_, value)| value);
        let value = values.next()?;
        let fault = if values.next().is_some() {
            ValidationError::new("duplicate-parameter", "the parameter is given more than once")
        } else {
            match parse(value) {
                Ok(value) => return Some(value),
                Err(fault) => fault,
            }
        };
        self.errors.push(FieldError::at_parameter(name, fault));
        None
    }

    /// A parameter that is a list: with commas between, or given more than once, as many clients write it.
    pub(super) fn take_list<T>(
        &mut self,
        name: &'static str,
        parse: impl FnOnce(&str) -> Result<T, ValidationError>,
    ) -> Option<T> {
        self.taken.push(name);
        let values: Vec<&str> = self.given.iter().filter(|(given, _)| given == name).map(|(_, it)| &**it).collect();
        if values.is_empty() {
            return None;
        }
        match parse(&values.join(",")) {
            Ok(value) => Some(value),
            Err(fault) => {
                self.errors.push(FieldError::at_parameter(name, fault));
                None
            }
        }
    }

    /// A parameter that is one of a few words.
    pub(super) fn choice<T: Copy>(&mut self, name: &'static str, choices: &[(&str, T)]) -> Option<T> {
        self.take(name, |text| {
            let chosen = choices.iter().find(|(word, _)| *word == text).map(|(_, value)| *value);
            chosen.ok_or_else(|| {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                ValidationError::new("unknown-value", format!("{name} is {}", words.join(" or ")))
            })
        })
    }

    /// The parameters that say which users are meant, and in which order.
    pub(super) fn selection(&mut self) -> Selection {
        let filter = Filter {
            email: self.take("email", email),
            name: self.take("name", Prefix::parse),
            text: self.take("q", Prefix::parse),
            created_after: self.take("createdAfter", moment),
            created_before: self.take("createdBefore", moment),
            ids: self.take_list("ids", ids),
        };
        Selection { filter, sort: self.take("sort", sort).unwrap_or_default() }
    }

    /// The query without its cursor, for links.
    pub(super) fn same(&self, limit: u64) -> String {
        let same = format!("limit={limit}");
        let others = self.given.iter().filter(|(name, _)| !["limit", "cursor"].contains(&name.as_ref()));
        form_urlencoded::Serializer::new(same).extend_pairs(others).finish()
    }

    pub(super) fn finish(mut self) -> Result<(), Problem> {
        for (name, _) in &self.given {
            if !self.taken.contains(&name.as_ref()) {
                let known = self.taken.join(", ");
                let fault =
                    ValidationError::new("unknown-parameter", format!("there is no such parameter; there are {known}"));
                self.errors.push(FieldError::at_parameter(name, fault));
            }
        }
        let Some(first) = self.errors.first() else { return Ok(()) };
        let detail = format!("Parameter {}: {}.", first.parameter.as_deref().unwrap_or_default(), first.message);
        Err(Problem::with_errors(Kind::InvalidQuery, detail, self.errors))
    }
}

fn sort(text: &str) -> Result<Sort, ValidationError> {
    let (descending, key) = text.strip_prefix('-').map_or((false, text), |key| (true, key));
    let key = match key {
        "createdAt" => SortKey::Created,
        "name" => SortKey::Name,
        "email" => SortKey::Email,
        _ => {
            return Err(ValidationError::new(
                "unknown-value",
                "sort is createdAt, name or email, or one of them after a minus",
            ));
        }
    };
    Ok(Sort { key, descending })
}

fn email(text: &str) -> Result<Email, ValidationError> {
    Email::parse(text).map_err(|fault| match fault.message {
        message if text.contains(' ') => ValidationError::new(fault.code, format!("{message}; a plus is sent as %2B")),
        message => ValidationError::new(fault.code, message),
    })
}

fn moment(text: &str) -> Result<DateTime<Utc>, ValidationError> {
    let fault =
        || ValidationError::new("malformed", "a time is RFC 3339 such as 2026-11-21T10:15:30Z; a plus is sent as %2B");
    // Without the colon it is what Python's %z and PHP write.
    let read = DateTime::parse_from_rfc3339(text).or_else(|_| DateTime::parse_from_str(text, "%Y-%m-%dT%H:%M:%S%.f%z"));
    read.map(|time| time.to_utc()).map_err(|_| fault())
}

fn ids(text: &str) -> Result<Vec<UserId>, ValidationError> {
    let ids = text.split(',').map(str::parse).collect::<Result<Vec<UserId>, ValidationError>>()?;
    if ids.len() > MAX_IDS {
        return Err(ValidationError::new("too-many", format!("ids are at most {MAX_IDS}")));
    }
    Ok(ids)
}
