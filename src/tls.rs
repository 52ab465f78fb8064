//! TLS: the cryptography of this process, and the certificate of its listeners.

use std::{fs, io, path::PathBuf, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, DigitallySignedStruct, ServerConfig, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, WebPkiSupportedAlgorithms, ring, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem, pem::PemObject},
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};

/// The protocols that a TLS client can choose (ALPN).
pub(crate) const HTTP2: &[u8] = b"h2";
const HTTP1: &[u8] = b"http/1.1";

/// Makes TLS clients use ring, as the database drivers do. Without it, they cannot be set up.
pub fn install_provider() {
    // Fails if it was installed before.
    let _ = ring::default_provider().install_default();
}

/// The reason why a certificate cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read, or is not PEM.
    #[error("{setting}: cannot read {}: {}", path.display(), explain(cause))]
    File {
        /// The setting that names the file.
        setting: &'static str,
        /// The file.
        path: PathBuf,
        /// The cause.
        cause: pem::Error,
    },
    /// The key is encrypted.
    #[error("server.tls.key: {} is encrypted; store the key without a passphrase", .0.display())]
    Encrypted(PathBuf),
    /// The key does not belong to the certificate, or its algorithm is not supported.
    #[error("server.tls.key: the key cannot be used with the certificate in server.tls.certificate: {0}")]
    Key(rustls::Error),
    /// TLS cannot be set up.
    #[error("server.tls: {0}")]
    Setup(rustls::Error),
}

fn explain(error: &pem::Error) -> String {
    match error {
        pem::Error::Io(error) => error.to_string(),
        pem::Error::NoItemsFound => "it has no item of the expected kind in PEM format".to_owned(),
        error => error.to_string(),
    }
}

/// The certificate of the listeners, with its key. [`reload`](Self::reload) replaces it for new connections.
#[derive(Debug)]
pub struct Certificate {
    chain_file: PathBuf,
    key_file: PathBuf,
    current: ArcSwap<CertifiedKey>,
}

impl Certificate {
    /// Reads a chain of certificates, the server's first, and its key. Both files are PEM.
    ///
    /// # Errors
    ///
    /// [`CertificateError`].
    pub fn read(chain_file: PathBuf, key_file: PathBuf) -> Result<Arc<Self>, CertificateError> {
        let current = ArcSwap::new(read(&chain_file, &key_file)?);
        Ok(Arc::new(Self { chain_file, key_file, current }))
    }

    /// Reads both files again. Returns whether the certificate has changed. If they cannot be used, the current
    /// certificate stays in use.
    ///
    /// # Errors
    ///
    /// [`CertificateError`].
    pub fn reload(&self) -> Result<bool, CertificateError> {
        let next = read(&self.chain_file, &self.key_file)?;
        let previous = self.current.swap(Arc::clone(&next));
        Ok(previous.cert != next.cert)
    }

    /// Returns the configuration of a listener with this certificate.
    ///
    /// # Errors
    ///
    /// [`CertificateError::Setup`].
    pub(crate) fn server_config(self: Arc<Self>) -> Result<Arc<ServerConfig>, CertificateError> {
        let builder = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(CertificateError::Setup)?;
        let mut config = builder.with_no_client_auth().with_cert_resolver(self);
        config.alpn_protocols = vec![HTTP2.to_vec(), HTTP1.to_vec()];
        Ok(Arc::new(config))
    }
}

impl ResolvesServerCert for Certificate {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current.load_full())
    }
}

fn read(certificate: &PathBuf, key: &PathBuf) -> Result<Arc<CertifiedKey>, CertificateError> {
    let file = |setting, path: &PathBuf| {
        let path = path.clone();
        move |cause| CertificateError::File { setting, path, cause }
    };
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_file_iter(certificate)
        .and_then(Iterator::collect)
        .and_then(|chain: Vec<_>| if chain.is_empty() { Err(pem::Error::NoItemsFound) } else { Ok(chain) })
        .map_err(file("server.tls.certificate", certificate))?;
    let text = fs::read(key).map_err(|error| file("server.tls.key", key)(pem::Error::Io(error)))?;
    if memchr::memmem::find(&text, b"ENCRYPTED").is_some() {
        return Err(CertificateError::Encrypted(key.clone()));
    }
    let key = PrivateKeyDer::from_pem_slice(&text).map_err(file("server.tls.key", key))?;
    CertifiedKey::from_der(chain, key, &ring::default_provider()).map(Arc::new).map_err(CertificateError::Key)
}

/// Returns the configuration of a client that accepts every certificate: for a check of the service on this machine,
/// whose certificate is for its public name. Send no secret over such a connection.
///
/// # Errors
///
/// If TLS cannot be set up.
pub(crate) fn unverified_client() -> io::Result<Arc<ClientConfig>> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(Unverified(provider.signature_verification_algorithms));
    let builder = ClientConfig::builder_with_provider(provider as Arc<CryptoProvider>)
        .with_safe_default_protocol_versions()
        .map_err(io::Error::other)?;
    Ok(Arc::new(builder.dangerous().with_custom_certificate_verifier(verifier).with_no_client_auth()))
}

#[derive(Debug)]
struct Unverified(WebPkiSupportedAlgorithms);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.supported_schemes()
    }
}
