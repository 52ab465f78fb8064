//! Detects statements that change the state of their session, by their first words.
//!
//! The pool begins and ends transactions itself. A raw statement that does so, or one that commits implicitly (MySQL),
//! makes the tracked state wrong: earlier statements can no longer be rolled back, and later ones may belong to a
//! transaction that never ends.

use sea_orm::DbBackend;

/// The effect of a statement on its session.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum SessionEffect {
    #[default]
    None,
    /// Session settings or session-local objects may have changed.
    Settings,
    /// A procedure was called. Outside of a transaction it may commit (PostgreSQL).
    Procedure,
    /// A transaction may have begun or ended.
    Transaction,
}

impl SessionEffect {
    /// Returns the strongest effect in a text, which may contain several statements.
    pub(super) fn of(sql: &str, backend: DbBackend) -> Self {
        let mut tokens = Tokens { rest: sql.as_bytes(), backend };
        let is_single = !sql.contains(';');
        let mut strongest = Self::None;
        while let Some(token) = tokens.next() {
            let Token::Word(first) = token else { continue };
            strongest = strongest.max(Self::of_statement(first, &mut tokens));
            if is_single || strongest == Self::Transaction {
                break;
            }
            tokens.skip_statement();
        }
        strongest
    }

    fn of_statement(first: &[u8], tokens: &mut Tokens<'_>) -> Self {
        let is = |word: &str| first.eq_ignore_ascii_case(word.as_bytes());
        let is_one_of = |words: &[&str]| words.iter().any(|word| is(word));
        // Nearly all statements begin with one of these.
        if is_one_of(&["SELECT", "INSERT", "UPDATE", "DELETE", "WITH"]) {
            return Self::None;
        }
        if is_one_of(&["BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT", "SAVEPOINT", "RELEASE"]) {
            return Self::Transaction;
        }
        match tokens.backend {
            DbBackend::MySql => Self::of_mysql(is_one_of, tokens),
            DbBackend::Postgres if is("SET") => {
                let is_local = tokens.next_is_one_of(&["LOCAL", "CONSTRAINTS", "TRANSACTION"]);
                if is_local { Self::None } else { Self::Settings }
            }
            DbBackend::Postgres if is("PREPARE") => {
                if tokens.next_is_one_of(&["TRANSACTION"]) {
                    Self::Transaction
                } else {
                    Self::Settings
                }
            }
            DbBackend::Postgres if is_one_of(&["RESET", "DISCARD", "DEALLOCATE", "LISTEN"]) => Self::Settings,
            DbBackend::Postgres if is_one_of(&["CALL", "DO"]) => Self::Procedure,
            DbBackend::Sqlite if is_one_of(&["ATTACH", "DETACH"]) => Self::Settings,
            DbBackend::Sqlite if is("PRAGMA") => {
                const ONLY_READ: [&str; 10] = [
                    "table_info",
                    "table_xinfo",
                    "table_list",
                    "index_list",
                    "index_info",
                    "index_xinfo",
                    "foreign_key_list",
                    "foreign_key_check",
                    "integrity_check",
                    "quick_check",
                ];
                let reads = tokens.next_is_one_of(&ONLY_READ);
                let sets = tokens.statement_has(|token| matches!(token, Token::Symbol(b'=' | b'(')));
                if sets && !reads { Self::Settings } else { Self::None }
            }
            _ if is("CREATE") => {
                let is_temporary = tokens.next_is_one_of(&["TEMP", "TEMPORARY"]);
                if is_temporary { Self::Settings } else { Self::None }
            }
            _ => Self::None,
        }
    }

    fn of_mysql(is_one_of: impl Fn(&[&str]) -> bool, tokens: &mut Tokens<'_>) -> Self {
        const COMMITS_IMPLICITLY: [&str; 21] = [
            "ALTER",
            "ANALYZE",
            "CACHE",
            "CHECK",
            "FLUSH",
            "GRANT",
            "INSTALL",
            "LOAD",
            "LOCK",
            "OPTIMIZE",
            "RENAME",
            "REPAIR",
            "RESET",
            "REVOKE",
            "SHUTDOWN",
            "STOP",
            "TRUNCATE",
            "UNINSTALL",
            "UNLOCK",
            "CHANGE",
            "IMPORT",
        ];
        // The text of the procedure or prepared statement is unknown.
        const UNKNOWN: [&str; 3] = ["CALL", "EXECUTE", "XA"];
        if is_one_of(&COMMITS_IMPLICITLY) || is_one_of(&UNKNOWN) {
            return Self::Transaction;
        }
        if is_one_of(&["CREATE", "DROP"]) {
            let is_temporary = tokens.next_is_one_of(&["TEMPORARY"]);
            return if is_temporary { Self::Settings } else { Self::Transaction };
        }
        if is_one_of(&["SET"]) {
            return match tokens.next() {
                // Applies to a single statement only.
                Some(Token::Word(word)) if word.eq_ignore_ascii_case(b"STATEMENT") => Self::None,
                Some(token) if is_autocommit(&token) || tokens.statement_has(is_autocommit) => Self::Transaction,
                _ => Self::Settings,
            };
        }
        if is_one_of(&["USE", "PREPARE"]) { Self::Settings } else { Self::None }
    }
}

fn is_autocommit(token: &Token<'_>) -> bool {
    matches!(token, Token::Word(word) if word.eq_ignore_ascii_case(b"AUTOCOMMIT") || word.eq_ignore_ascii_case(b"PASSWORD"))
}

#[derive(Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a [u8]),
    /// The end of a statement.
    End,
    Symbol(u8),
}

/// The words and symbols of a text, without comments and quoted text.
struct Tokens<'a> {
    rest: &'a [u8],
    backend: DbBackend,
}

impl<'a> Tokens<'a> {
    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let (&first, rest) = self.rest.split_first()?;
            match first {
                _ if first.is_ascii_whitespace() => self.rest = rest,
                b';' => {
                    self.rest = rest;
                    return Some(Token::End);
                }
                b'-' if rest.first() == Some(&b'-') && self.begins_comment(rest) => self.skip_past(b"\n", 2),
                b'#' if self.backend == DbBackend::MySql => self.skip_past(b"\n", 1),
                b'/' if rest.first() == Some(&b'*') => self.skip_comment(),
                b'*' if rest.first() == Some(&b'/') => self.rest = &rest[1..],
                b'\'' | b'"' | b'`' => self.skip_quoted(first, self.backend == DbBackend::MySql && first != b'`'),
                b'$' if self.backend == DbBackend::Postgres => self.skip_dollar_quoted(),
                _ if is_word(first) => {
                    let length =
                        self.rest.iter().position(|byte| !is_word(*byte) && *byte != b'$').unwrap_or(self.rest.len());
                    let (word, rest) = self.rest.split_at(length);
                    self.rest = rest;
                    if self.backend == DbBackend::Postgres
                        && word.eq_ignore_ascii_case(b"E")
                        && rest.first() == Some(&b'\'')
                    {
                        self.skip_quoted(b'\'', true);
                    }
                    return Some(Token::Word(word));
                }
                _ => {
                    self.rest = rest;
                    return Some(Token::Symbol(first));
                }
            }
        }
    }

    /// Whether two dashes begin a comment. On MySQL they must be followed by white space.
    fn begins_comment(&self, second: &[u8]) -> bool {
        self.backend != DbBackend::MySql
            || second.get(1).is_none_or(|byte| byte.is_ascii_whitespace() || byte.is_ascii_control())
    }

    fn next_is_one_of(&mut self, words: &[&str]) -> bool {
        matches!(self.next(), Some(Token::Word(word)) if words.iter().any(|one| word.eq_ignore_ascii_case(one.as_bytes())))
    }

    /// Whether a token up to the end of the statement matches.
    fn statement_has(&mut self, matches_token: impl Fn(&Token<'a>) -> bool) -> bool {
        loop {
            let before = self.rest;
            match self.next() {
                None => return false,
                Some(Token::End) => {
                    // The caller continues with the next statement there.
                    self.rest = before;
                    return false;
                }
                Some(token) if matches_token(&token) => return true,
                Some(_) => {}
            }
        }
    }

    fn skip_statement(&mut self) {
        while !matches!(self.next(), None | Some(Token::End)) {}
    }

    /// Skips everything up to and including `end`, starting at `from`.
    fn skip_past(&mut self, end: &[u8], from: usize) {
        let rest = &self.rest[from.min(self.rest.len())..];
        let at = rest.windows(end.len()).position(|window| window == end);
        self.rest = at.map_or(&[], |at| &rest[at + end.len()..]);
    }

    fn skip_comment(&mut self) {
        let inside = &self.rest[2..];
        // MySQL and MariaDB execute the content of these comments.
        let executable = inside.strip_prefix(b"!").or_else(|| inside.strip_prefix(b"M!"));
        match executable {
            Some(code) if self.backend == DbBackend::MySql => {
                let digits = code.iter().take_while(|byte| byte.is_ascii_digit()).count();
                self.rest = &code[digits..];
            }
            _ => self.skip_past(b"*/", 2),
        }
    }

    fn skip_quoted(&mut self, quote: u8, has_escapes: bool) {
        let mut at = 1;
        while let Some(&byte) = self.rest.get(at) {
            at += 1;
            if byte == b'\\' && has_escapes {
                at += 1;
            } else if byte == quote {
                break;
            }
        }
        self.rest = &self.rest[at.min(self.rest.len())..];
    }

    fn skip_dollar_quoted(&mut self) {
        let tag = self.rest[1..].iter().position(|byte| !is_word(*byte));
        match tag {
            Some(length) if self.rest[1 + length] == b'$' => {
                let (tag, _) = self.rest.split_at(length + 2);
                self.skip_past(tag, tag.len());
            }
            // Not a quote but a parameter.
            _ => self.rest = &self.rest[1..],
        }
    }
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_' || byte >= 0x80
}

#[cfg(test)]
mod tests {
    use super::{
        SessionEffect::{None, Procedure, Settings, Transaction},
        *,
    };

    #[test]
    fn transaction_statements_are_detected() {
        for backend in [DbBackend::MySql, DbBackend::Postgres, DbBackend::Sqlite] {
            for (sql, effect) in [
                ("BEGIN", Transaction),
                ("  begin\n", Transaction),
                ("/* a comment */ -- another\n COMMIT", Transaction),
                ("Start Transaction READ ONLY", Transaction),
                ("SELECT 1; ROLLBACK", Transaction),
                ("SELECT ';begin'; SELECT \"x;begin\"", None),
                ("SELECT 'it''s; BEGIN'", None),
                ("SAVEPOINT x", Transaction),
                ("SELECT 1", None),
                ("INSERT INTO begin VALUES (1)", None),
                ("-- COMMIT", None),
                ("", None),
                (";;", None),
                ("'", None),
                ("/*", None),
            ] {
                assert_eq!(SessionEffect::of(sql, backend), effect, "{backend:?}: {sql}");
            }
        }
    }

    #[test]
    fn effects_depend_on_the_engine() {
        let (mysql, postgres, sqlite) = (DbBackend::MySql, DbBackend::Postgres, DbBackend::Sqlite);
        for (backend, sql, effect) in [
            (mysql, "SET autocommit = 0", Transaction),
            (mysql, "SET sql_mode = '', @@session.autocommit=0", Transaction),
            (mysql, "SET sql_mode = 'autocommit'", Settings),
            (mysql, "SET STATEMENT max_statement_time = 1 FOR SELECT 1", None),
            (mysql, "CREATE TABLE t (id INT)", Transaction),
            (mysql, "/*!50000 TRUNCATE t */", Transaction),
            (mysql, "/*M!100101 ALTER TABLE t ADD x INT */", Transaction),
            (mysql, "CREATE TEMPORARY TABLE t (id INT)", Settings),
            (mysql, "SELECT 'a\\'; COMMIT'", None),
            (mysql, "SELECT 1 # ; COMMIT", None),
            (mysql, "CALL p()", Transaction),
            (mysql, "USE other", Settings),
            (mysql, "SET sql_mode = ''; COMMIT", Transaction),
            (mysql, "SELECT 5--1; COMMIT", Transaction),
            (mysql, "SELECT 5 -- 1; COMMIT", None),
            (postgres, "CALL p()", Procedure),
            (postgres, "SELECT a$b$ FROM t; COMMIT; SELECT $b$", Transaction),
            (sqlite, "PRAGMA table_info(t); BEGIN", Transaction),
            (sqlite, "PRAGMA foreign_keys; BEGIN IMMEDIATE", Transaction),
            (sqlite, "PRAGMA foreign_keys(0)", Settings),
            (postgres, "CREATE TABLE t (id INT)", None),
            (postgres, "CREATE TEMP TABLE t (id INT)", Settings),
            (postgres, "SET LOCAL lock_timeout = 1", None),
            (postgres, "SET TRANSACTION READ ONLY", None),
            (postgres, "SET search_path = other", Settings),
            (postgres, "PREPARE TRANSACTION 'x'", Transaction),
            (postgres, "DO $x$ BEGIN; COMMIT; $x$; SELECT $1", Procedure),
            (postgres, "SELECT E'a\\'; COMMIT'", None),
            (postgres, "SELECT 'a\\'; COMMIT", Transaction),
            (sqlite, "PRAGMA foreign_keys = OFF", Settings),
            (sqlite, "PRAGMA table_info(t)", None),
            (sqlite, "CREATE TABLE t (id INT)", None),
        ] {
            assert_eq!(SessionEffect::of(sql, backend), effect, "{backend:?}: {sql}");
        }
    }
}
