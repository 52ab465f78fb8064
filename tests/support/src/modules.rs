//! The dependencies between a crate's source files, read from their syntax trees: `use` trees in all their forms, paths in code,
//! and paths in the arguments of macros. Unit tests may use everything and are left out.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::{Path, PathBuf},
};

use syn::{
    Item, ItemMod, ItemUse, Macro, UseTree,
    visit::{self, Visit},
};

/// A module's path inside its crate, as the path of its file: `["http", "users"]`.
pub type Module = Vec<String>;

/// The parsed source files of a crate.
pub struct Sources(BTreeMap<Module, syn::File>);

/// The Rust files in a directory and below.
pub fn rust_files(root: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files
}

/// What a file refers to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Paths inside the crate, from its root.
    pub own: BTreeSet<Module>,
    /// Other crates, and the first part of every other path with several parts. The caller selects the crates.
    pub crates: BTreeSet<String>,
}

impl Sources {
    /// Reads the files of a `src` directory.
    pub fn read(root: &Path) -> Self {
        let mut found = BTreeMap::new();
        for path in rust_files(root) {
            let inside: PathBuf = path.strip_prefix(root).unwrap().with_extension("");
            let module: Module = inside.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            if !module.iter().any(|part| part == "tests") {
                found.insert(module, parse(&fs::read_to_string(&path).unwrap()));
            }
        }
        Self(found)
    }

    /// Every file, with what it refers to.
    pub fn uses(&self) -> impl Iterator<Item = (&Module, Uses)> {
        self.0.iter().map(|(module, file)| (module, uses(module, file)))
    }

    /// The path of each item that the crate's root re-exports.
    pub fn exports(&self) -> BTreeMap<String, Module> {
        let mut exports = BTreeMap::new();
        for item in &self.0[&vec!["lib".to_owned()]].items {
            if let Item::Use(item) = item {
                let mut visitor = Visitor { module: Vec::new(), uses: Uses::default() };
                visitor.visit_item_use(item);
                exports.extend(visitor.uses.own.into_iter().map(|path| (path.last().unwrap().clone(), path)));
            }
        }
        exports
    }

    /// The other files that each file depends on. Items that the root re-exports count as their own module's.
    pub fn dependencies(&self) -> BTreeMap<Module, BTreeSet<Module>> {
        let exports = self.exports();
        let file_of = |path: &Module| -> Module {
            let path = path.first().and_then(|first| exports.get(first)).unwrap_or(path);
            let parts = (1..=path.len()).rev().map(|length| path[..length].to_vec());
            parts.into_iter().find(|part| self.0.contains_key(part)).unwrap_or_default()
        };
        let files = self.uses().map(|(module, uses)| {
            let files: BTreeSet<Module> = uses.own.iter().map(file_of).collect();
            (module.clone(), files.into_iter().filter(|file| !file.is_empty() && file != module).collect())
        });
        files.collect()
    }
}

/// Parses the text of a source file.
pub fn parse(text: &str) -> syn::File {
    syn::parse_file(text).unwrap()
}

/// What a file refers to.
pub fn uses(module: &Module, file: &syn::File) -> Uses {
    let mut visitor = Visitor { module: module.clone(), uses: Uses::default() };
    visitor.visit_file(file);
    visitor.uses
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

struct Visitor {
    module: Module,
    uses: Uses,
}

impl Visitor {
    fn add(&mut self, path: &[String]) {
        let absolute = match path.first().map(String::as_str) {
            Some("crate") => path[1..].to_vec(),
            Some("self") => [&self.module[..], &path[1..]].concat(),
            Some("super") => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                let above = self.module.len().saturating_sub(ups);
                [&self.module[..above], &path[ups..]].concat()
            }
            Some(first) => {
                self.uses.crates.insert(first.to_owned());
                return;
            }
            None => return,
        };
        self.uses.own.insert(absolute);
    }

    fn add_tree(&mut self, before: &mut Vec<String>, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.to_string());
                self.add_tree(before, &path.tree);
                before.pop();
            }
            UseTree::Name(name) => self.add(&[&before[..], &[name.ident.to_string()]].concat()),
            UseTree::Rename(name) => self.add(&[&before[..], &[name.ident.to_string()]].concat()),
            UseTree::Glob(_) => self.add(before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(before, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Visitor {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(&mut Vec::new(), &item.tree);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if item.ident != "tests" {
            visit::visit_item_mod(self, item);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Vec<String> = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        // A single `self` is a value.
        if parts.len() > 1 {
            self.add(&parts);
        }
        visit::visit_path(self, path);
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        // The arguments of a macro may not be Rust syntax. Names that are joined by `::` are treated as paths.
        let tokens = without_strings(&call.tokens.to_string());
        let words: Vec<&str> = tokens.split_whitespace().flat_map(separated).collect();
        let mut at = 0;
        while at < words.len() {
            let mut path = vec![words[at].to_owned()];
            while words.get(at + 1) == Some(&"::") && words.get(at + 2).is_some_and(|word| is_name(word)) {
                path.push(words[at + 2].to_owned());
                at += 2;
            }
            if path.len() > 1 && is_name(&path[0]) {
                self.add(&path);
            }
            at += 1;
        }
        visit::visit_macro(self, call);
    }
}

/// Removes string literals, whose text is not code.
fn without_strings(text: &str) -> String {
    let mut code = String::with_capacity(text.len());
    let mut chars = text.replace("'\"'", "' '").chars().collect::<Vec<_>>().into_iter();
    while let Some(c) = chars.next() {
        if c != '"' {
            code.push(c);
            continue;
        }
        while let Some(c) = chars.next() {
            match c {
                '\\' => drop(chars.next()),
                '"' => break,
                _ => {}
            }
        }
    }
    code
}

fn is_name(word: &str) -> bool {
    word.starts_with(|c: char| c.is_alphabetic() || c == '_')
}

/// Splits tokens that are not separated by white space.
fn separated(mut text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    while let Some(first) = text.chars().next() {
        let is_name_part = |c: char| c.is_alphanumeric() || c == '_';
        let length = if text.starts_with("::") {
            2
        } else if is_name_part(first) {
            text.find(|c| !is_name_part(c)).unwrap_or(text.len())
        } else {
            first.len_utf8()
        };
        let (part, rest) = text.split_at(length);
        parts.push(part);
        text = rest;
    }
    parts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_found_in_every_form() {
        for (source, own, other) in [
            ("use crate::{ http::State as Planted };", "http::State", ""),
            ("use crate::http::*;", "http", ""),
            ("use super::super::{a::{self, B}};", "a::self a::B", ""),
            ("pub use self::below::Item;", "service::users::below::Item", ""),
            ("fn f() -> crate::http::State { todo() }", "http::State", ""),
            ("fn f() { let _ = <crate::http::State as Default>::default(); }", "Default::default? http::State", ""),
            ("fn f() { println!(\"{}\", crate::http::NAME); }", "http::NAME", ""),
            ("fn f() { tokio::select! { () = crate::http::wait() => {} } }", "http::wait", "tokio"),
            ("fn f() { println!(\"crate::http \\\" {}\", 1); }", "", ""),
            ("use ::sea_orm as orm;", "", "sea_orm"),
            ("fn f(error: sea_orm::DbErr) {}", "", "sea_orm"),
            ("#[cfg(test)] mod tests { use crate::http::State; }", "", ""),
        ] {
            let module = ["service", "users"].map(str::to_owned).to_vec();
            let uses = uses(&module, &parse(source));
            for path in own.split(' ').filter(|path| !path.is_empty() && !path.contains('?')) {
                let path: Module = path.split("::").map(str::to_owned).collect();
                assert!(uses.own.contains(&path), "{source}: {uses:?}");
            }
            assert_eq!(uses.own.is_empty(), own.is_empty(), "{source}: {uses:?}");
            assert!(other.is_empty() || uses.crates.contains(other), "{source}: {uses:?}");
        }
    }

    #[test]
    fn cycles_are_found() {
        let graph = |edges: &[(&str, &str)]| {
            let mut graph: BTreeMap<Module, BTreeSet<Module>> = BTreeMap::new();
            for (from, to) in edges {
                graph.entry(vec![(*to).to_owned()]).or_default();
                graph.entry(vec![(*from).to_owned()]).or_default().insert(vec![(*to).to_owned()]);
            }
            graph
        };
        assert!(cyclic(graph(&[("a", "b"), ("b", "c"), ("a", "c")])).is_empty());
        assert_eq!(cyclic(graph(&[("a", "b"), ("b", "c"), ("c", "b"), ("c", "d")])), ["b", "c"]);
    }
}
