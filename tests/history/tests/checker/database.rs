//! A model of the service: what each operation does to the users, and the feed.

use std::collections::{BTreeMap, HashMap};

use history::{Event, EventKind, Operation, Outcome, User};

#[derive(Debug, Default)]
pub(crate) struct Database {
    pub(crate) users: BTreeMap<String, User>,
    /// The ids of deleted users.
    pub(crate) deleted: Vec<String>,
    pub(crate) events: Vec<Event>,
    keys: HashMap<String, String>,
    position: i64,
    created: usize,
}

impl Database {
    /// Takes a position without an event, as a message does.
    pub(crate) fn skip_position(&mut self) {
        self.position += 1;
    }

    /// Executes an operation as a whole.
    pub(crate) fn execute(&mut self, operation: &Operation) -> Outcome {
        match operation {
            Operation::Create { name, email, key } => self.create(name, email, key.as_deref()),
            Operation::Update { id, expected, name, email } => {
                self.update(id, *expected, name.as_deref(), email.as_deref())
            }
            Operation::Delete { id, expected } => self.delete(id, *expected),
        }
    }

    fn is_taken(&self, email: &str, by_other_than: &str) -> bool {
        self.users.values().any(|user| user.id != by_other_than && user.email.eq_ignore_ascii_case(email))
    }

    fn add_event(&mut self, kind: EventKind, user: &User) {
        self.position += 1;
        self.events.push(Event::of(self.position, kind, user));
    }

    fn create(&mut self, name: &str, email: &str, key: Option<&str>) -> Outcome {
        if let Some(id) = key.and_then(|key| self.keys.get(key)) {
            return Outcome::Acknowledged { status: 201, id: id.clone(), version: Some(1) };
        }
        if self.is_taken(email, "") {
            return Outcome::Refused { status: 409 };
        }
        self.created += 1;
        // Ids do not sort by time here.
        let id = format!("{:02}-{}", self.created * 37 % 100, self.created);
        let user = User { id: id.clone(), name: name.to_owned(), email: email.to_owned(), version: 1 };
        self.add_event(EventKind::Created, &user);
        self.users.insert(id.clone(), user);
        if let Some(key) = key {
            self.keys.insert(key.to_owned(), id.clone());
        }
        Outcome::Acknowledged { status: 201, id, version: Some(1) }
    }

    fn find(&self, id: &str, expected: Option<i64>) -> Result<User, Outcome> {
        let user = self.users.get(id).ok_or(Outcome::Refused { status: 404 })?;
        if expected.is_some_and(|expected| expected != user.version) {
            return Err(Outcome::Refused { status: 412 });
        }
        Ok(user.clone())
    }

    fn update(&mut self, id: &str, expected: Option<i64>, name: Option<&str>, email: Option<&str>) -> Outcome {
        let current = match self.find(id, expected) {
            Ok(user) => user,
            Err(refusal) => return refusal,
        };
        if email.is_some_and(|email| self.is_taken(email, id)) {
            return Outcome::Refused { status: 409 };
        }
        let mut next = current.clone();
        next.name = name.map_or(next.name, str::to_owned);
        next.email = email.map_or(next.email, str::to_owned);
        if next != current {
            next.version += 1;
            self.add_event(EventKind::Updated, &next);
            self.users.insert(id.to_owned(), next.clone());
        }
        Outcome::Acknowledged { status: 200, id: id.to_owned(), version: Some(next.version) }
    }

    fn delete(&mut self, id: &str, expected: Option<i64>) -> Outcome {
        let mut user = match self.find(id, expected) {
            Ok(user) => user,
            Err(refusal) => return refusal,
        };
        user.version += 1;
        self.add_event(EventKind::Deleted, &user);
        self.users.remove(id);
        self.deleted.push(id.to_owned());
        for event in self.events.iter_mut().filter(|event| event.id == id) {
            (event.name, event.email) = (None, None);
        }
        Outcome::Acknowledged { status: 204, id: id.to_owned(), version: None }
    }
}
