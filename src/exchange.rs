//! Users as text, as HTTP and the command line share it: JSON, NDJSON and CSV, queries and cursors, imports and
//! exports.
//!
//! * `user`: a user as JSON, with all members or some of them ([`Selected`]).
//! * `value` has the types of values that clients write as text ([`TextValue`]). `query` parses query strings, `cursor`
//!   signs cursors ([`CursorSigner`]).
//! * `reader` reads rows in either format (`ndjson`, `csv`), `row` validates them, and `import` passes them to the
//!   service ([`import()`]).
//! * `export` reads users page by page ([`Export`]), and `write` writes them as NDJSON or CSV ([`Writer`]). `cell`
//!   escapes the cells of CSV.

mod cell;
mod csv;
mod cursor;
mod export;
mod import;
mod ndjson;
mod outcome;
mod query;
mod reader;
mod row;
mod user;
mod value;
mod write;

pub use self::{
    cursor::{Cursor, CursorSigner},
    export::{Chunk, Export, ExportError},
    import::{ChunkReport, Import, ImportError, Report, import, import_atomically},
    outcome::{Refused, Row, Tally},
    query::{
        ExportParameters, ExportQuery, Limit, ListParameters, ListQuery, ParameterError, Parameters, QueryError,
        QueryParameters, SelectionParameters, UserSort, parameter_names, read,
    },
    reader::Reader,
    row::{Format, MemberError, RawRow, ReadError},
    user::{ExportedUser, Field, Fields, Selected, UserBody},
    value::{MAX_IDS, TextValue, word},
    write::Writer,
};
pub(crate) use self::{
    query::{parameter, query_parameters},
    user::{format_time, microseconds, optional_microseconds},
    value::{described, list, member_name, paragraph, reference, text, whole_number, whole_number_schema, word_values},
};
