//! Dependencies between the modules of `src/` and between crates, as `docs/ARCHITECTURE.md` describes them.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use test_support::modules::{self, Module, Sources, Uses, between_siblings, cyclic, files, parse, rust_files};

use crate::{cases, harness::Context};

cases![
    modules_use_what_the_architecture_allows,
    crates_use_what_the_architecture_allows,
    planted_violations_are_found,
    planted_dependencies_are_found,
    files_have_no_dependency_cycles,
    no_unsafe_and_no_shortcuts,
    files_have_at_most_400_lines,
    times_have_one_format,
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Crates that only some modules may use. All modules may use the others.
const RESTRICTED: [&str; 11] = [
    "actix_http",
    "actix_router",
    "actix_server",
    "actix_service",
    "actix_web",
    "entity",
    "migration",
    "orm_pool",
    "sea_orm",
    "sea_orm_migration",
    "sqlx",
];

/// The crates of the workspace.
const WORKSPACE: [&str; 6] = ["entity", "history", "migration", "orm_pool", "test_support", "users_api"];

/// A row of the table of modules in `docs/ARCHITECTURE.md`.
struct Row {
    /// Files and folders.
    paths: Vec<String>,
    /// The modules and crates that they may use; `None` means all.
    may_use: Option<BTreeSet<String>>,
}

fn rows() -> Vec<Row> {
    let text = fs::read_to_string(root().join("docs/ARCHITECTURE.md")).unwrap();
    let table = text.split("\n## ").find(|section| section.starts_with("Modules")).unwrap();
    let code = |cell: &str| -> Vec<String> { cell.split('`').skip(1).step_by(2).map(str::to_owned).collect() };
    let rows = table.lines().filter(|line| line.starts_with("| `")).map(|row| {
        let cells: Vec<&str> = row.trim_matches('|').split('|').collect();
        let [paths, _, may_use] = cells[..] else { panic!("{row} does not have three cells") };
        let paths: Vec<String> = code(paths).into_iter().filter(|path| path.contains('/')).collect();
        for path in &paths {
            assert!(root().join(path).exists(), "{path} does not exist");
        }
        Row { paths, may_use: (may_use.trim() != "all").then(|| code(may_use).into_iter().collect()) }
    });
    rows.collect()
}

/// For each module of `src/`, what it may use.
fn allowed() -> BTreeMap<String, Option<BTreeSet<String>>> {
    let mut allowed = BTreeMap::new();
    for Row { paths, may_use } in rows() {
        for path in paths.iter().filter_map(|path| path.strip_prefix("src/")) {
            allowed.insert(path.trim_end_matches('/').trim_end_matches(".rs").to_owned(), may_use.clone());
        }
    }
    allowed
}

/// Returns the other modules and the restricted crates that a file uses.
fn used(module: &Module, uses: &Uses) -> BTreeSet<String> {
    // With the root under another name, or all its names, a file could use anything.
    let own = uses.own.iter().map(|path| path.first().map_or("crate", String::as_str));
    own.filter(|first| *first != module[0]).chain(uses.crates(&RESTRICTED)).map(str::to_owned).collect()
}

async fn modules_use_what_the_architecture_allows(_: Context) {
    let allowed = allowed();
    let mut found: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for (module, uses) in Sources::read(&root().join("src")).uses().filter(|(module, _)| *module != &["lib"]) {
        let may_use =
            allowed.get(&module[0]).unwrap_or_else(|| panic!("docs/ARCHITECTURE.md has no row for {module:?}"));
        let used = used(module, &uses);
        if let Some(may_use) = may_use {
            let violations: Vec<_> = used.difference(may_use).collect();
            assert!(violations.is_empty(), "src/{}.rs must not use {violations:?}", module.join("/"));
        }
        found.entry(module[0].clone()).or_default().extend(used);
    }
    let documented: BTreeSet<&String> = allowed.keys().collect();
    assert_eq!(documented, found.keys().collect(), "rows of docs/ARCHITECTURE.md, and modules of src/");
    // What is allowed without need would not be noticed when it is used.
    let unused: Vec<String> = rows().iter().flat_map(|row| unused(row, &found)).collect();
    assert!(unused.is_empty(), "docs/ARCHITECTURE.md allows what is not used: {unused:?}");
}

/// Returns what a row allows to modules of `src/` although none of them uses it.
fn unused(row: &Row, found: &BTreeMap<String, BTreeSet<String>>) -> Vec<String> {
    let modules = row.paths.iter().filter_map(|path| path.strip_prefix("src/"));
    let names: Vec<&str> = modules.map(|path| path.trim_end_matches('/').trim_end_matches(".rs")).collect();
    let is_unused = |other: &&String| !names.is_empty() && !names.iter().any(|name| found[*name].contains(*other));
    row.may_use.iter().flatten().filter(is_unused).map(|other| format!("{names:?}: {other}")).collect()
}

/// Returns the dependencies in a manifest, except those of tests.
fn dependencies(manifest: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for section in manifest.split("\n[").map(|section| section.trim_start_matches('[')) {
        let (header, lines) = section.split_once(']').unwrap_or_default();
        let header = header.rsplit_once("dependencies").filter(|(before, _)| !before.ends_with("dev-"));
        let Some((before, name)) = header.filter(|(before, _)| *before != "workspace.") else { continue };
        assert!(name.is_empty(), "[{before}dependencies{name}] is not a list of dependencies");
        for line in lines.lines().filter(|line| line.starts_with(|c: char| c.is_ascii_alphabetic())) {
            let name = line.split(['.', ' ', '=']).next().unwrap();
            let package = line.split_once("package = \"").and_then(|(_, rest)| rest.split('"').next());
            names.insert(package.unwrap_or(name).replace('-', "_"));
        }
    }
    names
}

/// Returns the crates of the workspace that the code in a folder uses, and the restricted crates if it is part of the
/// workspace. For crates, their manifests decide.
fn used_crates(folder: &Path, is_in_workspace: bool) -> BTreeSet<String> {
    let restricted: &[&str] = if is_in_workspace { &RESTRICTED } else { &[] };
    let known = [&WORKSPACE[..], restricted].concat();
    let manifests = manifests(folder);
    let uses = Sources::read(folder).uses().flat_map(|(_, uses)| uses.crates(&known)).collect::<BTreeSet<_>>();
    if manifests.is_empty() {
        return uses.into_iter().map(str::to_owned).collect();
    }
    let mut used: BTreeSet<String> =
        manifests.iter().flat_map(|path| dependencies(&fs::read_to_string(path).unwrap())).collect();
    used.retain(|name| known.contains(&name.as_str()));
    // SeaORM re-exports it.
    used.extend(uses.contains("sqlx").then(|| "sqlx".to_owned()));
    used
}

/// The manifests in a folder and below.
fn manifests(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::from_iter(Some(folder.join("Cargo.toml")).filter(|path| path.exists()));
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() && !["target", "node_modules"].iter().any(|name| entry.ends_with(name)) {
            found.extend(manifests(&entry));
        }
    }
    found
}

async fn crates_use_what_the_architecture_allows(_: Context) {
    let mut documented = BTreeSet::new();
    for Row { paths, may_use } in rows() {
        for path in paths.iter().filter(|path| !path.starts_with("src/")) {
            let folder = root().join(path);
            let used = used_crates(&folder, !path.starts_with("bench/"));
            let may_use: BTreeSet<String> = may_use.iter().flatten().map(|name| name.replace('-', "_")).collect();
            assert_eq!(used, may_use, "crates that {path} uses, and those that docs/ARCHITECTURE.md allows");
            documented.extend(manifests(&folder));
        }
    }
    let mut all = manifests(root());
    all.retain(|path| *path != root().join("Cargo.toml"));
    assert_eq!(documented, all.into_iter().collect(), "crates in docs/ARCHITECTURE.md, and in the repository");
}

async fn planted_violations_are_found(_: Context) {
    let allowed = allowed();
    let violations = |module: &str, source: &str| -> Vec<String> {
        let path = vec![module.to_owned(), "planted".to_owned()];
        let may_use = allowed[module].as_ref().unwrap();
        used(&path, &modules::uses(&path, &parse(source))).difference(may_use).cloned().collect()
    };
    let mut planted = 0;
    for (module, may_use) in allowed.iter().filter_map(|(module, may_use)| Some((module, may_use.as_ref()?))) {
        let own = allowed.keys().filter(|other| *other != module).map(|other| (other, format!("crate::{other}")));
        let crates = RESTRICTED.map(str::to_owned);
        for (target, path) in own.chain(crates.iter().map(|name| (name, name.clone()))) {
            let expected = Vec::from_iter((!may_use.contains(target)).then(|| target.clone()));
            planted += expected.len();
            for source in [format!("use {path} as Planted;"), format!("fn f() {{ g!({path}::f()) }}")] {
                assert_eq!(violations(module, &source), expected, "{module}: {source}");
            }
        }
        for source in ["use crate::*;", "use crate as root;", "use super::super as top;"] {
            assert_eq!(violations(module, source), ["crate"], "{module}: {source}");
        }
    }
    assert!(planted > 200, "only {planted} uses are forbidden");
}

async fn planted_dependencies_are_found(_: Context) {
    let manifest = "[package]\nname = \"a\"\n[dependencies]\nb.workspace = true\nc-d = { version = \"1\", features = [\n    \
                    \"e\",\n] }\n[dev-dependencies]\nf = \"1\"\n[build-dependencies]\ng = \"1\"\n\
                    [target.'cfg(unix)'.dependencies]\nh = { package = \"sea-orm\", version = \"2\" }\n";
    let expected = ["b", "c_d", "g", "sea_orm"].map(str::to_owned);
    assert_eq!(dependencies(manifest), BTreeSet::from(expected));
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
        for (module, text) in Sources::read(&root().join(folder)).texts() {
            for word in ["unsafe ", ".unwrap()", ".expect(", "todo!(", "unimplemented!(", "#[allow("] {
                assert!(!text.contains(word), "{folder}/{}.rs has {word}", module.join("/"));
            }
        }
    }
}

/// A time that chrono serializes has no fraction if it happens to be zero, so that times do not sort as text.
async fn times_have_one_format(_: Context) {
    let sources = Sources::read(&root().join("src"));
    for (module, text) in sources.texts().filter(|(module, _)| module[0] == "http") {
        for structure in text.split("\n}\n").filter(|part| part.contains("derive(Serialize")) {
            let is_time = |line: &&str| line.contains(": DateTime<Utc>,") || line.contains(": Option<DateTime<Utc>>,");
            let times = structure.lines().filter(is_time).count();
            let formatted = structure.matches("microseconds\")]").count();
            assert_eq!(times, formatted, "{}: {structure}", module.join("/"));
        }
    }
}

/// Tests may be a little longer.
async fn files_have_at_most_400_lines(_: Context) {
    let folders =
        ["src", "examples", "pool", "entity", "migration", "tests", "bench/runner", "bench/pools", "bench/peers"];
    let rust = folders.iter().flat_map(|folder| rust_files(&root().join(folder)));
    for path in rust.chain(files(&root().join("scripts"))) {
        let path = path.strip_prefix(root()).unwrap();
        let is_test = path.components().any(|part| part.as_os_str() == "tests");
        let lines = fs::read_to_string(root().join(path)).unwrap().lines().count();
        assert!(lines <= if is_test { 450 } else { 400 }, "{} has {lines} lines", path.display());
    }
}
