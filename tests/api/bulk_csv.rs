//! Bulk imports of CSV: malformed rows are refused, and no line is skipped silently.

use std::fmt::Write as _;

use serde_json::Value;

use crate::{
    cases,
    harness::{
        Context,
        bulk::{bulk, count, lines, outcomes},
    },
};

cases![
    an_unclosed_quote_stops_the_import_and_reports_the_unread_lines,
    malformed_rows_are_refused_with_their_line_numbers,
];

/// 3,000 rows of CSV. The first cell of row 6 (line 7) has an opening quote, but no closing one.
fn rows_with_an_unclosed_quote() -> String {
    let mut text = "name,email\n".to_owned();
    for number in 1..=3000 {
        let quote = if number == 6 { "\"" } else { "" };
        writeln!(text, "{quote}User {number},user{number}@example.com").unwrap();
    }
    text
}

async fn an_unclosed_quote_stops_the_import_and_reports_the_unread_lines(context: Context) {
    let unclosed = rows_with_an_unclosed_quote();
    // Variants: quotes of later rows would close it, one of them beyond the maximum row length; or a stray quote
    // follows in the same cell.
    let quoted = unclosed.replace("User 9,", "\"User 9\",").replace("User 2000,", "\"User 2000\",");
    let stray = unclosed.replace("\"User 6,", "\"User \"6\",");
    let last =
        "2,3,4,5,6".split(',').map(|line| format!("{line} created")).chain(["7 stopped malformed-csv".to_owned()]);
    let expected: Vec<String> = last.collect();
    for body in [&unclosed, &quoted, &stray] {
        let app = context.app().await;
        for query in ["?dryRun=true", ""] {
            let reply = bulk(&app, query, "text/csv", None, body.as_str()).await;
            assert_eq!(outcomes(&reply), expected);
            let lines = lines(&reply);
            let last = lines.last().unwrap();
            assert_eq!(last["lastLine"], 3001, "{last}");
            let detail = last["problem"]["detail"].as_str().unwrap();
            assert!(detail.contains("line 7: a quoted cell is not closed; lines 7 to 3001 were not read"), "{detail}");
        }
        assert_eq!(count(&app).await, 5);
        bulk(&app, "?atomic=true", "text/csv", None, body.as_str()).await.problem(400, "malformed-csv");
        // With a key, rows are written in chunks of 1,000. An incomplete chunk is not written, so that the corrected
        // body can use the same key.
        bulk(&app, "?mode=upsert", "text/csv", Some("key"), body.as_str()).await.problem(400, "malformed-csv");
        assert_eq!(count(&app).await, 5);
    }
    let app = context.app().await;
    let mut late = String::from("name,email\n");
    for number in 1..=2500 {
        writeln!(late, "{}User {number},late{number}@example.com", if number == 2400 { "\"" } else { "" }).unwrap();
    }
    let reply = bulk(&app, "", "text/csv", Some("late"), late.as_str()).await;
    assert_eq!((outcomes(&reply).len(), count(&app).await), (2001, 2000));
    assert_eq!(outcomes(&reply).last().unwrap(), "2002 stopped malformed-csv");
    let detail = lines(&reply).last().unwrap()["problem"]["detail"].as_str().unwrap().to_owned();
    assert!(detail.contains("line 2401: a quoted cell is not closed; lines 2002 to 2501 were not read"), "{detail}");
    let again = bulk(&app, "", "text/csv", Some("late"), late.as_str()).await;
    assert_eq!((again.header("idempotency-replayed"), &again.text), ("true", &reply.text));
    let corrected = bulk(&app, "", "text/csv", Some("late"), late.replace('"', "")).await;
    assert_eq!((corrected.header("idempotency-replayed"), outcomes(&corrected).len()), ("true", 2500));
    assert!(outcomes(&corrected).iter().all(|line| line.ends_with("created")));
    assert_eq!(count(&app).await, 2500);
}

async fn malformed_rows_are_refused_with_their_line_numbers(context: Context) {
    let app = context.app().await;
    let body = concat!(
        "name,email\n",
        "\"Ann\" Example,ann@example.com\n",
        "An\"n,ann@example.com\n",
        " \"Ann\",ann@example.com\n",
        "\"Ann\nBob,bob@example.com\nEve\" x,eve@example.com\n",
        "\"Ann\nBob\",ann@example.com\n",
        "Ann,ann@example.com,,\n",
        "Zoe,zoe@example.com",
    );
    let reply = bulk(&app, "", "text/csv", None, body).await;
    let lines = lines(&reply);
    let in_short = |line: &Value| {
        let error = &line["problem"]["errors"][0];
        format!("{} {} {} {}", line["line"], line["lastLine"], error["pointer"], error["code"])
    };
    assert_eq!(
        lines.iter().map(in_short).collect::<Vec<_>>(),
        [
            r#"2 null "" "malformed""#,
            r#"3 null "" "malformed""#,
            r#"4 null "" "malformed""#,
            r#"5 7 "" "malformed""#,
            r#"8 9 "/name" "control-character""#,
            r#"10 null "" "wrong-length""#,
            "11 null null null",
        ]
    );
    assert_eq!(lines[5]["problem"]["errors"][0]["message"], "the row has 4 cells, the header has 2");
    assert_eq!(count(&app).await, 1);
    // A multi-line cell of an ignored column must not hide rows.
    let hidden = "id,name,email\n\"1,Ann,ann@example.com\n2,Bob,bob@example.com\n3\",Carl,carl@example.com\n";
    assert_eq!(outcomes(&bulk(&app, "", "text/csv", None, hidden).await), ["2 refused validation-failed"]);
    let columns: Vec<String> = (0..70).map(|number| format!("c{number}")).collect();
    let problem = bulk(&app, "", "text/csv", None, columns.join(",")).await.problem(422, "validation-failed");
    assert!(problem["detail"].as_str().unwrap().contains("70 columns"), "{problem}");
}
