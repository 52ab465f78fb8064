//! Redis: publish and subscribe, on a connection each.

use std::{convert::Infallible, time::Duration};

use ::redis::{AsyncConnectionConfig, Client, IntoConnectionInfo, RedisError, RedisResult, cmd, io::tcp::TcpSettings};
use futures_util::StreamExt;
use tokio::{
    sync::Notify,
    time::{Instant, timeout, timeout_at},
};

use super::{CHANNEL, DoorbellError, RESPONSE_TIMEOUT};
use crate::feed::broker::RedisUrl;

/// After how much silence the connection is checked.
const SILENCE: Duration = Duration::from_secs(2);

/// `process` distinguishes own messages, which are ignored.
pub(super) async fn listen(
    url: &RedisUrl,
    process: &str,
    rings: &Notify,
    on_ring: &impl Fn(),
) -> Result<Infallible, DoorbellError> {
    let client = client(url).map_err(failed)?;
    let (mut subscriber, mut messages) = in_time(client.get_async_pubsub()).await?.split();
    in_time(subscriber.subscribe(CHANNEL)).await?;
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(RESPONSE_TIMEOUT));
    let mut publisher = in_time(client.get_multiplexed_async_connection_with_config(&config)).await?;
    // Messages published before the subscription were missed.
    on_ring();
    let mut received_at = Instant::now();
    loop {
        tokio::select! {
            message = timeout_at(received_at + SILENCE, messages.next()) => match message {
                Ok(Some(message)) => {
                    if message.get_payload_bytes() != process.as_bytes() {
                        on_ring();
                    }
                }
                Ok(None) => return Err(DoorbellError::Lost),
                Err(_) => in_time(subscriber.ping::<()>()).await?,
            },
            () = rings.notified() => {
                in_time(cmd("PUBLISH").arg(CHANNEL).arg(process).exec_async(&mut publisher)).await?;
                continue;
            }
        }
        received_at = Instant::now();
    }
}

fn client(url: &RedisUrl) -> RedisResult<Client> {
    let settings = TcpSettings::default().set_nodelay(true);
    Client::open(url.with_credentials().into_connection_info()?.set_tcp_settings(settings))
}

async fn in_time<T>(request: impl Future<Output = RedisResult<T>>) -> Result<T, DoorbellError> {
    timeout(RESPONSE_TIMEOUT, request).await.map_err(|_| DoorbellError::Silent)?.map_err(failed)
}

fn failed(error: RedisError) -> DoorbellError {
    DoorbellError::Broker(error.into())
}
