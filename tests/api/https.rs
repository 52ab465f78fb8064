//! TLS listeners: HTTP/2 and HTTP/1.1, new certificates, stalled clients, and the shutdown.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use reqwest::{Certificate, Client, Version};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    cases,
    harness::{Authority, Context, Service, binary, eventually},
};

cases![
    both_protocols_serve_the_api,
    a_new_certificate_is_used_without_a_failed_request,
    an_invalid_certificate_is_refused,
    a_shutdown_completes_requests_and_closes_idle_connections,
    a_client_that_does_not_read_is_cut_off,
    a_cancelled_request_is_dropped,
    stalled_handshakes_do_not_block_other_clients,
    a_client_that_ignores_the_end_is_disconnected,
    a_client_without_tls_gets_no_response,
];

const HOSTS: [&str; 2] = ["localhost", "127.0.0.1"];

/// Writes the certificate and the key that the service reads.
fn write_identity(folder: &Path, authority: &Authority) {
    let identity = authority.sign(&HOSTS);
    std::fs::write(folder.join("server.pem"), identity.certificate).unwrap();
    std::fs::write(folder.join("server.key"), identity.key).unwrap();
}

const FILES: [(&str, &str); 2] =
    [("USERS_API__SERVER__TLS__CERTIFICATE", "server.pem"), ("USERS_API__SERVER__TLS__KEY", "server.key")];

async fn start(context: &Context, authority: &Authority, more: &[(&str, &str)]) -> Service {
    write_identity(context.folder(), authority);
    Service::start(context.folder(), &[&FILES[..], more].concat()).await
}

/// A client that trusts this authority only.
fn client(authority: &Authority, version: Version) -> Client {
    users_api::tls::install_provider();
    // One connection: it may open a second one while the first is not free yet, but does not keep it.
    let builder = Client::builder().no_proxy().pool_max_idle_per_host(1);
    let builder = builder.tls_certs_only([Certificate::from_pem(authority.pem().as_bytes()).unwrap()]);
    let builder = if version == Version::HTTP_2 { builder } else { builder.http1_only() };
    let builder = if version == Version::HTTP_2 { builder } else { builder.http1_only() };
    builder.build().unwrap()
}

fn url(service: &Service, path: &str) -> String {
    format!("https://localhost:{}{path}", service.address.port())
}

async fn both_protocols_serve_the_api(context: Context) {
    let authority = Authority::named("authority");
    let service = start(&context, &authority, &[]).await;
    for version in [Version::HTTP_2, Version::HTTP_11] {
        let client = client(&authority, version);
        let email = format!("ann-{version:?}@example.com");
        let created =
            client.post(url(&service, "/users")).json(&json!({"name": "Ann", "email": email})).send().await.unwrap();
        assert_eq!((created.status().as_u16(), created.version()), (201, version));
        assert!(created.headers().contains_key("date") && created.headers().contains_key("content-length"));
        let path = created.headers()["location"].to_str().unwrap().to_owned();
        let etag = created.headers()["etag"].clone();
        let found = client.get(url(&service, &path)).header("if-none-match", etag).send().await.unwrap();
        assert_eq!((found.status().as_u16(), found.headers().get("content-length")), (304, None));
        let head = client.head(url(&service, &path)).send().await.unwrap();
        assert_eq!(head.status(), 200);
        assert_ne!(head.headers()["content-length"], "0");
        let rows: String = (0..20_000)
            .map(|number| format!("{{\"name\":\"User\",\"email\":\"user{number}-{version:?}@example.com\"}}\n"))
            .collect();
        let imported =
            client.post(url(&service, "/users/bulk?report=summary")).header("content-type", "application/x-ndjson");
        let imported: Value =
            serde_json::from_str(&imported.body(rows).send().await.unwrap().text().await.unwrap()).unwrap();
        assert_eq!(imported["created"], 20_000, "{imported}");
        let exported = client.get(url(&service, "/users/export?q=user")).send().await.unwrap().text().await.unwrap();
        assert!(exported.lines().count() >= 20_000);
        assert_eq!(client.delete(url(&service, &path)).send().await.unwrap().status(), 204);
        let missing = client.get(url(&service, &path)).send().await.unwrap();
        assert_eq!(missing.headers()["content-type"], "application/problem+json");
        assert_eq!(client.patch(url(&service, "/users")).send().await.unwrap().status(), 405);
        // Only a loopback listener checks the host name, as without TLS.
        let foreign = client.get(url(&service, "/users")).header("host", "evil.example").send().await.unwrap();
        assert_eq!(foreign.status(), 421, "{version:?}");
        // The previous client has disconnected.
        eventually("one open connection", || async {
            let metrics = client.get(url(&service, "/metrics")).send().await.ok()?.text().await.ok()?;
            metrics.contains("http_server_open_connections 1\n").then_some(())
        })
        .await;
    }
    let output = binary(context.folder(), &[&FILES[..], &[("PORT", &service.address.port().to_string())]].concat());
    let output = { output }.arg("healthcheck").output().await.unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// HTTP/2 clients, each with one connection and one request at a time, until they are stopped.
struct Clients {
    stop: Arc<AtomicBool>,
    succeeded: Arc<AtomicUsize>,
    tasks: Vec<tokio::task::JoinHandle<Result<(), String>>>,
}

impl Clients {
    fn start(count: usize, authority: &Authority, service: &Service, path: &str) -> Self {
        let (stop, succeeded) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let tasks = (0..count).map(|_| {
            let (client, url) = (client(authority, Version::HTTP_2), url(service, path));
            let (stop, succeeded) = (Arc::clone(&stop), Arc::clone(&succeeded));
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    let response = client.get(&url).send().await.map_err(|error| format!("{error:?}"))?;
                    if !response.status().is_success() {
                        return Err(response.status().to_string());
                    }
                    response.bytes().await.map_err(|error| format!("{error:?}"))?;
                    succeeded.fetch_add(1, Ordering::Relaxed);
                }
                Ok(())
            })
        });
        Self { tasks: tasks.collect(), stop, succeeded }
    }

    async fn more(&self, count: usize) {
        let goal = self.succeeded.load(Ordering::Relaxed) + count;
        eventually("more responses", || async { (self.succeeded.load(Ordering::Relaxed) >= goal).then_some(()) }).await;
    }

    async fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for task in self.tasks {
            task.await.unwrap().unwrap();
        }
    }
}

async fn a_new_certificate_is_used_without_a_failed_request(context: Context) {
    let (old, new) = (Authority::named("old"), Authority::named("new"));
    let service = start(&context, &old, &[]).await;
    let clients = Clients::start(64, &old, &service, "/users");
    clients.more(500).await;
    let is_trusted = async |authority: &Authority| {
        client(authority, Version::HTTP_2).get(url(&service, "/health/live")).send().await.is_ok()
    };
    let reload = async |message: &str| {
        let count = || service.log().iter().filter(|line| line["message"] == message).count();
        let before = count();
        service.signal("HUP").await;
        eventually(message, || async { (count() > before).then_some(()) }).await;
    };
    assert!(is_trusted(&old).await && !is_trusted(&new).await);
    write_identity(context.folder(), &new);
    reload("reload: new certificate in use for new connections").await;
    assert!(is_trusted(&new).await && !is_trusted(&old).await);
    clients.more(500).await;
    // Half of a change, as made by a tool that replaces one file after the other.
    std::fs::write(context.folder().join("server.key"), old.sign(&HOSTS).key).unwrap();
    reload("reload: invalid certificate; the current one remains in use").await;
    assert!(is_trusted(&new).await);
    std::fs::write(context.folder().join("server.pem"), "not PEM").unwrap();
    reload("reload: invalid certificate; the current one remains in use").await;
    assert!(is_trusted(&new).await);
    write_identity(context.folder(), &old);
    reload("reload: new certificate in use for new connections").await;
    assert!(is_trusted(&old).await);
    reload("reload: no changes").await;
    clients.more(500).await;
    clients.stop().await;
}

async fn an_invalid_certificate_is_refused(context: Context) {
    let authority = Authority::named("authority");
    write_identity(context.folder(), &authority);
    std::fs::write(context.folder().join("other.key"), authority.sign(&HOSTS).key).unwrap();
    std::fs::write(context.folder().join("text"), "not PEM").unwrap();
    for (certificate, key, message) in [
        ("server.pem", "", "TLS__KEY: must be a PEM file with a private key"),
        ("", "server.key", "server.tls.key is set without a certificate"),
        ("missing.pem", "server.key", "server.tls.certificate: cannot read missing.pem: No such file"),
        ("text", "server.key", "server.tls.certificate: cannot read text: it has no item"),
        ("server.pem", "text", "server.tls.key: cannot read text: it has no item"),
        ("server.pem", "server.pem", "server.tls.key: cannot read server.pem: it has no item"),
        ("server.pem", "other.key", "server.tls.key: the key cannot be used with the certificate"),
    ] {
        let variables = [("PORT", "0"), (FILES[0].0, certificate), (FILES[1].0, key)];
        let output = binary(context.folder(), &variables).output().await.unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(2) && text.contains(message), "{certificate} {key}: {text}");
        assert!(!text.contains("PRIVATE KEY"), "{text}");
    }
}

async fn a_shutdown_completes_requests_and_closes_idle_connections(context: Context) {
    let authority = Authority::named("authority");
    let mut service = start(&context, &authority, &[]).await;
    let idle = client(&authority, Version::HTTP_2);
    assert_eq!(idle.get(url(&service, "/users")).send().await.unwrap().status(), 200);
    // A request that ends only after the shutdown has begun.
    let (mut sender, connection) = connect(&authority, service.address).await;
    let (response, mut body) = sender.send_request(request("POST", "/users/bulk"), false).unwrap();
    body.send_data("{\"name\":\"Ann\",\"email\":\"ann@example.com\"}\n".into(), false).unwrap();
    eventually("the first row is written", || async {
        let users = idle.get(url(&service, "/users")).send().await.ok()?.text().await.ok()?;
        users.contains("ann@example.com").then_some(())
    })
    .await;
    service.signal("TERM").await;
    service.logged("shutdown: draining; waiting operations are refused").await;
    body.send_data("".into(), true).unwrap();
    let response = response.await.unwrap();
    assert_eq!(response.status(), 200);
    let report = response.into_body().data().await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&report).contains("created"), "{report:?}");
    // Its client has received GOAWAY and closes the connection.
    drop(sender);
    connection.await.unwrap().unwrap();
    assert!(service.ended().await.success(), "idle connections do not delay it");
    service.logged("shutdown: all requests completed").await;
}

/// Opens a TLS connection that has negotiated HTTP/2.
async fn secured(authority: &Authority, address: SocketAddr) -> tokio_rustls::client::TlsStream<TcpStream> {
    use rustls::pki_types::{CertificateDer, pem::PemObject};
    let mut roots = rustls::RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(authority.pem().as_bytes()).unwrap()).unwrap();
    users_api::tls::install_provider();
    let mut config = rustls::ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    let connector = tokio_rustls::TlsConnector::from(Arc::new(config));
    let stream = TcpStream::connect(address).await.unwrap();
    connector.connect("localhost".try_into().unwrap(), stream).await.unwrap()
}

/// Opens an HTTP/2 connection that a case controls in detail.
async fn connect(
    authority: &Authority,
    address: SocketAddr,
) -> (h2::client::SendRequest<bytes::Bytes>, tokio::task::JoinHandle<Result<(), h2::Error>>) {
    let (sender, connection) = h2::client::handshake(secured(authority, address).await).await.unwrap();
    (sender.ready().await.unwrap(), tokio::spawn(connection))
}

fn request(method: &str, path: &str) -> http::Request<()> {
    let request = http::Request::builder().method(method).uri(format!("https://localhost{path}"));
    request.header("content-type", "application/x-ndjson").body(()).unwrap()
}

async fn a_client_that_does_not_read_is_cut_off(context: Context) {
    let authority = Authority::named("authority");
    let service = start(&context, &authority, &[("USERS_API__SERVER__WRITE_TIMEOUT", "300ms")]).await;
    let rows: String =
        (0..5000).map(|number| format!("{{\"name\":\"Ann\",\"email\":\"ann{number}@example.com\"}}\n")).collect();
    let https = client(&authority, Version::HTTP_2);
    let imported = https.post(url(&service, "/users/bulk")).header("content-type", "application/x-ndjson").body(rows);
    assert_eq!(imported.send().await.unwrap().status(), 200);
    let (mut sender, _connection) = connect(&authority, service.address).await;
    let (response, _) = sender.send_request(request("GET", "/users/export"), true).unwrap();
    // The window of the client is never extended.
    let mut body = response.await.unwrap().into_body();
    let error = loop {
        match body.data().await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("the export is larger than the client's window"),
        }
    };
    assert_eq!(error.reason(), Some(h2::Reason::CANCEL), "{error}");
    // The connection itself is still usable, and the export was stopped.
    let (response, _) = sender.send_request(request("GET", "/health/live"), true).unwrap();
    assert_eq!(response.await.unwrap().status(), 200);
    eventually("no connection of the pool is in use", || async {
        let pool: Value = https.get(url(&service, "/pool")).send().await.ok()?.json().await.ok()?;
        (pool["inUse"] == 0).then_some(())
    })
    .await;
}

async fn a_cancelled_request_is_dropped(context: Context) {
    let authority = Authority::named("authority");
    let mut service = start(&context, &authority, &[("USERS_API__POOL__ACQUIRE", "60s")]).await;
    // Another process holds the database's write lock, so that the request waits.
    let database = crate::harness::connect(&format!("sqlite://{}", context.folder().join("users.db").display())).await;
    let lock = sea_orm::TransactionTrait::begin(&database).await.unwrap();
    sea_orm::ConnectionTrait::execute_unprepared(&lock, "DELETE FROM users").await.unwrap();
    let (mut sender, _connection) = connect(&authority, service.address).await;
    let post = http::Request::builder().method("POST").uri("https://localhost/users");
    let post = post.header("content-type", "application/json").body(()).unwrap();
    let (response, mut body) = sender.send_request(post, false).unwrap();
    body.send_data("{\"name\":\"Ann\",\"email\":\"ann@example.com\"}".into(), true).unwrap();
    let https = client(&authority, Version::HTTP_2);
    let active = async |count: &str| {
        eventually("the number of requests in flight", || async {
            let metrics = https.get(url(&service, "/metrics")).send().await.ok()?.text().await.ok()?;
            metrics.contains(&format!("http_server_active_requests {count}\n")).then_some(())
        })
        .await;
    };
    // Requests in flight: this one, and the one for the metrics.
    active("2").await;
    body.send_reset(h2::Reason::CANCEL);
    active("1").await;
    lock.rollback().await.unwrap();
    database.close().await.unwrap();
    drop((https, response));
    // The connection does not delay the shutdown either, although its client never closes it.
    service.signal("TERM").await;
    assert!(service.ended().await.success());
}

async fn stalled_handshakes_do_not_block_other_clients(context: Context) {
    let authority = Authority::named("authority");
    let mut service = start(&context, &authority, &[("USERS_API__SERVER__MAX_CONNECTIONS", "16")]).await;
    let mut stalled = Vec::new();
    for _ in 0..64 {
        let mut stream = TcpStream::connect(service.address).await.unwrap();
        // The start of a handshake.
        stream.write_all(&[0x16, 0x03, 0x01]).await.unwrap();
        stalled.push(stream);
    }
    let assert_served = async |what: &str| {
        for version in [Version::HTTP_2, Version::HTTP_11] {
            let response =
                client(&authority, version).get(url(&service, "/health/live")).timeout(Duration::from_secs(5));
            assert_eq!(response.send().await.unwrap().status(), 200, "{what} {version:?}");
        }
    };
    assert_served("handshakes").await;
    drop(stalled);
    let mut silent = Vec::new();
    for _ in 0..24 {
        silent.push(secured(&authority, service.address).await);
    }
    assert_served("connections without a preface").await;
    service.signal("TERM").await;
    assert!(service.ended().await.success(), "they do not delay the shutdown");
}

async fn a_client_without_tls_gets_no_response(context: Context) {
    let authority = Authority::named("authority");
    let service = start(&context, &authority, &[]).await;
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    stream.write_all(b"GET /users HTTP/1.1\r\nhost: localhost\r\n\r\n").await.unwrap();
    let mut response = Vec::new();
    // An alert, or a reset.
    let _ = stream.read_to_end(&mut response).await;
    assert!(!String::from_utf8_lossy(&response).contains("HTTP"), "{response:?}");
    assert_eq!(client(&authority, Version::HTTP_2).get(url(&service, "/users")).send().await.unwrap().status(), 200);
}

/// A frame of HTTP/2 (RFC 9113, section 4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

async fn a_client_that_ignores_the_end_is_disconnected(context: Context) {
    let authority = Authority::named("authority");
    let mut service = start(&context, &authority, &[]).await;
    // The client reads nothing, ignores PING and GOAWAY, and keeps sending requests.
    let mut stream = secured(&authority, service.address).await;
    let preface = [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", frame(4, 0, 0, &[]).as_slice()].concat();
    stream.write_all(&preface).await.unwrap();
    let head = [&[0x82, 0x87, 0x04, 12][..], b"/health/live", &[0x01, 9], b"localhost"].concat();
    let sending = tokio::spawn(async move {
        let mut number = 1;
        while stream.write_all(&frame(1, 0x5, number, &head)).await.is_ok() {
            number += 2;
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    });
    service.logged("request").await;
    service.signal("TERM").await;
    assert!(service.ended().await.success());
    sending.await.unwrap();
}
