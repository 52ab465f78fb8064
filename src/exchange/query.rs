//! Query strings. Each parameter is declared once, as a field of a struct in `query_parameters!`: its type parses the
//! value and has its schema, and its comment describes it in the OpenAPI document.
//!
//! [`read`] parses a query string into such a struct and reports all errors together. [`ListQuery`] and [`ExportQuery`]
//! are the queries for users, from HTTP and from the command line.

mod users;

use std::{borrow::Cow, fmt};

use url::form_urlencoded;
use utoipa::{
    IntoParams,
    openapi::{
        RefOr, Required, Schema,
        path::{Parameter, ParameterBuilder, ParameterIn, ParameterStyle},
    },
};

pub use self::users::{ExportParameters, ExportQuery, Limit, ListParameters, ListQuery, SelectionParameters, UserSort};
use crate::{
    domain::ValidationError,
    exchange::{TextValue, member_name, paragraph},
};

/// A set of query parameters.
pub trait QueryParameters: Sized {
    /// Takes these parameters from a query string. Errors are collected in `parameters`.
    fn take(parameters: &mut Parameters<'_>) -> Self;
}

impl<A: QueryParameters, B: QueryParameters> QueryParameters for (A, B) {
    fn take(parameters: &mut Parameters<'_>) -> Self {
        (A::take(parameters), B::take(parameters))
    }
}

/// Declares a struct of optional query parameters, and implements [`QueryParameters`] and, for the OpenAPI document,
/// `IntoParams`. The parameters have the names of the fields in camel case.
macro_rules! query_parameters {
    (
        $(#[doc = $doc:literal])*
        $visibility:vis struct $name:ident {
            $($(#[doc = $parameter_doc:literal])+ $field:ident: Option<$value:ty>,)*
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, Debug, Default)]
        $visibility struct $name {
            $($(#[doc = $parameter_doc])+ $visibility $field: Option<$value>,)*
        }

        impl $crate::exchange::QueryParameters for $name {
            fn take(parameters: &mut $crate::exchange::Parameters<'_>) -> Self {
                static NAMES: std::sync::LazyLock<Vec<String>> =
                    std::sync::LazyLock::new($crate::exchange::parameter_names::<$name>);
                let mut names = NAMES.iter().map(String::as_str);
                Self { $($field: parameters.take(names.next().unwrap_or_default()),)* }
            }
        }

        impl utoipa::IntoParams for $name {
            fn into_params(
                _: impl Fn() -> Option<utoipa::openapi::path::ParameterIn>,
            ) -> Vec<utoipa::openapi::path::Parameter> {
                vec![$($crate::exchange::parameter::<$value>(stringify!($field), &[$($parameter_doc),*]),)*]
            }
        }
    };
}
pub(crate) use query_parameters;

/// Returns the description of an optional query parameter.
pub(crate) fn parameter<T: TextValue>(field: &str, doc: &[&str]) -> Parameter {
    let mut schema = T::schema();
    if let RefOr::T(Schema::Object(object)) = &mut schema {
        // The parameter has its own.
        object.description = None;
    }
    let parameter = ParameterBuilder::new().name(member_name(field)).parameter_in(ParameterIn::Query);
    let parameter = parameter.description(Some(paragraph(doc))).required(Required::False).schema(Some(schema));
    if T::IS_LIST { parameter.style(Some(ParameterStyle::Form)).explode(Some(false)) } else { parameter }.build()
}

/// Returns the parameter names of a struct in the OpenAPI document, in the order of its fields.
#[must_use]
pub fn parameter_names<T: IntoParams>() -> Vec<String> {
    T::into_params(|| None).into_iter().map(|parameter| parameter.name).collect()
}

/// The names and values of a query string, decoded.
type Pairs<'a> = Vec<(Cow<'a, str>, Cow<'a, str>)>;

/// A query string while it is parsed.
pub struct Parameters<'a> {
    given: Pairs<'a>,
    known: Vec<&'static str>,
    errors: Vec<ParameterError>,
}

impl<'a> Parameters<'a> {
    fn new(query: &'a str) -> Self {
        let given = form_urlencoded::parse(query.as_bytes()).collect();
        Self { given, known: Vec::new(), errors: Vec::new() }
    }

    /// Takes a parameter. Returns `None` if it is missing or, with an error, if it is invalid.
    pub fn take<T: TextValue>(&mut self, name: &'static str) -> Option<T> {
        self.known.push(name);
        let mut values = self.given.iter().filter(|(given, _)| given == name).map(|(_, value)| &**value);
        let value = values.next()?;
        let parsed = match values.next() {
            None => T::parse(value),
            // Many clients repeat the parameter for each item of a list.
            Some(second) if T::IS_LIST => {
                let items: Vec<&str> = [value, second].into_iter().chain(values).collect();
                T::parse(&items.join(","))
            }
            Some(_) => Err(ValidationError::new("duplicate-parameter", "must be given only once")),
        };
        let explained = parsed.map_err(|error| match error.message {
            // A plus that is not encoded is a space.
            message if error.code == "malformed" && value.contains(' ') => {
                ValidationError::new(error.code, format!("{message}; a + must be encoded as %2B"))
            }
            message => ValidationError::new(error.code, message),
        });
        explained.map_err(|error| self.errors.push(ParameterError { name: name.to_owned(), error })).ok()
    }

    fn finish(mut self) -> Result<Pairs<'a>, QueryError> {
        for (name, _) in &self.given {
            if !self.known.contains(&name.as_ref()) {
                let message = format!("unknown parameter; must be one of {}", self.known.join(", "));
                let error = ValidationError::new("unknown-parameter", message);
                self.errors.push(ParameterError { name: name.clone().into_owned(), error });
            }
        }
        if self.errors.is_empty() { Ok(self.given) } else { Err(QueryError::Parameters(self.errors)) }
    }
}

/// Parses a query string.
///
/// # Errors
///
/// [`QueryError::Parameters`] with every error: unknown, repeated and invalid parameters.
pub fn read<T: QueryParameters>(query: &str) -> Result<T, QueryError> {
    Ok(read_with_pairs(query)?.0)
}

/// Parses a query string. Also returns its names and values.
fn read_with_pairs<T: QueryParameters>(query: &str) -> Result<(T, Pairs<'_>), QueryError> {
    let mut parameters = Parameters::new(query);
    let values = T::take(&mut parameters);
    Ok((values, parameters.finish()?))
}

/// An invalid parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParameterError {
    /// The name of the parameter in the query.
    pub name: String,
    /// The error of its value.
    pub error: ValidationError,
}

/// A query error.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// At least one parameter is invalid.
    #[error("{}", FirstOf(.0))]
    Parameters(Vec<ParameterError>),
    /// The cursor does not belong to this query.
    #[error("{0}")]
    Cursor(&'static str),
}

struct FirstOf<'a>(&'a [ParameterError]);

impl fmt::Display for FirstOf<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Some(ParameterError { name, error }) = self.0.first() else { return f.write_str("The query is invalid.") };
        write!(f, "Parameter {name}: {}.", error.message)
    }
}
