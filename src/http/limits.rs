//! The limits of a request: accepted hosts, the request timeout, and handlers that panic.

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

/// The limits of a worker.
pub(super) struct Limits {
    /// The maximum time until the response starts.
    pub(super) timeout: Duration,
    pub(super) paths: web::Data<Paths>,
}

/// Refuses requests for other hosts, applies the request timeout, turns a panic into a response, and handles HEAD as
/// GET.
pub(super) async fn limits<B: MessageBody>(
    mut request: ServiceRequest,
    next: Next<B>,
    info: Option<&Rc<RequestInfo>>,
) -> Result<ServiceResponse<B>, Error> {
    host::check(&request)?;
    path::route_as_written(&mut request);
    if request.method() == Method::HEAD {
        // The connection still omits the body of the response.
        request.head_mut().method = Method::GET;
    }
    let limits = request.app_data::<Rc<Limits>>().cloned();
    let limit = limits.as_ref().map_or(Duration::MAX, |limits| limits.timeout);
    let request_id = info.map_or("", |info| info.id());
    // The pool's operations carry the id of the request, and end with its timeout.
    let handler = RequestContext::new(request_id).timeout(limit).scope(next.call(request));
    let mut handler = pin!(AssertUnwindSafe(handler).catch_unwind());
    let mut remaining = limit;
    let result = loop {
        let result = timeout(remaining, &mut handler).await;
        if result.is_err() && info.is_some_and(|info| info.is_timeout_disabled.get()) {
            remaining = limit;
            continue;
        }
        // Each chunk of a streamed body restarts the timeout.
        let last_chunk_at = info.and_then(|info| info.last_chunk_at.get());
        match (result, last_chunk_at.and_then(|at| limit.checked_sub(at.elapsed()))) {
            (Err(_), Some(more)) if !more.is_zero() => remaining = more,
            (result, _) => break result,
        }
    };
    let problem = match result {
        Ok(Ok(response)) => return response,
        Ok(Err(panic)) => Problem::internal(format!("the handler panicked: {}", panic_message(panic.as_ref()))),
        Err(_) if info.is_some_and(|info| info.is_receiving.get()) => {
            Problem::new(Kind::BodyTimeout, format!("The body did not arrive within {limit:?}."))
        }
        Err(_) => {
            let detail = format!("The request took longer than {limit:?}. It may still be executed.");
            Problem::new(Kind::RequestTimeout, detail)
        }
    };
    if let (Some(info), Some(limits)) = (info, limits)
        && let Some(template) = limits.paths.template(&info.path)
    {
        // The handler owned the request, so its route is looked up by the path.
        info.route.get_or_init(|| template);
    }
    Err(problem.into())
}

fn panic_message(panic: &(dyn Any + Send)) -> &str {
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
    fn a_panic_becomes_an_error_response() {
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
