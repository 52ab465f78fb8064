//! Server URLs: `postgres://USER:PASSWORD@HOST:PORT/DATABASE?NAME=VALUE`.

use std::{fmt, net::IpAddr, path::PathBuf};

use super::{
    engine::Engine,
    host::{Host, PORT, host, host_and_port, is_loopback, port},
    invalid::InvalidUrl,
    parameter_tables::{self, Meaning, Table},
    parameters::{self, Shown},
    text::{self, ENCODE, Parameter},
    tls::{Tls, TlsMode, TlsRequirements},
};

/// What differs between the engines.
pub(super) struct Dialect {
    engine: Engine,
    port: u16,
    table: Table,
    variables: &'static [(&'static str, &'static str)],
}

pub(super) const POSTGRES: Dialect = Dialect {
    engine: Engine::Postgres,
    port: 5432,
    table: parameter_tables::POSTGRES,
    variables: parameter_tables::POSTGRES_VARIABLES,
};

pub(super) const MYSQL: Dialect =
    Dialect { engine: Engine::MySql, port: 3306, table: parameter_tables::MYSQL, variables: &[] };

/// A database on a server.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::connect) struct ServerAddress {
    pub(in crate::connect) engine: Engine,
    /// `None` for the operating system's user (PostgreSQL).
    pub(in crate::connect) user: Option<String>,
    pub(in crate::connect) password: Option<String>,
    /// Whether the password is set explicitly rather than by an environment variable.
    has_explicit_password: bool,
    pub(in crate::connect) host: Host,
    pub(in crate::connect) port: u16,
    pub(in crate::connect) database: String,
    pub(in crate::connect) tls: Tls,
    pub(in crate::connect) application_name: Option<String>,
    /// Session settings from the URL.
    pub(in crate::connect) session: Vec<(String, String)>,
    pub(in crate::connect) statement_cache: Option<usize>,
    shown: ShownParts,
}

/// The parts of the URL as they may be shown.
#[derive(Clone, Default, PartialEq, Eq)]
struct ShownParts {
    scheme: &'static str,
    user: String,
    /// Host, port, path and query.
    rest: String,
}

/// The parts of the URL before its parameters.
struct Authority {
    user: Option<String>,
    password: Option<String>,
    host: Option<Host>,
    port: Option<u16>,
    database: Option<String>,
}

/// What the parameters and environment variables set.
#[derive(Default)]
struct Settings {
    user: Option<String>,
    password: Option<String>,
    has_explicit_password: bool,
    host: Option<Host>,
    socket: Option<PathBuf>,
    port: Option<u16>,
    database: Option<String>,
    application_name: Option<String>,
    session: Vec<(String, String)>,
    statement_cache: Option<usize>,
    tls: TlsRequirements,
}

impl ServerAddress {
    pub(super) fn parse(
        dialect: &Dialect,
        scheme: &'static str,
        rest: &str,
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<Self, InvalidUrl> {
        let rest = rest.strip_prefix("//").ok_or(InvalidUrl::NotAUrl(""))?;
        if rest.chars().any(|c| c.is_whitespace() || c.is_control()) {
            return Err(InvalidUrl::part(format!("contains whitespace or a control character; {ENCODE}")));
        }
        let rest = text::without_fragment(rest)?;
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = address.split_once('/').unwrap_or((address, ""));
        // Only the @ after user and password needs no escaping.
        if rest.matches('@').count() > usize::from(authority.contains('@')) {
            return Err(InvalidUrl::part(format!("has an unescaped @; {ENCODE}")));
        }
        let (login, server) = match authority.split_once('@') {
            Some((login, server)) => (Some(login), server),
            None => (None, authority),
        };
        let authority = Authority::parse(login, server, path)?;
        let mut shown = Shown::default();
        let mut settings = Settings::default();
        let known = parameters::known(dialect.table, text::parameters(query)?)?;
        for (parameter, meaning) in &known {
            let is_closed = settings.apply(parameter, *meaning)?;
            shown.push(parameter, is_closed);
        }
        let shown = ShownParts {
            scheme,
            user: login.map_or("", |login| login.split(':').next().unwrap_or_default()).to_owned(),
            rest: format!("{server}/{path}{}", shown.into_query()),
        };
        authority.refuse_duplicates(&settings)?;
        settings.apply_variables(dialect, &authority, &known, variable)?;
        Self::resolve(dialect, authority, settings, shown)
    }

    fn resolve(
        dialect: &Dialect,
        authority: Authority,
        settings: Settings,
        shown: ShownParts,
    ) -> Result<Self, InvalidUrl> {
        let socket = settings.socket.map(Host::Socket);
        let host = socket.or(settings.host).or(authority.host).ok_or_else(|| {
            InvalidUrl::part(format!(
                "has no host; add localhost, the name of the server or {}",
                if dialect.engine == Engine::Postgres {
                    "a socket directory (?host=/var/run/postgresql)"
                } else {
                    "a socket (?socket=/run/mysqld/mysqld.sock)"
                }
            ))
        })?;
        let user = authority.user.or(settings.user);
        if user.is_none() && dialect.engine == Engine::MySql {
            return Err(InvalidUrl::part("has no user; expected mysql://USER@HOST/DATABASE"));
        }
        let database = authority.database.or(settings.database).ok_or_else(|| {
            InvalidUrl::part(format!("has no database; expected {}://USER@HOST/DATABASE", shown.scheme))
        })?;
        let mut tls = settings.tls.resolve()?;
        if dialect.engine == Engine::Postgres && matches!(host, Host::Socket(_)) {
            // As in libpq: a Unix socket never leaves the machine, and the server refuses TLS on it.
            tls.mode = TlsMode::Disable;
        }
        Ok(Self {
            engine: dialect.engine,
            user,
            has_explicit_password: authority.password.is_some() || settings.has_explicit_password,
            password: authority.password.or(settings.password),
            host,
            port: authority.port.or(settings.port).unwrap_or(dialect.port),
            database,
            tls,
            application_name: settings.application_name,
            session: settings.session,
            statement_cache: settings.statement_cache,
            shown,
        })
    }

    pub(super) fn with_password(self, password: &str) -> Result<Self, InvalidUrl> {
        if self.has_explicit_password {
            return Err(InvalidUrl::part("the password is given twice: in the URL and separately; remove one"));
        }
        Ok(Self { password: Some(password.to_owned()), has_explicit_password: true, ..self })
    }

    pub(super) fn without_credentials(&self) -> Self {
        Self { user: None, password: None, has_explicit_password: false, shown: ShownParts::default(), ..self.clone() }
    }

    pub(super) fn host_text(&self) -> Option<&str> {
        match &self.host {
            Host::Name(host) => Some(host),
            Host::Socket(_) => None,
        }
    }

    pub(super) fn is_unverified(&self) -> bool {
        self.host_text().is_some_and(|host| !is_loopback(host)) && self.tls.mode != TlsMode::VerifyFull
    }
}

impl Authority {
    fn parse(login: Option<&str>, server: &str, path: &str) -> Result<Self, InvalidUrl> {
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (text::decode("the user", user)?, text::decode("the password", password)?),
            None => (String::new(), String::new()),
        };
        let (host, port) = host_and_port(server)?;
        if path.contains('/') {
            return Err(InvalidUrl::part(format!("has a second / after the host; {ENCODE}")));
        }
        let database = text::decode("the database", path)?;
        let some = |text: String| (!text.is_empty()).then_some(text);
        Ok(Self { user: some(user), password: some(password), host, port, database: some(database) })
    }

    /// Refuses parameters that repeat a part of the URL.
    fn refuse_duplicates(&self, settings: &Settings) -> Result<(), InvalidUrl> {
        // A socket replaces the host, which several clients require nevertheless.
        let host = matches!((&self.host, &settings.host), (Some(_), Some(Host::Name(_))));
        for (is_duplicate, what) in [
            (host, "host"),
            (self.user.is_some() && settings.user.is_some(), "user"),
            (self.password.is_some() && settings.password.is_some(), "password"),
            (self.port.is_some() && settings.port.is_some(), "port"),
            (self.database.is_some() && settings.database.is_some(), "database"),
        ] {
            if is_duplicate {
                return Err(InvalidUrl::part(format!(
                    "the {what} is given twice: before the ? and as a parameter; remove one"
                )));
            }
        }
        Ok(())
    }
}

impl Settings {
    /// Applies one parameter. Returns whether its value is from a closed set.
    fn apply(&mut self, parameter: &Parameter, meaning: Meaning) -> Result<bool, InvalidUrl> {
        if let Some(is_closed) = self.tls.apply(parameter, meaning)? {
            return Ok(is_closed);
        }
        match meaning {
            Meaning::Host => self.host = Some(host(parameter.text()?).map_err(|reason| parameter.refused(reason))?),
            Meaning::HostAddress => {
                let address = parameter.number::<IpAddr>("an IP address")?;
                if self.host.is_some() {
                    return Err(parameter.refused("cannot be combined with host; remove one"));
                }
                self.host = Some(Host::Name(address.to_string()));
            }
            Meaning::Port => self.port = Some(port(&parameter.value).ok_or_else(|| parameter.refused(PORT))?),
            Meaning::User => self.user = Some(parameter.text()?.to_owned()),
            Meaning::Password => {
                self.password = Some(parameter.text()?.to_owned());
                self.has_explicit_password = parameter.is_from_url;
            }
            Meaning::Database => self.database = Some(parameter.text()?.to_owned()),
            Meaning::Socket => self.socket = Some(parameter.text()?.into()),
            Meaning::ApplicationName => self.application_name = Some(parameter.text()?.to_owned()),
            Meaning::SessionOptions => self.session.extend(session_options(parameter)?),
            Meaning::SessionOption => {
                let name = parameter.name.trim_start_matches("options[").trim_end_matches(']');
                self.session.push((name.to_owned(), parameter.text()?.to_owned()));
            }
            Meaning::SearchPath => self.session.push(("search_path".to_owned(), parameter.text()?.to_owned())),
            Meaning::Schema => {
                let quoted = format!("\"{}\"", parameter.text()?.replace('"', "\"\""));
                self.session.push(("search_path".to_owned(), quoted));
            }
            Meaning::StatementCache => {
                self.statement_cache = Some(parameter.number("a whole number, such as 100")?);
            }
            Meaning::Only(_) => return Ok(true),
            _ => {}
        }
        Ok(false)
    }

    /// Applies the environment variables for what the URL leaves open.
    fn apply_variables(
        &mut self,
        dialect: &Dialect,
        authority: &Authority,
        known: &[(Parameter, Meaning)],
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(), InvalidUrl> {
        let is_given = |meanings: &[Meaning]| known.iter().any(|(_, meaning)| meanings.contains(meaning));
        let mut variables = Vec::new();
        for (name, parameter) in dialect.variables {
            if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
                let parameter = Parameter::from_variable(name, parameter, value);
                let covered = match parameters::find(dialect.table, &parameter) {
                    Some(Meaning::Host | Meaning::HostAddress) => authority.host.is_some() || self.host.is_some(),
                    Some(Meaning::Port) => authority.port.is_some() || authority.host.is_some() || self.port.is_some(),
                    Some(Meaning::User) => authority.user.is_some() || self.user.is_some(),
                    Some(Meaning::Password) => authority.password.is_some() || self.password.is_some(),
                    Some(Meaning::Database) => authority.database.is_some() || self.database.is_some(),
                    Some(Meaning::SslMode | Meaning::RequireTls) => {
                        is_given(&[Meaning::SslMode, Meaning::Ssl, Meaning::SslAccept, Meaning::RequireTls])
                    }
                    // Certificate and key belong together.
                    Some(Meaning::Certificate | Meaning::Key) => is_given(&[Meaning::Certificate, Meaning::Key]),
                    Some(Meaning::Only(_) | Meaning::Refused(_)) => {
                        known.iter().any(|(other, _)| other.key == parameter.key)
                    }
                    Some(meaning) => is_given(&[meaning]),
                    None => true,
                };
                if !covered {
                    variables.push(parameter);
                }
            }
        }
        for (parameter, meaning) in parameters::known(dialect.table, variables)? {
            self.apply(&parameter, meaning)?;
        }
        Ok(())
    }
}

/// Parses `-c name=value`, `-cname=value` and `--name=value`, where a backslash escapes whitespace.
fn session_options(parameter: &Parameter) -> Result<Vec<(String, String)>, InvalidUrl> {
    let malformed = || {
        parameter.refused(
            "must be a list of -c name=value or --name=value (remove a Neon endpoint: the host name identifies it)",
        )
    };
    let mut words: Vec<String> = Vec::new();
    let mut is_open = false;
    let mut characters = parameter.text()?.chars();
    while let Some(character) = characters.next() {
        if character.is_whitespace() {
            is_open = false;
            continue;
        }
        if !is_open {
            words.push(String::new());
            is_open = true;
        }
        let literal = if character == '\\' { characters.next().ok_or_else(malformed)? } else { character };
        words.last_mut().ok_or_else(malformed)?.push(literal);
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let pair = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => words.next().ok_or_else(malformed)?,
            Some(pair) => pair.to_owned(),
            None => return Err(malformed()),
        };
        let (name, value) = pair.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(malformed)?;
        settings.push((name.replace('-', "_"), value.to_owned()));
    }
    Ok(settings)
}

impl fmt::Display for ServerAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ShownParts { scheme, user, rest } = &self.shown;
        let secret = if self.password.is_some() { ":***" } else { "" };
        let at = if user.is_empty() && secret.is_empty() { "" } else { "@" };
        write!(f, "{scheme}://{user}{secret}{at}{rest}")
    }
}
