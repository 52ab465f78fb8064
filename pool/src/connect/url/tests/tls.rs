use super::{
    super::tls::TlsMode::{self, Disable, Prefer, Require, VerifyFull},
    *,
};

/// Queries that PostgreSQL and MySQL have in common, except `channel_binding`, and what they request.
const QUERIES: &[(&str, TlsMode)] = &[
    ("", Prefer),
    ("sslmode=disable", Disable),
    ("sslmode=allow", Prefer),
    ("sslmode=require", Require),
    ("sslmode=require&sslrootcert=/ca.pem", VerifyFull),
    ("sslrootcert=/ca.pem", VerifyFull),
    ("sslmode=verify-ca&sslrootcert=/ca.pem", VerifyFull),
    ("sslmode=verify-ca", VerifyFull),
    ("sslmode=verify-full", VerifyFull),
    ("ssl-mode=VERIFY_FULL&ssl-ca=/ca.pem", VerifyFull),
    ("sslMode=Verify-Identity", VerifyFull),
    ("sslmode=no-verify", Require),
    ("ssl=true", VerifyFull),
    ("ssl=true&sslmode=require", Require),
    ("ssl=false", Disable),
    ("sslmode=require&channel_binding=require", VerifyFull),
    ("sslmode=require&channel_binding=prefer", Require),
    ("sslaccept=strict", VerifyFull),
    ("sslmode=require&sslaccept=strict", VerifyFull),
    ("sslaccept=accept_invalid_certs", Require),
];

/// Queries of MySQL only.
const MYSQL_QUERIES: &[(&str, TlsMode)] = &[
    ("ssl_mode=VERIFY_IDENTITY", VerifyFull),
    ("ssl-mode=REQUIRED", Require),
    ("useSSL=true", Require),
    ("useSSL=true&requireSSL=true&verifyServerCertificate=true&ssl_ca=/ca.pem", VerifyFull),
    ("useSSL=false", Disable),
    ("ssl_ca=/ca.pem&ssl_verify_cert=true&ssl_verify_identity=true", VerifyFull),
    ("ssl={\"rejectUnauthorized\":true}", VerifyFull),
    ("ssl=%7B%22minVersion%22:%22TLSv1.2%22,%22rejectUnauthorized%22:true%7D", VerifyFull),
    ("ssl={\"rejectUnauthorized\":false}", Require),
    ("tls=true", VerifyFull),
    ("tls=skip-verify", Require),
];

/// URLs that are refused, and a part of the reason.
const REFUSED: &[(&str, &str)] = &[
    ("postgres://u@h/d?sslmode=disable&sslrootcert=/ca.pem", "has no effect while TLS is off"),
    ("postgres://u@h/d?sslmode=prefer&sslrootcert=/ca.pem", "has no effect while TLS is optional"),
    ("postgres://u@h/d?sslmode=require&sslrootcert=system", "needs sslmode=verify-full"),
    ("postgres://u@h/d?sslmode=disable&channel_binding=require", "disables it"),
    ("mysql://u@h/d?useSSL=false&requireSSL=true", "disables it"),
    ("mysql://u@h/d?sslcert=/hunter2.pem", "needs the client key"),
    ("postgres://u@h/d?sslcert=/a&sslkey=/b&sslmode=disable", "TLS is off"),
    ("postgres://u@h/d?sslmode=off", "must be disable, prefer"),
    ("postgres://u@h/d?sslmode=true", "must be disable, prefer"),
    ("mysql://u@h/d?ssl={\"ca\":\"hunter2\"}", "may contain only"),
    ("mysql://u@h/d?ssl={hunter2", "may contain only"),
    ("postgres://u@h/d?sslpassword=hunter2", "sslpassword: encrypted keys"),
    ("postgres://u@h/d?sslcrl=hunter2", "revocation"),
    ("postgres://u@h/d?ssl_min_protocol_version=TLSv1.3", "must be TLSv1, TLSv1.1 or TLSv1.2"),
    ("postgres://u@h/d?gssencmode=require", "must be disable or prefer"),
    ("postgres://u@h/d?sslmod=require", "unknown parameter sslmod; did you mean sslmode?"),
    ("mysql://u@h/d?sslmodus=hunter2", "unknown parameter sslmodus; did you mean ssl-mode?"),
];

#[test]
fn tls_is_never_weaker_than_requested() {
    for &(query, mode) in QUERIES {
        for engine in ["postgres", "mysql"] {
            if !(engine == "mysql" && query.contains("channel")) {
                assert!(server(&format!("{engine}://u@h/d?{query}")).tls.mode == mode, "{engine} {query}");
            }
        }
    }
    assert!(server("postgres://u@h/d?sslrootcert=system").tls.mode == VerifyFull);
    for &(query, mode) in MYSQL_QUERIES {
        assert!(server(&format!("mysql://u@h/d?{query}")).tls.mode == mode, "{query}");
    }
}

#[test]
fn contradictory_and_unknown_tls_parameters_are_refused() {
    for (text, part) in REFUSED {
        let refusal = refusal(text);
        assert!(refusal.contains(part) && !refusal.contains("hunter2"), "{text}: {refusal}");
    }
}

#[test]
fn unverified_connections_are_recognized() {
    for (text, is_unverified) in [
        ("postgres://u@db/d", true),
        ("postgres://u@db/d?sslmode=require", true),
        ("mysql://u@10.0.0.1/d?ssl-mode=VERIFY_CA&ssl-ca=/ca.pem", false),
        ("mysql://u@db/d?ssl-mode=VERIFY_IDENTITY", false),
        ("postgres://u@localhost/d", false),
        ("postgres://u@127.0.0.2/d", false),
        ("mysql://u@[::1]/d", false),
        ("postgres://u@/d?host=/run/pg", false),
        ("sqlite://x.db", false),
    ] {
        assert_eq!(DatabaseUrl::parse(text).unwrap().unverified_host().is_some(), is_unverified, "{text}");
    }
}

const CERTIFICATE: &str = "-----BEGIN CERTIFICATE-----\nAQID\n-----END CERTIFICATE-----\n";
const KEY: &str = "-----BEGIN PRIVATE KEY-----\nAQID\n-----END PRIVATE KEY-----\n";
const ENCRYPTED: &str = "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAQID\n-----END ENCRYPTED PRIVATE KEY-----\n";

#[test]
fn certificate_files_are_checked_before_connecting() {
    let directory = std::env::temp_dir().join(format!("orm-pool-files-{}", std::process::id()));
    std::fs::create_dir_all(&directory).unwrap();
    let path = |name: &str, text: &str| {
        let path = directory.join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (good, key) = (path("good.pem", CERTIFICATE), path("key.pem", KEY));
    let check = |query: &str| DatabaseUrl::parse(&format!("postgres://u@h/d?{query}")).unwrap().check_files();
    check(&format!("sslmode=verify-full&sslrootcert={good}&sslcert={good}&sslkey={key}")).unwrap();
    for (query, part) in [
        (format!("sslrootcert={}", directory.join("none.pem").display()), "none.pem cannot be read: No such file"),
        (format!("sslrootcert={}", directory.display()), "cannot be read"),
        (format!("sslrootcert={}", path("empty.pem", "")), "empty.pem is empty"),
        (format!("sslrootcert={}", path("text.pem", "hunter2")), "text.pem contains no certificate"),
        (format!("sslrootcert={key}"), "key.pem contains no certificate"),
        (format!("sslcert={good}&sslkey={}", path("encrypted.pem", ENCRYPTED)), "contains no unencrypted private key"),
        (format!("sslcert={good}&sslkey={good}"), "contains no unencrypted private key"),
        ("sslrootcert=hunter2".to_owned(), "parameter sslrootcert: the file cannot be read"),
    ] {
        let error = check(&query).unwrap_err().to_string();
        assert!(error.contains(part) && !error.contains("hunter2"), "{query}: {error}");
    }
    std::fs::remove_dir_all(&directory).unwrap();
}
