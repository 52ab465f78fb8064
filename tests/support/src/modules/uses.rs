//! What a source file refers to: `use` trees in all their forms, paths in code, and paths in the arguments of macros
//! and attributes. A path that begins with an imported name counts as the path of what was imported.

mod tokens;

use std::collections::{BTreeMap, BTreeSet};

use syn::{
    Attribute, Expr, ExprLit, ItemExternCrate, ItemMod, ItemUse, Lit, Macro, Meta, UseTree, VisRestricted,
    buffer::TokenBuffer,
    ext::IdentExt,
    visit::{self, Visit},
};

use self::tokens::Strings;
use super::{Module, module_path};

/// What a file refers to.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Uses {
    /// Paths inside the crate, from its root. The empty path is the root itself: with another name for it, or with all
    /// its names, a file could refer to anything, so it must not be ignored.
    pub own: BTreeSet<Module>,
    /// Paths into other crates, and every other path with several parts. The caller selects the crates. The last part is
    /// `*` for all names of a module.
    pub other: BTreeSet<Module>,
}

impl Uses {
    /// Those of these crates that the file uses, also if another crate re-exports them: `sea_orm::sqlx`.
    pub fn crates<'a>(&self, of: &[&'a str]) -> BTreeSet<&'a str> {
        of.iter().filter(|name| self.other.iter().flatten().any(|part| part == *name)).copied().collect()
    }
}

/// Returns what a file refers to.
pub fn uses(module: &Module, file: &syn::File) -> Uses {
    let mut visitor = Visitor { module: module_path(module), ..Visitor::default() };
    // An item may be used before the line that imports it.
    visitor.visit_file(file);
    visitor.uses = Uses::default();
    visitor.visit_file(file);
    visitor.uses
}

/// Returns the names that the root of a crate imports from its modules, each with its path.
pub(super) fn imports(root: &syn::File) -> BTreeMap<String, Module> {
    let mut visitor = Visitor::default();
    for item in &root.items {
        if let syn::Item::Use(item) = item {
            visitor.visit_item_use(item);
        }
    }
    let paths = visitor.imports.into_iter().filter_map(|(name, paths)| Some((name, paths.into_iter().next()?)));
    paths.filter(|(_, path)| path[0] == "crate").map(|(name, path)| (name, path[1..].to_vec())).collect()
}

/// Whether an item has the attribute `#[cfg(test)]`.
pub(super) fn is_test_only(attributes: &[Attribute]) -> bool {
    let is_test = |attribute: &Attribute| attribute.parse_args::<syn::Path>().is_ok_and(|path| path.is_ident("test"));
    attributes.iter().any(|attribute| attribute.path().is_ident("cfg") && is_test(attribute))
}

/// Imported names are followed this far, because a name may be imported from a crate of the same name.
const MAX_IMPORTS: usize = 4;

#[derive(Default)]
struct Visitor {
    module: Module,
    /// The path of each imported name and each module that is declared here, from `crate` or another crate.
    imports: BTreeMap<String, BTreeSet<Module>>,
    uses: Uses,
}

impl Visitor {
    /// The path from `crate`, or the path itself if it begins with another name.
    fn absolute(&self, path: &[String]) -> Module {
        let path = path.strip_suffix(&["self".to_owned()]).filter(|path| !path.is_empty()).unwrap_or(path);
        let from_root = |above: usize, rest: &[String]| {
            let kept = self.module.len().saturating_sub(above);
            [&["crate".to_owned()], &self.module[..kept], rest].concat()
        };
        match path.first().map(String::as_str) {
            Some("self") => self.absolute_or(from_root(0, &path[1..]), path),
            Some("super") => {
                let ups = path.iter().take_while(|part| *part == "super").count();
                from_root(ups, &path[ups..])
            }
            _ => path.to_vec(),
        }
    }

    /// `self::super::x` is `super::x`.
    fn absolute_or(&self, from_here: Module, path: &[String]) -> Module {
        if path.get(1).is_some_and(|part| part == "super") { self.absolute(&path[1..]) } else { from_here }
    }

    fn add(&mut self, path: &[String]) {
        self.add_absolute(self.absolute(path), MAX_IMPORTS);
    }

    fn add_absolute(&mut self, path: Module, imports: usize) {
        let Some(first) = path.first() else { return };
        if first == "crate" {
            self.uses.own.insert(path[1..].to_vec());
            return;
        }
        if imports > 0 {
            let imported: Vec<Module> = self.imports.get(first).into_iter().flatten().cloned().collect();
            for before in imported {
                self.add_absolute([&before[..], &path[1..]].concat(), imports - 1);
            }
        }
        self.uses.other.insert(path);
    }

    /// Adds all names of a module. For one of another crate, this is more than its name.
    fn add_all_of(&mut self, module: &[String]) {
        let path = self.absolute(module);
        if path.first().is_none_or(|first| first == "crate") {
            self.add(&path);
        } else {
            self.add(&[&path[..], &["*".to_owned()]].concat());
        }
    }

    fn import(&mut self, name: String, path: &[String]) {
        let path = self.absolute(path);
        if path != [name.as_str()] {
            self.imports.entry(name).or_default().insert(path);
        }
    }

    fn add_tree(&mut self, before: &mut Module, tree: &UseTree) {
        match tree {
            UseTree::Path(path) => {
                before.push(path.ident.unraw().to_string());
                self.add_tree(before, &path.tree);
                before.pop();
            }
            UseTree::Name(name) => {
                let path = [&before[..], &[name.ident.unraw().to_string()]].concat();
                let name = path.iter().rfind(|part| *part != "self").cloned();
                self.import(name.unwrap_or_default(), &path);
                self.add(&path);
            }
            UseTree::Rename(name) => {
                let path = [&before[..], &[name.ident.unraw().to_string()]].concat();
                self.import(name.rename.unraw().to_string(), &path);
                self.add(&path);
            }
            UseTree::Glob(_) => self.add_all_of(before),
            UseTree::Group(group) => group.items.iter().for_each(|tree| self.add_tree(before, tree)),
        }
    }
}

impl<'ast> Visit<'ast> for Visitor {
    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        self.add_tree(&mut Vec::new(), &item.tree);
    }

    fn visit_item_extern_crate(&mut self, item: &'ast ItemExternCrate) {
        let name = item.ident.unraw().to_string();
        let path = if name == "self" { "crate".to_owned() } else { name.clone() };
        let rename = item.rename.as_ref().map_or(name, |(_, rename)| rename.unraw().to_string());
        self.import(rename, std::slice::from_ref(&path));
        self.add(&[path]);
    }

    fn visit_item_mod(&mut self, item: &'ast ItemMod) {
        if is_test_only(&item.attrs) {
            return;
        }
        let name = item.ident.unraw().to_string();
        self.import(name.clone(), &["self".to_owned(), name.clone()]);
        self.module.push(name);
        visit::visit_item_mod(self, item);
        self.module.pop();
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let parts: Module = path.segments.iter().map(|segment| segment.ident.unraw().to_string()).collect();
        // A single `self` is a value.
        if parts.len() > 1 {
            self.add(&parts);
        }
        visit::visit_path(self, path);
    }

    fn visit_vis_restricted(&mut self, _: &'ast VisRestricted) {
        // Who may use an item is not a use.
    }

    fn visit_macro(&mut self, call: &'ast Macro) {
        // The text of another file is not read.
        if call.path.is_ident("include") {
            self.uses.own.insert(Vec::new());
        }
        self.add_tokens(TokenBuffer::new2(call.tokens.clone()).begin(), Strings::AreText);
        visit::visit_macro(self, call);
    }

    fn visit_attribute(&mut self, attribute: &'ast Attribute) {
        if attribute.path().is_ident("doc") {
            return;
        }
        match &attribute.meta {
            Meta::List(list) => {
                self.add_tokens(TokenBuffer::new2(list.tokens.clone()).begin(), Strings::MayBePaths);
            }
            Meta::NameValue(value) => {
                if let Expr::Lit(ExprLit { lit: Lit::Str(text), .. }) = &value.value {
                    self.add_string(text);
                }
                if value.path.is_ident("path") {
                    self.uses.own.insert(Vec::new());
                }
            }
            Meta::Path(_) => {}
        }
        visit::visit_attribute(self, attribute);
    }
}

#[cfg(test)]
mod tests {
    use super::{super::parse, *};

    /// Each source is in the file `service/users.rs`. A file must be found to refer to all of these paths inside the
    /// crate, where `.` is its root, and to this crate.
    const FORMS: &[(&str, &str, &str)] = &[
        ("use crate::{ http::State as Planted };", "http::State", ""),
        ("use crate::http::*;", "http", ""),
        ("use super::super::{a::{self, B}};", "a a::B", ""),
        ("pub use self::below::Item;", "service::users::below::Item", ""),
        ("use self::super::lists;", "service::lists", ""),
        ("fn f() -> crate::http::State { todo() }", "http::State", ""),
        ("fn f() { let _ = <crate::http::State as Default>::default(); }", "http::State", ""),
        ("fn f() { println!(\"{}\", crate::http::NAME); }", "http::NAME", ""),
        ("fn f() { tokio::select! { () = crate::http::wait() => {} } }", "http::wait", "tokio"),
        ("fn f() { println!(\"crate::http \\\" {}\", '\"'); }", "", ""),
        ("use ::sea_orm as orm;", "", "sea_orm"),
        ("fn f(error: sea_orm::DbErr) {}", "", "sea_orm"),
        ("extern crate sea_orm as x;", "", "sea_orm"),
        ("use r#sea_orm as orm;", "", "sea_orm"),
        ("fn f() { r#sea_orm::f(); }", "", "sea_orm"),
        // The root, by another name or with all its names.
        ("use crate::*; fn f() -> http::State {}", ".", ""),
        ("use crate as root;", ".", ""),
        ("use crate::{self as root};", ".", ""),
        ("use super::super as top;", ".", ""),
        ("use super::super::*;", ".", ""),
        ("extern crate self as root;", ".", ""),
        ("include!(\"../http/state.rs\");", ".", ""),
        ("#[path = \"../http/state.rs\"] mod state;", ".", ""),
        // Names that were imported.
        ("use crate as root; fn f() { root::http::g(); }", ". http::g", ""),
        ("use super::other; fn f() { other::below::g(); }", "service::other service::other::below::g", ""),
        ("fn f() { http::users::g() } use crate::http;", "http http::users::g", ""),
        ("use crate::{http::{self as web}}; use web::users;", "http http::users", ""),
        ("mod below; fn f() { below::g(); }", "service::users::below::g", ""),
        ("use orm_pool::sea_orm::{self as orm}; fn f(error: orm::DbErr) {}", "", "orm_pool sea_orm"),
        ("use sea_orm::sqlx; fn f() { sqlx::query() }", "", "sea_orm sqlx"),
        ("use sea_orm::*;", "", "sea_orm"),
        ("use a::{self as b}; use b::{self as a}; fn f() { a::g() }", "", ""),
        // Modules inside the file, and tests.
        ("mod inner { use super::below::Item; }", "service::users::below::Item", ""),
        ("mod inner { pub(in super::super) use super::super::super::http::Item; }", "http::Item", ""),
        ("#[cfg(test)] mod tests { use crate::http::State; }", "", ""),
        ("mod tests { use crate::http::State; }", "http::State", ""),
        ("#[cfg(not(test))] mod tests { use crate::http::State; }", "http::State", ""),
        // Attributes.
        ("#[derive(sea_orm::FromQueryResult)] struct A;", "", "sea_orm"),
        ("#[sea_orm::main] fn f() {}", "", "sea_orm"),
        ("struct A { #[serde(with = \"crate::http::x\")] a: u8 }", "http::x", ""),
        ("#[serde(bound = \"T: crate::http::X\")] struct A;", "http::X", ""),
        ("#[instrument = \"crate::http::x\"] fn f() {}", "http::x", ""),
        ("/// See `crate::http::X`.\n#[doc = \"crate::http::X\"] struct A;", "", ""),
        // Tokens of macros.
        ("fn f() { g!(r#sea_orm::f()); }", "", "sea_orm"),
        ("section! { #[serde(with = \"crate::http::x\")] a: u8 }", "http::x", ""),
        ("section! { #[doc = \"crate::http::x\"] pub(crate) a: u8 }", "", ""),
        ("fn f() { g! { use crate::{http::State, a as b}; } }", "http::State a", ""),
        ("fn f() { g! { use crate::*; } }", ".", ""),
        ("fn f() { g! { use crate as root; } }", ".", ""),
        ("fn f() { g! { use {sea_orm as orm, std::fmt}; } }", "", "sea_orm"),
        ("fn f() { g! { use ::sea_orm; } }", "", "sea_orm"),
        ("fn f() { g! { extern crate sea_orm; } }", "", "sea_orm"),
        ("fn f() { g! { a { crate::http::f::<u8>() } } }", "http::f", ""),
        ("fn f() { g!(crate::a::h([{ crate::http::g() }])); }", "a::h http::g", ""),
    ];

    const CRATES: &[&str] = &["orm_pool", "sea_orm", "sqlx", "tokio"];

    #[test]
    fn paths_are_found_in_every_form() {
        let mut wrong = Vec::new();
        for (source, own, other) in FORMS {
            let module = ["service", "users"].map(str::to_owned).to_vec();
            let uses = uses(&module, &parse(source));
            let path = |path: &str| path.split("::").filter(|part| *part != ".").map(str::to_owned).collect();
            let expected: BTreeSet<Module> = own.split_whitespace().map(path).collect();
            if uses.own != expected
                || uses.crates(CRATES).into_iter().collect::<Vec<_>>() != other.split_whitespace().collect::<Vec<_>>()
            {
                wrong.push(format!("{source}: {uses:?}"));
            }
        }
        assert!(wrong.is_empty(), "{wrong:#?}");
    }
}
