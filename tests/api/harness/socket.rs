use std::{net::SocketAddr, time::Duration};

use futures_util::{SinkExt, StreamExt};
use serde_json::{Value, json};
use tokio::{net::TcpStream, time::timeout};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{ClientRequestBuilder, Error, Message, handshake::client::Response, http::Uri},
};

/// How long a message may take: longer than the interval of heartbeats.
const LIMIT: Duration = Duration::from_secs(40);

/// A WebSocket, as a client library opens it.
pub struct Socket(WebSocketStream<TcpStream>);

impl Socket {
    /// Opens a socket without headers of the caller.
    pub async fn open(address: SocketAddr, path: &str) -> Self {
        Self::open_with(address, path, &[]).await.map_err(|error| format!("{error:?}")).unwrap().0
    }

    /// Opens a socket, or returns the status of the refusal.
    pub async fn open_with(
        address: SocketAddr,
        path: &str,
        headers: &[(&str, &str)],
    ) -> Result<(Self, Response), tokio_tungstenite::tungstenite::http::Response<Option<Vec<u8>>>> {
        let uri: Uri = format!("ws://{address}{path}").parse().unwrap();
        let request = ClientRequestBuilder::new(uri).with_sub_protocol("users-api.v1");
        let request = headers.iter().fold(request, |request, (name, value)| request.with_header(*name, *value));
        let stream = TcpStream::connect(address).await.unwrap();
        match client_async(request, stream).await {
            Ok((socket, response)) => Ok((Self(socket), response)),
            Err(Error::Http(response)) => Err(*response),
            Err(error) => panic!("{error}"),
        }
    }

    /// Opens a socket, subscribes and returns the position in `hello`.
    pub async fn subscribe(address: SocketAddr, subscription: &Value) -> (Self, String) {
        let mut socket = Self::open(address, "/ws").await;
        let position = socket.begin(subscription).await;
        (socket, position)
    }

    /// Opens a socket and subscribes; `None` if that fails.
    pub async fn try_subscribe(address: SocketAddr, subscription: &Value) -> Option<Self> {
        let request = ClientRequestBuilder::new(format!("ws://{address}/ws").parse().unwrap());
        let stream = TcpStream::connect(address).await.ok()?;
        let (mut socket, _) = client_async(request.with_sub_protocol("users-api.v1"), stream).await.ok()?;
        let mut message = subscription.clone();
        message["type"] = "subscribe".into();
        socket.send(Message::text(message.to_string())).await.ok()?;
        Some(Self(socket))
    }

    /// Subscribes and returns the position in `hello`.
    pub async fn begin(&mut self, subscription: &Value) -> String {
        let mut message = subscription.clone();
        message["type"] = "subscribe".into();
        self.send(&message).await;
        let hello = self.next().await;
        assert_eq!((&hello["type"], &hello["heartbeatMs"]), (&json!("hello"), &json!(25_000)), "{hello}");
        hello["position"].as_str().unwrap().to_owned()
    }

    pub async fn send(&mut self, message: &Value) {
        self.send_text(&message.to_string()).await;
    }

    pub async fn send_text(&mut self, text: &str) {
        self.0.send(Message::text(text)).await.unwrap();
    }

    /// Returns the next frame; `None` once the connection has ended.
    pub async fn frame(&mut self) -> Option<Message> {
        timeout(LIMIT, self.0.next()).await.expect("the socket is silent")?.ok()
    }

    /// Returns the next message.
    pub async fn next(&mut self) -> Value {
        loop {
            match self.frame().await {
                Some(Message::Text(text)) => return serde_json::from_str(&text).unwrap(),
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("a message was expected: {other:?}"),
            }
        }
    }

    /// Returns the next events.
    pub async fn events(&mut self, count: usize) -> Vec<Value> {
        let mut events = Vec::new();
        while events.len() < count {
            let message = self.next().await;
            if message["type"] == "events" {
                let more = message["events"].as_array().unwrap();
                assert_eq!(more.last().unwrap()["position"], message["position"]);
                events.extend(more.iter().cloned());
            }
        }
        events
    }

    /// Reads until the end. Returns the messages before it, the close code and the reason.
    pub async fn rest(&mut self) -> (Vec<Value>, u16, String) {
        let mut messages = Vec::new();
        loop {
            match self.frame().await {
                Some(Message::Text(text)) => messages.push(serde_json::from_str(&text).unwrap()),
                Some(Message::Close(Some(frame))) => {
                    // Sends the response.
                    while self.frame().await.is_some() {}
                    return (messages, frame.code.into(), frame.reason.to_string());
                }
                Some(Message::Ping(_) | Message::Pong(_)) => {}
                other => panic!("the end was expected: {other:?}"),
            }
        }
    }

    /// Closes the socket as a client does. Returns the code of the response.
    pub async fn close(mut self) -> Option<u16> {
        self.0.close(None).await.unwrap();
        while let Some(frame) = self.frame().await {
            if let Message::Close(reason) = frame {
                return reason.map(|reason| reason.code.into());
            }
        }
        None
    }
}
