//! A webhook on loopback, with a certificate of its own.
#![allow(dead_code)]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use base64::{Engine, engine::general_purpose::STANDARD};
use http_body_util::{BodyExt, Full};
use hyper::{Request, Response, body::Incoming, service::service_fn};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio_rustls::{TlsAcceptor, rustls};

type Answer = dyn Fn(&str, &Value) -> (u16, Value) + Send + Sync;

pub struct Webhook {
    pub address: SocketAddr,
    /// for `caBundle`
    pub ca: String,
    /// path and review of each request
    pub asked: Arc<Mutex<Vec<(String, Value)>>>,
}

/// Serves `answer(path, review)`: the code, and the review's `response` (its uid is filled in).
pub async fn serve(
    names: &[&str],
    answer: impl Fn(&str, &Value) -> (u16, Value) + Send + Sync + 'static,
) -> Webhook {
    let names: Vec<String> = names.iter().map(|n| n.to_string()).collect();
    let made = rcgen::generate_simple_self_signed(names).unwrap();
    let key = rustls::pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der()).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked: Arc<Mutex<Vec<(String, Value)>>> = Arc::default();
    let (seen, answer): (_, Arc<Answer>) = (asked.clone(), Arc::new(answer));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, seen, answer) = (acceptor.clone(), seen.clone(), answer.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let service = service_fn(move |request: Request<Incoming>| {
                    let (seen, answer) = (seen.clone(), answer.clone());
                    async move {
                        let path = request.uri().path().to_string();
                        let body = request.into_body().collect().await?.to_bytes();
                        let review: Value = serde_json::from_slice(&body).unwrap();
                        seen.lock().unwrap().push((path.clone(), review.clone()));
                        let (code, mut response) = answer(&path, &review);
                        if code == 0 {
                            std::future::pending::<()>().await;
                        }
                        if response.is_object() {
                            response["uid"] = review["request"]["uid"].clone();
                        }
                        let body = json!({"kind": review["kind"], "apiVersion": review["apiVersion"], "response": response});
                        let mut answer = Response::new(Full::new(body.to_string().into()));
                        *answer.status_mut() = http::StatusCode::from_u16(code).unwrap();
                        Ok::<Response<Full<bytes::Bytes>>, hyper::Error>(answer)
                    }
                });
                let _ = hyper::server::conn::http1::Builder::new()
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    Webhook {
        address,
        ca: STANDARD.encode(made.cert.pem()),
        asked,
    }
}

impl Webhook {
    pub fn url(&self, path: &str) -> Value {
        json!({"url": format!("https://127.0.0.1:{}{path}", self.address.port()), "caBundle": self.ca})
    }
    pub fn count(&self, path: &str) -> usize {
        self.asked
            .lock()
            .unwrap()
            .iter()
            .filter(|(p, _)| p == path)
            .count()
    }
    pub fn last(&self) -> Value {
        self.asked.lock().unwrap().last().unwrap().1["request"].clone()
    }
}

pub fn patch(steps: Value) -> Value {
    json!({"allowed": true, "patchType": "JSONPatch", "patch": STANDARD.encode(steps.to_string())})
}
