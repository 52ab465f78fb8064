//! NATS (Core): messages without storage.

use std::{convert::Infallible, error::Error as StdError, future::ready, sync::Arc, time::Duration};

use async_nats::{Client, ConnectOptions, Event, RequestErrorKind, ServerAddr};
use bytes::Bytes;
use futures_util::StreamExt;
use tokio::{sync::Notify, time::timeout};

use super::{CHANNEL, DoorbellError, RESPONSE_TIMEOUT};
use crate::feed::nats_url::NatsUrl;

/// A server that is silent for two or three intervals is taken for dead.
const PING_INTERVAL: Duration = Duration::from_secs(1);
/// A subject without subscribers: the server responds to a request at once.
const UNUSED_SUBJECT: &str = "users-api.unused";

pub(super) async fn listen(url: &NatsUrl, rings: &Notify, on_ring: &impl Fn()) -> Result<Infallible, DoorbellError> {
    let disconnected = Arc::new(Notify::new());
    let client = connect(url, &disconnected).await?;
    let mut messages = in_time(client.subscribe(CHANNEL)).await?;
    // The server responds to this request after it has processed the subscription.
    match client.request(UNUSED_SUBJECT, Bytes::new()).await {
        Err(error) if error.kind() != RequestErrorKind::NoResponders => return Err(failed(error)),
        _ => {}
    }
    // Messages published before the subscription were missed.
    on_ring();
    loop {
        tokio::select! {
            () = disconnected.notified() => return Err(DoorbellError::Lost),
            message = messages.next() => match message {
                Some(_) => on_ring(),
                None => return Err(DoorbellError::Lost),
            },
            () = rings.notified() => in_time(client.publish(CHANNEL, Bytes::new())).await?,
        }
    }
}

/// Connects to the first server that responds. Each is tried once: whether and when to connect again is decided by the
/// caller, who reports it.
async fn connect(url: &NatsUrl, disconnected: &Arc<Notify>) -> Result<Client, DoorbellError> {
    // The client would log the credentials in a URL.
    let servers: Result<Vec<ServerAddr>, _> = url.servers().map(|server| server.parse()).collect();
    let servers = servers.map_err(failed)?;
    // Name resolution has no timeout.
    let limit = RESPONSE_TIMEOUT * u32::try_from(servers.len() + 1).unwrap_or(u32::MAX);
    let options = ConnectOptions::new()
        .name("users-api")
        // A process ignores its own messages.
        .no_echo()
        .connection_timeout(RESPONSE_TIMEOUT)
        .request_timeout(Some(RESPONSE_TIMEOUT))
        .ping_interval(PING_INTERVAL)
        .max_reconnects(servers.len())
        .retain_servers_order()
        // They may have addresses that only the other servers can reach.
        .ignore_discovered_servers();
    let options = match url.credentials.clone() {
        None => options,
        Some((token, None)) => options.token(token),
        Some((user, Some(password))) => options.user_and_password(user, password),
    };
    let options = options.event_callback({
        let disconnected = Arc::clone(disconnected);
        move |event| {
            if matches!(event, Event::Disconnected | Event::Closed | Event::ServerError(_)) {
                disconnected.notify_one();
            }
            ready(())
        }
    });
    timeout(limit, options.connect(servers)).await.map_err(|_| DoorbellError::Silent)?.map_err(failed)
}

async fn in_time<T, E: StdError + Send + Sync + 'static>(
    request: impl Future<Output = Result<T, E>>,
) -> Result<T, DoorbellError> {
    timeout(RESPONSE_TIMEOUT, request).await.map_err(|_| DoorbellError::Silent)?.map_err(failed)
}

fn failed(error: impl StdError + Send + Sync + 'static) -> DoorbellError {
    DoorbellError::Broker(error.into())
}
