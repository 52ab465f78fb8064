//! The second listener, for operators.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::{
    cases,
    harness::{App, Context, Service, binary, client},
};

cases![
    paths_for_operators_are_on_the_second_listener_only,
    a_reachable_second_listener_requires_authentication,
    an_address_in_use_is_reported,
];

const OPERATOR_PATHS: [&str; 5] = ["/pool", "/metrics", "/keys", "/swagger", "/swagger/"];

fn free_port() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port().to_string()
}

/// Returns the status of a request whose target is sent unchanged.
async fn status(service: &Service, target: &str) -> String {
    let mut stream = TcpStream::connect(service.address).await.unwrap();
    let request = format!("GET {target} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).await.unwrap();
    response.split(' ').nth(1).unwrap_or_default().to_owned()
}

async fn paths_for_operators_are_on_the_second_listener_only(context: Context) {
    let port = free_port();
    let mut service = Service::start(context.folder(), &[("USERS_API__ADMIN__PORT", &port)]).await;
    let line = service.logged("admin listener started").await;
    let clients = App::at(service.address, "");
    let operators = App::at(line["address"].as_str().unwrap().parse().unwrap(), "");
    assert_eq!(operators.address.port().to_string(), port);
    for path in OPERATOR_PATHS {
        clients.get(path).await.problem(404, "not-found");
        let status = operators.get(path).await.status.as_u16();
        // Without authentication, keys cannot be managed; /swagger redirects.
        assert_eq!(
            status,
            if path == "/keys" {
                403
            } else if path == "/swagger" {
                308
            } else {
                200
            },
            "{path}"
        );
    }
    // Regardless of how the path is written.
    let address = service.address;
    for target in
        ["/%70ool", "/%2570ool", "/./pool", "//pool", "/pool/", "/users/../pool", "/pool;x=1", "/POOL", "/metrics?x=1"]
            .map(str::to_owned)
            .into_iter()
            .chain(["/pool", "/metrics"].map(|path| format!("http://{address}{path}")))
            .chain(["/pool", "/keys"].map(|path| format!("http://localhost{path}")))
    {
        let status = status(&service, &target).await;
        assert!(["400", "404"].contains(&status.as_str()), "{target}: {status}");
    }
    for path in ["/users", "/users/export"] {
        assert_eq!(clients.get(path).await.status, 200, "{path}");
        operators.get(path).await.problem(404, "not-found");
    }
    for path in ["/health/live", "/health/ready", "/livez", "/readyz", "/healthz", "/openapi.json"] {
        assert_eq!(clients.get(path).await.status, 200, "{path}");
        assert_eq!(operators.get(path).await.status, 200, "{path}");
    }
    // Each document describes what its listener serves.
    let (of_clients, of_operators) =
        (clients.get("/openapi.json").await.json(), operators.get("/openapi.json").await.json());
    assert!(of_clients["paths"]["/users"].is_object() && of_clients["paths"]["/pool"].is_null());
    assert!(of_operators["paths"]["/pool"].is_object() && of_operators["paths"]["/users"].is_null());
    // A page of a foreign host name reaches neither.
    let foreign = client().get(format!("http://{}/pool", operators.address)).header("host", "evil.example");
    assert_eq!(foreign.send().await.unwrap().status(), 421);
    service.signal("TERM").await;
    assert!(service.ended().await.success());
    for address in [clients.address, operators.address] {
        assert!(TcpStream::connect(address).await.is_err(), "{address} still listens");
    }
}

async fn a_reachable_second_listener_requires_authentication(context: Context) {
    let variables = [("USERS_API__ADMIN__PORT", "9"), ("USERS_API__ADMIN__HOST", "0.0.0.0")];
    let output = binary(context.folder(), &variables).output().await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(2) && text.contains("admin.host") && text.contains("auth.mode"), "{text}");
}

async fn an_address_in_use_is_reported(context: Context) {
    let used = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = used.local_addr().unwrap().port().to_string();
    let variables = [("USERS_API__SERVER__PORT", "0"), ("USERS_API__ADMIN__PORT", port.as_str())];
    let output = binary(context.folder(), &variables).output().await.unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && text.contains(&format!("cannot listen on 127.0.0.1:{port}")), "{text}");
}
