//! The JSON of a page that several requests share.
//!
//! Concurrent requests for the same page share one read, and so its result. With 100 users, serializing takes longer than
//! all other work of a request, so each worker does it once.

use std::{cell::RefCell, sync::Arc};

use actix_web::web::Bytes;

use super::problem::Problem;
use crate::{exchange::UserBody, service::Page};

/// A little more than most users take, so that the buffer rarely grows.
const USER_CAPACITY: usize = 256;

thread_local! {
    /// The last shared page of this worker. Requests that share a page get it at the same time, so one is enough. It stays
    /// until the last request for it, or until another page replaces it.
    static LAST: RefCell<Option<(Arc<Page>, Bytes)>> = const { RefCell::new(None) };
}

/// Returns the users of a page as JSON.
///
/// # Errors
///
/// The users could not be serialized.
pub(super) fn to_json(page: &Arc<Page>) -> Result<Bytes, Problem> {
    // No other owner: the page is not shared.
    if Arc::strong_count(page) == 1 {
        return serialize(page);
    }
    LAST.with_borrow_mut(|last| {
        if let Some((_, json)) = last.as_ref().filter(|(shared, _)| Arc::ptr_eq(shared, page)) {
            let json = json.clone();
            // Only this request and the entry own the page: no other request will need it.
            if Arc::strong_count(page) == 2 {
                *last = None;
            }
            return Ok(json);
        }
        let json = serialize(page)?;
        *last = Some((Arc::clone(page), json.clone()));
        Ok(json)
    })
}

fn serialize(page: &Page) -> Result<Bytes, Problem> {
    let users: Vec<UserBody> = page.users.iter().map(UserBody::from).collect();
    let mut json = Vec::with_capacity(users.len() * USER_CAPACITY);
    serde_json::to_writer(&mut json, &users).map_err(Problem::internal)?;
    Ok(json.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{Email, Name, User, UserId, Version};

    fn page() -> Arc<Page> {
        let user = User {
            id: UserId::generate(chrono::DateTime::UNIX_EPOCH),
            name: Name::parse("Ann").unwrap(),
            email: Email::parse("ann@example.com").unwrap(),
            version: Version::FIRST,
            created_at: chrono::DateTime::UNIX_EPOCH,
            updated_at: chrono::DateTime::UNIX_EPOCH,
        };
        Arc::new(Page { users: vec![user], previous: None, next: None })
    }

    #[test]
    fn requests_that_share_a_page_share_its_json() {
        let (page, other) = (page(), page());
        let (second_request, other_request) = (Arc::clone(&page), Arc::clone(&other));
        let first = to_json(&page).unwrap();
        assert_eq!(to_json(&second_request).unwrap().as_ptr(), first.as_ptr());
        let text = std::str::from_utf8(&first).unwrap();
        assert!(text.contains(&page.users[0].id.to_string()), "{text}");
        // Equal content is not enough: each page has its own.
        let text = to_json(&other).unwrap();
        assert!(std::str::from_utf8(&text).unwrap().contains(&other_request.users[0].id.to_string()));
    }

    #[test]
    fn the_last_request_on_a_worker_removes_the_entry() {
        let page = page();
        to_json(&page).unwrap();
        assert_eq!(Arc::strong_count(&page), 1);
        let other_request = Arc::clone(&page);
        to_json(&page).unwrap();
        assert_eq!(Arc::strong_count(&page), 3);
        drop(page);
        to_json(&other_request).unwrap();
        assert_eq!(Arc::strong_count(&other_request), 1);
    }
}
