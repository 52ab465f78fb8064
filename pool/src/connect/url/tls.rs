//! How the connection to a server is protected.

use std::path::{Path, PathBuf};

use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use super::{
    invalid::InvalidUrl,
    parameters::Meaning,
    text::{Parameter, one_of},
};

/// How much TLS is asked for. Later ones are stronger.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(in crate::connect) enum TlsMode {
    Disable,
    Prefer,
    Require,
    VerifyFull,
}

/// The words of both engines, and of a few clients. The driver trusts public authorities beside the named one, and anyone
/// can have a certificate of those: with a verified authority the name is verified, too.
const MODES: [(&str, TlsMode); 15] = [
    ("disable", TlsMode::Disable),
    // PostgreSQL's "allow" begins without TLS; beginning with it is no weaker.
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

/// A file in PEM, and the parameter that names it.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::connect) struct PemFile {
    pub(in crate::connect) path: PathBuf,
    label: String,
}

/// How the connection to a server is protected.
#[derive(Clone, PartialEq, Eq)]
pub(in crate::connect) struct Tls {
    pub(in crate::connect) mode: TlsMode,
    pub(in crate::connect) authority: Option<PemFile>,
    pub(in crate::connect) certificate: Option<PemFile>,
    pub(in crate::connect) key: Option<PemFile>,
}

/// What the parameters ask for, before it is one answer.
#[derive(Default)]
pub(super) struct Demands {
    mode: Option<(Parameter, TlsMode)>,
    /// What other parameters ask for.
    others: Vec<(Parameter, TlsMode)>,
    authority: Option<Parameter>,
    certificate: Option<Parameter>,
    key: Option<Parameter>,
}

impl Demands {
    /// Takes one parameter. Returns whether its value is one of a closed set, or `None` if it is not about TLS.
    pub(super) fn take(&mut self, parameter: &Parameter, meaning: Meaning) -> Result<Option<bool>, InvalidUrl> {
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
            Meaning::RequireTls => self.ask_if(parameter, TlsMode::Require)?,
            Meaning::VerifyCertificate | Meaning::VerifyIdentity => self.ask_if(parameter, TlsMode::VerifyFull)?,
            Meaning::ChannelBinding => {
                // It proves that no one stands between client and server. The driver cannot bind; a verified
                // certificate and name prove the same.
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

    fn ask_if(&mut self, parameter: &Parameter, mode: TlsMode) -> Result<(), InvalidUrl> {
        if parameter.flag()? {
            self.others.push((parameter.clone(), mode));
        }
        Ok(())
    }

    /// One answer, as strong as the strongest demand.
    pub(super) fn resolve(self) -> Result<Tls, InvalidUrl> {
        let mut mode = self.mode.as_ref().map(|(_, mode)| *mode);
        let off = self.mode.iter().chain(&self.others).find(|(_, mode)| *mode == TlsMode::Disable);
        for (parameter, demand) in &self.others {
            // JDBC's `ssl=true` leaves the strength to `sslmode`.
            if parameter.key == "ssl" && mode >= Some(TlsMode::Require) && parameter.flag().is_ok_and(|is_on| is_on) {
                continue;
            }
            if let Some((off, _)) = off.filter(|_| *demand > TlsMode::Prefer) {
                return Err(parameter.refused(&format!("asks for TLS, but {} rules it out; remove one", off.label)));
            }
            mode = Some(mode.map_or(*demand, |mode| mode.max(*demand)));
        }
        let system = self.authority.as_ref().is_some_and(|parameter| parameter.value == "system");
        if let Some(authority) = &self.authority {
            mode = match mode {
                Some(mode) if system && mode < TlsMode::VerifyFull => {
                    return Err(authority.refused(
                        "system needs sslmode=verify-full, since anyone can have a certificate of a public authority",
                    ));
                }
                None if system => Some(TlsMode::VerifyFull),
                // As libpq does: who names an authority wants it checked.
                None | Some(TlsMode::Require) => Some(TlsMode::VerifyFull),
                Some(mode @ (TlsMode::Disable | TlsMode::Prefer)) if authority.is_of_url => {
                    let now = if mode == TlsMode::Disable { "off" } else { "optional" };
                    return Err(authority.refused(&format!(
                        "has no effect while TLS is {now}; ask for verification of certificate and name ({})",
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
                    "is the client's certificate and needs the client's key (sslkey); a certificate of the server's \
                     authority is sslrootcert or ssl-ca",
                ));
            }
            (None, Some(alone)) => return Err(alone.refused("needs the client's certificate (sslcert)")),
            (Some(certificate), Some(_)) if mode == TlsMode::Disable && certificate.is_of_url => {
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

/// `sslmode` and its kin: `verify_full` is `verify-full`.
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

/// `ssl`: a flag, or the options of Node's TLS as JSON. Without a word on verification, clients differ; the strict
/// reading counts.
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
    let unlike = || {
        parameter
            .refused("as JSON may hold rejectUnauthorized (true or false) and minVersion (TLSv1.2) and nothing else")
    };
    let options: serde_json::Map<String, serde_json::Value> =
        serde_json::from_str(&parameter.value).map_err(|_| unlike())?;
    let mut mode = TlsMode::VerifyFull;
    for (name, value) in &options {
        match (name.as_str(), value) {
            ("rejectUnauthorized", serde_json::Value::Bool(verify)) => {
                mode = if *verify { TlsMode::VerifyFull } else { TlsMode::Require };
            }
            ("minVersion", serde_json::Value::String(version))
                if matches!(version.as_str(), "TLSv1" | "TLSv1.1" | "TLSv1.2") => {}
            _ => return Err(unlike()),
        }
    }
    Ok((mode, false))
}

impl Tls {
    /// Reads the files the way the driver does.
    pub(super) fn check_files(&self) -> Result<(), InvalidUrl> {
        let certificates = self.authority.iter().chain(&self.certificate);
        for file in certificates {
            let pem = file.read()?;
            let mut count = 0;
            for certificate in CertificateDer::pem_slice_iter(&pem) {
                certificate.map_err(|_| file.refused("holds a certificate that is not valid PEM"))?;
                count += 1;
            }
            if count == 0 {
                return Err(file.refused("holds no certificate (-----BEGIN CERTIFICATE-----)"));
            }
        }
        if let Some(file) = &self.key {
            let pem = file.read()?;
            PrivateKeyDer::from_pem_slice(&pem)
                .map_err(|_| file.refused("holds no unencrypted private key (-----BEGIN PRIVATE KEY-----)"))?;
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

/// A path, if it looks like one: what was put into the wrong place may be a password.
fn shown_path(path: &Path) -> Option<String> {
    let text = path.to_str()?;
    (text.contains('/') && !text.contains("://") && !text.contains('@')).then(|| text.to_owned())
}
