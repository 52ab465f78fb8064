//! The paths in tokens: the arguments of macros and attributes.

use syn::{LitStr, buffer::Cursor, ext::IdentExt, parse::ParseStream};

use super::{Module, Visitor};

impl Visitor {
    /// Adds the paths in tokens, which may not be Rust syntax: names that are joined by `::`, and `use` trees.
    pub(super) fn add_tokens(&mut self, mut cursor: Cursor<'_>, strings: Strings) {
        let mut before = String::new();
        while !cursor.eof() {
            let is_import = before == "use" || before == "extern crate";
            if let Some((ident, rest)) = cursor.ident() {
                let is_extern_crate = before == "extern" && ident == "crate";
                before = if is_extern_crate { "extern crate".to_owned() } else { ident.to_string() };
                let is_path = !is_extern_crate && before != "use";
                cursor = if is_path { self.add_token_path(Vec::new(), cursor, is_import) } else { rest };
            } else if let Some((inside, _, _, rest)) = cursor.any_group() {
                if is_import {
                    self.add_token_group(&[], inside);
                } else {
                    self.add_tokens(inside, strings);
                }
                (cursor, before) = (rest, String::new());
            } else if let Some((inside, rest)) = attribute(cursor) {
                let is_doc = inside.ident().is_some_and(|(ident, _)| ident == "doc");
                self.add_tokens(inside, if is_doc { Strings::AreText } else { Strings::MayBePaths });
                cursor = rest;
            } else if let Some((literal, rest)) = cursor.literal() {
                if let (Strings::MayBePaths, Ok(text)) = (strings, syn::parse_str(&literal.to_string())) {
                    self.add_string(&text);
                }
                cursor = rest;
            } else {
                let Some((_, rest)) = cursor.token_tree() else { return };
                cursor = rest;
            }
        }
    }

    /// Adds the path at the cursor, and returns what follows it. A path of one name counts in a `use` tree only.
    fn add_token_path<'c>(&mut self, mut path: Module, cursor: Cursor<'c>, is_import: bool) -> Cursor<'c> {
        let Some((ident, mut cursor)) = cursor.ident() else { return cursor };
        path.push(ident.unraw().to_string());
        while let Some(rest) = path_separator(cursor) {
            if let Some((ident, rest)) = rest.ident() {
                path.push(ident.unraw().to_string());
                cursor = rest;
            } else if let Some((inside, _, _, rest)) = rest.any_group() {
                self.add_token_group(&path, inside);
                return rest;
            } else if let Some(rest) = punct(rest, '*') {
                self.add_all_of(&path);
                return rest;
            } else {
                // Generic arguments.
                cursor = rest;
                break;
            }
        }
        let last = path[path.len() - 1].clone();
        let new_name = cursor.ident().filter(|(ident, _)| ident == "as").and_then(|(_, rest)| rest.ident());
        if path.len() > 1 || is_import {
            self.add(&path);
        }
        if !is_import {
            return cursor;
        }
        let (name, rest) = new_name.map_or_else(|| (last, cursor), |(name, rest)| (name.unraw().to_string(), rest));
        self.import(name, &path);
        rest
    }

    /// Adds the paths in the braces of a `use` tree.
    fn add_token_group(&mut self, before: &[String], mut cursor: Cursor<'_>) {
        while !cursor.eof() {
            if cursor.ident().is_some() {
                cursor = self.add_token_path(before.to_vec(), cursor, true);
            } else if let Some(rest) = punct(cursor, '*') {
                self.add_all_of(before);
                cursor = rest;
            } else {
                let Some((_, rest)) = cursor.token_tree() else { return };
                cursor = rest;
            }
        }
    }

    /// Adds the paths in a string of an attribute: `#[serde(with = "crate::microseconds")]`.
    pub(super) fn add_string(&mut self, text: &LitStr) {
        // A text without meaning as tokens contains no path.
        let _ = text.parse_with(|input: ParseStream<'_>| {
            input.step(|cursor| {
                self.add_tokens(*cursor, Strings::AreText);
                let mut end = *cursor;
                while let Some((_, rest)) = end.token_tree() {
                    end = rest;
                }
                Ok(((), end))
            })
        });
    }
}

/// What the strings among tokens are: those of attributes may name items.
#[derive(Clone, Copy)]
pub(super) enum Strings {
    AreText,
    MayBePaths,
}

fn punct(cursor: Cursor<'_>, expected: char) -> Option<Cursor<'_>> {
    cursor.punct().filter(|(punct, _)| punct.as_char() == expected).map(|(_, rest)| rest)
}

fn path_separator(cursor: Cursor<'_>) -> Option<Cursor<'_>> {
    punct(punct(cursor, ':')?, ':')
}

/// The tokens in the brackets of an attribute, and what follows it.
fn attribute(cursor: Cursor<'_>) -> Option<(Cursor<'_>, Cursor<'_>)> {
    let cursor = punct(cursor, '#')?;
    let (inside, _, _, rest) = punct(cursor, '!').unwrap_or(cursor).any_group()?;
    Some((inside, rest))
}
