//! What no handler may do: take for ever, or take others down with it.

use std::{any::Any, panic::AssertUnwindSafe, pin::pin, rc::Rc, time::Duration};

use actix_web::{
    Error,
    body::MessageBody,
    dev::{ServiceRequest, ServiceResponse},
    http::Method,
    middleware::Next,
    web,
};
use futures_util::FutureExt;
use orm_pool::RequestContext;
use tokio::time::timeout;

use super::{
    fallback::Paths,
    host, path,
    problem::{Kind, Problem},
    request_info::RequestInfo,
};

/// What a worker needs to keep the limits.
pub(super) struct Bounds {
    /// Longest time to an answer.
    pub(super) timeout: Duration,
    pub(super) paths: web::Data<Paths>,
}

/// Refuses requests for other hosts, bounds the handler in time, turns its panic into an answer, and answers HEAD as GET.
pub(super) async fn limits<B: MessageBody>(
    mut request: ServiceRequest,
    next: Next<B>,
    info: Option<&Rc<RequestInfo>>,
) -> Result<ServiceResponse<B>, Error> {
    host::check(&request)?;
    path::route_as_written(&mut request);
    if request.method() == Method::HEAD {
        // The connection remembers that the answer goes without its body.
        request.head_mut().method = Method::GET;
    }
    let bounds = request.app_data::<Rc<Bounds>>().cloned();
    let limit = bounds.as_ref().map_or(Duration::MAX, |bounds| bounds.timeout);
    let caller = info.map_or("", |info| info.caller());
    // Whatever the pool does for this request, it does in its name, and not for longer than it waits.
    let handling = RequestContext::new(caller).timeout(limit).scope(next.call(request));
    let mut handling = pin!(AssertUnwindSafe(handling).catch_unwind());
    let mut left = limit;
    let handled = loop {
        let handled = timeout(left, &mut handling).await;
        if handled.is_err() && info.is_some_and(|info| info.is_unbounded.get()) {
            left = limit;
            continue;
        }
        // As long as a body of any length goes on, its time begins anew with each piece.
        let heard = info.and_then(|info| info.heard.get());
        match (handled, heard.and_then(|heard| limit.checked_sub(heard.elapsed()))) {
            (Err(_), Some(more)) if !more.is_zero() => left = more,
            (handled, _) => break handled,
        }
    };
    let problem = match handled {
        Ok(Ok(answered)) => return answered,
        Ok(Err(panic)) => Problem::internal(format!("the handler panicked: {}", message(panic.as_ref()))),
        Err(_) if info.is_some_and(|info| info.arriving.get()) => {
            Problem::new(Kind::BodyTimeout, format!("The body was not here after {limit:?}."))
        }
        Err(_) => {
            let detail = format!("There was no answer after {limit:?}. What you asked for may still be done.");
            Problem::new(Kind::RequestTimeout, detail)
        }
    };
    if let (Some(info), Some(bounds)) = (info, bounds)
        && let Some(template) = bounds.paths.template(&info.path)
    {
        // The request itself is gone with its handler.
        info.route.get_or_init(|| template);
    }
    Err(problem.into())
}

fn message(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use actix_web::{
        App, HttpResponse,
        http::StatusCode,
        middleware::from_fn,
        rt::System,
        test::{TestRequest, init_service, try_call_service},
        web,
    };

    use super::*;

    #[test]
    fn a_panic_becomes_an_answer() {
        System::new().block_on(async {
            let panics = || async { if true { panic!("a bug") } else { HttpResponse::Ok().finish() } };
            let app = init_service(
                App::new().route("/", web::get().to(panics)).wrap(from_fn(|request, next| limits(request, next, None))),
            )
            .await;
            for _ in 0..2 {
                let error = try_call_service(&app, TestRequest::get().to_request()).await.err().unwrap();
                let problem = error.as_error::<Problem>().unwrap();
                assert_eq!(error.as_response_error().status_code(), StatusCode::INTERNAL_SERVER_ERROR);
                assert_eq!(problem.chain().unwrap(), "the handler panicked: a bug");
            }
        });
    }
}
