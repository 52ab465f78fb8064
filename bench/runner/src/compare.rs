//! Checks that a peer gives the same responses as users-api. One that does not is excluded, because it would not be
//! comparable.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    http::{self, Client},
    loads::{FIRST_PAGE, Page, email_path},
    peers::{Peer, Running},
    seed,
};

const IDS: u64 = 20;
const EMAILS: u64 = 5;

/// Response bodies, each with a description of its request, which is the same for all peers.
pub type Responses = Vec<(String, Value)>;

/// Sends the requests that are compared. `later` is a page in the middle of the list.
pub async fn responses(peer: Peer, running: &Running, rows: u64, later: &Page) -> Result<Responses> {
    let mut requests: Vec<(String, String)> = Vec::new();
    let spread = |count: u64| (0..count).map(move |step| 1 + step * (rows - 1) / (count - 1));
    requests.extend(spread(IDS).map(|n| (format!("user {n}"), format!("/users/{}", seed::id(n)))));
    requests.extend(spread(EMAILS).map(|n| (format!("the email of user {n}"), email_path(n))));
    requests.push(("the first page".to_owned(), FIRST_PAGE.to_owned()));
    requests.push(("a later page".to_owned(), later.path(peer)));
    let mut client = running.client().await?;
    let mut responses = Vec::new();
    for (requested, path) in requests {
        let response = client.get(&path).await?;
        ensure!(response.status == 200, "GET {path} ({requested}) returned status {}", response.status);
        responses.push((requested, response.json()?));
    }
    check_creation(&mut client).await?;
    Ok(responses)
}

/// Compares responses with those of users-api; the error describes the first difference.
pub fn compare(responses: &Responses, reference: &Responses) -> Result<()> {
    for ((requested, response), (_, expected)) in responses.iter().zip(reference) {
        if response != expected {
            bail!("response for {requested} is {}, expected {}", short(response), short(expected));
        }
    }
    Ok(())
}

/// Checks that a created user can be read back unchanged. The row is deleted with those that the load creates.
async fn check_creation(client: &mut Client) -> Result<()> {
    let draft = json!({"name": "Bench", "email": "bench-compared@example.com"});
    let created = client.send(&http::post("/users", &draft)).await?;
    ensure!(created.status == 201, "POST /users returned status {}", created.status);
    let body = created.json()?;
    for member in ["name", "email"] {
        ensure!(body[member] == draft[member], "POST /users: {member} is {}", short(&body[member]));
    }
    let Some(location) = created.header("location").map(str::to_owned) else {
        bail!("POST /users returned no Location");
    };
    let read = client.get(&location).await?.json()?;
    ensure!(read == body, "POST /users returned {}, but GET {location} returned {}", short(&body), short(&read));
    Ok(())
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_reported() {
        let reference = vec![("user 1".to_owned(), json!({"id": 1})), ("user 2".to_owned(), json!({"id": 2}))];
        assert!(compare(&reference.clone(), &reference).is_ok());
        let mut responses = reference.clone();
        responses[1].1 = json!({"id": 3});
        let error = compare(&responses, &reference).map_err(|error| error.to_string());
        assert_eq!(error, Err("response for user 2 is {\"id\":3}, expected {\"id\":2}".to_owned()));
    }
}
