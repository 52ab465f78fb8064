//! Server URLs: `postgres://USER:PASSWORD@HOST:PORT,HOST:PORT/DATABASE?NAME=VALUE`.

use std::{fmt, net::IpAddr, path::PathBuf};

use super::{
    engine::Engine,
    host::{BALANCES, Host, HostAddress, HostList, PORT, TARGETS, TargetServer, hosts, is_loopback, ports},
    invalid::InvalidUrl,
    parameter_tables::{self, Meaning, Table},
    parameters::{self, RedactedParameters},
    text::{self, ENCODE, Parameter},
    tls::{Tls, TlsMode, TlsRequirements},
};

/// The differences between the engines.
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
    /// At least one.
    pub(in crate::connect) hosts: Vec<HostAddress>,
    pub(in crate::connect) target: TargetServer,
    /// Whether the hosts are tried in a random order.
    pub(in crate::connect) is_random: bool,
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
    list: HostList,
    database: Option<String>,
}

/// The settings from the parameters and environment variables.
#[derive(Default)]
struct Settings {
    user: Option<String>,
    password: Option<String>,
    has_explicit_password: bool,
    list: HostList,
    socket: Option<PathBuf>,
    target: Option<TargetServer>,
    is_random: bool,
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
        let mut shown = RedactedParameters::default();
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
        let has_port = authority.list.has_port();
        let socket = settings.socket.map(|path| vec![Host::Socket(path)]);
        let hosts = socket.into_iter().chain([settings.list.hosts, authority.list.hosts]);
        let hosts = hosts.into_iter().find(|hosts| !hosts.is_empty()).ok_or_else(|| {
            InvalidUrl::part(format!(
                "has no host; add localhost, the name of the server or {}",
                if dialect.engine == Engine::Postgres {
                    "a socket directory (?host=/var/run/postgresql)"
                } else {
                    "a socket (?socket=/run/mysqld/mysqld.sock)"
                }
            ))
        })?;
        let ports = if has_port { authority.list.ports } else { settings.list.ports };
        let hosts = HostList { hosts, ports }.addresses(dialect.port)?;
        let user = authority.user.or(settings.user);
        if user.is_none() && dialect.engine == Engine::MySql {
            return Err(InvalidUrl::part("has no user; expected mysql://USER@HOST/DATABASE"));
        }
        let database = authority.database.or(settings.database).ok_or_else(|| {
            InvalidUrl::part(format!("has no database; expected {}://USER@HOST/DATABASE", shown.scheme))
        })?;
        let mut tls = settings.tls.resolve()?;
        if dialect.engine == Engine::Postgres && hosts.iter().all(|host| matches!(host.host, Host::Socket(_))) {
            // As in libpq: a Unix socket never leaves the machine, and the server refuses TLS on it.
            tls.mode = TlsMode::Disable;
        }
        Ok(Self {
            engine: dialect.engine,
            user,
            has_explicit_password: authority.password.is_some() || settings.has_explicit_password,
            password: authority.password.or(settings.password),
            // A pool that writes has no use for a replica, so one that finds several servers looks for the primary.
            target: settings.target.unwrap_or(match hosts.len() {
                1 => TargetServer::Any,
                _ => TargetServer::ReadWrite,
            }),
            is_random: settings.is_random,
            hosts,
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

    /// Returns the first host that a connection to would leave the machine unverified.
    pub(super) fn unverified_host(&self) -> Option<&str> {
        let mut hosts = self.hosts.iter().filter_map(HostAddress::text);
        hosts.find(|host| !is_loopback(host) && self.tls.mode != TlsMode::VerifyFull)
    }
}

impl Authority {
    fn parse(login: Option<&str>, server: &str, path: &str) -> Result<Self, InvalidUrl> {
        let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
            Some((user, password)) => (text::decode("the user", user)?, text::decode("the password", password)?),
            None => (String::new(), String::new()),
        };
        let list = HostList::parse(server)?;
        if path.contains('/') {
            return Err(InvalidUrl::part(format!("has a second / after the host; {ENCODE}")));
        }
        let database = text::decode("the database", path)?;
        let some = |text: String| (!text.is_empty()).then_some(text);
        Ok(Self { user: some(user), password: some(password), list, database: some(database) })
    }

    /// Refuses parameters that repeat a part of the URL.
    fn refuse_duplicates(&self, settings: &Settings) -> Result<(), InvalidUrl> {
        // A socket replaces the host, which several clients require nevertheless.
        let is_replaced = settings.list.hosts.len() <= 1 && !matches!(settings.list.first(), Some(Host::Name(_)));
        let is_given = settings.list.first().is_some() || settings.socket.is_some();
        let host = self.list.first().is_some() && is_given && !(is_replaced && self.list.hosts.len() == 1);
        for (is_duplicate, what) in [
            (host, "host"),
            (self.user.is_some() && settings.user.is_some(), "user"),
            (self.password.is_some() && settings.password.is_some(), "password"),
            (self.list.has_port() && settings.list.has_port(), "port"),
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
            Meaning::Host => self.list.hosts = hosts(parameter.text()?).map_err(|reason| parameter.refused(reason))?,
            Meaning::HostAddress => {
                if self.list.first().is_some() {
                    return Err(parameter.refused("cannot be combined with host; remove one"));
                }
                let addresses = parameter.value.split(',').map(str::parse::<IpAddr>);
                let hosts = addresses.map(|address| address.map(|address| Host::Name(address.to_string())));
                let hosts: Result<Vec<Host>, _> = hosts.collect();
                self.list.hosts = hosts.map_err(|_| parameter.refused("must be an IP address"))?;
            }
            Meaning::Port => self.list.ports = ports(&parameter.value).ok_or_else(|| parameter.refused(PORT))?,
            Meaning::TargetServer => {
                self.target = Some(parameter.choice(&TARGETS)?);
                return Ok(true);
            }
            Meaning::LoadBalance => {
                self.is_random = parameter.choice(&BALANCES)?;
                return Ok(true);
            }
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
                    Some(Meaning::Host | Meaning::HostAddress) => {
                        authority.list.first().or(self.list.first()).is_some()
                    }
                    Some(Meaning::Port) => {
                        authority.list.first().is_some() || authority.list.has_port() || self.list.has_port()
                    }
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
