//! How answers are framed for those who do not know all of HTTP/1.1.

use std::rc::Rc;

use actix_http::{ConnectionType, Request};
use actix_service::Service;
use actix_web::{
    HttpResponse,
    body::{BodySize, BoxBody, MessageBody},
    dev::{ResponseHead, ServiceResponse},
    http::{Method, Version, header},
};

use super::one_at_a_time::Turn;

/// Around everything else, so that it sees the answers to errors as well.
///
/// # Errors
///
/// As the service: its answers to errors.
pub fn frame<S, B>(
    mut request: Request,
    service: &S,
) -> impl Future<Output = Result<ServiceResponse<B>, HttpResponse<BoxBody>>> + use<S, B>
where
    S: Service<Request, Response = ServiceResponse<B>, Error = HttpResponse<BoxBody>>,
    B: MessageBody,
{
    let asked = Asked::of(&request);
    let turn = request.conn_data::<Rc<Turn>>().cloned();
    if let Some(turn) = &turn {
        turn.begin(&mut request);
    }
    let answer = service.call(request);
    async move {
        let mut answer = answer.await;
        let (head, size) = match &mut answer {
            Ok(response) => {
                let size = response.response().body().size();
                (response.response_mut().head_mut(), size)
            }
            Err(response) => {
                let size = response.body().size();
                (response.head_mut(), size)
            }
        };
        asked.frame(head, size);
        if let Some(turn) = turn
            && !asked.is_last_with(head, size)
        {
            turn.answered();
        }
        answer
    }
}

/// What a request says of the connection.
#[derive(Clone, Copy)]
struct Asked {
    /// Whether the client knows no chunks.
    is_old: bool,
    /// Whether no other request follows.
    is_last: bool,
    /// Whether it asks for another protocol, which no route speaks.
    is_upgrade: bool,
}

impl Asked {
    fn of(request: &Request) -> Self {
        let head = request.head();
        Self {
            is_old: head.version < Version::HTTP_11,
            is_last: head.connection_type() == ConnectionType::Close,
            is_upgrade: head.connection_type() == ConnectionType::Upgrade
                || head.headers.contains_key(header::UPGRADE)
                || head.method == Method::CONNECT,
        }
    }

    /// Whether the connection ends with this answer.
    fn is_last_with(self, head: &ResponseHead, size: BodySize) -> bool {
        // An answer to an old client says nothing of its own connection, and ends it if it has no length.
        let is_ended =
            if self.is_old { size == BodySize::Stream } else { head.connection_type() == ConnectionType::Close };
        self.is_last || is_ended
    }

    fn frame(self, head: &mut ResponseHead, size: BodySize) {
        if (self.is_old || self.is_upgrade) && size == BodySize::Stream {
            // It ends with its connection.
            head.no_chunking(true);
            head.set_connection_type(ConnectionType::Close);
        }
        if self.is_upgrade {
            // Otherwise the answer would say "upgrade" as the request did.
            head.set_connection_type(ConnectionType::Close);
        }
    }
}
