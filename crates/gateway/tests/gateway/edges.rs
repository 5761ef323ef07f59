//! Servers and clients that stop half-way, ports that change hands, bodies that take their time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use k8s_openapi::api::{core::v1::Service, discovery::v1::EndpointSlice};
use kube::{Api, api::DeleteParams};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::mpsc,
};

use crate::crew::{
    Backend, Crew, DEADLINE, answer_to_one_that_waits, ask, eventually, free_port, serves,
};

/// Reads until `end` was seen.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut all = Vec::new();
    let read = async {
        while !all.ends_with(end.as_bytes()) {
            match stream.read_u8().await {
                Ok(byte) => all.push(byte),
                Err(_) => break,
            }
        }
    };
    let in_time = tokio::time::timeout(DEADLINE, read).await.is_ok();
    let text = String::from_utf8_lossy(&all).into_owned();
    assert!(in_time, "waited for {end:?}, got {text:?}");
    text
}

/// A server that reads each request's head, and then does what `then` says; counts heads.
async fn raw_backend<F>(
    then: impl Fn(TcpStream) -> F + Send + 'static,
) -> (SocketAddr, Arc<AtomicUsize>)
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let seen = Arc::new(AtomicUsize::new(0));
    let counter = seen.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            if until(&mut stream, "\r\n\r\n").await.is_empty() {
                continue;
            }
            counter.fetch_add(1, Relaxed);
            tokio::spawn(then(stream));
        }
    });
    (address, seen)
}

async fn delete_service(crew: &Crew, name: &str) {
    let services = Api::<Service>::namespaced(crew.client.clone(), "default");
    services
        .delete(name, &DeleteParams::default())
        .await
        .unwrap();
}

#[tokio::test]
async fn bodies_stream_both_ways() {
    let crew = Crew::start().await;
    let (told, mut hear) = mpsc::channel::<()>(1);
    let (go, gone) = mpsc::channel::<()>(1);
    let gone = Arc::new(tokio::sync::Mutex::new(gone));
    let (address, _) = raw_backend(move |mut stream| {
        let (told, gone) = (told.clone(), gone.clone());
        async move {
            until(&mut stream, "first").await;
            told.send(()).await.unwrap();
            until(&mut stream, "0\r\n\r\n").await;
            let head = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";
            stream.write_all(head).await.unwrap();
            gone.lock().await.recv().await;
            stream.write_all(b"3\r\ntwo\r\n0\r\n\r\n").await.unwrap();
        }
    })
    .await;
    let port = free_port().await;
    crew.publish(port, json!({"appProtocol":"http"})).await;
    crew.endpoints(&[address]).await;
    let mut client = eventually("the port is open", async || {
        TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(|e| e.to_string())
    })
    .await;
    let head = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n";
    client.write_all(head).await.unwrap();
    let heard = tokio::time::timeout(DEADLINE, hear.recv()).await;
    assert!(
        heard.is_ok(),
        "the first part comes through before the second is sent"
    );
    client.write_all(b"6\r\nsecond\r\n0\r\n\r\n").await.unwrap();
    until(&mut client, "one\r\n").await;
    go.send(()).await.unwrap();
    until(&mut client, "two\r\n0\r\n\r\n").await;
}

#[tokio::test]
async fn an_unpublished_port_closes_and_its_requests_finish() {
    let crew = Crew::start().await;
    let (go, gone) = mpsc::channel::<()>(1);
    let gone = Arc::new(tokio::sync::Mutex::new(gone));
    let (address, seen) = raw_backend(move |mut stream| {
        let gone = gone.clone();
        async move {
            gone.lock().await.recv().await;
            let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ndone";
            stream.write_all(answer).await.unwrap();
        }
    })
    .await;
    let port = free_port().await;
    crew.publish(port, json!({"appProtocol":"http"})).await;
    crew.endpoints(&[address]).await;
    let mut client = eventually("the port is open", async || {
        TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(|e| e.to_string())
    })
    .await;
    client
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    eventually("the request arrives", async || match seen.load(Relaxed) {
        0 => Err("no".into()),
        _ => Ok(()),
    })
    .await;
    delete_service(&crew, "web").await;
    eventually("the port is closed", async || {
        match TcpStream::connect(("127.0.0.1", port)).await {
            Err(_) => Ok(()),
            Ok(_) => Err("open".into()),
        }
    })
    .await;
    go.send(()).await.unwrap();
    let answer = until(&mut client, "done").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_connection_follows_the_port_to_another_service() {
    let crew = Crew::start().await;
    let port = free_port().await;
    let old = Backend::start("old", "127.0.0.1:0").await;
    let new = Backend::start("new", "127.0.0.1:0").await;
    crew.publish(port, json!({"appProtocol":"http"})).await;
    crew.endpoints(&[old.address]).await;
    serves(port).await;
    let mut client = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    let mut ask = async || {
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let head = until(&mut client, "\r\n\r\n").await;
        let length = head.lines().find_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let found = name.eq_ignore_ascii_case("content-length");
            found.then(|| value.parse::<usize>().unwrap())
        });
        let mut body = vec![0; length.unwrap_or_else(|| panic!("{head}"))];
        client.read_exact(&mut body).await.unwrap();
        String::from_utf8(body).unwrap()
    };
    let answer = ask().await;
    assert!(answer.contains("old HTTP/1.1"), "{answer}");
    let other = json!({"apiVersion":"v1","kind":"Service","metadata":{"name":"other"},"spec":{"type":"LoadBalancer",
        "allocateLoadBalancerNodePorts":false,"ports":[{"name":"p","port":port,"appProtocol":"http"}]}});
    crew.apply::<Service>(other).await;
    crew.apply::<EndpointSlice>(
        json!({"apiVersion":"discovery.k8s.io/v1","kind":"EndpointSlice","addressType":"IPv4",
        "metadata":{"name":"other-1","labels":{"kubernetes.io/service-name":"other"}},
        "ports":[{"name":"p","port":new.address.port(),"protocol":"TCP"}],
        "endpoints":[{"addresses":["127.0.0.1"],"conditions":{"ready":true}}]}),
    )
    .await;
    // The first one keeps the port as long as it is there.
    delete_service(&crew, "web").await;
    eventually("the other Service answers", async || {
        let answer = ask().await;
        match answer.contains("new HTTP/1.1") {
            true => Ok(()),
            false => Err(answer),
        }
    })
    .await;
}

#[tokio::test]
async fn a_lone_endpoint_that_refuses_may_come_back() {
    let crew = Crew::start().await;
    let port = free_port().await;
    let place = {
        let listener = TcpListener::bind("127.0.9.9:0").await.unwrap();
        listener.local_addr().unwrap()
    };
    crew.endpoints(&[place]).await;
    crew.publish(port, json!({"appProtocol":"http"})).await;
    eventually("the port is open", async || {
        TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(|e| e.to_string())
    })
    .await;
    let comes = async || Backend::start("back", &place.to_string()).await;
    let goes = async |backend: Backend| {
        backend.stop();
        eventually("it refuses", async || {
            let open = TcpStream::connect(place).await;
            open.map_or(Ok(()), |_| Err("open".into()))
        })
        .await;
    };
    let (status, body, backend) = answer_to_one_that_waits(port, comes, goes).await;
    assert_eq!(status, 200, "{body}");
    assert_eq!(backend.seen.load(Relaxed), 1);
}

#[tokio::test]
async fn what_an_endpoint_may_have_seen_is_sent_again_only_where_harmless() {
    let with_body = |method| {
        format!(
            "{method} / HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi"
        )
    };
    let bare = |method| format!("{method} / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    for (name, request, expected) in [
        ("a GET thrice and not for ever", bare("GET"), 3),
        ("a DELETE, which is idempotent", bare("DELETE"), 3),
        ("a POST without a body", bare("POST"), 1),
        ("a POST", with_body("POST"), 1),
        ("a PUT whose body is gone", with_body("PUT"), 1),
    ] {
        let crew = Crew::start().await;
        // Reads the request and dies.
        let (address, seen) = raw_backend(|stream| async move { drop(stream) }).await;
        let port = free_port().await;
        crew.endpoints(&[address]).await;
        crew.publish(port, json!({"appProtocol":"http"})).await;
        eventually("the port is open", async || {
            TcpStream::connect(("127.0.0.1", port))
                .await
                .map_err(|e| e.to_string())
        })
        .await;
        let (status, body) = ask(port, &request).await.unwrap();
        assert_eq!(status, 502, "{name}: {body}");
        assert!(body.contains("default/web"), "{name}: {body}");
        assert_eq!(seen.load(Relaxed), expected, "{name}");
    }
}

#[tokio::test]
async fn connections_that_end_without_a_word_are_made_anew() {
    let crew = Crew::start().await;
    // Answers as if it kept the connection, and closes it.
    let (address, seen) = raw_backend(|mut stream| async move {
        let answer = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";
        stream.write_all(answer).await.unwrap();
    })
    .await;
    let port = free_port().await;
    crew.publish(port, json!({"appProtocol":"http"})).await;
    crew.endpoints(&[address]).await;
    let mut client = eventually("the port is open", async || {
        TcpStream::connect(("127.0.0.1", port))
            .await
            .map_err(|e| e.to_string())
    })
    .await;
    for number in 0..50 {
        client
            .write_all(b"GET / HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let answer = until(&mut client, "\r\n\r\nok").await;
        assert!(
            answer.starts_with("HTTP/1.1 200"),
            "request {number}: {answer}"
        );
    }
    assert!(seen.load(Relaxed) >= 50);
}
