//! The `Link` header (RFC 8288) of a page.

use std::fmt::Write as _;

use crate::{
    exchange::{CursorSigner, ListQuery},
    service::{Page, Position},
};

/// Returns links to the first page and, if they exist, to the previous and the next page.
pub(super) fn links(query: &ListQuery, page: &Page, signer: &CursorSigner) -> String {
    let others = &query.without_cursor;
    let mut links = format!("</users?{others}>; rel=\"first\"");
    let mut link = |position, relation| {
        if let Some(cursor) = signer.cursor(&query.selection, &position) {
            // Writing into a String does not fail.
            let _ = write!(links, ", </users?{others}&cursor={cursor}>; rel=\"{relation}\"");
        }
    };
    if let Some(edge) = &page.previous {
        link(Position::Before(edge.clone()), "prev");
    }
    if let Some(edge) = &page.next {
        link(Position::After(edge.clone()), "next");
    }
    links
}
