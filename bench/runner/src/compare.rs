//! Whether a peer answers as users-api does. One that does not is not measured: it would do something else.

use anyhow::{Result, bail, ensure};
use serde_json::{Value, json};

use crate::{
    http::{self, Client},
    loads::Page,
    peers::{Peer, Running},
    seed,
};

const IDS: u64 = 20;
const EMAILS: u64 = 5;

/// Answers, each under the question in words, which is the same for all peers.
pub type Answers = Vec<(String, Value)>;

/// Asks what is compared. `further` is a page somewhere in the list.
pub async fn answers(peer: Peer, running: &Running, rows: u64, further: &Page) -> Result<Answers> {
    let mut questions: Vec<(String, String)> = Vec::new();
    let spread = |count: u64| (0..count).map(move |step| 1 + step * (rows - 1) / (count - 1));
    questions.extend(spread(IDS).map(|n| (format!("user {n}"), format!("/users/{}", seed::id(n)))));
    questions.extend(spread(EMAILS).map(|n| (format!("the email of user {n}"), email_path(n))));
    questions.push(("the first page".to_owned(), FIRST_PAGE.to_owned()));
    questions.push(("a later page".to_owned(), further.path(peer)));
    let mut client = running.client().await?;
    let mut answers = Vec::new();
    for (question, path) in questions {
        let answer = client.get(&path).await?;
        ensure!(answer.status == 200, "GET {path} (asked for {question}) was answered by {}", answer.status);
        answers.push((question, answer.json()?));
    }
    creates(&mut client).await?;
    Ok(answers)
}

/// An error that tells the first difference.
pub fn compare(answers: &Answers, reference: &Answers) -> Result<()> {
    for ((question, answer), (_, expected)) in answers.iter().zip(reference) {
        if answer != expected {
            bail!("asked for {question}, it answers {} and not {}", short(answer), short(expected));
        }
    }
    Ok(())
}

/// A user that is created can be read, and looks the same both times. The row is deleted with the load's own.
async fn creates(client: &mut Client) -> Result<()> {
    let draft = json!({"name": "Bench", "email": "bench-compared@example.com"});
    let created = client.ask(&http::post("/users", &draft)).await?;
    ensure!(created.status == 201, "POST /users was answered by {}", created.status);
    let body = created.json()?;
    for member in ["name", "email"] {
        ensure!(body[member] == draft[member], "POST /users: {member} is {}", short(&body[member]));
    }
    let Some(location) = created.header("location").map(str::to_owned) else {
        bail!("POST /users was answered without Location");
    };
    let read = client.get(&location).await?.json()?;
    ensure!(read == body, "POST /users answers {}, GET {location} then {}", short(&body), short(&read));
    Ok(())
}

fn short(value: &Value) -> String {
    let text = value.to_string();
    match text.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

pub const FIRST_PAGE: &str = "/users?limit=20";

pub fn email_path(n: u64) -> String {
    format!("/users?email={}", seed::email(n).replace('@', "%40"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_difference_is_told() {
        let reference = vec![("user 1".to_owned(), json!({"id": 1})), ("user 2".to_owned(), json!({"id": 2}))];
        assert!(compare(&reference.clone(), &reference).is_ok());
        let mut answers = reference.clone();
        answers[1].1 = json!({"id": 3});
        let error = compare(&answers, &reference).map_err(|error| error.to_string());
        assert_eq!(error, Err("asked for user 2, it answers {\"id\":3} and not {\"id\":2}".to_owned()));
    }
}
