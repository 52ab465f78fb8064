//! The cryptography of TLS connections that this process makes: ring, which the database drivers use too.

/// Makes TLS clients use ring. Without it, they cannot be set up.
pub fn install_provider() {
    // Fails if it was installed before.
    let _ = rustls::crypto::ring::default_provider().install_default();
}
