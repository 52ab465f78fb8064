//! Traces, as a collector receives them.

use std::sync::{Arc, Mutex, PoisonError};

use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1::Span};
use prost::Message;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};

use crate::{
    cases,
    harness::{Context, Reply, Service, client},
};

cases![spans_reach_the_collector, without_an_endpoint_no_span_is_sent];

/// A collector that stores every span it receives.
struct Collector {
    url: String,
    spans: Arc<Mutex<Vec<Span>>>,
}

impl Collector {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let spans: Arc<Mutex<Vec<Span>>> = Arc::default();
        let stored = Arc::clone(&spans);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(collect(stream, Arc::clone(&stored)));
            }
        });
        Self { url, spans }
    }

    fn spans(&self) -> Vec<Span> {
        self.spans.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn collect(mut stream: TcpStream, spans: Arc<Mutex<Vec<Span>>>) {
    let mut bytes = Vec::new();
    while stream.read_buf(&mut bytes).await.unwrap_or(0) > 0 {
        let Some(end) = bytes.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
        let head = String::from_utf8_lossy(&bytes[..end]).to_lowercase();
        assert!(head.starts_with("post /v1/traces "), "{head}");
        let length: usize =
            head.split("content-length: ").nth(1).unwrap().split("\r\n").next().unwrap().parse().unwrap();
        if bytes.len() < end + 4 + length {
            continue;
        }
        let batch = ExportTraceServiceRequest::decode(&bytes[end + 4..end + 4 + length]).unwrap();
        let received = batch.resource_spans.into_iter().flat_map(|of| of.scope_spans).flat_map(|of| of.spans);
        spans.lock().unwrap_or_else(PoisonError::into_inner).extend(received);
        bytes.drain(..end + 4 + length);
        stream
            .write_all(b"HTTP/1.1 200 OK\r\ncontent-type: application/x-protobuf\r\ncontent-length: 0\r\n\r\n")
            .await
            .unwrap();
    }
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").unwrap();
        text
    })
}

async fn spans_reach_the_collector(context: Context) {
    let collector = Collector::start().await;
    let mut service =
        Service::start(context.folder(), &[("USERS_API__TELEMETRY__OTLP_ENDPOINT", &collector.url)]).await;
    let client = client();
    let (trace, parent) = ("4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7");
    let request = client
        .post(format!("http://{}/users", service.address))
        .header("traceparent", format!("00-{trace}-{parent}-01"))
        .header("x-request-id", "mine")
        .json(&serde_json::json!({"name": "Ann", "email": "ann@example.com"}));
    assert_eq!(Reply::of(request).await.status, 201);
    Reply::of(service.get(&client, "/users")).await;
    service.signal("TERM").await;
    assert!(service.ended().await.success());

    let spans = collector.spans();
    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let [post] = named("POST /users")[..] else { panic!("{spans:#?}") };
    assert_eq!(
        (hex(&post.trace_id).as_str(), hex(&post.parent_span_id).as_str()),
        (trace, parent),
        "the trace of the client is continued"
    );
    assert_eq!(post.kind, 2, "span kind: server");
    let attribute = |key: &str| {
        let found = post.attributes.iter().find(|attribute| attribute.key == key);
        format!("{:?}", found.unwrap_or_else(|| panic!("no {key}: {post:#?}")).value)
    };
    assert!(attribute("http.route").contains("/users"));
    assert!(attribute("http.request.method").contains("POST"));
    assert!(attribute("http.response.status_code").contains("201"));
    assert!(attribute("request_id").contains("mine"));

    let [create] = named("users.create")[..] else { panic!("{spans:#?}") };
    assert_eq!((hex(&create.trace_id).as_str(), &create.parent_span_id), (trace, &post.span_id));
    assert_eq!(create.kind, 3, "span kind: client");
    for part in ["pool.wait", "pool.use"] {
        let of_create = named(part).into_iter().filter(|span| span.parent_span_id == create.span_id).count();
        assert_eq!(of_create, 1, "{part}: the wait for a connection and its use are separate spans: {spans:#?}");
    }

    let ([get], [list]) = (&named("GET /users")[..], &named("users.list")[..]) else { panic!("{spans:#?}") };
    assert!(get.parent_span_id.is_empty() && get.trace_id != post.trace_id, "a new trace without a traceparent");
    assert_eq!(list.parent_span_id, get.span_id);
    let logged = service.log().into_iter().find(|line| line["request_id"] == "mine").unwrap();
    assert_eq!(logged["trace_id"], trace);
}

async fn without_an_endpoint_no_span_is_sent(context: Context) {
    // Other programs read this variable; this one is configured by its own settings only.
    let collector = Collector::start().await;
    let mut service = Service::start(context.folder(), &[("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.url)]).await;
    let request = service
        .get(&client(), "/users")
        .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01");
    assert_eq!(Reply::of(request).await.status, 200);
    service.signal("TERM").await;
    assert!(service.ended().await.success());
    assert!(collector.spans().is_empty());
    assert!(
        !service.log().iter().any(|line| line["level"] == "ERROR" || line["level"] == "WARN"),
        "{:#?}",
        service.log()
    );
}
