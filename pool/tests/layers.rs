//! Dependencies between the crate's modules: only on lower layers, and without cycles.

use std::{collections::BTreeSet, path::Path};

use test_support::{
    cases,
    modules::{Module, Sources, Uses, cyclic, is_root, parse, uses},
};

use crate::Context;

cases![
    modules_depend_only_on_lower_layers,
    planted_uses_of_higher_layers_are_found,
    only_connect_calls_the_drivers,
    planted_driver_calls_are_found,
    files_have_no_dependency_cycles,
];

/// From bottom to top; `docs/ARCHITECTURE.md` describes each.
const LAYERS: [&str; 15] = [
    "clock",
    "error_kind",
    "options",
    "connect",
    "context",
    "health",
    "set",
    "stats",
    "error",
    "inner",
    "exec",
    "pool",
    "batch",
    "bulk",
    "lib",
];

fn sources() -> Sources {
    Sources::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"))
}

/// Returns the modules that a file uses although they are in a higher layer. The crate's root is in the highest.
fn higher_layers(module: &Module, uses: &Uses) -> Vec<String> {
    let layer = |name: &str| LAYERS.iter().position(|layer| *layer == name);
    let own = layer(&module[0]).unwrap_or_else(|| panic!("{module:?} has no layer"));
    // An item that the root re-exports is imported from the root.
    let is_higher = |path: &&Module| path.first().and_then(|name| layer(name)).is_none_or(|layer| layer > own);
    uses.own.iter().filter(is_higher).map(|path| path.join("::")).collect()
}

async fn modules_depend_only_on_lower_layers(_: Context) {
    let sources = sources();
    let mut found = 0;
    for (module, uses) in sources.uses().filter(|(module, _)| !is_root(module)) {
        let violations = higher_layers(module, &uses);
        assert!(violations.is_empty(), "{} uses {violations:?}, of a higher layer", module.join("/"));
        found += 1;
    }
    assert!(found > 30, "too few source files were found");
}

fn planted(layer: &str, source: &str) -> (Module, Uses) {
    let module = vec![layer.to_owned(), "planted".to_owned()];
    let uses = uses(&module, &parse(source));
    (module, uses)
}

async fn planted_uses_of_higher_layers_are_found(_: Context) {
    let (_root, modules) = LAYERS.split_last().unwrap();
    for (index, layer) in modules.iter().enumerate() {
        for (other_index, other) in modules.iter().enumerate() {
            let (module, uses) = planted(layer, &format!("use crate::{other}::Planted;"));
            let expected = (other_index > index).then(|| format!("{other}::Planted"));
            assert_eq!(higher_layers(&module, &uses), Vec::from_iter(expected), "{other} in {layer}");
        }
        for (source, violation) in [
            ("use crate::*;", ""),
            ("use crate as root;", ""),
            ("use super::super::{self as root};", ""),
            ("use crate::PoolOptions;", "PoolOptions"),
            ("use super::super::lib::Item;", "lib::Item"),
        ] {
            let (module, uses) = planted(layer, source);
            assert_eq!(higher_layers(&module, &uses), [violation], "{source} in {layer}");
        }
    }
}

/// What the modules outside of `connect` may name of the drivers: errors, which `error_kind` classifies, and the options
/// of a driver, which an application sets by `PoolBuilder`.
const DRIVER_TYPES: [&str; 9] = [
    "Error",
    "error",
    "MySqlConnectOptions",
    "MySqlDatabaseError",
    "PgConnectOptions",
    "PgDatabaseError",
    "PgSeverity",
    "SqliteConnectOptions",
    "SqliteError",
];

/// Returns what a file uses of the drivers, except these types.
fn driver_calls(uses: &Uses) -> Vec<String> {
    let inside = uses.other.iter().filter_map(|path| {
        let sqlx = path.iter().position(|part| part == "sqlx")?;
        Some(&path[sqlx + 1..])
    });
    // Importing an engine's module is allowed; each item used from it is listed separately and must be one of the types.
    let is_allowed = |path: &&[String]| match path {
        [] => true,
        [engine, rest @ ..] if ["mysql", "postgres", "sqlite"].contains(&engine.as_str()) => {
            rest.first().is_none_or(|item| DRIVER_TYPES.contains(&item.as_str()))
        }
        [item, ..] => DRIVER_TYPES.contains(&item.as_str()),
    };
    let calls: BTreeSet<String> = inside.filter(|path| !is_allowed(path)).map(|path| path.join("::")).collect();
    calls.into_iter().collect()
}

async fn only_connect_calls_the_drivers(_: Context) {
    let sources = sources();
    let mut callers = 0;
    for (module, uses) in sources.uses() {
        let calls = driver_calls(&uses);
        if module[0] == "connect" {
            callers += usize::from(!calls.is_empty());
        } else {
            assert!(calls.is_empty(), "{} uses {calls:?} of the drivers", module.join("/"));
        }
    }
    assert!(callers > 3, "connect calls the drivers in {callers} files");
}

async fn planted_driver_calls_are_found(_: Context) {
    for (source, call) in [
        ("use sea_orm::sqlx::Connection;", "Connection"),
        ("use sea_orm::{self as orm}; use orm::sqlx::PgConnection;", "PgConnection"),
        ("use sea_orm::sqlx::*;", "*"),
        ("use sea_orm::sqlx::postgres::*;", "postgres::*"),
        ("use sea_orm::sqlx; async fn f() { sqlx::query(\"\"); }", "query"),
        ("use sea_orm::sqlx::sqlite; type Opened = sqlite::SqliteConnection;", "sqlite::SqliteConnection"),
        ("#[derive(sea_orm::sqlx::FromRow)] struct Row;", "FromRow"),
    ] {
        assert_eq!(driver_calls(&planted("exec", source).1), [call], "{source}");
    }
    for source in ["use sea_orm::sqlx; fn f(_: sqlx::Error) {}", "use sea_orm::sqlx::mysql::MySqlDatabaseError;"] {
        assert!(driver_calls(&planted("exec", source).1).is_empty(), "{source}");
    }
}

async fn files_have_no_dependency_cycles(_: Context) {
    let cyclic = cyclic(sources().dependencies());
    assert!(cyclic.is_empty(), "in a cycle, or between two cycles: {cyclic:?}");
}
