//! The pages of the service, embedded in the binary: home, the dashboard, and the documentation for operators. They need
//! no network, and work under any path prefix.

mod markdown;

use std::{
    collections::BTreeMap,
    sync::{LazyLock, OnceLock},
};

use actix_web::{HttpRequest, HttpResponse, http::header::HeaderValue, web};

use super::{
    policy::Asset,
    problem::{Kind, Problem},
};

static HOME: LazyLock<Asset> = LazyLock::new(|| Asset::page(include_str!("pages/home.html")));
static DASHBOARD: LazyLock<Asset> = LazyLock::new(|| Asset::page(include_str!("pages/dashboard.html")));

macro_rules! files {
    ($($name:literal),* $(,)?) => { [$(($name, include_str!(concat!("pages/", $name)))),*] };
}

/// The style sheets and scripts of the pages, by name.
static FILES: LazyLock<BTreeMap<&str, Asset>> = LazyLock::new(|| {
    let asset = |(name, text): (&'static str, &'static str)| {
        let content_type =
            if name.contains(".css") { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" };
        (name, Asset::new(text.into(), HeaderValue::from_static(content_type)))
    };
    files![
        "api.js",
        "comparison.js",
        "connections.js",
        "dashboard.js",
        "document.css",
        "dom.js",
        "format.js",
        "glossary.js",
        "health.js",
        "histogram.js",
        "history.js",
        "home.js",
        "lab-client.js",
        "lab-controls.js",
        "lab-dom.js",
        "lab.css",
        "lab.js",
        "panels.js",
        "queue.js",
        "recent.js",
        "series.js",
        "stream.js",
        "style.css",
        "terms.js",
        "tour-conclusions.js",
        "tour-measure.js",
        "tour-steps.js",
        "tour.js",
    ]
    .into_iter()
    .map(asset)
    .collect()
});

/// A document in Markdown. Its page is made at the first request.
struct Document {
    name: &'static str,
    text: &'static str,
    page: OnceLock<Asset>,
}

macro_rules! documents {
    ($($name:literal),* $(,)?) => {
        [$(Document { name: $name, text: include_str!(concat!("../../docs/", $name)), page: OnceLock::new() }),*]
    };
}

static DOCUMENTS: [Document; 6] =
    documents!["API.md", "DEPLOYMENT.md", "FEED.md", "OPERATIONS.md", "POOL.md", "SECURITY.md"];

impl Document {
    fn title(&self) -> &str {
        self.name.trim_end_matches(".md")
    }

    fn html(&self) -> String {
        let is_served = |name: &str| DOCUMENTS.iter().any(|document| document.name == name);
        let link = |document: &Document| format!("<a href=\"{}\">{}</a>", document.name, document.title());
        format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{}: users-api</title>\n\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
             <link rel=\"stylesheet\" href=\"../assets/style.css\">\n\
             <link rel=\"stylesheet\" href=\"../assets/document.css\">\n</head>\n<body class=\"document\">\n<header>\n\
             <nav class=\"documents\" aria-label=\"Documents\"><a href=\"../\">users-api</a> {}</nav>\n</header>\n\
             <main>\n{}</main>\n</body>\n</html>\n",
            self.title(),
            DOCUMENTS.iter().map(link).collect::<Vec<_>>().join(" "),
            markdown::to_html(self.text, is_served)
        )
    }
}

/// The page at `/`: what this is, and where everything else is.
pub(super) async fn home(request: HttpRequest) -> HttpResponse {
    HOME.respond(&request)
}

/// The live picture of the pool. Without credentials it is empty: it reads `GET /pool/live`.
pub(super) async fn dashboard(request: HttpRequest) -> HttpResponse {
    DASHBOARD.respond(&request)
}

pub(super) async fn file(request: HttpRequest, name: web::Path<String>) -> Result<HttpResponse, Problem> {
    let file = FILES.get(name.as_str()).ok_or_else(|| Problem::new(Kind::NotFound, "This file does not exist."))?;
    Ok(file.respond(&request))
}

/// A document for operators.
pub(super) async fn docs(request: HttpRequest, name: web::Path<String>) -> Result<HttpResponse, Problem> {
    let document = DOCUMENTS.iter().find(|document| document.name == *name);
    let document = document.ok_or_else(|| Problem::new(Kind::NotFound, "This document does not exist."))?;
    Ok(document.page.get_or_init(|| Asset::page(document.html())).respond(&request))
}
