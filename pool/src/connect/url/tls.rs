//! TLS settings of server URLs.

use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{
    invalid::InvalidUrl,
    parameter_tables::Meaning,
    text::{Parameter, one_of},
};

/// The level of TLS, in ascending order of strength.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::connect) enum TlsMode {
    Disable,
    Prefer,
    Require,
    VerifyFull,
}

/// The values of both engines, and of some clients. The driver trusts public CAs in addition to the given one, and
/// anyone can get a certificate from those: so verifying the CA implies verifying the host name.
const MODES: [(&str, TlsMode); 15] = [
    ("disable", TlsMode::Disable),
    // PostgreSQL's `allow` starts without TLS; starting with it is no weaker.
    ("allow", TlsMode::Prefer),
    ("prefer", TlsMode::Prefer),
    ("require", TlsMode::Require),
    ("verify-ca", TlsMode::VerifyFull),
    ("verify-full", TlsMode::VerifyFull),
    ("disabled", TlsMode::Disable),
    ("preferred", TlsMode::Prefer),
    ("required", TlsMode::Require),
    ("verify-identity", TlsMode::VerifyFull),
    ("trust", TlsMode::Require),
    ("no-verify", TlsMode::Require),
    ("skip-verify", TlsMode::Require),
    ("true", TlsMode::VerifyFull),
    ("false", TlsMode::Disable),
];

/// A PEM file, and the parameter that names it.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::connect) struct PemFile {
    pub(in crate::connect) path: PathBuf,
    label: String,
}

/// TLS settings of a connection.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::connect) struct Tls {
    pub(in crate::connect) mode: TlsMode,
    pub(in crate::connect) authority: Option<PemFile>,
    pub(in crate::connect) certificate: Option<PemFile>,
    pub(in crate::connect) key: Option<PemFile>,
}

/// TLS requirements of the parameters, before they are combined.
#[derive(Default)]
pub(super) struct TlsRequirements {
    mode: Option<(Parameter, TlsMode)>,
    /// Requirements of other parameters.
    others: Vec<(Parameter, TlsMode)>,
    authority: Option<Parameter>,
    certificate: Option<Parameter>,
    key: Option<Parameter>,
}

impl TlsRequirements {
    /// Applies one parameter. Returns whether its value is from a closed set, or `None` if it does not concern TLS.
    pub(super) fn apply(&mut self, parameter: &Parameter, meaning: Meaning) -> Result<Option<bool>, InvalidUrl> {
        match meaning {
            Meaning::SslMode => self.mode = Some((parameter.clone(), mode(parameter)?)),
            Meaning::Ssl => {
                let (mode, is_closed) = ssl(parameter)?;
                self.others.push((parameter.clone(), mode));
                return Ok(Some(is_closed));
            }
            Meaning::SslAccept => {
                let choices = [("strict", TlsMode::VerifyFull), ("accept_invalid_certs", TlsMode::Require)];
                self.others.push((parameter.clone(), parameter.choice(&choices)?));
            }
            Meaning::UseTls => {
                let mode = if parameter.flag()? { TlsMode::Require } else { TlsMode::Disable };
                self.others.push((parameter.clone(), mode));
            }
            Meaning::RequireTls => self.require_if(parameter, TlsMode::Require)?,
            Meaning::VerifyCertificate | Meaning::VerifyIdentity => self.require_if(parameter, TlsMode::VerifyFull)?,
            Meaning::ChannelBinding => {
                // Channel binding proves that there is no man in the middle. The driver does not support it; verifying
                // the certificate and host name proves the same.
                let choices = [("require", Some(TlsMode::VerifyFull)), ("prefer", None), ("disable", None)];
                if let Some(mode) = parameter.choice(&choices)? {
                    self.others.push((parameter.clone(), mode));
                }
            }
            Meaning::CertificateAuthority => {
                parameter.text()?;
                self.authority = Some(parameter.clone());
                return Ok(Some(false));
            }
            Meaning::Certificate => {
                parameter.text()?;
                self.certificate = Some(parameter.clone());
                return Ok(Some(false));
            }
            Meaning::Key => {
                parameter.text()?;
                self.key = Some(parameter.clone());
                return Ok(Some(false));
            }
            _ => return Ok(None),
        }
        Ok(Some(true))
    }

    fn require_if(&mut self, parameter: &Parameter, mode: TlsMode) -> Result<(), InvalidUrl> {
        if parameter.flag()? {
            self.others.push((parameter.clone(), mode));
        }
        Ok(())
    }

    /// Combines the requirements: the strongest one wins.
    pub(super) fn resolve(self) -> Result<Tls, InvalidUrl> {
        let mut mode = self.mode.as_ref().map(|(_, mode)| *mode);
        let disabling = self.mode.iter().chain(&self.others).find(|(_, mode)| *mode == TlsMode::Disable);
        for (parameter, required) in &self.others {
            // JDBC's `ssl=true` leaves the level to `sslmode`.
            if parameter.key == "ssl" && mode >= Some(TlsMode::Require) && parameter.flag().is_ok_and(|is_on| is_on) {
                continue;
            }
            if let Some((disabling, _)) = disabling.filter(|_| *required > TlsMode::Prefer) {
                return Err(
                    parameter.refused(&format!("requires TLS, but {} disables it; remove one", disabling.label))
                );
            }
            mode = Some(mode.map_or(*required, |mode| mode.max(*required)));
        }
        let system = self.authority.as_ref().is_some_and(|parameter| parameter.value == "system");
        if let Some(authority) = &self.authority {
            mode = match mode {
                Some(mode) if system && mode < TlsMode::VerifyFull => {
                    return Err(authority.refused(
                        "system needs sslmode=verify-full, because anyone can get a certificate from a public CA",
                    ));
                }
                None if system => Some(TlsMode::VerifyFull),
                // As in libpq: a given CA implies verification.
                None | Some(TlsMode::Require) => Some(TlsMode::VerifyFull),
                Some(mode @ (TlsMode::Disable | TlsMode::Prefer)) if authority.is_from_url => {
                    let state = if mode == TlsMode::Disable { "off" } else { "optional" };
                    return Err(authority.refused(&format!(
                        "has no effect while TLS is {state}; require verification of certificate and host name ({})",
                        one_of(&["sslmode=verify-full", "ssl-mode=VERIFY_IDENTITY"])
                    )));
                }
                mode => mode,
            };
        }
        let mode = mode.unwrap_or(TlsMode::Prefer);
        match (&self.certificate, &self.key) {
            (Some(alone), None) => {
                return Err(alone.refused(
                    "is the client certificate and needs the client key (sslkey); the CA certificate of the server is \
                     sslrootcert or ssl-ca",
                ));
            }
            (None, Some(alone)) => return Err(alone.refused("needs the client certificate (sslcert)")),
            (Some(certificate), Some(_)) if mode == TlsMode::Disable && certificate.is_from_url => {
                return Err(certificate.refused("has no effect while TLS is off"));
            }
            _ => {}
        }
        let is_on = mode > TlsMode::Disable;
        Ok(Tls {
            mode,
            authority: self.authority.filter(|_| !system && mode == TlsMode::VerifyFull).map(PemFile::from),
            certificate: self.certificate.filter(|_| is_on).map(PemFile::from),
            key: self.key.filter(|_| is_on).map(PemFile::from),
        })
    }
}

/// Parses `sslmode` and its variants; `verify_full` is `verify-full`.
fn mode(parameter: &Parameter) -> Result<TlsMode, InvalidUrl> {
    let word = parameter.value.replace('_', "-").to_ascii_lowercase();
    let found = MODES.iter().find(|(known, _)| *known == word).map(|(_, mode)| *mode);
    let boolean = matches!(word.as_str(), "true" | "false");
    found.filter(|_| parameter.key == "tls" || !boolean).ok_or_else(|| {
        parameter.refused(
            "must be disable, prefer, require, verify-ca or verify-full (MySQL: DISABLED, PREFERRED, REQUIRED, \
             VERIFY_CA or VERIFY_IDENTITY)",
        )
    })
}

/// Parses `ssl`: a flag, or the TLS options of Node as JSON. If verification is not mentioned, clients differ; the
/// strict interpretation applies.
fn ssl(parameter: &Parameter) -> Result<(TlsMode, bool), InvalidUrl> {
    if !parameter.value.starts_with('{') {
        let choices = [
            ("true", TlsMode::VerifyFull),
            ("false", TlsMode::Disable),
            ("1", TlsMode::VerifyFull),
            ("0", TlsMode::Disable),
            ("no-verify", TlsMode::Require),
        ];
        return Ok((parameter.choice(&choices)?, true));
    }
    let malformed =
        || parameter.refused("as JSON may contain only rejectUnauthorized (true or false) and minVersion (TLSv1.2)");
    let options: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&parameter.value).map_err(|_| malformed())?;
    let mut mode = TlsMode::VerifyFull;
    for (name, value) in &options {
        match (name.as_str(), value) {
            ("rejectUnauthorized", serde_json::Value::Bool(verify)) => {
                mode = if *verify { TlsMode::VerifyFull } else { TlsMode::Require };
            }
            ("minVersion", serde_json::Value::String(version))
                if matches!(version.as_str(), "TLSv1" | "TLSv1.1" | "TLSv1.2") => {}
            _ => return Err(malformed()),
        }
    }
    Ok((mode, false))
}

impl Tls {
    /// Reads the files as the driver does.
    pub(super) fn check_files(&self) -> Result<(), InvalidUrl> {
        let certificates = self.authority.iter().chain(&self.certificate);
        for file in certificates {
            let pem = file.read()?;
            let mut count = 0;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                certificate.map_err(|_| file.refused("contains a certificate that is not valid PEM"))?;
                count += 1;
            }
            if count == 0 {
                return Err(file.refused("contains no certificate (-----BEGIN CERTIFICATE-----)"));
            }
        }
        if let Some(file) = &self.key {
            let pem = file.read()?;
            PrivateKeyDer::from_pem_slice(&pem)
                .map_err(|_| file.refused("contains no unencrypted private key (-----BEGIN PRIVATE KEY-----)"))?;
        }
        Ok(())
    }
}

impl PemFile {
    fn read(&self) -> Result<Vec<u8>, InvalidUrl> {
        let pem = std::fs::read(&self.path).map_err(|error| self.refused(&format!("cannot be read: {error}")))?;
        if pem.is_empty() { Err(self.refused("is empty")) } else { Ok(pem) }
    }

    fn refused(&self, reason: &str) -> InvalidUrl {
        let file = shown_path(&self.path).map_or("the file".to_owned(), |path| format!("the file {path}"));
        InvalidUrl::part(format!("{}: {file} {reason}", self.label))
    }
}

impl From<Parameter> for PemFile {
    fn from(parameter: Parameter) -> Self {
        Self { path: parameter.value.into(), label: parameter.label }
    }
}

/// Returns the path if it looks like one: a misplaced value may be a password.
fn shown_path(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    (text.contains('/') && !text.contains("://") && !text.contains('@')).then(|| text.to_owned())
}
