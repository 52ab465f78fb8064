//! The OpenAPI document and Swagger UI.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
};

use serde_json::Value;
use test_support::modules::rust_files;
use users_api::settings::{default_toml, is_reloadable};

use crate::{
    cases,
    harness::{Context, binary},
};

cases![
    the_committed_openapi_document_is_up_to_date,
    every_route_is_fully_documented,
    swagger_ui_needs_no_network,
    every_problem_and_validation_code_is_documented,
    the_feed_is_described,
    the_settings_of_the_pool_are_documented,
];

async fn the_committed_openapi_document_is_up_to_date(context: Context) {
    let printed = binary(context.folder(), &[]).arg("openapi").output().await.unwrap();
    assert!(printed.status.success());
    let printed = String::from_utf8(printed.stdout).unwrap();
    let committed = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/openapi.json");
    let same = fs::read_to_string(&committed).unwrap_or_default() == printed;
    assert!(same, "docs/openapi.json has drifted; run: cargo run -- openapi > docs/openapi.json");
    let app = context.app().await;
    let served = app.get("/openapi.json").await;
    assert_eq!(served.header("content-type"), "application/json");
    assert_eq!(served.json(), serde_json::from_str::<Value>(&printed).unwrap());
}

async fn every_route_is_fully_documented(context: Context) {
    let document = context.app().await.get("/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in item.as_object().unwrap() {
            routes.push(format!("{method} {path}"));
            for member in ["operationId", "summary", "tags"] {
                assert!(!operation[member].is_null(), "{method} {path} has no {member}");
            }
            if path.starts_with("/users") {
                for status in ["500", "503"] {
                    assert!(!operation["responses"][status].is_null(), "{method} {path} does not document {status}");
                }
            }
            for (status, response) in operation["responses"].as_object().unwrap() {
                if status.as_str() >= "400" {
                    let content = &response["content"]["application/problem+json"];
                    assert_eq!(content["schema"]["$ref"], "#/components/schemas/Problem", "{method} {path} {status}");
                    assert!(!content["examples"].as_object().unwrap().is_empty());
                }
            }
        }
    }
    routes.sort();
    assert_eq!(
        routes,
        [
            "delete /keys/{id}",
            "delete /users/{id}",
            "get /asyncapi.json",
            "get /feed",
            "get /health/live",
            "get /health/ready",
            "get /keys",
            "get /metrics",
            "get /openapi.json",
            "get /pool",
            "get /pool/live",
            "get /users",
            "get /users/changes",
            "get /users/export",
            "get /users/{id}",
            "get /users/{id}/history",
            "get /users/{id}/presence",
            "get /ws",
            "patch /users/{id}",
            "post /keys",
            "post /keys/{id}/rotate",
            "post /users",
            "post /users/bulk",
            "post /users/{id}/messages",
            "post /ws/tickets",
            "put /users/{id}",
        ]
    );
    assert_eq!(document["components"]["schemas"]["UserDraft"]["additionalProperties"], Value::Bool(false));
    let email = &document["components"]["schemas"]["User"]["properties"]["email"];
    assert!(!email["examples"].is_null() || !email["example"].is_null(), "the email has an example");
}

async fn swagger_ui_needs_no_network(context: Context) {
    let app = context.app().await;
    let redirect = app.get("/swagger").await;
    assert_eq!((redirect.status.as_u16(), redirect.header("location")), (308, "swagger/"));
    let page = app.get("/swagger/").await;
    assert_eq!(page.status, 200);
    for part in ["swagger-ui.css", "index.css", "swagger-ui-bundle.js", "swagger-initializer.js"] {
        let part = app.get(&format!("/swagger/{part}")).await;
        assert_eq!(part.status, 200);
        assert!(!part.text.is_empty());
    }
    app.get("/swagger/nothing").await.problem(404, "not-found");
    assert!(!page.text.contains("src=\"http") && !page.text.contains("href=\"http"), "{}", page.text);
    let start = app.get("/swagger/swagger-initializer.js").await.text;
    assert!(start.contains("openapi.json") && !start.contains("http:") && !start.contains("https:"), "{start}");
}

/// Returns the quoted codes, such as `email-taken`.
fn quoted_codes(text: &str) -> impl Iterator<Item = &str> {
    let is_code = |text: &&str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
    text.split('"').skip(1).step_by(2).filter(is_code)
}

async fn every_problem_and_validation_code_is_documented(context: Context) {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/");
    let text = context.app().await.get("/openapi.json").await.text;
    let document: Value = serde_json::from_str(&text).unwrap();
    let source = fs::read_to_string(format!("{root}src/http/problem/kind.rs")).unwrap();
    let parts = source.split("const fn parts").nth(1).unwrap().split("\n    }").next().unwrap();
    let codes: BTreeSet<&str> = quoted_codes(parts).collect();
    assert!(codes.contains("email-taken") && codes.len() > 20, "{codes:?}");
    for code in codes {
        // These codes belong to no route.
        let has_no_route =
            ["not-found", "method-not-allowed", "malformed-request", "head-timeout", "head-too-large"].contains(&code);
        assert!(
            document["components"]["schemas"]["ProblemCode"]["enum"].as_array().unwrap().contains(&code.into()),
            "{code}"
        );
        assert!(has_no_route || text.contains(&format!("urn:problem-type:users-api:{code}")), "{code}");
    }
    // The codes of validation errors.
    let text = fs::read_to_string(format!("{root}docs/API.md")).unwrap();
    let mut validation_codes = BTreeSet::new();
    for path in rust_files(&Path::new(root).join("src")) {
        let source = fs::read_to_string(path).unwrap();
        for begin in ["ValidationError::new(", "of_row("] {
            validation_codes.extend(source.split(begin).skip(1).filter_map(|rest| {
                quoted_codes(rest).next().filter(|_| rest.trim_start().starts_with('"')).map(str::to_owned)
            }));
        }
    }
    assert!(validation_codes.contains("too-long") && validation_codes.len() > 10, "{validation_codes:?}");
    for code in validation_codes {
        assert!(text.contains(&format!("`{code}`")), "{code} is not documented in docs/API.md");
    }
}

async fn the_feed_is_described(context: Context) {
    let app = context.app().await;
    let (feed, api) = (app.get("/asyncapi.json").await, app.get("/openapi.json").await.json());
    assert_eq!(feed.header("content-type"), "application/json");
    let feed = feed.json();
    assert_eq!(feed["asyncapi"], "3.0.0");
    assert_eq!(feed["info"]["version"], env!("CARGO_PKG_VERSION"));
    assert!(!feed.to_string().contains("${"), "every limit has a value");
    let schemas = feed["components"]["schemas"].as_object().unwrap();
    let described: BTreeSet<&str> = schemas.keys().map(String::as_str).collect();
    let messages = ["Subscribe", "Renew", "Hello", "Events", "Bookmark", "Resync", "Message", "Error", "UserEvent"];
    assert!(messages.iter().all(|message| described.contains(message)), "{described:?}");
    // Both documents describe events, so they must not differ.
    let names = |schema: &Value| schema["properties"].as_object().unwrap().keys().cloned().collect::<BTreeSet<_>>();
    assert_eq!(names(&schemas["UserEvent"]), names(&api["components"]["schemas"]["UserEvent"]));
    for document in [&feed, &api] {
        let mut references = Vec::new();
        collect_references(document, &mut references);
        assert!(references.len() > 20, "{references:?}");
        for reference in references {
            let target = document.pointer(reference.trim_start_matches('#'));
            assert!(target.is_some(), "{reference} does not exist");
        }
    }
}

/// Collects every `$ref`.
fn collect_references<'a>(value: &'a Value, references: &mut Vec<&'a str>) {
    match value {
        Value::Object(members) => {
            references.extend(members.get("$ref").and_then(Value::as_str));
            members.values().for_each(|value| collect_references(value, references));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, references)),
        _ => {}
    }
}

/// The settings of a section with their defaults, as in `config --template toml`.
fn defaults(section: &str) -> BTreeMap<String, String> {
    let text = default_toml();
    let lines = text.split("\n[").find_map(|part| part.strip_prefix(&format!("{section}]\n"))).unwrap();
    let values = lines.lines().filter_map(|line| line.split_once(" = ").filter(|_| !line.starts_with('#')));
    values.map(|(name, value)| (format!("{section}.{name}"), value.trim_matches('"').to_owned())).collect()
}

async fn the_settings_of_the_pool_are_documented(_: Context) {
    let text = fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/docs/POOL.md")).unwrap();
    let section = text.split("\n## ").find(|section| section.starts_with("Settings\n")).unwrap();
    let mut lines = section.lines().skip_while(|line| !line.starts_with('|'));
    let header = lines.next().unwrap();
    assert!(header.starts_with("| setting | default |") && header.ends_with("| reloadable |"), "{header}");
    let mut documented = BTreeMap::new();
    for row in lines.skip(1).take_while(|line| line.starts_with('|')) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').map(str::trim).collect();
        let [setting, default, _, _, _, reloadable] = cells[..] else { panic!("{row} does not have six cells") };
        let setting = setting.trim_matches('`');
        // A unit may follow.
        let value = default.split_once(' ').map_or(default, |(value, _)| value);
        assert_eq!(reloadable, if is_reloadable(setting) { "yes" } else { "no" }, "{setting}: reloadable");
        documented.insert(setting.to_owned(), value.to_owned());
    }
    assert_eq!(documented, defaults("pool"), "settings of docs/POOL.md, and those that are declared");
}
