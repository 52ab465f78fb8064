//! Access tokens of an identity provider.

use std::{
    fs,
    time::{SystemTime, UNIX_EPOCH},
};

use reqwest::Method;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    auth::{get, migrated},
    cases,
    harness::{App, Context, Reply, SigningKey, eventually, token},
};

cases![
    tokens_of_the_provider_are_accepted_and_others_are_not,
    a_token_gives_the_scopes_of_its_claim,
    users_self_permits_the_own_user_only,
    the_keys_are_read_from_a_url,
    until_the_keys_are_read_only_tokens_are_refused,
    invalid_settings_of_tokens_are_refused,
];

const ISSUER: &str = "https://login.example.com/";
const AUDIENCE: &str = "https://users.example.com";

pub fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

pub fn claims(changes: &Value) -> Value {
    let mut claims =
        json!({"iss": ISSUER, "aud": [AUDIENCE, "other"], "sub": "ann", "exp": now() + 600, "scope": "users:read"});
    for (name, value) in changes.as_object().unwrap() {
        match value {
            Value::Null => drop(claims.as_object_mut().unwrap().remove(name)),
            value => claims[name] = value.clone(),
        }
    }
    claims
}

pub fn header(key: &SigningKey, id: &str) -> Value {
    json!({"alg": key.algorithm(), "typ": "at+jwt", "kid": id})
}

/// Starts a service that accepts tokens of these keys, and waits until it has read them.
pub async fn service(context: &Context, keys: &[(&str, &SigningKey)], more: &[(&str, &str)]) -> App {
    let jwks = json!({"keys": keys.iter().map(|(id, key)| key.jwk(id)).collect::<Vec<_>>()});
    let file = context.folder().join("jwks.json");
    fs::write(&file, jwks.to_string()).unwrap();
    service_with(context, file.to_str().unwrap(), keys, more).await
}

async fn service_with(context: &Context, jwks: &str, keys: &[(&str, &SigningKey)], more: &[(&str, &str)]) -> App {
    let url = migrated(context).await;
    let mut settings = vec![
        ("auth.mode", "required"),
        ("auth.refresh", "1h"),
        ("auth.jwt.issuer", ISSUER),
        ("auth.jwt.audience", AUDIENCE),
        ("auth.jwt.jwks", jwks),
        ("limits.failures_per_address", "0"),
    ];
    settings.extend(more);
    let app = context.app_on(&url, &settings).await;
    let (id, key) = keys[0];
    let token = key.token(&header(key, id), &claims(&json!({})));
    eventually("the keys are read", || async {
        let reply = get(&app, "/users", &token).await;
        assert!([200, 503].contains(&reply.status.as_u16()), "{}", reply.text);
        (reply.status == 200).then_some(())
    })
    .await;
    app
}

/// A key of each family, and a service that accepts tokens of them.
struct Provider {
    ed: SigningKey,
    ec: SigningKey,
    rsa: SigningKey,
    app: App,
}

impl Provider {
    async fn new(context: &Context) -> Self {
        let (ed, ec, rsa) = (SigningKey::ed(), SigningKey::ec(), SigningKey::rsa());
        // The RSA key again, but for any algorithm of its family.
        let mut any_padding = rsa.jwk("any");
        any_padding.as_object_mut().unwrap().remove("alg");
        let jwks = json!({"keys": [ed.jwk("ed"), ec.jwk("ec"), rsa.jwk("rsa"), any_padding]});
        let file = context.folder().join("jwks.json");
        fs::write(&file, jwks.to_string()).unwrap();
        let algorithms = [("auth.jwt.algorithms", "EdDSA, ES256, RS256, PS256")];
        let app = service_with(context, file.to_str().unwrap(), &[("ed", &ed)], &algorithms).await;
        Self { ed, ec, rsa, app }
    }

    /// A token with these changes of the claims.
    fn with(&self, changes: &Value) -> String {
        self.ed.token(&header(&self.ed, "ed"), &claims(changes))
    }

    fn with_header(&self, header: &Value) -> String {
        self.ed.token(header, &claims(&json!({})))
    }

    /// A token signed with PS256 by the RSA key, under one of its two ids.
    fn pss(&self, id: &str) -> String {
        self.rsa.pss_token(&json!({"alg": "PS256", "kid": id}), &claims(&json!({})))
    }
}

async fn tokens_of_the_provider_are_accepted_and_others_are_not(context: Context) {
    let provider = Provider::new(&context).await;
    accepts_valid_tokens(&provider).await;
    let refused = [tokens_with_invalid_claims(&provider), forged_tokens(&provider), malformed_tokens(&provider)];
    let app = &provider.app;
    let ops = provider.with(&json!({"scope": "ops:read"}));
    let operations = async || get(app, "/pool", &ops).await.json()["counters"]["operations"].clone();
    let before = operations().await;
    for (what, token) in refused.concat() {
        let reply = get(app, "/users", &token).await;
        assert_eq!(reply.status, 401, "{what}: {}", reply.text);
        reply.problem(401, "credentials-invalid");
    }
    assert_eq!(before, operations().await, "a refused token used the database");
}

async fn accepts_valid_tokens(provider: &Provider) {
    let Provider { ed, ec, rsa, app } = provider;
    assert_eq!(get(app, "/users", &provider.pss("any")).await.status, 200);
    for (id, key) in [("ed", ed), ("ec", ec), ("rsa", rsa)] {
        for claims in [
            claims(&json!({})),
            claims(&json!({"aud": AUDIENCE})),
            claims(&json!({"nbf": now() - 10, "iat": now(), "jti": "x", "roles": ["a"]})),
            claims(&json!({"scope": ["openid", "users:read"]})),
            claims(&json!({"exp": 32_503_680_000.5, "jti": id})),
        ] {
            let token = key.token(&header(key, id), &claims);
            // The second time, the token is cached.
            for _ in 0..2 {
                let reply = get(app, "/users", &token).await;
                assert_eq!(reply.status, 200, "{id} {claims}: {}", reply.text);
            }
        }
    }
}

/// Tokens with a valid signature, each with what is invalid about its claims.
fn tokens_with_invalid_claims(provider: &Provider) -> Vec<(&'static str, String)> {
    let with = |changes: Value| provider.with(&changes);
    vec![
        ("expired", with(json!({"exp": now() - 60}))),
        ("no expiry", with(json!({"exp": null}))),
        ("an expiry that is not a number", with(json!({"exp": "never"}))),
        ("an expiry beyond the range of times", with(json!({"exp": 8_210_266_876_799_u64}))),
        ("an expiry that is infinite", with(json!({"exp": 1e300}))),
        ("not valid yet", with(json!({"nbf": now() + 120}))),
        ("another audience", with(json!({"aud": "other"}))),
        ("no audience", with(json!({"aud": null}))),
        ("another issuer", with(json!({"iss": "https://login.example.com"}))),
        ("no issuer", with(json!({"iss": null}))),
        ("no subject", with(json!({"sub": null}))),
        ("an empty subject", with(json!({"sub": ""}))),
        ("a long subject", with(json!({"sub": "x".repeat(256)}))),
        ("a subject with a control character", with(json!({"sub": "a\u{0}b"}))),
        ("too long", with(json!({"x": "a".repeat(9000)}))),
    ]
}

/// Tokens whose header does not select the key that signed them, or that no key of the provider has signed.
fn forged_tokens(provider: &Provider) -> Vec<(&'static str, String)> {
    let with_header = |header: Value| provider.with_header(&header);
    let valid_claims = claims(&json!({}));
    let unsigned = |header: Value| token(&header, &valid_claims, |_| Vec::new());
    // The public key as a shared secret, which verifiers accept if they let the token choose the algorithm.
    let public = provider.rsa.jwk("rsa")["n"].as_str().unwrap().to_owned();
    let hmac = |message: &[u8]| {
        let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, public.as_bytes());
        ring::hmac::sign(&key, message).as_ref().to_vec()
    };
    let stranger = SigningKey::ed();
    vec![
        ("not signed", unsigned(json!({"alg": "none"}))),
        ("alg none with a key", unsigned(json!({"alg": "none", "kid": "ed"}))),
        ("alg None", unsigned(json!({"alg": "None", "kid": "ed"}))),
        ("HS256 with the public key", token(&json!({"alg": "HS256", "kid": "rsa"}), &valid_claims, hmac)),
        ("an unknown key", with_header(json!({"alg": "EdDSA", "kid": "other"}))),
        ("no key id among several keys", with_header(json!({"alg": "EdDSA"}))),
        ("the id of a key of another family", with_header(json!({"alg": "EdDSA", "kid": "rsa"}))),
        ("another algorithm of the same family", provider.pss("rsa")),
        ("an algorithm that is not allowed", with_header(json!({"alg": "RS512", "kid": "rsa"}))),
        ("an unknown extension", with_header(json!({"alg": "EdDSA", "kid": "ed", "crit": ["b64"], "b64": false}))),
        ("another unknown extension", with_header(json!({"alg": "EdDSA", "kid": "ed", "crit": ["x"], "x": 1}))),
        ("an embedded key", stranger.token(&json!({"alg": "EdDSA", "jwk": stranger.jwk("ed")}), &valid_claims)),
        ("another key", stranger.token(&header(&provider.ed, "ed"), &valid_claims)),
    ]
}

/// Texts made from the parts of a valid token.
fn malformed_tokens(provider: &Provider) -> Vec<(&'static str, String)> {
    let valid = provider.with(&json!({}));
    let (signed, signature) = valid.rsplit_once('.').unwrap();
    let (head, _) = signed.split_once('.').unwrap();
    let other = provider.with(&json!({"scope": "users:delete"}));
    let other_claims = other.split('.').nth(1).unwrap();
    vec![
        ("changed claims", format!("{head}.{other_claims}.{signature}")),
        ("no signature", format!("{signed}.")),
        ("two parts", signed.to_owned()),
        ("four parts", format!("{valid}.{signature}")),
        ("padding", format!("{valid}==")),
        ("no token", "a.b.c".to_owned()),
    ]
}

async fn a_token_gives_the_scopes_of_its_claim(context: Context) {
    let key = SigningKey::ec();
    let more = [("auth.jwt.scope_claim", "permissions"), ("auth.jwt.algorithms", "ES256")];
    let url_scopes = |scopes: Value| key.token(&header(&key, ""), &claims(&json!({"permissions": scopes})));
    // Neither its only key nor the tokens have an id.
    let app = {
        let mut jwk = key.jwk("");
        for member in ["kid", "use", "alg"] {
            jwk.as_object_mut().unwrap().remove(member);
        }
        let file = context.folder().join("jwks.json");
        fs::write(&file, json!({"keys": [jwk]}).to_string()).unwrap();
        let url = migrated(&context).await;
        let mut settings = vec![
            ("auth.mode", "required"),
            ("auth.jwt.issuer", ISSUER),
            ("auth.jwt.audience", AUDIENCE),
            ("auth.jwt.jwks", file.to_str().unwrap()),
        ];
        settings.extend(more);
        context.app_on(&url, &settings).await
    };
    let without_id =
        |scopes: Value| key.token(&json!({"alg": "ES256", "typ": "JWT"}), &claims(&json!({"permissions": scopes})));
    let read = without_id(json!("openid users:read"));
    eventually("the keys are read", || async { (get(&app, "/users", &read).await.status == 200).then_some(()) }).await;
    get(&app, "/pool", &read).await.problem(403, "scope-missing");
    assert_eq!(get(&app, "/pool", &without_id(json!(["ops:read"]))).await.status, 200);
    for none in [json!(null), json!(7), json!("users"), json!(""), json!({"users:read": true})] {
        get(&app, "/users", &without_id(none)).await.problem(403, "scope-missing");
    }
    get(&app, "/users", &url_scopes(json!("users:read"))).await.problem(401, "credentials-invalid");
}

async fn users_self_permits_the_own_user_only(context: Context) {
    let key = SigningKey::ed();
    let app = service(&context, &[("k", &key)], &[]).await;
    let token = |claims_: Value| key.token(&header(&key, "k"), &claims(&claims_));
    let writer = token(json!({"scope": "users:write"}));
    let create = async |email: &str| {
        let request = app.request(Method::POST, "/users").bearer_auth(&writer);
        let reply = Reply::of(request.json(&json!({"name": "Ann", "email": email}))).await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        reply.json()["id"].as_str().unwrap().to_owned()
    };
    let (own, other) = (create("a@example.com").await, create("b@example.com").await);
    // In lower and upper case.
    for subject in [own.clone(), own.to_uppercase()] {
        let ann = token(json!({"scope": "users:self", "sub": subject}));
        let path = format!("/users/{own}");
        assert_eq!(get(&app, &path, &ann).await.json()["email"], "a@example.com");
        let patch = app.request(Method::PATCH, &path).bearer_auth(&ann).json(&json!({"name": "Ann B"}));
        assert_eq!(Reply::of(patch).await.status, 200);
        // Other users are refused in the same way, whether they exist or not.
        let refusals = [other.as_str(), "019aa2f0-5c1e-7b3a-9d5e-2f6c8b7a1e40", "x"].map(|id| format!("/users/{id}"));
        for path in &refusals {
            get(&app, path, &ann).await.problem(403, "scope-missing");
            let patch = app.request(Method::PATCH, path).bearer_auth(&ann).json(&json!({"name": "Ann B"}));
            Reply::of(patch).await.problem(403, "scope-missing");
        }
        for (method, path) in [
            (Method::DELETE, path.as_str()),
            (Method::PUT, &path),
            (Method::GET, "/users"),
            (Method::GET, "/users/export"),
            (Method::POST, "/users"),
        ] {
            Reply::of(app.request(method, path).bearer_auth(&ann)).await.problem(403, "scope-missing");
        }
    }
    let stranger = token(json!({"scope": "users:self", "sub": "ann"}));
    get(&app, &format!("/users/{own}"), &stranger).await.problem(403, "scope-missing");
}

async fn the_keys_are_read_from_a_url(context: Context) {
    let key = SigningKey::rsa();
    let jwks =
        json!({"keys": [key.jwk("k"), {"kty": "oct", "k": "c2VjcmV0", "kid": "secret"}, {"kty": "XYZ"}]}).to_string();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(async move {
        // The first responses are errors, regardless of their bodies, so the keys are requested again.
        let mut responses = vec![
            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{jwks}", jwks.len()),
            format!("HTTP/1.1 302 Found\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{jwks}", jwks.len()),
            "HTTP/1.1 500 Oops\r\ncontent-length: 0\r\nconnection: close\r\n\r\n".to_owned(),
        ];
        while let Some(response) = responses.pop() {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                head.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(response.as_bytes()).await.unwrap();
        }
    });
    let url = format!("http://{address}/jwks.json?secret=hunter2");
    let app = service_with(&context, &url, &[("k", &key)], &[]).await;
    server.await.unwrap();
    // The provider is unreachable now; its keys stay valid.
    let token = key.token(&header(&key, "k"), &claims(&json!({"jti": "another"})));
    assert_eq!(get(&app, "/users", &token).await.status, 200);
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, b"secret");
    let symmetric = crate::harness::token(&json!({"alg": "HS256", "kid": "secret"}), &claims(&json!({})), |message| {
        ring::hmac::sign(&secret, message).as_ref().to_vec()
    });
    get(&app, "/users", &symmetric).await.problem(401, "credentials-invalid");
}

async fn until_the_keys_are_read_only_tokens_are_refused(context: Context) {
    let key = SigningKey::ed();
    let url = migrated(&context).await;
    let api_key = crate::auth::key(&context, &url, &["users:read"]).await;
    // No one listens on the port of `jwks`.
    let settings = [
        ("auth.mode", "required"),
        ("auth.jwt.issuer", ISSUER),
        ("auth.jwt.audience", AUDIENCE),
        ("auth.jwt.jwks", "https://127.0.0.1:9/jwks.json"),
    ];
    let app = context.app_on(&url, &settings).await;
    let token = key.token(&header(&key, "k"), &claims(&json!({})));
    get(&app, "/users", &token).await.problem(503, "identity-provider-unavailable");
    get(&app, "/users", "a.b.c").await.problem(401, "credentials-invalid");
    assert_eq!(get(&app, "/users", &api_key).await.status, 200);
}

async fn invalid_settings_of_tokens_are_refused(context: Context) {
    let valid = [("ISSUER", ISSUER), ("AUDIENCE", AUDIENCE), ("JWKS", "jwks.json")];
    for (name, value, part) in [
        ("AUDIENCE", "", "JWT__AUDIENCE"),
        ("JWKS", "", "JWT__JWKS"),
        ("ALGORITHMS", "HS256", "asymmetric"),
        ("ALGORITHMS", "ES256, none", "asymmetric"),
        ("ALGORITHMS", "", "asymmetric"),
    ] {
        let variables: Vec<(String, &str)> = valid
            .iter()
            .filter(|(known, _)| *known != name)
            .chain([&(name, value)])
            .map(|(name, value)| (format!("USERS_API__AUTH__JWT__{name}"), *value))
            .collect();
        let variables: Vec<(&str, &str)> = variables.iter().map(|(name, value)| (name.as_str(), *value)).collect();
        let output = crate::harness::binary(context.folder(), &variables).arg("config").output().await.unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && text.contains(part), "{name}={value}: {text}");
    }
}
