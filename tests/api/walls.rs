//! Who may know whom, inside `src/`; between crates the compiler holds the walls.

use std::{
    fs,
    path::{Path, PathBuf},
};

use crate::{cases, harness::Context};

cases![walls_hold, no_unsafe_and_no_shortcuts, no_file_needs_a_table_of_contents];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn sources(folder: &str) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    let mut folders = vec![root().join(folder)];
    if let Ok(text) = fs::read_to_string(root().join(format!("{folder}.rs"))) {
        found.push((format!("{folder}.rs").into(), text));
    }
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).unwrap();
                found.push((path, text));
            }
        }
    }
    assert!(!found.is_empty(), "{folder} is not there");
    found
}

/// The part of a file that is compiled into the service: nothing of `tests.rs` and of what lies in `tests/`.
fn production<'a>(path: &Path, text: &'a str) -> &'a str {
    let inside = path.strip_prefix(root()).unwrap_or(path);
    if inside.ends_with("tests.rs") || inside.components().any(|part| part.as_os_str() == "tests") {
        return "";
    }
    text.rsplit_once("#[cfg(test)]\nmod tests {").map_or(text, |(production, _)| production)
}

async fn walls_hold(_: Context) {
    for (folder, forbidden) in [
        ("src/http", &["sea_orm", "sqlx", "entity::", "migration::"][..]),
        ("src/domain", &["sea_orm", "sqlx", "actix_web", "crate::http", "crate::service", "orm_pool", "entity::"]),
        ("src/service", &["actix_web", "actix_http", "crate::http", "crate::app", "crate::settings"]),
        ("src/exchange", &["actix_web", "crate::http", "crate::app", "sea_orm", "orm_pool", "entity::"]),
        ("src/settings", &["actix_web", "sea_orm", "crate::http", "crate::service"]),
        ("pool/src", &["actix_web", "users_api", "entity::"]),
        ("entity/src", &["actix_web", "orm_pool", "users_api"]),
    ] {
        for (path, text) in sources(folder) {
            for word in forbidden {
                assert!(!production(&path, &text).contains(word), "{} must not know {word}", path.display());
            }
        }
    }
}

async fn no_unsafe_and_no_shortcuts(_: Context) {
    for folder in ["src", "pool/src", "entity/src", "migration/src"] {
        for (path, text) in sources(folder) {
            for word in ["unsafe ", ".unwrap()", ".expect(", "todo!(", "unimplemented!(", "#[allow("] {
                assert!(!production(&path, &text).contains(word), "{} has {word}", path.display());
            }
        }
    }
}

async fn no_file_needs_a_table_of_contents(_: Context) {
    for folder in ["src", "pool/src", "entity/src", "migration/src", "tests"] {
        for (path, text) in sources(folder) {
            let lines = text.lines().count();
            assert!(lines <= 450, "{} has {lines} lines: is it still one thing?", path.display());
        }
    }
}
