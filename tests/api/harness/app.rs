use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use reqwest::{Client, Method, RequestBuilder, StatusCode, header::HeaderMap};
use serde_json::Value;
use tokio::{sync::oneshot, task::JoinHandle};
use users_api::{app::Application, lifecycle::ShutdownError};

/// A running application and an HTTP client for it.
#[derive(Clone)]
pub struct App {
    pub address: SocketAddr,
    pub url: String,
    client: Client,
    running: Arc<Mutex<Option<Running>>>,
}

struct Running {
    stop: oneshot::Sender<()>,
    ended: JoinHandle<Result<(), ShutdownError>>,
}

/// A complete response.
#[derive(Debug)]
pub struct Reply {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub text: String,
}

impl App {
    pub fn run(application: Application, url: &str) -> Self {
        let address = application.address();
        let (stop, stopped) = oneshot::channel();
        let ended = tokio::spawn(application.run(async { drop(stopped.await) }));
        let running = Arc::new(Mutex::new(Some(Running { stop, ended })));
        Self { address, url: url.to_owned(), client: client(), running }
    }

    /// A client for a service in another process.
    pub fn at(address: SocketAddr, url: &str) -> Self {
        Self { address, url: url.to_owned(), client: client(), running: Arc::default() }
    }

    /// Stops the application; `None` if it was stopped before.
    pub async fn stop(&self) -> Option<Result<(), ShutdownError>> {
        let running = self.running.lock().unwrap_or_else(PoisonError::into_inner).take()?;
        // The application may have ended already.
        let _ = running.stop.send(());
        Some(running.ended.await.unwrap())
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("http://{}{path}", self.address))
    }

    pub async fn get(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Reply {
        Reply::of(self.request(Method::DELETE, path)).await
    }

    pub async fn post(&self, path: &str, body: &Value) -> Reply {
        Reply::of(self.request(Method::POST, path).json(body)).await
    }

    pub async fn put(&self, path: &str, body: &Value) -> Reply {
        Reply::of(self.request(Method::PUT, path).json(body)).await
    }

    pub async fn patch(&self, path: &str, body: &Value) -> Reply {
        let request = self.request(Method::PATCH, path).header("content-type", "application/merge-patch+json");
        Reply::of(request.body(body.to_string())).await
    }

    /// The response of `/pool`.
    pub async fn pool(&self) -> Value {
        self.get("/pool").await.json()
    }

    /// Waits until the response of `/pool` meets a condition, and returns it.
    pub async fn pool_until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        super::eventually(what, || async { Some(self.pool().await).filter(&condition) }).await
    }

    /// Creates a user and returns it.
    pub async fn create(&self, name: &str, email: &str) -> Value {
        let reply = self.post("/users", &serde_json::json!({ "name": name, "email": email })).await;
        assert_eq!(reply.status, 201, "{}", reply.text);
        reply.json()
    }
}

impl Reply {
    pub async fn of(request: RequestBuilder) -> Self {
        Self::try_of(request).await.unwrap()
    }

    pub async fn try_of(request: RequestBuilder) -> Result<Self, reqwest::Error> {
        let response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Self { status, headers, text: response.text().await? })
    }

    pub fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|error| panic!("{error}: {:?}", self.text))
    }

    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no {name} in {:?}", self.headers)).to_str().unwrap()
    }

    /// The target of a relation in the `Link` header.
    pub fn link(&self, relation: &str) -> Option<String> {
        let parameter = format!("rel=\"{relation}\"");
        let links = self.header("link").split(", ").map(|link| link.split_once("; ").unwrap());
        let target = links.filter(|(_, relation)| *relation == parameter).map(|(target, _)| target).next()?;
        Some(target.trim_matches(['<', '>']).to_owned())
    }

    /// The ids of the users of a page.
    pub fn ids(&self) -> Vec<String> {
        assert_eq!(self.status, 200, "{}", self.text);
        let users = self.json();
        users.as_array().unwrap().iter().map(|user| user["id"].as_str().unwrap().to_owned()).collect()
    }

    /// Asserts that the response is a complete problem with this status and code. Returns its body.
    #[track_caller]
    pub fn problem(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status, status, "{}", self.text);
        assert_eq!(self.header("content-type"), "application/problem+json");
        let body = self.json();
        assert_eq!(body["code"], code, "{body}");
        assert_eq!(body["type"], format!("urn:problem-type:users-api:{code}"), "{body}");
        assert_eq!(body["status"], status, "{body}");
        for member in ["title", "detail", "instance"] {
            assert!(body[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {body}");
        }
        assert!(!self.header("x-request-id").is_empty());
        if status == 503 {
            assert!(self.header("retry-after").parse::<u64>().is_ok());
        }
        body
    }

    /// `pointer code` of each validation error, sorted.
    pub fn validation_errors(&self) -> Vec<String> {
        let body = self.problem(422, "validation-failed");
        let describe = |error: &Value| {
            assert!(!error["message"].as_str().unwrap().is_empty());
            format!("{} {}", error["pointer"].as_str().unwrap(), error["code"].as_str().unwrap())
        };
        let mut errors: Vec<String> = body["errors"].as_array().unwrap().iter().map(describe).collect();
        errors.sort();
        errors
    }
}

pub fn client() -> Client {
    users_api::tls::install_provider();
    Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy().build().unwrap()
}
