//! Sequences of frames that RFC 6455 forbids, and unusual ones that it allows.

use std::{net::SocketAddr, time::Duration};

use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use crate::{
    cases,
    harness::{Context, Socket},
};

cases![malformed_frames_close_the_connection, unusual_frames_are_accepted];

const CONTINUATION: u8 = 0;
const TEXT: u8 = 1;
const BINARY: u8 = 2;
const CLOSE: u8 = 8;
const PING: u8 = 9;
const PONG: u8 = 10;
const FINAL: u8 = 0x80;
const MASKED: u8 = 0x80;

/// A frame of a client, with a mask that changes its bytes.
fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    const MASK: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    let mut frame = vec![first];
    match payload.len() {
        length @ 0..126 => frame.push(MASKED | u8::try_from(length).unwrap()),
        length => {
            frame.push(MASKED | 0x7e);
            frame.extend(u16::try_from(length).unwrap().to_be_bytes());
        }
    }
    frame.extend(MASK);
    frame.extend(payload.iter().zip(MASK.iter().cycle()).map(|(byte, mask)| byte ^ mask));
    frame
}

fn text(payload: &str) -> Vec<u8> {
    frame(FINAL | TEXT, payload.as_bytes())
}

/// The head of a frame with a length in 64 bits.
fn long(first: u8, length: u64) -> Vec<u8> {
    [&[first, MASKED | 127][..], &length.to_be_bytes(), &[0; 4]].concat()
}

fn closing(code: u16, reason: &[u8]) -> Vec<u8> {
    frame(FINAL | CLOSE, &[&code.to_be_bytes(), reason].concat())
}

async fn open(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = "GET /ws HTTP/1.1\r\nhost: localhost\r\nconnection: keep-alive, Upgrade\r\nupgrade: WebSocket\r\n\
        sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    while !response.ends_with(b"\r\n\r\n") {
        response.push(stream.read_u8().await.unwrap());
    }
    assert!(response.starts_with(b"HTTP/1.1 101 "), "{}", String::from_utf8_lossy(&response));
    stream
}

/// Reads a frame of the service: its first byte and its payload.
async fn read(stream: &mut TcpStream) -> Option<(u8, Vec<u8>)> {
    let reading = async {
        let first = stream.read_u8().await.ok()?;
        let length = match stream.read_u8().await.ok()? {
            126 => usize::from(stream.read_u16().await.ok()?),
            length @ 0..126 => usize::from(length),
            other => panic!("the service masks, or sends long frames: {other}"),
        };
        let mut payload = vec![0; length];
        stream.read_exact(&mut payload).await.ok()?;
        Some((first, payload))
    };
    timeout(Duration::from_secs(20), reading).await.expect("the service responds")
}

/// Returns the close code and how many frames came before it.
async fn close_code(stream: &mut TcpStream) -> (Option<u16>, usize) {
    let mut before = 0;
    loop {
        match read(stream).await {
            Some((first, payload)) if first == FINAL | CLOSE => {
                let code = payload.first_chunk().map(|code| u16::from_be_bytes(*code));
                assert!(payload.get(2..).is_none_or(|reason| std::str::from_utf8(reason).is_ok()));
                assert_eq!(read(stream).await, None, "nothing follows");
                return (code, before);
            }
            Some(_) => before += 1,
            None => return (None, before),
        }
    }
}

#[rustfmt::skip]
fn malformed() -> Vec<(&'static str, Vec<u8>, u16)> {
    let subscribe = br#"{"type":"subscribe"}"#;
    let long_text = vec![b'x'; 8193];
    let mut cases = vec![
        ("the first reserved bit", frame(FINAL | 0x40 | TEXT, subscribe), 1002),
        ("the second reserved bit", frame(FINAL | 0x20 | TEXT, subscribe), 1002),
        ("the third reserved bit", frame(FINAL | 0x10 | TEXT, subscribe), 1002),
        ("a reserved bit in a ping", frame(FINAL | 0x40 | PING, b""), 1002),
        ("a reserved bit in a close frame", frame(FINAL | 0x40 | CLOSE, b""), 1002),
        ("text without a mask", [&[FINAL | TEXT, 20][..], subscribe].concat(), 1002),
        ("a ping without a mask", vec![FINAL | PING, 0], 1002),
        ("a close frame without a mask", vec![FINAL | CLOSE, 2, 3, 232], 1002),
        ("a fragmented ping", frame(PING, b"a"), 1002),
        ("a fragmented pong", frame(PONG, b"a"), 1002),
        ("a fragmented close frame", frame(CLOSE, &[3, 232]), 1002),
        ("a long ping", frame(FINAL | PING, &[b'a'; 126]), 1002),
        ("a long pong", frame(FINAL | PONG, &[b'a'; 126]), 1002),
        ("a long close frame", closing(1000, &[b'a'; 124]), 1002),
        ("a very long ping", long(FINAL | PING, 1 << 40), 1002),
        ("a continuation without a beginning", frame(FINAL | CONTINUATION, b"a"), 1002),
        ("a middle without a beginning", frame(CONTINUATION, b"a"), 1002),
        ("text within a message", [frame(TEXT, b"{"), text("{}")].concat(), 1002),
        ("a beginning within a message", [frame(TEXT, b"{"), frame(TEXT, b"{")].concat(), 1002),
        ("binary within a message", [frame(TEXT, b"{"), frame(FINAL | BINARY, b"a")].concat(), 1002),
        ("two ends", [frame(TEXT, b"{\"type\":"), frame(FINAL | CONTINUATION, b"0}"), frame(FINAL | CONTINUATION, b"a")].concat(), 1002),
        ("binary", frame(FINAL | BINARY, subscribe), 1003),
        ("the beginning of binary", frame(BINARY, subscribe), 1003),
        ("empty binary", frame(FINAL | BINARY, b""), 1003),
        ("text that is not UTF-8", frame(FINAL | TEXT, b"{\"type\":\"\xff\"}"), 1007),
        ("an overlong encoding", frame(FINAL | TEXT, b"\xc0\xaf"), 1007),
        ("a surrogate", frame(FINAL | TEXT, b"\xed\xa0\x80"), 1007),
        ("a truncated character", frame(FINAL | TEXT, "{\"ü".as_bytes().split_last().unwrap().1), 1007),
        ("fragments that are not UTF-8", [frame(TEXT, b"\xc3"), frame(FINAL | CONTINUATION, b"\x28")].concat(), 1007),
        ("text that is not JSON", text("subscribe"), 1007),
        ("empty text", text(""), 1007),
        ("two JSON texts", text("{}{}"), 1007),
        ("a long message", frame(FINAL | TEXT, &long_text), 1009),
        ("a long message in fragments", [frame(TEXT, &long_text[..8000]), frame(FINAL | CONTINUATION, &long_text[..193])].concat(), 1009),
        ("endless fragments", [frame(TEXT, &long_text[..4000]), frame(CONTINUATION, &long_text[..4000]), frame(CONTINUATION, &long_text[..4000])].concat(), 1009),
        ("a length of a megabyte", long(FINAL | TEXT, 1 << 20), 1009),
        ("a length of an exabyte", long(FINAL | TEXT, 1 << 60), 1009),
        ("a length with the highest bit", long(FINAL | TEXT, 1 << 63), 1009),
        ("a fragment of a terabyte", long(TEXT, 1 << 40), 1009),
        ("a close frame of one byte", frame(FINAL | CLOSE, &[3]), 1002),
        ("a reason that is not UTF-8", closing(1000, b"\xff\xfe"), 1002),
        ("too many pings", frame(FINAL | PING, b"").repeat(101), 4029),
        ("too many fragments", [frame(TEXT, b""), frame(CONTINUATION, b"").repeat(101)].concat(), 4029),
    ];
    for opcode in [3, 4, 5, 6, 7, 11, 12, 13, 14, 15] {
        cases.push(("a reserved opcode", frame(FINAL | opcode, b""), 1002));
    }
    for code in [0, 999, 1004, 1005, 1006, 1015, 1016, 2999] {
        cases.push(("an invalid close code", closing(code, b""), 1002));
    }
    cases
}

async fn malformed_frames_close_the_connection(context: Context) {
    let app = &context.app().await;
    let (mut bystander, _) = Socket::subscribe(app.address, &json!({})).await;
    let cases = malformed();
    assert!(cases.len() >= 50);
    let checks = cases.into_iter().flat_map(|case| [usize::MAX, 1, 5].map(|chunk| (case.clone(), chunk)));
    let checks = checks.map(|((name, bytes, expected), chunk)| async move {
        let mut stream = open(app.address).await;
        for part in bytes.chunks(chunk.min(bytes.len()).max(bytes.len() / 400)) {
            // The service may have closed the connection before the last one.
            if stream.write_all(part).await.is_err() {
                break;
            }
        }
        let (code, _) = close_code(&mut stream).await;
        assert_eq!(code, Some(expected), "{name} in parts of {chunk}");
    });
    futures_util::future::join_all(checks).await;
    app.create("Ann", "ann@example.com").await;
    assert_eq!(bystander.events(1).await[0]["data"]["name"], "Ann");
}

async fn unusual_frames_are_accepted(context: Context) {
    let app = context.app().await;
    let hello = async |bytes: &[u8]| {
        let mut stream = open(app.address).await;
        stream.write_all(bytes).await.unwrap();
        let (first, payload) = read(&mut stream).await.unwrap();
        assert_eq!(first, FINAL | TEXT);
        assert!(String::from_utf8(payload).unwrap().contains("hello"), "{bytes:?}");
        stream
    };
    let message = br#"{"type":"subscribe"}"#;
    let fragments: Vec<Vec<u8>> = message.iter().map(|byte| frame(CONTINUATION, &[*byte])).collect();
    let in_fragments = [frame(TEXT, b""), fragments.concat(), frame(FINAL | CONTINUATION, b"")].concat();
    hello(&in_fragments).await;
    // A length in a longer form than needed.
    let longer = [&[FINAL | TEXT, MASKED | 0x7e, 0, 20][..], &[0; 4], message].concat();
    hello(&longer).await;
    hello(&[frame(FINAL | PONG, b"unasked"), text(r#"{"type":"subscribe","after":"now"}"#)].concat()).await;

    let mut stream = open(app.address).await;
    let ping =
        [frame(TEXT, &message[..8]), frame(FINAL | PING, b"in between"), frame(FINAL | CONTINUATION, &message[8..])];
    stream.write_all(&ping.concat()).await.unwrap();
    assert_eq!(read(&mut stream).await, Some((FINAL | PONG, b"in between".to_vec())));
    assert_eq!(read(&mut stream).await.unwrap().0, FINAL | TEXT);
    for code in [1000, 1001, 1003, 1007, 1011, 3000, 4999] {
        let mut stream = open(app.address).await;
        stream.write_all(&closing(code, "Tschüss".as_bytes())).await.unwrap();
        assert_eq!(close_code(&mut stream).await, (Some(code), 0), "the response repeats the code");
    }
    let mut stream = open(app.address).await;
    stream.write_all(&frame(FINAL | CLOSE, b"")).await.unwrap();
    assert_eq!(read(&mut stream).await, Some((FINAL | CLOSE, Vec::new())));
    assert_eq!(read(&mut stream).await, None);
}
