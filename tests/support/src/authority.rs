use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType, IsCa, KeyPair};

/// A certificate authority of one case.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its private key, both PEM-encoded.
pub struct Identity {
    pub certificate: String,
    pub key: String,
}

impl Authority {
    /// Authorities need different names: those of the same name differ only when a signature is checked.
    pub fn named(name: &str) -> Self {
        let mut parameters = named(name, &[]);
        parameters.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        Self(CertifiedIssuer::self_signed(parameters, KeyPair::generate().unwrap()).unwrap())
    }

    /// The authority's certificate, PEM-encoded.
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for these host names and addresses. For a client certificate, only the signature matters.
    pub fn sign(&self, hosts: &[&str]) -> Identity {
        let key = KeyPair::generate().unwrap();
        let certificate = named("users-api test", hosts).signed_by(&key, &self.0).unwrap();
        Identity { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

fn named(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(ToString::to_string).collect();
    let mut parameters = CertificateParams::new(hosts).unwrap();
    parameters.distinguished_name = DistinguishedName::new();
    parameters.distinguished_name.push(DnType::CommonName, name);
    parameters
}
