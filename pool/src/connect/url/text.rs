//! What the URLs of all engines have in common: percent-encoding and the query.

use percent_encoding::percent_decode_str;

use super::invalid::InvalidUrl;

/// How to write characters that have a meaning in a URL.
pub(super) const ENCODE: &str = "percent-encode what is special in user, password and database (@ is %40, / is %2F, : is %3A, # is %23, ? is %3F, \
     & is %26, % is %25, a space is %20)";

/// A parameter of the query, or a variable of the environment that stands for one.
#[derive(Clone)]
pub(super) struct Parameter {
    /// Its name as it is written.
    pub(super) name: String,
    /// The name without case and separators: `ssl-mode`, `ssl_mode` and `sslMode` are one parameter.
    pub(super) key: String,
    /// How errors call it.
    pub(super) label: String,
    /// Decoded.
    pub(super) value: String,
    /// Whether the value has a raw plus sign, which some read as a space.
    has_plus: bool,
    /// Whether it stands in the URL, not in the environment.
    pub(super) is_of_url: bool,
}

impl Parameter {
    pub(super) fn of_variable(variable: &str, name: &str, value: String) -> Self {
        let (name, key, label) = (name.to_owned(), key(name), variable.to_owned());
        Self { name, key, label, value, has_plus: false, is_of_url: false }
    }

    /// A value that may be any text.
    pub(super) fn text(&self) -> Result<&str, InvalidUrl> {
        if self.has_plus {
            return Err(self.refused("write %2B for a plus sign and %20 for a space: a + is read both ways"));
        }
        if self.value.is_empty() {
            return Err(self.refused("the value is empty"));
        }
        Ok(&self.value)
    }

    /// A value that is one of a closed set, without regard to case.
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

/// The name of a parameter without case and separators.
pub(super) fn key(name: &str) -> String {
    name.chars().filter(|c| !matches!(c, '-' | '_')).map(|c| c.to_ascii_lowercase()).collect()
}

/// `a`, `a or b`, `a, b or c`.
pub(super) fn one_of(words: &[&str]) -> String {
    match words {
        [] => String::new(),
        [only] => (*only).to_owned(),
        [first @ .., last] => format!("{} or {last}", first.join(", ")),
    }
}

/// Refuses a fragment: no database URL has one, so the `#` is part of a password or a file name.
pub(super) fn without_fragment(text: &str) -> Result<&str, InvalidUrl> {
    if text.contains('#') {
        return Err(InvalidUrl::part(format!("has an unescaped #; {ENCODE}")));
    }
    Ok(text)
}

/// Decodes one part of the URL. `part` names it in the error.
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
        return Err(InvalidUrl::part(format!("{part} has a NUL character")));
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
    let unlike_a_parameter =
        || InvalidUrl::part(format!("what follows the ? is not a list of NAME=VALUE joined by &; {ENCODE}"));
    let (name, raw) = pair.split_once('=').ok_or_else(unlike_a_parameter)?;
    let name = decode("the name of a parameter", name)?;
    // Anything else may be a piece of a password, and the name is shown.
    let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '[' | ']');
    if name.is_empty() || name.len() > 64 || !name.chars().all(is_name) {
        return Err(unlike_a_parameter());
    }
    let label = format!("parameter {name}");
    let value = decode(&label, raw)?;
    Ok(Parameter { key: key(&name), name, label, value, has_plus: raw.contains('+'), is_of_url: true })
}
