//! Users as text: what HTTP and the command line have in common.
//!
//! A user is written as JSON, whole or in part ([`Selected`]), and many of them as NDJSON or CSV ([`Writer`]). Rows come
//! in as NDJSON or CSV ([`Reader`]), each right or wrong by itself, and [`import()`] hands them to the service as fast as it
//! takes them.

mod cell;
mod csv;
mod import;
mod ndjson;
mod rows;
mod user;
mod write;

pub use self::{
    import::{ChunkReport, Import, ImportError, Refused, Report, Row, Tally, import, import_all_or_none},
    rows::{Format, MemberError, RawRow, ReadError, Reader},
    user::{ExportedBody, Field, Fields, Selected, UserBody},
    write::Writer,
};
