//! The members of JSON bodies. Each body is declared once, as a struct in `request_body!`: the types of its members parse
//! them and have their schemas, and the comments describe them in the OpenAPI document.

use std::fmt;

use serde::{
    Deserialize, Deserializer,
    de::{MapAccess, Visitor},
};
use serde_json::Value;
use utoipa::{
    ToSchema,
    openapi::{ObjectBuilder, RefOr, Schema, schema::AdditionalProperties},
};

use crate::{
    domain::ValidationError,
    exchange::{TextValue, described, member_name, paragraph},
    http::problem::FieldError,
};

/// A type of JSON bodies.
pub(in crate::http) trait RequestBody: ToSchema + Sized {
    /// Builds the body from `members`, which collects the errors. Returns `None` only if an error was added.
    fn take(members: &mut Members) -> Option<Self>;
}

/// Declares a struct with the members of a JSON body, and implements [`RequestBody`] and, for the OpenAPI document,
/// `ToSchema`. The members have the names of the fields in camel case; those of type `Option` can be missing.
macro_rules! request_body {
    (
        $(#[doc = $doc:literal])*
        $visibility:vis struct $name:ident {
            $($(#[doc = $member_doc:literal])+ $(#[example($example:expr)])? $field:ident: $value:ty,)*
        }
    ) => {
        $(#[doc = $doc])*
        $visibility struct $name {
            $($(#[doc = $member_doc])+ $field: $value,)*
        }

        impl $crate::http::body::RequestBody for $name {
            fn take(members: &mut $crate::http::body::Members) -> Option<Self> {
                // Every member is taken before the first `?`, so that all errors are reported.
                $(let $field = members.take(stringify!($field));)*
                Some(Self { $($field: $field?,)* })
            }
        }

        impl utoipa::ToSchema for $name {}

        impl utoipa::PartialSchema for $name {
            fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
                let object = $crate::http::body::object(&[$($doc),*]);
                $(
                    let example: Option<serde_json::Value> = None$(.or(Some($example.into())))?;
                    let object =
                        $crate::http::body::member::<$value>(object, stringify!($field), &[$($member_doc),*], example);
                )*
                object.into()
            }
        }
    };
}
pub(in crate::http) use request_body;

/// Returns the schema of an object without members.
pub(in crate::http) fn object(doc: &[&str]) -> ObjectBuilder {
    let object = ObjectBuilder::new().description(Some(paragraph(doc)));
    object.additional_properties(Some(AdditionalProperties::FreeForm(false)))
}

/// Adds a member to the schema of an object.
pub(in crate::http) fn member<T: Member>(
    object: ObjectBuilder,
    field: &str,
    doc: &[&str],
    example: Option<Value>,
) -> ObjectBuilder {
    let name = member_name(field);
    let object = object.property(&*name, described(T::schema(), paragraph(doc), example));
    if T::IS_REQUIRED { object.required(name) } else { object }
}

/// A type of members: a [`MemberValue`] that is required, or an `Option` of one.
pub(in crate::http) trait Member: Sized {
    const IS_REQUIRED: bool;

    fn of(value: Option<Value>) -> Result<Self, ValidationError>;

    fn schema() -> RefOr<Schema>;
}

impl<T: MemberValue> Member for T {
    const IS_REQUIRED: bool = true;

    fn of(value: Option<Value>) -> Result<Self, ValidationError> {
        T::parse(value.ok_or_else(ValidationError::missing)?)
    }

    fn schema() -> RefOr<Schema> {
        <T as MemberValue>::schema()
    }
}

/// An optional member. `null` is not the same as a missing member: it is parsed like any value.
impl<T: MemberValue> Member for Option<T> {
    const IS_REQUIRED: bool = false;

    fn of(value: Option<Value>) -> Result<Self, ValidationError> {
        value.map(T::parse).transpose()
    }

    fn schema() -> RefOr<Schema> {
        T::schema()
    }
}

/// A type of values of members: text in a JSON string, or any other JSON.
pub(in crate::http) trait MemberValue: Sized {
    fn parse(value: Value) -> Result<Self, ValidationError>;

    fn schema() -> RefOr<Schema>;
}

/// `null` is refused: in a merge patch (RFC 7396) it would remove the member, and no member can be removed.
impl<T: TextValue> MemberValue for T {
    fn parse(value: Value) -> Result<Self, ValidationError> {
        match value {
            Value::String(text) => T::parse(&text),
            Value::Null => Err(ValidationError::null()),
            _ => Err(ValidationError::not_a_string()),
        }
    }

    fn schema() -> RefOr<Schema> {
        <T as TextValue>::schema()
    }
}

/// The members of an object that have not been taken yet, and the errors found so far.
pub(in crate::http) struct Members {
    remaining: Vec<(String, Value)>,
    errors: Vec<FieldError>,
}

impl Members {
    /// Takes a member. Returns `None`, with an error, if it is invalid, or is required and missing.
    pub(in crate::http) fn take<T: Member>(&mut self, field: &str) -> Option<T> {
        let name = member_name(field);
        let taken = T::of(self.remove(&name));
        taken.map_err(|error| self.add_error(&name, error)).ok()
    }

    fn remove(&mut self, name: &str) -> Option<Value> {
        let index = self.remaining.iter().position(|(member, _)| member == name)?;
        let (_, value) = self.remaining.remove(index);
        let before = self.remaining.len();
        self.remaining.retain(|(member, _)| member != name);
        if self.remaining.len() < before {
            self.add_error(name, ValidationError::new("duplicate-member", "must be given only once"));
        }
        Some(value)
    }

    fn add_error(&mut self, name: &str, error: ValidationError) {
        self.errors.push(FieldError::at_member(pointer(name), error));
    }

    /// Returns all errors. The members that were not taken are unknown.
    pub(super) fn finish(mut self) -> Vec<FieldError> {
        for (name, _) in std::mem::take(&mut self.remaining) {
            self.add_error(&name, ValidationError::unknown_member());
        }
        self.errors
    }
}

/// Returns the JSON Pointer (RFC 6901) of a member.
pub(in crate::http) fn pointer(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// A JSON document with all its members in order. `serde_json::Map` would drop duplicate members.
pub(super) enum Document {
    Object(Members),
    Other,
}

impl<'de> Deserialize<'de> for Document {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct DocumentVisitor;

        impl<'de> Visitor<'de> for DocumentVisitor {
            type Value = Document;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("JSON")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Document, A::Error> {
                let mut remaining = Vec::new();
                while let Some(member) = map.next_entry()? {
                    remaining.push(member);
                }
                Ok(Document::Object(Members { remaining, errors: Vec::new() }))
            }

            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Document, A::Error> {
                while seq.next_element::<serde::de::IgnoredAny>()?.is_some() {}
                Ok(Document::Other)
            }

            fn visit_bool<E: serde::de::Error>(self, _: bool) -> Result<Document, E> {
                Ok(Document::Other)
            }

            fn visit_i64<E: serde::de::Error>(self, _: i64) -> Result<Document, E> {
                Ok(Document::Other)
            }

            fn visit_u64<E: serde::de::Error>(self, _: u64) -> Result<Document, E> {
                Ok(Document::Other)
            }

            fn visit_f64<E: serde::de::Error>(self, _: f64) -> Result<Document, E> {
                Ok(Document::Other)
            }

            fn visit_str<E: serde::de::Error>(self, _: &str) -> Result<Document, E> {
                Ok(Document::Other)
            }

            fn visit_unit<E: serde::de::Error>(self) -> Result<Document, E> {
                Ok(Document::Other)
            }
        }

        deserializer.deserialize_any(DocumentVisitor)
    }
}
