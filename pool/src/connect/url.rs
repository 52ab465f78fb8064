//! The database URL: one parser with a table of known parameters per engine.
//!
//! What a URL says is used or refused, never ignored: the drivers' own parsers skip what they do not know, and print
//! its value. No error and no `Display` here repeats a password or the value of a parameter, unless the value is one of
//! a closed set.

mod engine;
mod host;
mod invalid;
mod parameters;
mod server;
mod sqlite;
mod text;
mod tls;

use std::{fmt, path::Path};

pub use self::{engine::Engine, invalid::InvalidUrl};
pub(in crate::connect) use self::{
    host::Host,
    server::ServerAddress,
    sqlite::{FileAddress, OpenMode},
    tls::TlsMode,
};

/// A valid database URL. `Display` and `Debug` never show a password or the value of a free-text parameter.
#[derive(Clone, PartialEq, Eq)]
pub struct DatabaseUrl(Address);

#[derive(Clone, PartialEq, Eq)]
pub(in crate::connect) enum Address {
    File(FileAddress),
    Server(Box<ServerAddress>),
}

impl DatabaseUrl {
    /// Reads `sqlite:`, `postgres:`, `postgresql:`, `mysql:` and `mariadb:` URLs.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] if the text is not a URL of one of the engines, or if any part of it cannot be honoured.
    pub fn parse(text: &str) -> Result<Self, InvalidUrl> {
        Self::parse_with(text, |_| None)
    }

    /// Like [`parse`](Self::parse). What a PostgreSQL URL leaves open is taken from libpq's environment variables
    /// (`PGSSLMODE`), which `variable` looks up, under the same rules as the parameters of the URL.
    ///
    /// # Errors
    ///
    /// As for [`parse`](Self::parse).
    pub fn parse_with(text: &str, variable: impl Fn(&str) -> Option<String>) -> Result<Self, InvalidUrl> {
        if text.starts_with(['"', '\'']) {
            return Err(InvalidUrl::NotAUrl("; remove the quotation marks around it"));
        }
        if text.trim() != text {
            return Err(InvalidUrl::NotAUrl("; remove the white space around it"));
        }
        let Some((scheme, rest)) = text.split_once(':') else { return Err(InvalidUrl::NotAUrl("")) };
        let address = match scheme.to_ascii_lowercase().as_str() {
            "sqlite" => Address::File(FileAddress::parse(rest)?),
            "postgres" => {
                Address::Server(Box::new(ServerAddress::parse(&server::POSTGRES, "postgres", rest, variable)?))
            }
            "postgresql" => {
                Address::Server(Box::new(ServerAddress::parse(&server::POSTGRES, "postgresql", rest, variable)?))
            }
            "mysql" => Address::Server(Box::new(ServerAddress::parse(&server::MYSQL, "mysql", rest, |_| None)?)),
            "mariadb" => Address::Server(Box::new(ServerAddress::parse(&server::MYSQL, "mariadb", rest, |_| None)?)),
            "file" => return Err(InvalidUrl::UnknownScheme("; write sqlite: instead of file:")),
            "jdbc" => return Err(InvalidUrl::UnknownScheme("; remove jdbc: in front")),
            scheme if scheme.contains('+') => {
                return Err(InvalidUrl::UnknownScheme("; remove the + and the name of the driver after it"));
            }
            _ => return Err(InvalidUrl::UnknownScheme("")),
        };
        Ok(Self(address))
    }

    /// The same URL with this password, which is not percent-encoded.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] if the URL has a password already, or if its engine has no passwords.
    pub fn with_password(self, password: &str) -> Result<Self, InvalidUrl> {
        match self.0 {
            Address::File(_) => Err(InvalidUrl::part("SQLite has no passwords, but one is set; remove it")),
            Address::Server(address) => Ok(Self(Address::Server(Box::new(address.with_password(password)?)))),
        }
    }

    /// Reads the certificate and key files that the URL names, as a connection would.
    ///
    /// # Errors
    ///
    /// [`InvalidUrl`] names the parameter and the file that is missing, unreadable or not PEM.
    pub fn check_files(&self) -> Result<(), InvalidUrl> {
        match &self.0 {
            Address::File(_) => Ok(()),
            Address::Server(address) => address.tls.check_files(),
        }
    }

    pub(in crate::connect) fn address(&self) -> &Address {
        &self.0
    }

    /// The engine that the URL names.
    #[must_use]
    pub fn engine(&self) -> Engine {
        match &self.0 {
            Address::File(_) => Engine::Sqlite,
            Address::Server(address) => address.engine,
        }
    }

    /// Whether this is an SQLite database that lives only as long as its connections.
    #[must_use]
    pub fn is_in_memory(&self) -> bool {
        matches!(&self.0, Address::File(file) if file.is_in_memory())
    }

    /// How many prepared statements a connection keeps, if the URL says so.
    pub(crate) fn statement_cache(&self) -> Option<usize> {
        match &self.0 {
            Address::File(_) => None,
            Address::Server(address) => address.statement_cache,
        }
    }

    /// The file of the authorities that the server's certificate is verified against, if one is named.
    pub(crate) fn tls_authority(&self) -> Option<&Path> {
        match &self.0 {
            Address::File(_) => None,
            Address::Server(address) => address.tls.authority.as_ref().map(|file| file.path.as_path()),
        }
    }

    /// The file of the certificate that the client has, if it has one.
    pub(crate) fn tls_certificate(&self) -> Option<&Path> {
        match &self.0 {
            Address::File(_) => None,
            Address::Server(address) => address.tls.certificate.as_ref().map(|file| file.path.as_path()),
        }
    }

    /// Whether the connection leaves the machine without a verified certificate and host name, so that a network attacker
    /// could read and change it.
    #[must_use]
    pub fn is_unverified(&self) -> bool {
        match &self.0 {
            Address::File(_) => false,
            Address::Server(address) => address.is_unverified(),
        }
    }

    /// The SQLite database file, unless the database is in memory.
    #[must_use]
    pub fn sqlite_path(&self) -> Option<&Path> {
        match &self.0 {
            Address::File(file) => file.path(),
            Address::Server(_) => None,
        }
    }

    /// The server's host: a name or an IP address. None for a socket and for SQLite.
    #[must_use]
    pub fn host(&self) -> Option<&str> {
        match &self.0 {
            Address::File(_) => None,
            Address::Server(address) => address.host_text(),
        }
    }

    /// The host, if it is a name rather than an IP address.
    pub(crate) fn host_name(&self) -> Option<&str> {
        self.host().filter(|host| host.parse::<std::net::IpAddr>().is_err())
    }

    /// Whether the other URL leads to the same database, whatever user and password it names.
    #[must_use]
    pub fn differs_in_credentials_only(&self, other: &Self) -> bool {
        match (&self.0, &other.0) {
            (Address::File(one), Address::File(other)) => one == other,
            (Address::Server(one), Address::Server(other)) => one.without_credentials() == other.without_credentials(),
            _ => false,
        }
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Address::File(file) => file.fmt(f),
            Address::Server(address) => address.fmt(f),
        }
    }
}

impl fmt::Debug for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "DatabaseUrl({self})")
    }
}

#[cfg(test)]
mod tests;
