//! Percent-encoding and query parameters, for the URLs of all engines.

use percent_encoding::percent_decode_str;

use super::invalid::InvalidUrl;

/// Advice on characters that are special in a URL.
pub(super) const ENCODE: &str = "percent-encode special characters in user, password and database (@ is %40, / is %2F, \
     : is %3A, # is %23, ? is %3F, & is %26, % is %25, a space is %20)";

/// A query parameter, or an environment variable that stands for one.
#[derive(Clone)]
pub(super) struct Parameter {
    /// The name as written.
    pub(super) name: String,
    /// The name without case and separators: `ssl-mode`, `ssl_mode` and `sslMode` are the same parameter.
    pub(super) key: String,
    /// The name in error messages.
    pub(super) label: String,
    /// The decoded value.
    pub(super) value: String,
    /// Whether the value contains an unescaped plus sign, which some clients decode as a space.
    has_plus: bool,
    /// Whether it comes from the URL rather than the environment.
    pub(super) is_from_url: bool,
}

impl Parameter {
    pub(super) fn from_variable(variable: &str, name: &str, value: String) -> Self {
        let (name, key, label) = (name.to_owned(), key(name), variable.to_owned());
        Self { name, key, label, value, has_plus: false, is_from_url: false }
    }

    /// Returns a free-text value.
    pub(super) fn text(&self) -> Result<&str, InvalidUrl> {
        if self.has_plus {
            return Err(self.refused("write %2B for a plus sign and %20 for a space; + is ambiguous"));
        }
        if self.value.is_empty() {
            return Err(self.refused("the value is empty"));
        }
        Ok(&self.value)
    }

    /// Parses a value from a closed set, ignoring case.
    pub(super) fn choice<T: Copy>(&self, choices: &[(&str, T)]) -> Result<T, InvalidUrl> {
        let given = choices.iter().find(|(word, _)| self.value.eq_ignore_ascii_case(word));
        given.map(|(_, meaning)| *meaning).ok_or_else(|| {
            let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
            self.refused(&format!("must be {}", one_of(&words)))
        })
    }

    pub(super) fn flag(&self) -> Result<bool, InvalidUrl> {
        self.choice(&[("true", true), ("false", false), ("1", true), ("0", false)])
    }

    pub(super) fn number<T: std::str::FromStr>(&self, allowed: &str) -> Result<T, InvalidUrl> {
        self.value.parse().map_err(|_| self.refused(&format!("must be {allowed}")))
    }

    pub(super) fn refused(&self, reason: &str) -> InvalidUrl {
        InvalidUrl::part(format!("{}: {reason}", self.label))
    }
}

/// Returns the name of a parameter without case and separators.
pub(super) fn key(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect()
}

/// Joins words to `a`, `a or b`, or `a, b or c`.
pub(super) fn one_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Refuses fragments: no database URL has one, so a `#` is part of a password or a file name.
pub(super) fn without_fragment(text: &str) -> Result<&str, InvalidUrl> {
    if text.contains('#') {
        return Err(InvalidUrl::part(format!("has an unescaped #; {ENCODE}")));
    }
    Ok(text)
}

/// Percent-decodes one part of the URL. `part` names it in errors.
pub(super) fn decode(part: &str, text: &str) -> Result<String, InvalidUrl> {
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        if byte == b'%' && !(rest.next().is_some_and(is_hex) && rest.next().is_some_and(is_hex)) {
            return Err(InvalidUrl::part(format!("{part} has a % without two hexadecimal digits after it; {ENCODE}")));
        }
    }
    let decoded = percent_decode_str(text).decode_utf8();
    let decoded = decoded.map_err(|_| InvalidUrl::part(format!("{part} is not UTF-8 after percent-decoding")))?;
    if decoded.contains('\0') {
        return Err(InvalidUrl::part(format!("{part} contains a NUL character")));
    }
    Ok(decoded.into_owned())
}

fn is_hex(byte: u8) -> bool {
    byte.is_ascii_hexdigit()
}

/// Splits a query into its parameters.
pub(super) fn parameters(query: &str) -> Result<Vec<Parameter>, InvalidUrl> {
    query.split('&').filter(|pair| !pair.is_empty()).map(parameter).collect()
}

fn parameter(pair: &str) -> Result<Parameter, InvalidUrl> {
    let malformed = || InvalidUrl::part(format!("the part after the ? must be NAME=VALUE pairs joined by &; {ENCODE}"));
    let (name, raw) = pair.split_once('=').ok_or_else(malformed)?;
    let name = decode("the name of a parameter", name)?;
    // Anything else may be part of a password, and names are shown.
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '[' | ']');
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_name) {
        return Err(malformed());
    }
    let label = format!("parameter {name}");
    let value = decode(&label, raw)?;
    Ok(Parameter { key: key(&name), name, label, value, has_plus: raw.contains('+'), is_from_url: true })
}
