//! A client that may say anything, over a pipe in memory.

use super::frame::{self, Head};
use super::headers::Encoder;
use super::{Opened, serve};
use crate::mux::Session;
use bytes::{Buf, BytesMut};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;

pub(crate) struct Client {
    pub(crate) io: DuplexStream,
    headers: Encoder,
}

/// A frame as the client sees it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Got {
    Control {
        kind: u16,
        payload: Vec<u8>,
    },
    Data {
        stream: u32,
        fin: bool,
        bytes: Vec<u8>,
    },
    End,
}

impl Client {
    pub(crate) fn new(io: DuplexStream) -> Client {
        Client {
            io,
            headers: Encoder::new().unwrap(),
        }
    }

    pub(crate) async fn send(&mut self, kind: u16, flags: u8, payload: &[u8]) {
        let mut bytes = BytesMut::new();
        frame::control(&mut bytes, kind, flags, payload);
        self.io.write_all(&bytes).await.unwrap();
    }

    pub(crate) async fn open(&mut self, stream: u32, flags: u8, headers: &[(&str, &str)]) {
        let mut payload = stream.to_be_bytes().to_vec();
        payload.extend([0; 6]);
        payload.extend(self.headers.encode(headers).unwrap());
        self.send(frame::SYN_STREAM, flags, &payload).await;
    }

    pub(crate) async fn data(&mut self, stream: u32, flags: u8, data: &[u8]) {
        let mut bytes = BytesMut::new();
        frame::data_head(&mut bytes, stream, flags, data.len());
        bytes.extend_from_slice(data);
        self.io.write_all(&bytes).await.unwrap();
    }

    pub(crate) async fn next(&mut self) -> Got {
        let read = async {
            let mut head = [0; 8];
            if self.io.read_exact(&mut head).await.is_err() {
                return Got::End;
            }
            let (Head::Control { bytes, .. } | Head::Data { bytes, .. }) = Head::decode(head);
            let mut payload = vec![0; bytes as usize];
            self.io.read_exact(&mut payload).await.unwrap();
            match Head::decode(head) {
                Head::Control { kind, version, .. } => {
                    assert_eq!(version, 3);
                    Got::Control { kind, payload }
                }
                Head::Data { stream, flags, .. } => Got::Data {
                    stream,
                    fin: flags & frame::FLAG_FIN != 0,
                    bytes: payload,
                },
            }
        };
        tokio::time::timeout(Duration::from_secs(60), read)
            .await
            .expect("nothing came")
    }

    /// The next frame is a control frame of this kind that begins with these numbers.
    pub(crate) async fn expect(&mut self, kind: u16, numbers: &[u32]) {
        match self.next().await {
            Got::Control { kind: got, payload } if got == kind => {
                let mut rest = &payload[..];
                for &number in numbers {
                    assert_eq!(rest.get_u32(), number, "frame {kind}: {payload:?}");
                }
            }
            other => panic!("{other:?} instead of frame {kind} {numbers:?}"),
        }
    }

    pub(crate) async fn expect_data(&mut self, stream: u32, fin: bool, bytes: &[u8]) {
        let bytes = bytes.to_vec();
        assert_eq!(self.next().await, Got::Data { stream, fin, bytes });
    }
}

fn connect() -> (Client, Session, mpsc::Receiver<Opened>) {
    let (near, far) = tokio::io::duplex(16 << 10);
    let (session, opened) = serve(far);
    (Client::new(near), session, opened)
}

#[tokio::test]
async fn a_stream_there_and_back() {
    let (mut client, _session, mut opened) = connect();
    client
        .open(1, 0, &[("streamType", "data"), ("port", "80")])
        .await;
    client.expect(frame::SYN_REPLY, &[1]).await;
    let mut stream = opened.recv().await.unwrap();
    assert_eq!(
        (
            stream.id,
            stream.header("streamtype"),
            stream.header("port")
        ),
        (1, Some("data"), Some("80"))
    );
    client.data(1, 0, b"hel").await;
    client.data(1, frame::FLAG_FIN, b"lo").await;
    let mut text = String::new();
    stream.stream.io.read_to_string(&mut text).await.unwrap();
    assert_eq!(text, "hello");
    stream.stream.io.write_all(b"back").await.unwrap();
    client.expect_data(1, false, b"back").await;
    drop(stream);
    client.expect_data(1, true, b"").await;
}

#[tokio::test]
async fn pings_resets_and_strangers() {
    let (mut client, _session, mut opened) = connect();
    client.send(frame::PING, 0, &2u32.to_be_bytes()).await;
    client.send(frame::PING, 0, &7u32.to_be_bytes()).await;
    client.expect(frame::PING, &[7]).await;
    client.send(frame::SETTINGS, 0, &[0, 0, 0, 0]).await;
    client
        .send(frame::WINDOW_UPDATE, 0, &[0, 0, 0, 0, 0, 1, 0, 0])
        .await;
    client.send(99, 0, b"unknown kinds are ignored").await;
    client.data(5, 0, b"of a stream never opened").await;
    client
        .expect(frame::RST_STREAM, &[5, super::INVALID_STREAM])
        .await;
    client.open(1, 0, &[]).await;
    client.expect(frame::SYN_REPLY, &[1]).await;
    let mut stream = opened.recv().await.unwrap().stream.io;
    client
        .send(frame::RST_STREAM, 0, &[0, 0, 0, 1, 0, 0, 0, 5])
        .await;
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0, "ends");
    stream.write_all(b"x").await.unwrap_err();
    client.data(1, 0, b"late").await;
    // a stream that ends as it begins, in one direction only
    client
        .open(3, frame::FLAG_FIN | frame::FLAG_UNIDIRECTIONAL, &[])
        .await;
    client.expect(frame::SYN_REPLY, &[3]).await;
    let mut stream = opened.recv().await.unwrap().stream.io;
    assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
    stream.write_all(b"x").await.unwrap_err();
}

#[tokio::test]
async fn violations_end_in_a_goaway() {
    async fn check(name: &str, say: impl AsyncFnOnce(&mut Client)) {
        let (mut client, session, _opened) = connect();
        client.open(3, 0, &[]).await;
        client.expect(frame::SYN_REPLY, &[3]).await;
        say(&mut client).await;
        loop {
            match client.next().await {
                Got::Control {
                    kind: frame::GOAWAY,
                    payload,
                } => {
                    assert_eq!(payload, [0, 0, 0, 3, 0, 0, 0, 1], "{name}");
                    break;
                }
                Got::End => panic!("{name}: no GOAWAY"),
                _ => {}
            }
        }
        assert_eq!(client.next().await, Got::End, "{name}");
        session.closed.cancelled().await;
    }
    check("even id", async |client| client.open(4, 0, &[]).await).await;
    check("old id", async |client| client.open(1, 0, &[]).await).await;
    check("same id", async |client| client.open(3, 0, &[]).await).await;
    check("id 0", async |client| client.open(0, 0, &[]).await).await;
    check("short SYN_STREAM", async |client| {
        client.send(frame::SYN_STREAM, 0, &[0; 9]).await
    })
    .await;
    check("short PING", async |client| {
        client.send(frame::PING, 0, &[0; 3]).await
    })
    .await;
    check("short RST_STREAM", async |client| {
        client.send(frame::RST_STREAM, 0, &[]).await
    })
    .await;
    check("bad header block", async |client| {
        client
            .send(frame::HEADERS, 0, &[0, 0, 0, 3, 0xff, 0xff, 0xff])
            .await;
    })
    .await;
    check("another version", async |client| {
        client
            .io
            .write_all(&[0x80, 2, 0, 6, 0, 0, 0, 4, 0, 0, 0, 1])
            .await
            .unwrap();
    })
    .await;
    check("oversized control frame", async |client| {
        client
            .io
            .write_all(&[0x80, 3, 0, 1, 0, 0xff, 0xff, 0xff])
            .await
            .unwrap();
    })
    .await;
}

/// Whatever comes, the session ends when the connection does, and the server's side of its streams with it.
#[tokio::test]
async fn garbage_ends_cleanly() {
    let mut seed = 0x2545_f491_4f6c_dd1d_u64;
    let mut random = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed as u8
    };
    for round in 0..200 {
        let (mut client, session, mut opened) = connect();
        client.open(1, 0, &[]).await;
        let mut stream = opened.recv().await.unwrap().stream.io;
        let mut garbage: Vec<u8> = (0..64 + round * 4).map(|_| random()).collect();
        // half of the rounds begin like a control frame that is meant
        if round % 2 == 0 {
            garbage[..4].copy_from_slice(&[0x80, 3, 0, 1 + round as u8 % 10]);
            garbage[5..7].fill(0);
        }
        // the server may hang up first
        let _ = client.io.write_all(&garbage).await;
        drop(client);
        session.closed.cancelled().await;
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        while stream.write_all(b"x").await.is_ok() {
            tokio::task::yield_now().await;
        }
    }
}

#[tokio::test]
async fn streams_are_bounded() {
    let (mut client, _session, mut opened) = connect();
    let mut kept = Vec::new();
    let max = u32::try_from(super::STREAMS_MAX).unwrap();
    for i in 0..max {
        client.open(2 * i + 1, 0, &[]).await;
        client.expect(frame::SYN_REPLY, &[2 * i + 1]).await;
        kept.push(opened.recv().await.unwrap());
    }
    client.open(2 * max + 1, 0, &[]).await;
    client
        .expect(frame::RST_STREAM, &[2 * max + 1, super::REFUSED_STREAM])
        .await;
    // one that has ended both ways makes room
    drop(kept.remove(0));
    client.expect_data(1, true, b"").await;
    client.data(1, frame::FLAG_FIN, b"").await;
    client
        .open(
            2 * max + 3,
            0,
            &[("the", "compression state"), ("is", "intact")],
        )
        .await;
    client.expect(frame::SYN_REPLY, &[2 * max + 3]).await;
    kept.push(opened.recv().await.unwrap());
    assert_eq!(kept.last().unwrap().header("is"), Some("intact"));
    drop(opened);
    client.open(2 * max + 5, 0, &[]).await;
    client
        .expect(frame::RST_STREAM, &[2 * max + 5, super::REFUSED_STREAM])
        .await;
}

/// While the server doesn't read, the client can't send: nothing piles up.
#[tokio::test]
async fn back_pressure_and_windows() {
    let (mut client, _session, mut opened) = connect();
    client.open(1, 0, &[]).await;
    client.expect(frame::SYN_REPLY, &[1]).await;
    let mut stream = opened.recv().await.unwrap().stream.io;
    let all: Vec<u8> = (0..1 << 20).map(|i| (i % 251) as u8).collect();
    let mut bytes = BytesMut::new();
    for chunk in all.chunks(100_000) {
        frame::data_head(&mut bytes, 1, 0, chunk.len());
        bytes.extend_from_slice(chunk);
    }
    let (mut read, mut write) = tokio::io::split(client.io);
    let (sent, mut progress) = tokio::sync::watch::channel(0);
    let sender = tokio::spawn(async move {
        while bytes.has_remaining() {
            let n = write.write(&bytes).await.unwrap();
            bytes.advance(n);
            sent.send_modify(|sent| *sent += n);
        }
    });
    // the pipe's 32 KiB, the connection's 16, the reader's 8 and its chunk's 8
    progress.wait_for(|sent| *sent > 32 << 10).await.unwrap();
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
    assert!(*progress.borrow() <= 64 << 10, "{}", *progress.borrow());
    let mut received = vec![0; all.len()];
    let mut frames = Vec::new();
    tokio::select! {
        done = stream.read_exact(&mut received) => drop(done.unwrap()),
        ended = read.read_to_end(&mut frames) => panic!("{ended:?}"),
    }
    assert!(received == all);
    sender.await.unwrap();
    // at least the connection's window has been opened by all but the last step
    let windows = frames
        .chunks_exact(16)
        .filter(|frame| frame[..4] == [0x80, 3, 0, 9]);
    let of_connection = windows.filter(|frame| frame[8..12] == [0; 4]);
    let granted: u32 = of_connection
        .map(|mut frame| frame.split_off(12..).unwrap().get_u32())
        .sum();
    assert!(
        granted as usize > all.len() - 100_000 - (32 << 10),
        "{granted}"
    );
}
