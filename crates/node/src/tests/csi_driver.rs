//! A CSI driver of the mind: registers, and answers over its socket; volumes are folders bound where they are asked for.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::{BufMut, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::mount::{MntFlags, MsFlags};
use parking_lot::Mutex;
use tokio::net::UnixListener;

use crate::volumes::csi::{Fields, Message};

pub(crate) const NAME: &str = "fake.csi.knarr.dev";

/// One driver; it ends when it's dropped.
pub(crate) struct FakeDriver {
    state: Arc<State>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
    registry: PathBuf,
}

#[derive(Default)]
struct State {
    kubelet_dir: PathBuf,
    data: PathBuf,
    /// `Method volume-or-path`, in order
    calls: Mutex<Vec<String>>,
    /// the attributes of the last publish
    attributes: Mutex<BTreeMap<String, String>>,
    /// method → (code, message) that it ends with
    errors: Mutex<BTreeMap<&'static str, (u32, &'static str)>>,
    /// how many volumes it says it takes; 0: seven
    limit: std::sync::atomic::AtomicI64,
}

impl FakeDriver {
    /// Registers with the node whose data folder this is.
    pub(crate) fn start(node: &Path) -> FakeDriver {
        let kubelet_dir = node.join("kubelet");
        let data = node.join("../fake-driver");
        std::fs::create_dir_all(&data).unwrap();
        let state = Arc::new(State {
            kubelet_dir: kubelet_dir.clone(),
            data,
            ..State::default()
        });
        let endpoint = kubelet_dir.join("plugins").join(NAME);
        std::fs::create_dir_all(&endpoint).unwrap();
        let registry = kubelet_dir.join(format!("plugins_registry/{NAME}-reg.sock"));
        let tasks = [endpoint.join("csi.sock"), registry.clone()]
            .into_iter()
            .map(|path| {
                let _ = std::fs::remove_file(&path);
                let listener = UnixListener::bind(&path).unwrap();
                let state = state.clone();
                let answer: Answer = Arc::new(move |method, request| state.answer(method, request));
                tokio::spawn(serve(listener, answer))
            })
            .collect();
        FakeDriver {
            state,
            tasks,
            registry,
        }
    }

    pub(crate) fn calls(&self) -> Vec<String> {
        self.state.calls.lock().clone()
    }

    pub(crate) fn attributes(&self) -> BTreeMap<String, String> {
        self.state.attributes.lock().clone()
    }

    /// From now on it takes so many volumes.
    pub(crate) fn limit(&self, volumes: i64) {
        let limit = &self.state.limit;
        limit.store(volumes, std::sync::atomic::Ordering::Relaxed);
    }

    /// From now on the method fails; None: no longer.
    pub(crate) fn fail(&self, method: &'static str, with: Option<(u32, &'static str)>) {
        let mut errors = self.state.errors.lock();
        match with {
            Some(error) => errors.insert(method, error),
            None => errors.remove(method),
        };
    }
}

impl Drop for FakeDriver {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.registry);
        for task in &self.tasks {
            task.abort();
        }
    }
}

/// A method and its request → the answer, or a code and a message.
pub(super) type Answer =
    Arc<dyn Fn(&str, &[u8]) -> Result<Message, (u32, &'static str)> + Send + Sync>;

/// gRPC, as drivers speak it.
pub(super) async fn serve(listener: UnixListener, answer: Answer) {
    while let Ok((stream, _)) = listener.accept().await {
        let answer = answer.clone();
        let service = service_fn(move |request: http::Request<hyper::body::Incoming>| {
            let answer = answer.clone();
            async move {
                let method = request.uri().path().rsplit('/').next().unwrap().to_owned();
                let body = request.into_body().collect().await.unwrap().to_bytes();
                let (code, text, answer) = match answer(&method, &body[5..]) {
                    Ok(answer) => (0, "", answer),
                    Err((code, text)) => (code, text, Message::default()),
                };
                let mut frame = BytesMut::new();
                if code == 0 {
                    frame.put_u8(0);
                    frame.put_u32(answer.as_bytes().len() as u32);
                    frame.put_slice(answer.as_bytes());
                }
                let mut trailers = http::HeaderMap::new();
                trailers.insert("grpc-status", code.into());
                trailers.insert("grpc-message", text.parse().unwrap());
                let body = Full::new(frame.freeze()).with_trailers(async { Some(Ok(trailers)) });
                Ok::<_, Infallible>(http::Response::new(body))
            }
        });
        tokio::spawn(async move {
            let _ = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

impl State {
    /// The path on the machine of one that the node has shown.
    fn real(&self, shown: &str) -> PathBuf {
        let rest = shown
            .strip_prefix("/var/lib/kubelet/")
            .expect("a kubelet's path");
        self.kubelet_dir.join(rest)
    }

    fn answer(&self, method: &str, request: &[u8]) -> Result<Message, (u32, &'static str)> {
        let text = |field: u32| {
            let found = Fields(request).find(|(f, _)| *f == field);
            found.map(|(_, v)| v.text()).unwrap_or_default()
        };
        if let Some(call) = method.strip_prefix("Node")
            && let Some(call) = call.strip_suffix("Volume")
        {
            self.calls.lock().push(format!("{call} {}", text(1)));
            if let Some(error) = self.errors.lock().get(call) {
                return Err(*error);
            }
        }
        let bind = |from: &Path, to: &Path| {
            std::fs::create_dir_all(from).unwrap();
            std::fs::create_dir_all(to).unwrap();
            let none = None::<&str>;
            nix::mount::mount(Some(from), to, none, MsFlags::MS_BIND, none).unwrap();
        };
        let unbind = |at: &Path| {
            let _ = nix::mount::umount2(at, MntFlags::empty());
            let _ = std::fs::remove_dir(at);
        };
        let empty = Message::default;
        Ok(match method {
            "GetInfo" => empty()
                .text(1, "CSIPlugin")
                .text(2, NAME)
                .text(3, &format!("/var/lib/kubelet/plugins/{NAME}/csi.sock"))
                .texts(4, ["1.0.0"]),
            "NodeGetInfo" => {
                let zone = [("zone.fake".to_owned(), "a".to_owned())].into();
                let limit = match self.limit.load(std::sync::atomic::Ordering::Relaxed) {
                    0 => 7,
                    limit => limit,
                };
                empty()
                    .text(1, "fake-node")
                    .number(2, limit)
                    .message(3, &empty().map(1, &zone))
            }
            // stage, expand
            "NodeGetCapabilities" => [1, 3].into_iter().fold(empty(), |all, kind| {
                all.message(1, &empty().message(1, &empty().number(1, kind)))
            }),
            "NodeStageVolume" => {
                bind(&self.data.join(text(1)), &self.real(&text(3)));
                empty()
            }
            "NodePublishVolume" => {
                let context = Fields(request).filter(|(f, _)| *f == 8);
                *self.attributes.lock() = context.map(|(_, v)| v.pair()).collect();
                let from = match text(3).as_str() {
                    "" => self.data.join(text(1)),
                    staging => self.real(staging),
                };
                bind(&from, &self.real(&text(4)));
                empty()
            }
            "NodeUnpublishVolume" | "NodeUnstageVolume" => {
                unbind(&self.real(&text(2)));
                empty()
            }
            _ => empty(),
        })
    }
}
