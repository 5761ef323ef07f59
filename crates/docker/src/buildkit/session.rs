//! A client that we may call while it builds.
//!
//! SOURCE: moby/buildkit `session/{manager,session}.go`, `session/{secrets,sshforward,upload}`

use super::turned_over;
use crate::{
    attach,
    daemon::Daemon,
    error::{Fault, Result},
    http::{Answer, Ask},
};
use ::http::HeaderMap;
use knarr_grpc::{
    Answer as Sent, Call, Channel, Reply, Status, code,
    proto::{Fields, Message},
};
use knarr_image::client::Credential;
use parking_lot::Mutex;
use std::{
    collections::{BTreeSet, HashMap},
    io::Write as _,
    path::Path,
    sync::Arc,
    time::Duration,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{UnixListener, UnixStream},
    sync::{Notify, mpsc},
};

/// How long a session that is named may take to come.
const COMING: Duration = Duration::from_secs(10);
/// How long the client may look for a login.
const LOGIN: Duration = Duration::from_secs(60);
const PIECE: usize = 32 << 10;
/// What a client may send as one archive.
const UPLOAD_BYTES_MAX: u64 = 16 << 30;

/// A client's session.
pub struct Session {
    pub channel: Channel,
    /// `/moby.filesync.v1.FileSync/DiffCopy`, …
    methods: BTreeSet<String>,
}

/// Those that are open, by their ids.
#[derive(Default)]
pub struct Sessions {
    all: Mutex<HashMap<String, Arc<Session>>>,
    came: Notify,
}

impl Sessions {
    /// Waits a little for one that is on its way.
    pub async fn get(&self, id: &str) -> Result<Arc<Session>, Status> {
        let looking = async {
            loop {
                let came = self.came.notified();
                if let Some(session) = self.all.lock().get(id).cloned() {
                    return session;
                }
                came.await;
            }
        };
        let told = |_| Status::new(code::NOT_FOUND, format!("no active session for {id}"));
        tokio::time::timeout(COMING, looking).await.map_err(told)
    }
}

/// What a client says of the session that it opens: its id, and what it may be asked.
fn offered(headers: &HeaderMap) -> std::result::Result<(String, BTreeSet<String>), &'static str> {
    let id = headers.get("x-docker-expose-session-uuid");
    let id = id.and_then(|v| v.to_str().ok()).unwrap_or_default();
    if id.is_empty() {
        return Err("a session needs an id: X-Docker-Expose-Session-Uuid");
    }
    let methods = headers.get_all("x-docker-expose-session-grpc-method");
    let methods = (methods.iter())
        .filter_map(|v| v.to_str().ok())
        .map(|m| m.trim_start_matches('/'))
        .map(|m| format!("/{m}"))
        .collect();
    Ok((id.into(), methods))
}

/// Known until its connection ends.
async fn live<T>(daemon: &Arc<Daemon>, id: String, methods: BTreeSet<String>, far: T)
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(channel) = Channel::open(far).await else {
        return;
    };
    let session = Arc::new(Session {
        channel: channel.clone(),
        methods,
    });
    daemon.sessions.all.lock().insert(id.clone(), session);
    daemon.sessions.came.notify_waiters();
    channel.closed().await;
    daemon.sessions.all.lock().remove(&id);
}

/// `POST /session`
pub async fn session(daemon: &Arc<Daemon>, mut ask: Ask) -> Result<Answer> {
    let (id, methods) = offered(&ask.headers).map_err(Fault::bad)?;
    if daemon.sessions.all.lock().contains_key(&id) {
        return Err(Fault::conflict(format!("session {id} already exists")));
    }
    let (answer, upgrade) = turned_over(&mut ask)?;
    let daemon = daemon.clone();
    tokio::spawn(async move {
        if let Some(far) = attach::taken(attach::Coming::Upgrade(upgrade), &*daemon.machine).await {
            live(&daemon, id, methods, far).await;
        }
    });
    Ok(answer)
}

/// `Control.Session`: the same in a call's messages, as clients do it that have no connection to turn over.
///
/// SOURCE: moby/buildkit `session/grpchijack`
pub fn by_call(daemon: &Arc<Daemon>, mut call: Call) -> Reply {
    let (id, methods) = offered(&call.metadata)
        .map_err(|why| Status::new(code::INVALID_ARGUMENT, why.to_string()))?;
    if daemon.sessions.all.lock().contains_key(&id) {
        let why = format!("session {id} already exists");
        return Err(Status::new(code::ALREADY_EXISTS, why));
    }
    let (near, far) = tokio::io::duplex(PIECE * 4);
    let (mut read, mut write) = tokio::io::split(near);
    let (send, receive) = mpsc::channel(16);
    tokio::spawn(async move {
        while let Ok(Some(message)) = call.messages.next().await {
            for (_, value) in Fields(&message).filter(|(field, _)| *field == 1) {
                if write.write_all(value.bytes()).await.is_err() {
                    return;
                }
            }
        }
        // what reads on the other side then ends
        let _ = write.shutdown().await;
    });
    tokio::spawn(async move {
        let mut piece = vec![0; PIECE];
        while let Ok(n @ 1..) = read.read(&mut piece).await {
            let message = Message::default().data(1, &piece[..n]);
            if send.send(Ok(message)).await.is_err() {
                return;
            }
        }
    });
    let daemon = daemon.clone();
    tokio::spawn(async move { live(&daemon, id, methods, far).await });
    Ok(Sent::Many(receive))
}

impl Session {
    pub fn offers(&self, method: &str) -> bool {
        self.methods.contains(method)
    }

    /// The client's login for a registry (`HOST[:PORT]`).
    ///
    /// SOURCE: moby/buildkit `session/auth/authprovider`: a secret without a user is an identity token
    pub async fn login(&self, registry: &str) -> Option<Credential> {
        const METHOD: &str = "/moby.filesync.v1.Auth/Credentials";
        const HUB: &str = "registry-1.docker.io";
        if !self.offers(METHOD) {
            return None;
        }
        let host = if registry == "docker.io" {
            HUB
        } else {
            registry
        };
        let asked = Message::default().text(1, host);
        let asking = self.channel.call(METHOD, &asked);
        // a helper of the client's may ask somebody
        let answer = tokio::time::timeout(LOGIN, asking).await.ok()?.ok()?;
        let mut login = Credential::default();
        let mut secret = String::new();
        for (field, value) in Fields(&answer) {
            match field {
                1 => login.username = value.text(),
                2 => secret = value.text(),
                _ => {}
            }
        }
        match login.username.is_empty() {
            true if secret.is_empty() => return None,
            true => login.identity_token = secret,
            false => login.password = secret,
        }
        Some(login)
    }

    /// None: the client has none of this id.
    pub async fn secret(&self, id: &str) -> Result<Option<Vec<u8>>, Status> {
        const METHOD: &str = "/moby.buildkit.secrets.v1.Secrets/GetSecret";
        if !self.offers(METHOD) {
            return Ok(None);
        }
        let asked = Message::default().text(1, id);
        match self.channel.call(METHOD, &asked).await {
            Ok(answer) => {
                let data = Fields(&answer).find(|(field, _)| *field == 1);
                Ok(Some(data.map_or(Vec::new(), |(_, v)| v.bytes().to_vec())))
            }
            Err(status) if status.code == code::NOT_FOUND => Ok(None),
            Err(status) => Err(status),
        }
    }

    /// Whether the client lends an agent of this id.
    pub async fn has_agent(&self, id: &str) -> bool {
        const METHOD: &str = "/moby.sshforward.v1.SSH/CheckAgent";
        let asked = Message::default().text(1, id);
        self.offers(METHOD) && self.channel.call(METHOD, &asked).await.is_ok()
    }

    /// The client's agent behind a socket of the machine, until the task is ended.
    pub fn agent(
        self: &Arc<Session>,
        id: &str,
        socket: &Path,
    ) -> std::io::Result<tokio::task::JoinHandle<()>> {
        let listener = UnixListener::bind(socket)?;
        let (session, id) = (self.clone(), id.to_string());
        Ok(tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (session, id) = (session.clone(), id.clone());
                tokio::spawn(async move {
                    if let Err(status) = session.forward(&id, stream).await {
                        tracing::debug!(error = %status, "an SSH agent's connection broke");
                    }
                });
            }
        }))
    }

    async fn forward(&self, id: &str, stream: UnixStream) -> Result<(), Status> {
        let mut metadata = HeaderMap::new();
        metadata.insert("buildkit.ssh.id", id.parse().map_err(Status::unknown)?);
        let method = "/moby.sshforward.v1.SSH/ForwardAgent";
        let (out, mut answers) = self.channel.stream(method, metadata).await?;
        let (mut read, mut write) = stream.into_split();
        let up = async {
            let mut piece = vec![0; PIECE];
            loop {
                match read.read(&mut piece).await {
                    Ok(0) | Err(_) => break,
                    Ok(n) => out.send(&Message::default().data(1, &piece[..n])).await?,
                }
            }
            drop(out);
            Ok::<_, Status>(())
        };
        let down = async {
            while let Some(message) = answers.next().await? {
                for (_, value) in Fields(&message).filter(|(field, _)| *field == 1) {
                    let written = write.write_all(value.bytes()).await;
                    written.map_err(Status::unavailable)?;
                }
            }
            let _ = write.shutdown().await;
            Ok::<_, Status>(())
        };
        tokio::try_join!(up, down).map(|_| ())
    }

    /// What the client offers under `http://buildkit-session/ID`, as a file.
    pub async fn upload(&self, id: &str, to: &Path) -> Result<(), Status> {
        let mut metadata = HeaderMap::new();
        metadata.insert(
            "urlpath",
            format!("/{id}").parse().map_err(Status::unknown)?,
        );
        metadata.insert(
            "urlhost",
            "buildkit-session".parse().map_err(Status::unknown)?,
        );
        let method = "/moby.upload.v1.Upload/Pull";
        let (out, mut answers) = self.channel.stream(method, metadata).await?;
        // a build is where blocking is allowed
        let mut file = std::fs::File::create(to).map_err(Status::unknown)?;
        let mut bytes = 0;
        while let Some(message) = answers.next().await? {
            for (_, value) in Fields(&message).filter(|(field, _)| *field == 1) {
                bytes += value.bytes().len() as u64;
                if bytes > UPLOAD_BYTES_MAX {
                    return Err(Status::unknown("the archive is too long"));
                }
                file.write_all(value.bytes()).map_err(Status::unknown)?;
            }
        }
        drop(out);
        Ok(())
    }
}
