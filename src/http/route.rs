//! Registration of routes: as `public`, or as `protected`.
//!
//! The handler of a protected route takes an [`Allowed`] or one of its variants first; another handler does not compile. The
//! same type documents the route: its security requirement, and the problems of a refused caller.

use std::marker::PhantomData;

use actix_web::{
    FromRequest, Handler, Responder,
    dev::{AppService, HttpServiceFactory},
    guard,
    http::Method,
    web,
};
use utoipa::{
    IntoResponses,
    openapi::{HttpMethod, RefOr, path::Paths, schema::Schema, security::SecurityRequirement},
};
use utoipa_actix_web::{OpenApiFactory, service_config::ServiceConfig};

use super::{
    access::{Allowed, AllowedOrSelf, AllowedOrSubject, AllowedOrTicket, RequiredScope},
    responses::AccessProblems,
};
use crate::domain::Scope;

/// The name of the security scheme in the document.
pub(super) const SCHEME: &str = "apiKey";

/// The arguments of a handler that begin with an [`Allowed`] or one of its variants.
pub(super) trait Protected: FromRequest {
    /// The scopes of which one is required.
    const SCOPES: &'static [Scope];
}

macro_rules! protected {
    ($($argument:ident)*) => {
        impl<S: RequiredScope, $($argument: FromRequest + 'static),*> Protected for (Allowed<S>, $($argument,)*) {
            const SCOPES: &'static [Scope] = &[S::SCOPE];
        }

        impl<S: RequiredScope, $($argument: FromRequest + 'static),*> Protected for (AllowedOrSelf<S>, $($argument,)*) {
            const SCOPES: &'static [Scope] = &[S::SCOPE, Scope::UsersSelf];
        }

        impl<S: RequiredScope, $($argument: FromRequest + 'static),*> Protected for (AllowedOrSubject<S>, $($argument,)*) {
            const SCOPES: &'static [Scope] = &[S::SCOPE, Scope::UsersSelf];
        }

        impl<S: RequiredScope, $($argument: FromRequest + 'static),*> Protected for (AllowedOrTicket<S>, $($argument,)*) {
            const SCOPES: &'static [Scope] = &[S::SCOPE];
        }
    };
}

protected!();
protected!(A);
protected!(A B);
protected!(A B C);
protected!(A B C D);
protected!(A B C D E);
protected!(A B C D E F);

/// Registers and documents routes. It has no way to register a route without saying who may use it.
pub(super) struct Routes<'a, 'b>(pub(super) &'a mut ServiceConfig<'b>);

impl Routes<'_, '_> {
    /// Adds a route that anyone may use. `path` is the type that `utoipa::path` derives from the handler.
    pub(super) fn public<P, H, A>(&mut self, path: P, handler: H) -> &mut Self
    where
        P: utoipa::Path + OpenApiFactory + 'static,
        H: Handler<A, Output: Responder>,
        A: FromRequest + 'static,
    {
        self.0.service(Route { path, handler, scopes: &[], arguments: PhantomData });
        self
    }

    /// Adds a route for callers with the scope that its handler names.
    pub(super) fn protected<P, H, A>(&mut self, path: P, handler: H) -> &mut Self
    where
        P: utoipa::Path + OpenApiFactory + 'static,
        H: Handler<A, Output: Responder>,
        A: Protected + 'static,
    {
        self.0.service(Route { path, handler, scopes: A::SCOPES, arguments: PhantomData });
        self
    }
}

struct Route<P, H, A> {
    path: P,
    handler: H,
    /// None: anyone may use it.
    scopes: &'static [Scope],
    arguments: PhantomData<A>,
}

impl<P, H, A> HttpServiceFactory for Route<P, H, A>
where
    P: utoipa::Path,
    H: Handler<A, Output: Responder>,
    A: FromRequest + 'static,
{
    fn register(self, config: &mut AppService) {
        for method in P::methods() {
            let method = match method {
                HttpMethod::Get => Method::GET,
                HttpMethod::Post => Method::POST,
                HttpMethod::Put => Method::PUT,
                HttpMethod::Patch => Method::PATCH,
                HttpMethod::Delete => Method::DELETE,
                HttpMethod::Options => Method::OPTIONS,
                HttpMethod::Head => Method::HEAD,
                HttpMethod::Trace => Method::TRACE,
            };
            web::resource(P::path()).guard(guard::Method(method)).to(self.handler.clone()).register(config);
        }
    }
}

impl<P: OpenApiFactory, H, A> OpenApiFactory for Route<P, H, A> {
    fn paths(&self) -> Paths {
        let mut paths = self.path.paths();
        if self.scopes.is_empty() {
            return paths;
        }
        let requirements: Vec<SecurityRequirement> =
            self.scopes.iter().map(|scope| SecurityRequirement::new(SCHEME, [scope.name()])).collect();
        for item in paths.paths.values_mut() {
            let operations = [&mut item.get, &mut item.post, &mut item.put, &mut item.patch, &mut item.delete];
            for operation in operations.into_iter().flatten() {
                operation.security = Some(requirements.clone());
                for (status, response) in AccessProblems::responses() {
                    operation.responses.responses.entry(status).or_insert(response);
                }
            }
        }
        paths
    }

    fn schemas(&self, schemas: &mut Vec<(String, RefOr<Schema>)>) {
        self.path.schemas(schemas);
    }
}
