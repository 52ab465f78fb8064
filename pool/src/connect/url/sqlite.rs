//! `sqlite:` URLs: a path as in a shell, and a few parameters.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use super::{
    invalid::InvalidUrl,
    parameter_tables::{self, Meaning},
    parameters, text,
};

/// The mode in which the file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::connect) enum OpenMode {
    ReadOnly,
    ReadWrite,
    Create,
    Memory,
}

/// An SQLite database: a file, or in memory.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::connect) struct FileAddress {
    /// `None` for the anonymous in-memory database.
    pub(in crate::connect) file: Option<PathBuf>,
    pub(in crate::connect) mode: OpenMode,
    pub(in crate::connect) shared_cache: Option<bool>,
    pub(in crate::connect) immutable: bool,
    pub(in crate::connect) vfs: Option<String>,
    /// The URL as it may be shown.
    shown: String,
}

impl FileAddress {
    /// Parses what follows `sqlite:`. The path is used as written, apart from percent-encoding: `../up.db` is relative
    /// to the working directory.
    pub(super) fn parse(rest: &str) -> Result<Self, InvalidUrl> {
        let rest = text::without_fragment(rest)?;
        if rest.chars().any(char::is_control) {
            return Err(InvalidUrl::part("the file name contains a control character"));
        }
        let (name, query) = rest.split_once('?').unwrap_or((rest, ""));
        let path = name.strip_prefix("//").unwrap_or(name);
        let mut address = Self {
            file: None,
            mode: OpenMode::ReadWrite,
            shared_cache: None,
            immutable: false,
            vfs: None,
            shown: format!("sqlite:{name}"),
        };
        let shown = address.read(text::parameters(query)?)?;
        address.shown.push_str(&shown);
        if path == ":memory:" {
            address.mode = OpenMode::Memory;
            return Ok(address);
        }
        let path = text::decode("the file name", path)?;
        if path.starts_with("file:") {
            return Err(InvalidUrl::part("SQLite parses a name that begins with file: as a URI; write only the path"));
        }
        match (path.as_str(), address.mode) {
            ("", OpenMode::Memory) => {}
            ("" | "/", _) => {
                return Err(InvalidUrl::part(
                    "has no file name; expected sqlite://FILE, such as sqlite://users.db?mode=rwc",
                ));
            }
            _ => address.file = Some(path.into()),
        }
        Ok(address)
    }

    fn read(&mut self, parameters: Vec<text::Parameter>) -> Result<String, InvalidUrl> {
        let mut shown = parameters::RedactedParameters::default();
        for (parameter, meaning) in parameters::known(parameter_tables::SQLITE, parameters)? {
            let is_closed = match meaning {
                Meaning::OpenMode => {
                    self.mode = parameter.choice(&[
                        ("ro", OpenMode::ReadOnly),
                        ("rw", OpenMode::ReadWrite),
                        ("rwc", OpenMode::Create),
                        ("memory", OpenMode::Memory),
                    ])?;
                    true
                }
                Meaning::Cache => {
                    self.shared_cache = Some(parameter.choice(&[("shared", true), ("private", false)])?);
                    true
                }
                Meaning::Immutable => {
                    self.immutable = parameter.flag()?;
                    true
                }
                Meaning::Vfs => {
                    self.vfs = Some(parameter.text()?.to_owned());
                    false
                }
                _ => false,
            };
            shown.push(&parameter, is_closed);
        }
        Ok(shown.into_query())
    }

    pub(in crate::connect) fn is_in_memory(&self) -> bool {
        self.mode == OpenMode::Memory
    }

    pub(in crate::connect) fn creates(&self) -> bool {
        self.mode == OpenMode::Create
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.file.as_deref().filter(|_| !self.is_in_memory())
    }
}

impl fmt::Display for FileAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown)
    }
}
