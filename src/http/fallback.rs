//! What no route takes: a path that is not there (404), or a method that a path does not know (405).

use actix_web::{HttpRequest, HttpResponse, dev::ResourceDef, web};
use utoipa::openapi::{OpenApi, PathItem};

use super::problem::{Kind, Problem};

/// Which methods each path knows, read from the OpenAPI document: there is no second list to forget.
pub(super) struct Paths(Vec<(ResourceDef, String)>);

impl Paths {
    pub(super) fn of(document: &OpenApi) -> Self {
        let paths = &document.paths.paths;
        Self(paths.iter().map(|(path, item)| (ResourceDef::new(path.as_str()), allow(item))).collect())
    }

    fn find(&self, path: &str) -> Option<&(ResourceDef, String)> {
        self.0.iter().find(|(known, _)| known.is_match(path))
    }

    /// The methods of a path without parameters.
    pub(super) fn allow(&self, path: &str) -> Option<String> {
        self.0.iter().find(|(known, _)| known.pattern() == Some(path)).map(|(_, allow)| allow.clone())
    }

    /// The route template of a path, for a request whose handler never returned.
    pub(super) fn template(&self, path: &str) -> Option<String> {
        self.find(path).and_then(|(known, _)| known.pattern()).map(ToOwned::to_owned)
    }
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
        Some((_, allow)) => Problem::method_not_allowed(allow.clone()),
        None => Problem::new(Kind::NotFound, "There is nothing at this path. See /swagger for what there is."),
    })
}
