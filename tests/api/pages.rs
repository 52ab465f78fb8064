//! The pages of the binary.

use std::collections::BTreeSet;

use crate::{
    cases,
    harness::{App, Context},
};

cases![pages_load_only_their_own_files, every_link_of_the_pages_works, files_are_revalidated];

const PAGES: [&str; 2] = ["/", "/dashboard"];
const DOCUMENTS: [&str; 5] = ["API.md", "FEED.md", "OPERATIONS.md", "POOL.md", "SECURITY.md"];

/// Returns what follows each `begin`, up to `end`.
fn all<'a>(text: &'a str, begin: &'a str, end: char) -> impl Iterator<Item = &'a str> {
    text.split(begin).skip(1).map(move |rest| rest.split(end).next().unwrap())
}

/// Returns the files that a page uses: those in its HTML, and the modules that they import.
async fn files(app: &App, page: &str) -> BTreeSet<String> {
    let html = app.get(page).await.text;
    let mut files: BTreeSet<String> = all(&html, "\"assets/", '"').map(str::to_owned).collect();
    let mut unread: Vec<String> = files.iter().cloned().collect();
    while let Some(file) = unread.pop() {
        let text = app.get(&format!("/assets/{file}")).await.text;
        for module in all(&text, "\"./", '"').chain(all(&text, "new URL(\"", '"')) {
            if files.insert(module.to_owned()) {
                unread.push(module.to_owned());
            }
        }
    }
    files
}

async fn pages_load_only_their_own_files(context: Context) {
    let app = context.app().await;
    for page in PAGES.map(str::to_owned).into_iter().chain(DOCUMENTS.map(|name| format!("/docs/{name}"))) {
        let reply = app.get(&page).await;
        assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "text/html; charset=utf-8"), "{page}");
        let policy = reply.header("content-security-policy");
        assert!(policy.starts_with("default-src 'none'; script-src 'self'; style-src 'self';"), "{policy}");
        assert!(!policy.contains("unsafe"), "{policy}");
        assert_eq!(reply.header("x-frame-options"), "DENY");
        // The policy forbids inline code, so it would not work.
        for forbidden in [" style=", "<style", "onclick=", "src=\"http", "<script>"] {
            assert!(!reply.text.contains(forbidden), "{page}: {forbidden}");
        }
        for file in files(&app, &page).await {
            let reply = app.get(&format!("/assets/{file}")).await;
            assert_eq!(reply.status, 200, "{page}: {file}");
            let content_type = if file.contains(".css") { "text/css" } else { "text/javascript" };
            assert!(reply.header("content-type").starts_with(content_type), "{file}");
        }
    }
    let known = files(&app, "/dashboard").await;
    assert!(known.len() > 10 && known.contains("tour.js"), "{known:?}");
    for path in ["/assets/nothing.js", "/assets/markdown.rs", "/docs/nothing.md", "/docs/openapi.json"] {
        app.get(path).await.problem(404, "not-found");
    }
}

async fn every_link_of_the_pages_works(context: Context) {
    let app = context.app().await;
    let mut links = BTreeSet::new();
    for page in PAGES {
        links.extend(all(&app.get(page).await.text, "href=\"", '"').map(str::to_owned));
        for file in files(&app, page).await {
            let text = app.get(&format!("/assets/{file}")).await.text;
            links.extend(all(&text, "\"docs/", '"').map(|rest| format!("docs/{rest}")));
            links.extend(
                all(&text, "`docs/", '`').filter(|rest| !rest.contains("${")).map(|rest| format!("docs/{rest}")),
            );
        }
    }
    for document in DOCUMENTS {
        let html = app.get(&format!("/docs/{document}")).await.text;
        let of_document = all(&html, "href=\"", '"').filter(|link| !link.starts_with("http"));
        links.extend(of_document.map(|link| match link.strip_prefix('#') {
            Some(anchor) => format!("docs/{document}#{anchor}"),
            None => link.strip_prefix("../").map_or_else(|| format!("docs/{link}"), str::to_owned),
        }));
    }
    assert!(links.iter().any(|link| link.starts_with("docs/POOL.md#")), "{links:?}");
    for link in links.iter().filter(|link| !link.starts_with("data:") && !link.starts_with('#')) {
        let (path, anchor) = link.split_once('#').unwrap_or((link.as_str(), ""));
        let reply = app.get(&format!("/{}", path.trim_start_matches("./"))).await;
        assert_eq!(reply.status, 200, "{link}");
        assert!(anchor.is_empty() || reply.text.contains(&format!("id=\"{anchor}\"")), "{link}: no such heading");
    }
}

async fn files_are_revalidated(context: Context) {
    let app = context.app().await;
    for path in ["/", "/dashboard", "/assets/style.css", "/docs/POOL.md"] {
        let first = app.get(path).await;
        assert_eq!(first.header("cache-control"), "public, no-cache");
        let again = app.request(reqwest::Method::GET, path).header("if-none-match", first.header("etag"));
        assert_eq!(again.send().await.unwrap().status(), 304, "{path}");
    }
}
