//! The dependencies between a crate's source files, read from their syntax trees. Unit tests may use everything and are
//! not included.

mod uses;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::Item;

pub use self::uses::{Uses, uses};
use self::uses::{imports, is_test_only};

/// A module's path inside its crate, as the path of its file: `["http", "users"]`.
pub type Module = Vec<String>;

/// The source files that are compiled into a crate, without those of its unit tests.
pub struct Sources(BTreeMap<Module, Source>);

struct Source {
    text: String,
    syntax: syn::File,
}

/// The Rust files in a folder and below.
pub fn rust_files(root: &Path) -> Vec<PathBuf> {
    let is_rust = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "rs");
    files(root).into_iter().filter(is_rust).collect()
}

/// All files in a folder and below.
pub fn files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                files.push(path);
            }
        }
    }
    files
}

/// The path that `crate` or `self` stands for in a file: the crate's root for `lib.rs` and `main.rs`.
fn module_path(file: &Module) -> Module {
    if is_root(file) { Vec::new() } else { file.clone() }
}

/// Whether a file is the root of a crate.
pub fn is_root(file: &Module) -> bool {
    ["lib", "main"].iter().any(|root| file == &[*root])
}

impl Sources {
    /// Reads the files of a `src` directory.
    pub fn read(root: &Path) -> Self {
        let files = rust_files(root).into_iter().map(|path| {
            let inside = path.strip_prefix(root).unwrap().with_extension("");
            let module = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            (module, fs::read_to_string(&path).unwrap())
        });
        Self::parse(files)
    }

    /// Parses files. Those that are declared under `#[cfg(test)]` are not included, nor the files below them.
    fn parse(files: impl Iterator<Item = (Module, String)>) -> Self {
        let mut sources: BTreeMap<_, _> = files
            .map(|(module, text)| {
                let syntax = parse(&text);
                (module, Source { text, syntax })
            })
            .collect();
        let tests: Vec<Module> =
            sources.iter().flat_map(|(module, source)| test_files(module, &source.syntax)).collect();
        sources.retain(|module, _| !tests.iter().any(|test| module.starts_with(test)));
        Self(sources)
    }

    /// Every file, with what it refers to.
    pub fn uses(&self) -> impl Iterator<Item = (&Module, Uses)> {
        self.0.iter().map(|(module, source)| (module, uses(module, &source.syntax)))
    }

    /// Every file, with its text up to the unit tests.
    pub fn texts(&self) -> impl Iterator<Item = (&Module, &str)> {
        self.0.iter().map(|(module, Source { text, .. })| {
            let tests = text.rsplit_once("#[cfg(test)]\nmod tests {");
            (module, tests.map_or(text.as_str(), |(production, _)| production))
        })
    }

    /// The path of each item that the root of a library re-exports.
    fn exports(&self) -> BTreeMap<String, Module> {
        self.0.get(&["lib".to_owned()][..]).map(|source| imports(&source.syntax)).unwrap_or_default()
    }

    /// The other files that each file depends on. Items that the root re-exports count as their own module's, and
    /// everything else that is in no other file as the root's.
    pub fn dependencies(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let exports = self.exports();
        let root = self.0.keys().find(|file| is_root(file));
        let file_of = |path: &Module| -> Option<Module> {
            let path = path.first().and_then(|first| exports.get(first)).unwrap_or(path);
            let parts = (1..=path.len()).rev().map(|length| path[..length].to_vec());
            parts.into_iter().find(|part| self.0.contains_key(part)).or_else(|| root.cloned())
        };
        let files = self.uses().map(|(module, uses)| {
            let files = uses.own.iter().filter_map(file_of).filter(|file| file != module);
            (module.clone(), files.collect())
        });
        files.collect()
    }
}

/// Parses the text of a source file.
pub fn parse(text: &str) -> syn::File {
    syn::parse_file(text).unwrap()
}

/// The modules in other files that a file declares for tests only.
fn test_files(module: &Module, file: &syn::File) -> Vec<Module> {
    let declared = file.items.iter().filter_map(|item| match item {
        Item::Mod(item) if item.content.is_none() && is_test_only(&item.attrs) => Some(item.ident.to_string()),
        _ => None,
    });
    declared.map(|name| [module_path(module), vec![name]].concat()).collect()
}

/// The files that are part of a dependency cycle, or on a path between two cycles.
pub fn cyclic(mut dependencies: BTreeMap<Module, BTreeSet<Module>>) -> Vec<String> {
    // A file without remaining dependencies or dependents is not part of a cycle.
    loop {
        let is_used = |module: &Module| dependencies.values().any(|used| used.contains(module));
        let is_free = |(module, used): &(&Module, &BTreeSet<Module>)| used.is_empty() || !is_used(module);
        let free: Vec<Module> = dependencies.iter().filter(is_free).map(|(module, _)| module.clone()).collect();
        if free.is_empty() {
            return dependencies.keys().map(|module| module.join("/")).collect();
        }
        for module in free {
            dependencies.remove(&module);
            for used in dependencies.values_mut() {
                used.remove(&module);
            }
        }
    }
}

/// The dependencies without those that every crate has: the root uses every module, and a module's file declares the
/// files below it.
pub fn between_siblings(mut dependencies: BTreeMap<Module, BTreeSet<Module>>) -> BTreeMap<Module, BTreeSet<Module>> {
    dependencies.retain(|module, _| !is_root(module));
    for (module, used) in &mut dependencies {
        used.retain(|used| !is_root(used) && !used.starts_with(module));
    }
    dependencies
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(path: &str) -> Module {
        path.split('/').map(str::to_owned).collect()
    }

    #[test]
    fn cycles_are_found() {
        let graph = |edges: &[(&str, &str)]| {
            let mut graph: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
            for (from, to) in edges {
                graph.entry(module(to)).or_default();
                graph.entry(module(from)).or_default().insert(module(to));
            }
            graph
        };
        assert!(cyclic(graph(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
        assert_eq!(cyclic(graph(&[("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")])), ["b", "c"]);
        let declared = graph(&[("main", "a"), ("a", "a/b"), ("a/b", "a"), ("a", "main")]);
        assert!(cyclic(between_siblings(declared)).is_empty());
        let siblings = graph(&[("a", "a/b"), ("a/b", "a/c"), ("a/c", "a/b")]);
        assert_eq!(cyclic(between_siblings(siblings)), ["a/b", "a/c"]);
    }

    /// The files of a crate, with the files that they depend on.
    fn dependencies(files: &[(&str, &str)]) -> BTreeMap<String, Vec<String>> {
        let sources = Sources::parse(files.iter().map(|(path, text)| (module(path), (*text).to_owned())));
        let files = sources.dependencies().into_iter();
        files.map(|(file, used)| (file.join("/"), used.iter().map(|used| used.join("/")).collect())).collect()
    }

    #[test]
    fn only_files_that_are_declared_as_tests_are_not_included() {
        let found = dependencies(&[
            ("lib", "mod a; #[cfg(test)] mod tests;"),
            ("tests", ""),
            ("a", "#[cfg(test)] mod tests; mod b;"),
            ("a/tests", ""),
            ("a/tests/model", ""),
            ("a/b", "mod tests; #[cfg(not(test))] mod c;"),
            ("a/b/tests", ""),
            ("a/b/c", ""),
        ]);
        assert_eq!(found.into_keys().collect::<Vec<_>>(), ["a", "a/b", "a/b/c", "a/b/tests", "lib"]);
    }

    #[test]
    fn exports_count_as_their_modules_and_other_items_as_the_roots() {
        let found = dependencies(&[
            ("lib", "pub use self::b::{Item as Renamed}; mod a; mod b; mod c; pub struct Own;"),
            ("a", "use crate::Renamed;"),
            ("b", "use crate::Own;"),
            ("c", "use crate::*;"),
        ]);
        assert_eq!(found["a"], ["b"]);
        assert_eq!(found["b"], ["lib"]);
        assert_eq!(found["c"], ["lib"]);
    }
}
