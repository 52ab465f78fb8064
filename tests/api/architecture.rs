//! Dependencies between the modules of `src/`. Between crates, the compiler enforces them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use test_support::modules::{self, Module, Sources, Uses, between_siblings, cyclic, parse};

use crate::{cases, harness::Context};

cases![
    modules_use_only_what_the_architecture_allows,
    planted_violations_are_found,
    files_have_no_dependency_cycles,
    no_unsafe_and_no_shortcuts,
    no_file_needs_a_table_of_contents,
    times_have_one_format,
];

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
    assert!(!found.is_empty(), "{folder} does not exist");
    found
}

/// The part of a file that is compiled into the service: without test modules, `tests.rs` and files in `tests/`.
fn production<'a>(path: &Path, text: &'a str) -> &'a str {
    let inside = path.strip_prefix(root()).unwrap_or(path);
    if inside.ends_with("tests.rs") || inside.components().any(|part| part.as_os_str() == "tests") {
        return "";
    }
    text.rsplit_once("#[cfg(test)]\nmod tests {").map_or(text, |(production, _)| production)
}

/// Crates that only some modules may use. All modules may use the others.
const RESTRICTED: [&str; 10] = [
    "actix_http",
    "actix_router",
    "actix_server",
    "actix_service",
    "actix_web",
    "entity",
    "migration",
    "orm_pool",
    "sea_orm",
    "sqlx",
];

/// What the table of modules in `docs/ARCHITECTURE.md` allows: for each module of `src/`, the modules and restricted
/// crates that it may use; `None` means all.
fn allowed() -> BTreeMap<String, Option<BTreeSet<String>>> {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let table = text.split("\n## ").find(|section| section.starts_with("Modules")).unwrap();
    let code = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let mut allowed = BTreeMap::new();
    for row in table.lines().filter(|line| line.starts_with("| `src/")) {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [modules, _, may_use] = cells[..] else { panic!("{row} does not have three cells") };
        let may_use = (may_use.trim() != "all").then(|| code(may_use).into_iter().collect());
        for module in code(modules) {
            let module = module.trim_start_matches("src/").trim_end_matches('/').trim_end_matches(".rs");
            allowed.insert(module.to_owned(), may_use.clone());
        }
    }
    allowed
}

/// Returns the modules and crates that a file uses although it must not.
fn violations(module: &Module, uses: &Uses, may_use: &BTreeSet<String>) -> Vec<String> {
    // With the root under another name, or all its names, a file could use anything.
    let own = uses.own.iter().map(|path| path.first().map_or("crate", String::as_str));
    let crates = uses.crates().into_iter().filter(|name| RESTRICTED.contains(name));
    let used: BTreeSet<&str> = own.filter(|first| *first != module[0]).chain(crates).collect();
    used.into_iter().filter(|name| !may_use.contains(*name)).map(str::to_owned).collect()
}

async fn modules_use_only_what_the_architecture_allows(_: Context) {
    let allowed = allowed();
    let sources = Sources::read(&root().join("src"));
    let mut found = BTreeSet::new();
    for (module, uses) in sources.uses().filter(|(module, _)| *module != &["lib"]) {
        let may_use =
            allowed.get(&module[0]).unwrap_or_else(|| panic!("docs/ARCHITECTURE.md has no row for {module:?}"));
        found.insert(module[0].clone());
        if let Some(may_use) = may_use {
            let violations = violations(module, &uses, may_use);
            assert!(violations.is_empty(), "src/{}.rs must not use {violations:?}", module.join("/"));
        }
    }
    let rows: BTreeSet<String> = allowed.into_keys().collect();
    assert_eq!(rows, found, "rows of docs/ARCHITECTURE.md, and modules of src/");
}

async fn planted_violations_are_found(_: Context) {
    let allowed = allowed();
    for (module, source, violation) in [
        ("service", "use crate::{ http::State as Planted };", "http"),
        ("service", "use super::super::settings::Settings;", "settings"),
        ("service", "fn f() { tracing::info!(name = %crate::app::NAME); }", "app"),
        ("service", "use {actix_web as web, std::fmt};", "actix_web"),
        ("http", "fn f(error: ::sea_orm::DbErr) {}", "sea_orm"),
        ("http", "impl From<entity::users::Model> for () {}", "entity"),
        ("domain", "use crate::service::*;", "service"),
        ("domain", "type Pool = orm_pool::Pool;", "orm_pool"),
        ("exchange", "mod inner { pub(super) use crate::http::Problem; }", "http"),
        ("settings", "fn f() { let _ = crate::telemetry::start; }", "telemetry"),
    ] {
        let path = vec![module.to_owned(), "planted".to_owned()];
        let uses = modules::uses(&path, &parse(source));
        let violations = violations(&path, &uses, allowed[module].as_ref().unwrap());
        assert_eq!(violations, [violation], "{module}: {source}");
    }
}

async fn files_have_no_dependency_cycles(_: Context) {
    for crate_folder in [".", "bench/runner", "bench/pools"] {
        let sources = Sources::read(&root().join(crate_folder).join("src"));
        let cyclic = cyclic(between_siblings(sources.dependencies()));
        assert!(cyclic.is_empty(), "{crate_folder}: in a cycle, or between two cycles: {cyclic:?}");
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

/// A time that chrono serializes has no fraction if it happens to be zero, so that times do not sort as text.
async fn times_have_one_format(_: Context) {
    for (path, text) in sources("src/http") {
        for structure in production(&path, &text).split("\n}\n").filter(|part| part.contains("derive(Serialize")) {
            let is_time = |line: &&str| line.contains(": DateTime<Utc>,") || line.contains(": Option<DateTime<Utc>>,");
            let times = structure.lines().filter(is_time).count();
            let formatted = structure.matches("microseconds\")]").count();
            assert_eq!(times, formatted, "{}: {structure}", path.display());
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
