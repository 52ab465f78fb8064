use super::*;

/// Returns an event with this position.
pub(in crate::feed) fn event_at(number: i64) -> Event {
    numbered(number, "created", Some("Ann"))
}

fn event(action: &str, name: Option<&str>) -> Event {
    numbered(42, action, name)
}

fn numbered(number: i64, action: &str, name: Option<&str>) -> Event {
    let time = DateTime::from_timestamp(1_800_000_000, 1_000).unwrap();
    let entry = JournalEntry {
        id: 7,
        user_id: UserId::first_at(time),
        version: 2,
        action: action.to_owned(),
        changed: Vec::new(),
        actor: "key:\",\"data\":{".to_owned(),
        request_id: None,
        changed_at: time,
        name: name.map(str::to_owned),
        email: name.map(|_| "ann@example.com".to_owned()),
        created_at: time,
    };
    Event::new(&Epoch::from_stored("e"), &FeedEntry { number, entry, message: None })
}

fn parsed(event: &Event) -> serde_json::Value {
    serde_json::from_slice(&event.json()).unwrap()
}

#[test]
fn an_event_is_one_message_and_one_line() {
    let event = event("updated", Some("Ann\n\"data\":"));
    let message = String::from_utf8(event.message().to_vec()).unwrap();
    let json = String::from_utf8(event.json().to_vec()).unwrap();
    assert_eq!(message, format!("id: e.42\nevent: user.updated\ndata: {json}\n\n"));
    assert_eq!(event.json_line(), format!("{json}\n").as_bytes());
    assert_eq!(json.lines().count(), 1);
    let parsed = parsed(&event);
    assert_eq!(
        (&parsed["data"]["name"], &parsed["sequence"]),
        (&"Ann\n\"data\":".into(), &"00000000000000000042".into())
    );
}

#[test]
fn an_erased_event_has_no_values() {
    let event = event("created", Some("Ann"));
    let (erased, original) = (parsed(&event.erased()), parsed(&event));
    assert_eq!(erased["data"], serde_json::json!({"id": original["subject"], "version": 2}));
    assert_eq!((&erased["actor"], &erased["position"]), (&original["actor"], &original["position"]));
    assert_eq!(event.erased().erased().message(), event.erased().message());
    assert_eq!(parsed(&self::event("deleted", None))["data"], erased["data"]);
}
