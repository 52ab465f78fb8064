//! The pages of the service, embedded in the binary: home, the dashboard, and the documentation for operators. They need
//! no network, and work under any path prefix.

mod markdown;

use std::{collections::BTreeMap, sync::LazyLock};

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
            if name.ends_with(".css") { "text/css; charset=utf-8" } else { "text/javascript; charset=utf-8" };
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

/// The documents in Markdown, by name.
const DOCUMENTS: [(&str, &str); 5] = [
    ("API.md", include_str!("../../docs/API.md")),
    ("FEED.md", include_str!("../../docs/FEED.md")),
    ("OPERATIONS.md", include_str!("../../docs/OPERATIONS.md")),
    ("POOL.md", include_str!("../../docs/POOL.md")),
    ("SECURITY.md", include_str!("../../docs/SECURITY.md")),
];

/// The documents that have been requested so far, as HTML.
static PAGES: LazyLock<BTreeMap<&str, LazyLock<Asset, Box<dyn FnOnce() -> Asset + Send>>>> = LazyLock::new(|| {
    let page = |(name, text): (&'static str, &'static str)| {
        let render: Box<dyn FnOnce() -> Asset + Send> = Box::new(move || Asset::page(document(name, text)));
        (name, LazyLock::new(render))
    };
    DOCUMENTS.into_iter().map(page).collect()
});

fn document(name: &str, text: &str) -> String {
    let is_served = |name: &str| DOCUMENTS.iter().any(|(served, _)| *served == name);
    let title = name.trim_end_matches(".md");
    let navigation: String =
        DOCUMENTS.iter().map(|(name, _)| format!("<a href=\"{name}\">{}</a> ", name.trim_end_matches(".md"))).collect();
    format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{title}: users-api</title>\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <link rel=\"stylesheet\" href=\"../assets/style.css\">\n\
         <link rel=\"stylesheet\" href=\"../assets/document.css\">\n</head>\n<body class=\"document\">\n<header>\n\
         <nav class=\"documents\" aria-label=\"Documents\"><a href=\"../\">users-api</a> {navigation}</nav>\n</header>\n\
         <main>\n{}</main>\n</body>\n</html>\n",
        markdown::to_html(text, is_served)
    )
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
    let page = PAGES.get(name.as_str()).ok_or_else(|| Problem::new(Kind::NotFound, "This document does not exist."))?;
    Ok(page.respond(&request))
}
