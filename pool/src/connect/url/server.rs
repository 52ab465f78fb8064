//! URLs of servers: `postgres://USER:PASSWORD@HOST:PORT/DATABASE?NAME=VALUE`.

use std::{fmt, net::IpAddr, path::PathBuf};

use super::{
    engine::Engine,
    host::{Host, PORT, host, host_and_port, is_loopback, port},
    invalid::InvalidUrl,
    parameters::{self, Meaning, Shown, Table},
    text::{self, ENCODE, Parameter},
    tls::{Demands, Tls, TlsMode},
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
    table: parameters::POSTGRES,
    variables: parameters::POSTGRES_VARIABLES,
};

pub(super) const MYSQL: Dialect =
    Dialect { engine: Engine::MySql, port: 3306, table: parameters::MYSQL, variables: &[] };

/// A database on a server.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::connect) struct ServerAddress {
    pub(in crate::connect) engine: Engine,
    /// None for the user of the operating system (PostgreSQL).
    pub(in crate::connect) user: Option<String>,
    pub(in crate::connect) password: Option<String>,
    /// Whether the password stands in the URL, not in the environment.
    has_own_password: bool,
    pub(in crate::connect) host: Host,
    pub(in crate::connect) port: u16,
    pub(in crate::connect) database: String,
    pub(in crate::connect) tls: Tls,
    pub(in crate::connect) application_name: Option<String>,
    /// Settings of the session that the URL asks for.
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

/// What stands in the URL itself, before its parameters.
struct Authority {
    user: Option<String>,
    password: Option<String>,
    host: Option<Host>,
    port: Option<u16>,
    database: Option<String>,
}

/// What the parameters and variables say.
#[derive(Default)]
struct Given {
    user: Option<String>,
    password: Option<String>,
    has_own_password: bool,
    host: Option<Host>,
    socket: Option<PathBuf>,
    port: Option<u16>,
    database: Option<String>,
    application_name: Option<String>,
    session: Vec<(String, String)>,
    statement_cache: Option<usize>,
    tls: Demands,
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
            return Err(InvalidUrl::part(format!("has white space or a control character in it; {ENCODE}")));
        }
        let rest = text::without_fragment(rest)?;
        let (address, query) = rest.split_once('?').unwrap_or((rest, ""));
        let (authority, path) = address.split_once('/').unwrap_or((address, ""));
        // The only one that has a meaning ends user and password.
        if rest.matches('@').count() > usize::from(authority.contains('@')) {
            return Err(InvalidUrl::part(format!("has an unescaped @; {ENCODE}")));
        }
        let (login, server) = match authority.split_once('@') {
            Some((login, server)) => (Some(login), server),
            None => (None, authority),
        };
        let own = Authority::parse(login, server, path)?;
        let mut shown = Shown::default();
        let mut given = Given::default();
        let known = parameters::known(dialect.table, text::parameters(query)?)?;
        for (parameter, meaning) in &known {
            let is_closed = given.take(parameter, *meaning)?;
            shown.push(parameter, is_closed);
        }
        let shown = ShownParts {
            scheme,
            user: login.map_or("", |login| login.split(':').next().unwrap_or_default()).to_owned(),
            rest: format!("{server}/{path}{}", shown.into_query()),
        };
        own.refuse_what_is_given_twice(&given)?;
        given.fill(dialect, &own, &known, variable)?;
        Self::resolve(dialect, own, given, shown)
    }

    fn resolve(dialect: &Dialect, own: Authority, given: Given, shown: ShownParts) -> Result<Self, InvalidUrl> {
        let socket = given.socket.map(Host::Socket);
        let host = socket.or(given.host).or(own.host).ok_or_else(|| {
            InvalidUrl::part(format!(
                "names no host; write localhost or the name of the server, or {}",
                if dialect.engine == Engine::Postgres {
                    "the folder of a socket (?host=/var/run/postgresql)"
                } else {
                    "a socket (?socket=/run/mysqld/mysqld.sock)"
                }
            ))
        })?;
        let user = own.user.or(given.user);
        if user.is_none() && dialect.engine == Engine::MySql {
            return Err(InvalidUrl::part("names no user; write mysql://USER@HOST/DATABASE"));
        }
        let database = own.database.or(given.database).ok_or_else(|| {
            InvalidUrl::part(format!("names no database; write {}://USER@HOST/DATABASE", shown.scheme))
        })?;
        let mut tls = given.tls.resolve()?;
        if dialect.engine == Engine::Postgres && matches!(host, Host::Socket(_)) {
            // As in libpq: a socket never leaves the machine, and its server refuses TLS.
            tls.mode = TlsMode::Disable;
        }
        Ok(Self {
            engine: dialect.engine,
            user,
            has_own_password: own.password.is_some() || given.has_own_password,
            password: own.password.or(given.password),
            host,
            port: own.port.or(given.port).unwrap_or(dialect.port),
            database,
            tls,
            application_name: given.application_name,
            session: given.session,
            statement_cache: given.statement_cache,
            shown,
        })
    }

    pub(super) fn with_password(self, password: &str) -> Result<Self, InvalidUrl> {
        if self.has_own_password {
            return Err(InvalidUrl::part("the password is given twice: in the URL and by itself; remove one"));
        }
        Ok(Self { password: Some(password.to_owned()), has_own_password: true, ..self })
    }

    pub(super) fn without_credentials(&self) -> Self {
        Self { user: None, password: None, has_own_password: false, shown: ShownParts::default(), ..self.clone() }
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

    /// A parameter that says what the URL has said before it.
    fn refuse_what_is_given_twice(&self, given: &Given) -> Result<(), InvalidUrl> {
        // A socket takes the place of the host, which several clients demand even so.
        let host = matches!((&self.host, &given.host), (Some(_), Some(Host::Name(_))));
        for (twice, what) in [
            (host, "host"),
            (self.user.is_some() && given.user.is_some(), "user"),
            (self.password.is_some() && given.password.is_some(), "password"),
            (self.port.is_some() && given.port.is_some(), "port"),
            (self.database.is_some() && given.database.is_some(), "database"),
        ] {
            if twice {
                return Err(InvalidUrl::part(format!("the {what} is given twice: as a parameter, too; remove one")));
            }
        }
        Ok(())
    }
}

impl Given {
    /// Takes one parameter. Returns whether its value is one of a closed set.
    fn take(&mut self, parameter: &Parameter, meaning: Meaning) -> Result<bool, InvalidUrl> {
        if let Some(is_closed) = self.tls.take(parameter, meaning)? {
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
                self.has_own_password = parameter.is_of_url;
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

    /// Takes from the environment what the URL leaves open.
    fn fill(
        &mut self,
        dialect: &Dialect,
        own: &Authority,
        known: &[(Parameter, Meaning)],
        variable: impl Fn(&str) -> Option<String>,
    ) -> Result<(), InvalidUrl> {
        let is_given = |wanted: &[Meaning]| known.iter().any(|(_, meaning)| wanted.contains(meaning));
        let mut variables = Vec::new();
        for (name, parameter) in dialect.variables {
            if let Some(value) = variable(name).filter(|value| !value.is_empty()) {
                let parameter = Parameter::of_variable(name, parameter, value);
                let covered = match parameters::find(dialect.table, &parameter) {
                    Some(Meaning::Host | Meaning::HostAddress) => own.host.is_some() || self.host.is_some(),
                    Some(Meaning::Port) => own.port.is_some() || own.host.is_some() || self.port.is_some(),
                    Some(Meaning::User) => own.user.is_some() || self.user.is_some(),
                    Some(Meaning::Password) => own.password.is_some() || self.password.is_some(),
                    Some(Meaning::Database) => own.database.is_some() || self.database.is_some(),
                    Some(Meaning::SslMode | Meaning::RequireTls) => {
                        is_given(&[Meaning::SslMode, Meaning::Ssl, Meaning::SslAccept, Meaning::RequireTls])
                    }
                    // They belong together.
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
            self.take(&parameter, meaning)?;
        }
        Ok(())
    }
}

/// Reads `-c name=value`, `-cname=value` and `--name=value`, where a backslash escapes white space.
fn session_options(parameter: &Parameter) -> Result<Vec<(String, String)>, InvalidUrl> {
    let unlike = || {
        parameter.refused(
            "must be a list of -c name=value or --name=value (a Neon endpoint goes without: it is found by the host name)",
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
        let literal = if character == '\\' { characters.next().ok_or_else(unlike)? } else { character };
        words.last_mut().ok_or_else(unlike)?.push(literal);
    }
    let mut settings = Vec::new();
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let pair = match word.strip_prefix("--").or_else(|| word.strip_prefix("-c")) {
            Some("") => words.next().ok_or_else(unlike)?,
            Some(pair) => pair.to_owned(),
            None => return Err(unlike()),
        };
        let (name, value) = pair.split_once('=').filter(|(name, _)| !name.is_empty()).ok_or_else(unlike)?;
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
