//! Requests that match no route: an unknown path (404), or a method that the path does not support (405).

use actix_web::{HttpRequest, HttpResponse, dev::ResourceDef, http::Method, web};
use utoipa::openapi::{OpenApi, PathItem, RefOr};

use super::{
    media_types::{NDJSON, NDJSON_ALIASES},
    problem::{Kind, Problem},
};

/// The methods and media types of each path, from the OpenAPI document, so that there is no second list to maintain.
pub(super) struct Paths(Vec<Route>);

struct Route {
    path: ResourceDef,
    /// The value of `Allow`.
    allow: String,
    /// The media types of the body for each method.
    media_types: Vec<(Method, Vec<String>)>,
}

impl Paths {
    pub(super) fn of(document: &OpenApi) -> Self {
        let route = |(path, item): (&String, &PathItem)| Route {
            path: ResourceDef::new(path.as_str()),
            allow: allow(item),
            media_types: media_types(item),
        };
        Self(document.paths.paths.iter().map(route).collect())
    }

    fn find(&self, path: &str) -> Option<&Route> {
        self.0.iter().find(|route| route.path.is_match(path))
    }

    /// Returns the methods of a path without parameters, as the value of `Allow`.
    pub(super) fn allow(&self, path: &str) -> Option<String> {
        self.0.iter().find(|route| route.path.pattern() == Some(path)).map(|route| route.allow.clone())
    }

    /// Returns the route template of a path, for a request whose handler did not return.
    pub(super) fn template(&self, path: &str) -> Option<String> {
        self.find(path).and_then(|route| route.path.pattern()).map(ToOwned::to_owned)
    }

    /// Returns the route template and the media types of the body; `None` if the path has no body with this method.
    pub(super) fn media_types(&self, path: &str, method: &Method) -> Option<(&str, &[String])> {
        let route = self.find(path)?;
        let (_, types) = route.media_types.iter().find(|(known, _)| known == method)?;
        Some((route.path.pattern().unwrap_or_default(), types))
    }
}

fn media_types(item: &PathItem) -> Vec<(Method, Vec<String>)> {
    let methods = [(Method::POST, &item.post), (Method::PUT, &item.put), (Method::PATCH, &item.patch)];
    let types = methods.into_iter().filter_map(|(method, operation)| {
        let Some(RefOr::T(body)) = operation.as_ref()?.request_body.as_ref() else { return None };
        let mut types: Vec<String> = body.content.keys().cloned().collect();
        if types.iter().any(|name| name == NDJSON) {
            types.extend(NDJSON_ALIASES.map(str::to_owned));
        }
        Some((method, types))
    });
    types.collect()
}

fn allow(item: &PathItem) -> String {
    let methods = [
        ("GET", &item.get),
        ("HEAD", &item.get),
        ("POST", &item.post),
        ("PUT", &item.put),
        ("PATCH", &item.patch),
        ("DELETE", &item.delete),
    ];
    let known: Vec<&str> = methods.iter().filter(|(_, operation)| operation.is_some()).map(|(name, _)| *name).collect();
    known.join(", ")
}

pub(super) async fn fallback(request: HttpRequest, paths: web::Data<Paths>) -> Result<HttpResponse, Problem> {
    Err(match paths.find(request.path()) {
        Some(route) => Problem::method_not_allowed(route.allow.clone()),
        None => Problem::new(Kind::NotFound, "No resource exists at this path. See /swagger for the API."),
    })
}
