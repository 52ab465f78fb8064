//! The source of the identity provider's signing keys: a file or a URL.

use std::{error::Error, fmt, path::PathBuf, time::Duration};

use reqwest::{Client, StatusCode, redirect::Policy};
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
    Url(Url),
}

impl JwksSource {
    /// Returns the source that the text names.
    #[must_use]
    pub fn new(text: &str) -> Self {
        let url = text.parse().ok().filter(|url: &Url| ["http", "https"].contains(&url.scheme()));
        url.map_or_else(|| Self::File(text.into()), Self::Url)
    }

    /// Reads the JWK set.
    ///
    /// # Errors
    ///
    /// It cannot be read, or is far too large.
    pub async fn read(&self) -> Result<Vec<u8>, Box<dyn Error + Send + Sync>> {
        let jwks = match self {
            Self::File(path) => tokio::fs::read(path).await?,
            // The URL may contain a secret.
            Self::Url(url) => fetch(url.clone()).await.map_err(reqwest::Error::without_url)??,
        };
        if jwks.len() > MAX_LENGTH { Err("the JWKS is larger than 1 MiB".into()) } else { Ok(jwks) }
    }
}

/// Fetches a URL, up to a limit.
async fn fetch(url: Url) -> Result<Result<Vec<u8>, String>, reqwest::Error> {
    tls::install_provider();
    // Set up each time: the certificates of the system may have changed, or may be missing only now.
    let client = Client::builder().timeout(TIMEOUT).redirect(Policy::none()).build()?;
    let mut response = client.get(url).send().await?;
    if response.status() != StatusCode::OK {
        return Ok(Err(format!("the response has the status {}", response.status())));
    }
    let mut jwks = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        jwks.extend_from_slice(&chunk);
        if jwks.len() > MAX_LENGTH {
            break;
        }
    }
    Ok(Ok(jwks))
}

impl fmt::Display for JwksSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => path.display().fmt(f),
            // A query may contain a secret.
            Self::Url(url) => write!(f, "{}{}", url.origin().ascii_serialization(), url.path()),
        }
    }
}
