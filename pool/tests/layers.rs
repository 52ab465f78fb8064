//! Which module of the crate may use which: downwards only, and never in a circle.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Item, ItemMod, ItemUse, UseTree,
    visit::{self, Visit},
};
use test_support::cases;

use crate::Context;

cases![modules_use_what_is_below_them, no_files_use_each_other_in_a_circle];

/// From bottom to top; `docs/ARCHITECTURE.md` says what each is for.
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

/// A module by its path inside the crate.
type Module = Vec<String>;

fn sources() -> BTreeMap<Module, syn::File> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = BTreeMap::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let inside: PathBuf = path.strip_prefix(&root).unwrap().with_extension("");
            let module: Module = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            if !module.iter().any(|part| part == "tests") {
                found.insert(module, syn::parse_file(&fs::read_to_string(&path).unwrap()).unwrap());
            }
        }
    }
    found
}

/// The paths of the crate that a file names, each from the crate's root.
struct Names {
    module: Module,
    found: BTreeSet<Module>,
}

impl Names {
    fn of(module: &Module, file: &syn::File) -> BTreeSet<Module> {
        let mut names = Self { module: module.clone(), found: BTreeSet::new() };
        names.visit_file(file);
        names.found
    }

    fn note(&mut self, path: &[String]) {
        let absolute = match path.first().map(String::as_str) {
            Some("crate") => path[1..].to_vec(),
            Some("self") => [&self.module[..], &path[1..]].concat(),
            Some("super") => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                let above = self.module.len().saturating_sub(ups);
                [&self.module[..above], &path[ups..]].concat()
            }
            _ => return,
        };
        self.found.insert(absolute);
    }

    fn note_tree(&mut self, before: &mut Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.note_tree(before, &path.tree);
                before.pop();
            }
            UseTree::Name(name) => self.note(&[&before[..], &[name.ident.to_string()]].concat()),
            UseTree::Rename(name) => self.note(&[&before[..], &[name.ident.to_string()]].concat()),
            UseTree::Glob(_) => self.note(before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.note_tree(before, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Names {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.note_tree(&mut Vec::new(), &item.tree);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        // Tests may use all.
        if item.ident != "tests" {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // `self` alone is a value.
        if parts.len() > 1 {
            self.note(&parts);
        }
        visit::visit_path(self, path);
    }
}

/// Where the names that the crate's root exports come from.
fn exports(root: &syn::File) -> BTreeMap<String, Module> {
    let mut exports = BTreeMap::new();
    for item in &root.items {
        if let Item::Use(item) = item {
            let mut names = Names { module: Vec::new(), found: BTreeSet::new() };
            names.visit_item_use(item);
            exports.extend(names.found.into_iter().map(|path| (path.last().unwrap().clone(), path)));
        }
    }
    exports
}

/// Which files each file uses.
fn uses() -> BTreeMap<Module, BTreeSet<Module>> {
    let sources = sources();
    let exports = exports(&sources[&vec!["lib".to_owned()]]);
    let file_of = |path: &Module| -> Module {
        let path = path.first().and_then(|first| exports.get(first)).unwrap_or(path);
        (1..=path.len())
            .rev()
            .map(|length| path[..length].to_vec())
            .find(|part| sources.contains_key(part))
            .unwrap_or_default()
    };
    let used = |module: &Module, file: &syn::File| -> BTreeSet<Module> {
        for name in Names::of(module, file) {
            // What the crate exports stands above all modules.
            assert!(
                !name.first().is_some_and(|first| exports.contains_key(first)),
                "{module:?} takes {name:?} from the root"
            );
        }
        let files = Names::of(module, file).iter().map(file_of).collect::<BTreeSet<_>>();
        files.into_iter().filter(|file| !file.is_empty() && file != module).collect()
    };
    sources.iter().map(|(module, file)| (module.clone(), used(module, file))).collect()
}

async fn modules_use_what_is_below_them(_: Context) {
    let layer = |module: &Module| {
        LAYERS.iter().position(|layer| *layer == module[0]).unwrap_or_else(|| panic!("{module:?} has no layer"))
    };
    let uses = uses();
    assert!(uses.len() > 30, "the sources are found");
    for (module, used) in &uses {
        for other in used {
            assert!(layer(other) <= layer(module), "{} uses {}, which is above it", module.join("/"), other.join("/"));
        }
    }
}

async fn no_files_use_each_other_in_a_circle(_: Context) {
    let mut uses = uses();
    // What uses nothing that is left, or is used by nothing that is left, is in no circle.
    loop {
        let is_used = |module: &Module| uses.values().any(|used| used.contains(module));
        let is_free = |(module, used): &(&Module, &BTreeSet<Module>)| used.is_empty() || !is_used(module);
        let free: Vec<Module> = uses.iter().filter(is_free).map(|(module, _)| module.clone()).collect();
        if free.is_empty() {
            break;
        }
        for module in free {
            uses.remove(&module);
            for used in uses.values_mut() {
                used.remove(&module);
            }
        }
    }
    let circle: Vec<String> = uses.keys().map(|module| module.join("/")).collect();
    assert!(circle.is_empty(), "in a circle, or between two: {circle:?}");
}
