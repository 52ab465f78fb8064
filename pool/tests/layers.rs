//! Dependencies between the crate's modules: only on lower layers, and without cycles.

use std::path::Path;

use test_support::{
    cases,
    modules::{Module, Sources, cyclic},
};

use crate::Context;

cases![modules_depend_only_on_lower_layers, files_have_no_dependency_cycles];

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

async fn modules_depend_only_on_lower_layers(_: Context) {
    let layer = |module: &Module| {
        LAYERS.iter().position(|layer| *layer == module[0]).unwrap_or_else(|| panic!("{module:?} has no layer"))
    };
    let sources = sources();
    let dependencies = sources.dependencies();
    assert!(dependencies.len() > 30, "too few source files were found");
    for (module, used) in &dependencies {
        for other in used {
            assert!(layer(other) <= layer(module), "{} uses {}, of a higher layer", module.join("/"), other.join("/"));
        }
    }
}

async fn files_have_no_dependency_cycles(_: Context) {
    let cyclic = cyclic(sources().dependencies());
    assert!(cyclic.is_empty(), "in a cycle, or between two cycles: {cyclic:?}");
}
