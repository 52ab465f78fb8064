//! Where the signing keys of the identity provider are: a file or a URL.

use std::{error::Error, fmt, path::PathBuf, time::Duration};

use reqwest::{Client, redirect::Policy};
use url::Url;

use crate::tls;

const TIMEOUT: Duration = Duration::from_secs(10);
/// A set of keys takes some kilobytes.
const MAX_LENGTH: usize = 1 << 20;

/// A file or a URL with a JWK set.
pub enum JwksSource {
    /// A file.
    File(PathBuf),
    /// An HTTP or HTTPS URL.
    Url(Url, Client),
}

impl JwksSource {
    /// Returns the source that the text names.
    ///
    /// # Errors
    ///
    /// The HTTP client cannot be set up, for example because the system has no certificates.
    pub fn new(text: &str) -> Result<Self, reqwest::Error> {
        let Some(url) = Self::url(text) else { return Ok(Self::File(text.into())) };
        tls::install_provider();
        let client = Client::builder().timeout(TIMEOUT).redirect(Policy::none()).build()?;
        Ok(Self::Url(url, client))
    }

    fn url(text: &str) -> Option<Url> {
        text.parse().ok().filter(|url: &Url| ["http", "https"].contains(&url.scheme()))
    }

    /// Reads the JWK set.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is far too large.
    pub async fn read(&self) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        let jwks = match self {
            Self::File(path) => tokio::fs::read(path).await?,
            Self::Url(url, client) => {
                let mut response = client.get(url.clone()).send().await?.error_for_status()?;
                let mut jwks = Vec::new();
                while let Some(chunk) = response.chunk().await? {
                    jwks.extend_from_slice(&chunk);
                    if jwks.len() > MAX_LENGTH {
                        break;
                    }
                }
                jwks
            }
        };
        if jwks.len() > MAX_LENGTH { Err("the JWKS is larger than 1 MiB".into()) } else { Ok(jwks) }
    }
}

impl fmt::Display for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            // A query may contain a secret.
            Self::Url(url, _) => write!(f, "{}{}", url.origin().ascii_serialization(), url.path()),
        }
    }
}
