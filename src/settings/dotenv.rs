//! The file `.env` of the working directory.
//!
//! The syntax is the shell's, as the usual readers of `.env` support it: `NAME=value`, `export NAME=value`, comments,
//! single and double quotes, which may span lines, backslash escapes, and `$NAME` or `${NAME}`. An error names the line
//! and, if it is one of ours, the variable. It never quotes the line, which may contain a secret of ours or of another
//! program.

use std::{collections::BTreeMap, iter::Peekable, str::Chars};

/// Why the text cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct BadLine {
    /// Counted from 1; of a value over several lines, the first.
    pub(super) line: usize,
    /// The variable, if it is one of ours.
    pub(super) name: Option<String>,
    pub(super) reason: &'static str,
}

const UNSET: &str =
    "a $ refers to a variable that is not set; for a $ as it stands put the value into single quotes, or write \\$";
const NO_NAME: &str = "expected NAME=value";
const NO_EQUALS: &str = "expected = after a name";
const UNCLOSED: &str = "a quotation mark is not closed";
const ESCAPE: &str = "after a backslash only \\ \" ' $ n or a space may follow; put the value into single quotes";
const SPACE: &str = "a value with white space needs quotation marks";
const BRACE: &str = "a ${ is not closed";

/// Reads the variables; the last one of a name counts. `outer` looks up what is substituted before the file itself, and
/// `is_ours` returns whether a variable is a setting: in the values of others, an unset `$NAME` is empty.
pub(super) fn parse(
    text: &str,
    outer: impl Fn(&str) -> Option<String>,
    is_ours: impl Fn(&str) -> bool,
) -> Result<BTreeMap<String, String>, BadLine> {
    let mut variables = BTreeMap::new();
    let mut reader = Reader { rest: text.strip_prefix('\u{feff}').unwrap_or(text).chars().peekable(), line: 1 };
    loop {
        reader.skip(char::is_whitespace);
        let line = reader.line;
        match reader.rest.peek() {
            None => return Ok(variables),
            Some('#') => {
                reader.skip(|c| c != '\n');
                continue;
            }
            Some(_) => {}
        }
        let name = reader.name().map_err(|reason| BadLine { line, name: None, reason })?;
        let bad = |reason| BadLine { line, name: Some(name.clone()).filter(|name| is_ours(name)), reason };
        let lookup = |other: &str| outer(other).or_else(|| variables.get(other).cloned());
        let value = reader.value(lookup, is_ours(&name)).map_err(bad)?;
        variables.insert(name, value);
    }
}

struct Reader<'a> {
    rest: Peekable<Chars<'a>>,
    line: usize,
}

impl Reader<'_> {
    fn next(&mut self) -> Option<char> {
        let next = self.rest.next();
        self.line += usize::from(next == Some('\n'));
        next
    }

    fn skip(&mut self, skipped: impl Fn(char) -> bool) {
        while self.rest.peek().is_some_and(|c| skipped(*c)) {
            self.next();
        }
    }

    fn word(&mut self, part: impl Fn(char) -> bool) -> String {
        let mut word = String::new();
        while let Some(c) = self.rest.next_if(|c| part(*c)) {
            word.push(c);
        }
        word
    }

    /// The name and the `=` behind it.
    fn name(&mut self) -> Result<String, &'static str> {
        let mut name = self.identifier()?;
        self.skip(is_blank);
        if name == "export" && self.rest.peek() != Some(&'=') {
            name = self.identifier()?;
            self.skip(is_blank);
        }
        self.rest.next_if_eq(&'=').map(|_| name).ok_or(NO_EQUALS)
    }

    fn identifier(&mut self) -> Result<String, &'static str> {
        if !self.rest.peek().is_some_and(|c| c.is_ascii_alphabetic() || *c == '_') {
            return Err(NO_NAME);
        }
        Ok(self.word(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.')))
    }

    fn value(&mut self, lookup: impl Fn(&str) -> Option<String>, is_strict: bool) -> Result<String, &'static str> {
        let mut value = String::new();
        self.skip(is_blank);
        if self.rest.peek() == Some(&'#') {
            return Ok(value);
        }
        while let Some(c) = self.next() {
            match c {
                '\n' => break,
                '\'' => loop {
                    match self.next().ok_or(UNCLOSED)? {
                        '\'' => break,
                        c => value.push(c),
                    }
                },
                '"' => loop {
                    match self.next().ok_or(UNCLOSED)? {
                        '"' => break,
                        '\\' => value.push(self.escaped()?),
                        '$' => value.push_str(&self.substituted(&lookup, is_strict)?),
                        c => value.push(c),
                    }
                },
                '\\' => value.push(self.escaped()?),
                '$' => value.push_str(&self.substituted(&lookup, is_strict)?),
                c if is_blank(c) => {
                    self.skip(is_blank);
                    match self.rest.peek() {
                        None | Some('\n' | '#') => break,
                        Some(_) => return Err(SPACE),
                    }
                }
                c => value.push(c),
            }
        }
        Ok(value)
    }

    fn escaped(&mut self) -> Result<char, &'static str> {
        match self.next() {
            Some(c @ ('\\' | '"' | '\'' | '$' | ' ')) => Ok(c),
            Some('n') => Ok('\n'),
            _ => Err(ESCAPE),
        }
    }

    fn substituted(
        &mut self,
        lookup: impl Fn(&str) -> Option<String>,
        is_strict: bool,
    ) -> Result<String, &'static str> {
        let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let name = if self.rest.next_if_eq(&'{').is_some() {
            let name = self.word(in_name);
            self.rest.next_if_eq(&'}').ok_or(BRACE)?;
            name
        } else {
            self.word(in_name)
        };
        match lookup(&name) {
            Some(value) => Ok(value),
            None if is_strict => Err(UNSET),
            None => Ok(String::new()),
        }
    }
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\r')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<BTreeMap<String, String>, BadLine> {
        let outer = |name: &str| (name == "OUTER").then(|| "outside".to_owned());
        parse(text, outer, |name| name.starts_with("OURS"))
    }

    #[test]
    fn values_are_read_as_the_shell_does() {
        let text = "\u{feff}\n# A=comment\nA=1\r\nB=\"2 b\" # comment\nC='3 $x \\n'\n D = s\\ ix\nE=\nF=   # foo\n\
                    export G=1\nexport = own\nH=\"line 1\\nline 2\"\nI=\"over\ntwo\"\nJ=a#b\nK='sweet $\\fgs'\\''fds'\n\
                    L=$A-${B}-$OUTER\nM=\\$A\nN=other$nothing\nA=last\n\tO.p=q\nOURS='p$1'";
        let values = read(text).unwrap();
        for (name, value) in [
            ("A", "last"),
            ("B", "2 b"),
            ("C", "3 $x \\n"),
            ("D", "s ix"),
            ("E", ""),
            ("F", ""),
            ("G", "1"),
            ("export", "own"),
            ("H", "line 1\nline 2"),
            ("I", "over\ntwo"),
            ("J", "a#b"),
            ("K", "sweet $\\fgs'fds"),
            ("L", "1-2 b-outside"),
            ("M", "$A"),
            ("N", "other"),
            ("O.p", "q"),
            ("OURS", "p$1"),
        ] {
            assert_eq!(values.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert_eq!(values.len(), 17);
    }

    #[test]
    fn an_error_has_a_line_and_no_contents() {
        for (text, line, name, reason) in [
            ("A=1\n\nOURS=hunter2 word\n", 3, Some("OURS"), SPACE),
            ("OTHER=hunter2 word", 1, None, SPACE),
            ("\n\nOURS=\"over\ntwo\nhunter2", 3, Some("OURS"), UNCLOSED),
            ("OURS='hunter2", 1, Some("OURS"), UNCLOSED),
            ("I=\"over\ntwo\"\nOURS=h\\unter2", 3, Some("OURS"), ESCAPE),
            ("OURS=pa$hunter2", 1, Some("OURS"), UNSET),
            ("OURS=pa$", 1, Some("OURS"), UNSET),
            ("OURS=pa${hunter2", 1, Some("OURS"), BRACE),
            ("hunter2", 1, None, NO_EQUALS),
            ("export hunter2", 1, None, NO_EQUALS),
            ("OURS hunter2", 1, None, NO_EQUALS),
            ("OURS: hunter2", 1, None, NO_EQUALS),
            ("=hunter2", 1, None, NO_NAME),
            ("<hunter2>", 1, None, NO_NAME),
        ] {
            let bad = BadLine { line, name: name.map(str::to_owned), reason };
            assert_eq!(read(text), Err(bad), "{text}");
        }
    }
}
