//! A tiny "cluster" on loopback: one Pod, `web`, whose containers are functions in here.
#![allow(dead_code)]

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use knarr_remotecommand::{
    ForwardStream, ServerStreams, StreamOptions, accept_exec, accept_port_forward,
};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

pub const BIG_BYTES: usize = 5 << 20;
/// Generous: a busy machine must not fail a test.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Serves until the test's runtime ends.
pub async fn cluster() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(socket), service_fn(answer))
                .with_upgrades();
            tokio::spawn(connection);
        }
    });
    address
}

async fn answer(mut request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let path = request.uri().path().to_owned();
    let json = |body: &'static str| {
        let response = Response::builder().header("content-type", "application/json");
        response.body(Full::from(body)).unwrap()
    };
    Ok(match path.as_str() {
        "/api" => json(r#"{"kind":"APIVersions","versions":["v1"]}"#),
        "/apis" => json(r#"{"kind":"APIGroupList","apiVersion":"v1","groups":[]}"#),
        "/api/v1" => json(
            r#"{"kind":"APIResourceList","apiVersion":"v1","groupVersion":"v1","resources":[{"name":"pods","singularName":"pod","namespaced":true,"kind":"Pod","verbs":["get","list"],"shortNames":["po"]}]}"#,
        ),
        "/api/v1/namespaces/default/pods/web" => json(
            r#"{"kind":"Pod","apiVersion":"v1","metadata":{"name":"web","namespace":"default"},"spec":{"containers":[{"name":"main","image":"x","ports":[{"containerPort":80}]}]},"status":{"phase":"Running"}}"#,
        ),
        "/api/v1/namespaces/default/pods/web/exec" => exec(&mut request),
        "/api/v1/namespaces/default/pods/web/portforward" => forward(&mut request),
        "/version" => json(r#"{"major":"1","minor":"32","gitVersion":"v1.32.0"}"#),
        _ => Response::builder()
            .status(404)
            .body(Full::default())
            .unwrap(),
    })
}

fn query(request: &Request<Incoming>) -> Vec<(String, String)> {
    let query = request.uri().query().unwrap_or_default();
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    pairs
        .map(|(key, value)| (key.to_owned(), value.replace('+', " ").replace("%2C", ",")))
        .collect()
}

fn exec(request: &mut Request<Incoming>) -> Response<Full<Bytes>> {
    let query = query(request);
    let flag = |name: &str| {
        query
            .iter()
            .any(|(key, value)| key == name && value == "true")
    };
    let options = StreamOptions {
        stdin: flag("stdin"),
        stdout: flag("stdout"),
        stderr: flag("stderr"),
        tty: flag("tty"),
    };
    let command = query.into_iter().filter(|(key, _)| key == "command");
    let command: Vec<_> = command.map(|(_, value)| value).collect();
    match accept_exec(request, options) {
        Ok((response, opening)) => {
            tokio::spawn(async move { run(&command, opening.await.unwrap()).await });
            response.map(|()| Full::default())
        }
        Err(error) => refuse(&error),
    }
}

fn refuse(error: &knarr_remotecommand::Error) -> Response<Full<Bytes>> {
    let response = Response::builder().status(error.status_code());
    response.body(Full::from(error.to_string())).unwrap()
}

/// The container's programs.
async fn run(command: &[String], mut streams: ServerStreams) {
    let mut stdin = streams.stdin.take();
    let mut stdout = streams.stdout.take();
    let mut stderr = streams.stderr.take();
    let mut code = 0;
    let command: Vec<_> = command.iter().map(String::as_str).collect();
    match command[..] {
        ["cat"] => {
            // an error is the client's going away
            let _ = tokio::io::copy(stdin.as_mut().unwrap(), stdout.as_mut().unwrap()).await;
        }
        ["both"] => {
            stdout
                .as_mut()
                .unwrap()
                .write_all(b"to stdout\n")
                .await
                .unwrap();
            stderr
                .as_mut()
                .unwrap()
                .write_all(b"to stderr\n")
                .await
                .unwrap();
        }
        ["exit", text] => code = text.parse().unwrap(),
        ["vanish"] => return,
        ["big"] => {
            // kept open on purpose: the status must come after all of it all the same
            stdout.as_mut().unwrap().write_all(&big()).await.unwrap();
        }
        ["count"] => {
            let mut bytes = Vec::new();
            stdin
                .as_mut()
                .unwrap()
                .read_to_end(&mut bytes)
                .await
                .unwrap();
            assert!(bytes == big(), "stdin came in damaged");
            let line = format!("{}\n", bytes.len());
            stdout
                .as_mut()
                .unwrap()
                .write_all(line.as_bytes())
                .await
                .unwrap();
        }
        // reads nothing of what the client sends
        ["deaf"] => drop(stdin.take()),
        ["size"] => {
            assert!(stderr.is_none(), "a terminal has one output");
            let size = streams
                .resize
                .wait_for(Option::is_some)
                .await
                .unwrap()
                .unwrap();
            let line = format!("{}x{}\r\n", size.width, size.height);
            stdout
                .as_mut()
                .unwrap()
                .write_all(line.as_bytes())
                .await
                .unwrap();
        }
        ref other => panic!("no such program: {other:?}"),
    }
    let status = match code {
        0 => r#"{"metadata":{},"status":"Success"}"#.to_owned(),
        code => format!(
            r#"{{"metadata":{{}},"status":"Failure","reason":"NonZeroExitCode","message":"command terminated with non-zero exit code","details":{{"causes":[{{"reason":"ExitCode","message":"{code}"}}]}}}}"#
        ),
    };
    // an error is the client's going away
    let _ = streams.status.send(status.into());
}

pub fn big() -> Vec<u8> {
    (0..BIG_BYTES)
        .map(|i| b"0123456789abcdef\n"[i % 17])
        .collect()
}

fn forward(request: &mut Request<Incoming>) -> Response<Full<Bytes>> {
    let ports: Vec<u16> = query(request)
        .iter()
        .filter(|(key, _)| key == "ports")
        .flat_map(|(_, value)| {
            value
                .split(',')
                .map(|port| port.parse().unwrap())
                .collect::<Vec<_>>()
        })
        .collect();
    match accept_port_forward(request, &ports) {
        Ok((response, mut connections)) => {
            tokio::spawn(async move {
                while let Some(connection) = connections.recv().await {
                    tokio::spawn(talk(connection));
                }
            });
            response.map(|()| Full::default())
        }
        Err(error) => refuse(&error),
    }
}

/// Port 80 says the number of its port, then echoes; any other refuses.
async fn talk(connection: ForwardStream) {
    let ForwardStream { port, data, error } = connection;
    if port != 80 {
        error
            .send(format!("connection refused on port {port}"))
            .unwrap();
        return;
    }
    let (mut read, mut write) = tokio::io::split(data);
    // errors are the client's going away
    if write.write_all(b"port 80\n").await.is_ok() {
        let _ = tokio::io::copy(&mut read, &mut write).await;
    }
}
