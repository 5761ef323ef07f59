//! A plug-in that keeps the key: KMS v2, gRPC over a unix socket.
//!
//! A start has a seed made at random, which the plug-in seals. Each value has a key of its own, derived from the seed, and
//! carries the sealed seed: the plug-in is asked when seeds are new, never for a value. Form: `k8s:enc:kms:v2:<name>:`, then
//! an `EncryptedObject`.
//!
//! Source: apiserver `pkg/storage/value/encrypt/envelope/kmsv2`, `…/aes` (`extendedNonceGCM`), `k8s.io/kms/apis/v2/api.proto`.

mod remote;

use remote::Remote;

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{RecvTimeoutError, SyncSender, sync_channel},
    },
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use knarr_grpc::proto::{Fields, Message};
use parking_lot::Mutex;
use ring::{
    aead::{AES_128_GCM, AES_256_GCM, LessSafeKey, UnboundKey},
    hkdf,
};

use super::cipher;

const SEED_BYTES: usize = 32;
const INFO_BYTES: usize = 32;
/// What a value carries besides itself, without the text's own (`SEAL_BYTES_MAX` has room for both).
const CARRIED_BYTES_MAX: usize = knarr_store::SEAL_BYTES_MAX - 256;
/// How often the plug-in is asked whether its key is another one (the protocol has no way to be told).
const LOOK_EVERY: Duration = Duration::from_secs(60);
/// Seeds known at a time: a store holds the values of a few starts.
const SEEDS_MAX: usize = 64;
/// `EncryptedDEKSourceType`
const SEED: i64 = 1;
/// Questions on their way.
const WAITING: usize = 16;

/// What a configuration says.
pub struct Settings {
    pub name: String,
    pub socket: PathBuf,
    /// of a call
    pub timeout: Duration,
}

/// What opens values.
enum Source {
    Key(Box<LessSafeKey>),
    Seed(hkdf::Prk),
}

impl Source {
    fn seed(bytes: &[u8]) -> Source {
        Source::Seed(hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, bytes))
    }

    fn open(&self, at: &str, sealed: &[u8]) -> Result<Vec<u8>, String> {
        match self {
            Source::Key(key) => cipher::unseal(key, at, sealed),
            Source::Seed(seed) => {
                let Some((info, sealed)) = sealed.split_at_checked(INFO_BYTES) else {
                    return Err(format!("the value of {at} has been cut off"));
                };
                cipher::unseal(&derived(seed, info)?, at, sealed)
            }
        }
    }
}

fn derived(seed: &hkdf::Prk, info: &[u8]) -> Result<LessSafeKey, String> {
    let info = [info];
    let expanded = seed.expand(&info, &AES_256_GCM);
    // the length is the algorithm's own
    let unbound = expanded.map_err(|_| "no key can be derived".to_string())?;
    Ok(LessSafeKey::new(unbound.into()))
}

/// What values are sealed with now.
struct Writing {
    key_id: String,
    seed: hkdf::Prk,
    /// the fields of an object but its data
    carried: Carried,
}

#[derive(Default, Clone, PartialEq, Eq, Hash)]
struct Carried {
    key_id: String,
    sealed: Vec<u8>,
    annotations: Vec<(String, Vec<u8>)>,
    kind: i64,
}

impl Carried {
    fn pairs(mut message: Message, field: u32, pairs: &[(String, Vec<u8>)]) -> Message {
        for (key, value) in pairs {
            let pair = Message::default().text(1, key).data(2, value);
            message = message.message(field, &pair);
        }
        message
    }

    fn write(&self, data: &[u8]) -> Message {
        let message = Message::default()
            .data(1, data)
            .text(2, &self.key_id)
            .data(3, &self.sealed);
        Carried::pairs(message, 4, &self.annotations).number(5, self.kind)
    }

    fn pair(value: knarr_grpc::proto::Value<'_>) -> (String, Vec<u8>) {
        let mut pair = (String::new(), vec![]);
        for (field, value) in value.fields() {
            match field {
                1 => pair.0 = value.text(),
                2 => pair.1 = value.bytes().to_vec(),
                _ => {}
            }
        }
        pair
    }

    /// With the data beside it.
    fn read(bytes: &[u8]) -> (Carried, &[u8]) {
        let (mut carried, mut data) = (Carried::default(), &[][..]);
        for (field, value) in Fields(bytes) {
            match field {
                1 => data = value.bytes(),
                2 => carried.key_id = value.text(),
                3 => carried.sealed = value.bytes().to_vec(),
                4 => carried.annotations.push(Carried::pair(value)),
                5 => carried.kind = value.number(),
                _ => {}
            }
        }
        (carried, data)
    }
}

/// One question to the plug-in.
struct Question {
    method: &'static str,
    message: Message,
    answer: SyncSender<Result<Bytes, String>>,
}

/// A plug-in in use.
pub struct Kms {
    prefix: Vec<u8>,
    writing: Arc<ArcSwap<Writing>>,
    questions: SyncSender<Question>,
    /// of a call
    timeout: Duration,
    seeds: Mutex<HashMap<Carried, Result<Arc<Source>, String>>>,
}

impl Kms {
    /// Has a seed sealed, and looks from now on whether the plug-in's key changes; blocking.
    ///
    /// # Errors
    /// When the plug-in isn't there, or isn't well.
    pub fn open(settings: Settings) -> Result<Kms, String> {
        let (prefix, timeout) = (
            format!("k8s:enc:kms:v2:{}:", settings.name).into_bytes(),
            settings.timeout,
        );
        let (questions, asked) = sync_channel::<Question>(WAITING);
        let (ready, started) = sync_channel(1);
        let begin = move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            let remote = Remote {
                runtime: runtime.map_err(|e| e.to_string())?,
                settings,
            };
            remote.key_id()?;
            let writing = Arc::new(ArcSwap::from_pointee(remote.writing()?));
            Ok::<_, String>((remote, writing))
        };
        let work = move || {
            let (remote, writing) = match begin() {
                Ok(both) => both,
                Err(why) => return drop(ready.send(Err(why))),
            };
            if ready.send(Ok(writing.clone())).is_err() {
                return;
            }
            let mut look = Instant::now() + LOOK_EVERY;
            loop {
                match asked.recv_timeout(look.saturating_duration_since(Instant::now())) {
                    Ok(q) => {
                        let answer = remote.ask(q.method, &q.message);
                        // who asked may have given up
                        let _ = q.answer.send(answer);
                    }
                    Err(RecvTimeoutError::Timeout) => {
                        refresh(&remote, &writing);
                        look = Instant::now() + LOOK_EVERY;
                    }
                    Err(RecvTimeoutError::Disconnected) => return,
                }
            }
        };
        std::thread::Builder::new()
            .name("kms".into())
            .spawn(work)
            .map_err(|e| e.to_string())?;
        let writing = started
            .recv()
            .map_err(|_| "its thread has ended".to_string())??;
        Ok(Kms {
            prefix,
            writing,
            questions,
            timeout,
            seeds: Mutex::default(),
        })
    }

    pub fn seal(&self, at: &str, value: &[u8]) -> Result<Vec<u8>, String> {
        let writing = self.writing.load();
        let info: [u8; INFO_BYTES] = rand::random();
        let key = derived(&writing.seed, &info)?;
        let data = cipher::seal(&key, &info, rand::random(), at, value)?;
        let object = writing.carried.write(&data);
        Ok([self.prefix.as_slice(), object.as_bytes()].concat())
    }

    /// The value, and whether the plug-in's present key sealed it. None: sealed by somebody else. Blocking, when the seed
    /// isn't known.
    pub fn unseal(&self, at: &str, written: &[u8]) -> Option<Result<(Vec<u8>, bool), String>> {
        let object = written.strip_prefix(self.prefix.as_slice())?;
        let (carried, data) = Carried::read(object);
        let fresh = carried.key_id == self.writing.load().key_id;
        let source = self.source(carried);
        Some(source.and_then(|source| Ok((source.open(at, data)?, fresh))))
    }

    /// Asks each time once, whatever the answer: a store is read at a start, all at once.
    fn source(&self, carried: Carried) -> Result<Arc<Source>, String> {
        let mut seeds = self.seeds.lock();
        if let Some(known) = seeds.get(&carried) {
            return known.clone();
        }
        let source = self.opened(&carried).map(Arc::new);
        if seeds.len() >= SEEDS_MAX {
            seeds.clear();
        }
        seeds.insert(carried, source.clone());
        source
    }

    fn opened(&self, carried: &Carried) -> Result<Source, String> {
        let uid = uuid::Uuid::new_v4().to_string();
        let message = Message::default()
            .data(1, &carried.sealed)
            .text(2, &uid)
            .text(3, &carried.key_id);
        let message = Carried::pairs(message, 4, &carried.annotations);
        let (answer, answered) = sync_channel(1);
        let question = Question {
            method: "Decrypt",
            message,
            answer,
        };
        let gone = || "the KMS plug-in's thread has ended".to_string();
        self.questions.send(question).map_err(|_| gone())?;
        // one before it may be a look at the key: two calls
        let patience = self.timeout * 4;
        let bytes = answered.recv_timeout(patience).map_err(|_| gone())??;
        let plain = Fields(&bytes).find(|(field, _)| *field == 1);
        let plain = plain.map_or(&[][..], |(_, value)| value.bytes());
        let algorithm = match (carried.kind, plain.len()) {
            (SEED, SEED_BYTES..) => return Ok(Source::seed(plain)),
            (0, 16) => &AES_128_GCM,
            (0, 32) => &AES_256_GCM,
            (kind, n) => {
                return Err(format!(
                    "the KMS plug-in opens a key of kind {kind} with {n} bytes: no such is known"
                ));
            }
        };
        let key = UnboundKey::new(algorithm, plain).map_err(|_| "no key".to_string())?;
        Ok(Source::Key(Box::new(LessSafeKey::new(key))))
    }
}

/// Another seed, when the plug-in's key is another one. While it can't be asked, the present one stays: what it seals can
/// be opened as long as what was sealed before can.
fn refresh(remote: &Remote, writing: &ArcSwap<Writing>) {
    let result = remote.key_id().and_then(|key_id| {
        if key_id == writing.load().key_id {
            return Ok(());
        }
        writing.store(Arc::new(remote.writing()?));
        tracing::info!(plugin = %remote.settings.name, %key_id, "the KMS plug-in has another key: values are sealed with it from now on, all others at the next start");
        Ok(())
    });
    if let Err(why) = result {
        tracing::warn!(%why, "values are sealed with the key at hand");
    }
}

/// The path of `unix:///path`, or upstream's words.
pub fn socket(endpoint: &str) -> Result<PathBuf, String> {
    let (scheme, rest) = endpoint.split_once(':').unwrap_or(("", endpoint));
    if scheme != "unix" {
        return Err(format!(
            "unsupported scheme {scheme:?} for KMS provider, only unix is supported"
        ));
    }
    // `unix://@name` is a socket without a file, which the plug-ins of one machine hardly need
    let path = rest.strip_prefix("//").unwrap_or(rest);
    if !Path::new(path).is_absolute() {
        return Err("the socket's path must be absolute: unix:///path".into());
    }
    Ok(path.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Encryption;
    use knarr_grpc::{Answer, Call, Status, code};
    use knarr_store::{Sealer, Unsealed};

    const AT: &str = "/registry/core/secrets/ns/s";
    const TEXT: &[u8] = b"{\"data\":\"plain text\"}";

    /// A plug-in that turns every bit round; its key's id can be changed, and it counts what it is asked.
    struct Plugin {
        key_id: Mutex<String>,
        asked: Mutex<HashMap<String, usize>>,
    }

    fn turned(bytes: &[u8]) -> Vec<u8> {
        bytes.iter().map(|b| !b).collect()
    }

    impl Plugin {
        fn start(socket: &Path) -> Arc<Plugin> {
            let plugin = Arc::new(Plugin {
                key_id: Mutex::new("1".into()),
                asked: Mutex::default(),
            });
            let (at, listening) = (socket.to_path_buf(), plugin.clone());
            let (ready, started) = sync_channel(1);
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(async {
                    let listener = tokio::net::UnixListener::bind(at).unwrap();
                    ready.send(()).unwrap();
                    while let Ok((stream, _)) = listener.accept().await {
                        let plugin = listening.clone();
                        let answer = move |call| plugin.clone().answer(call);
                        tokio::spawn(knarr_grpc::serve(stream, answer));
                    }
                });
            });
            started.recv().unwrap();
            plugin
        }

        async fn answer(self: Arc<Plugin>, mut call: Call) -> knarr_grpc::Reply {
            let message = call.message().await?;
            let method = call.method.rsplit('/').next().unwrap_or_default();
            *self.asked.lock().entry(method.into()).or_default() += 1;
            let key_id = self.key_id.lock().clone();
            let first = Fields(&message).find(|(field, _)| *field == 1);
            let first = turned(first.map_or(&[][..], |(_, value)| value.bytes()));
            let note = [("note.example.com".to_string(), b"n".to_vec())];
            Ok(Answer::One(match method {
                "Status" => Message::default()
                    .text(1, "v2")
                    .text(2, "ok")
                    .text(3, &key_id),
                "Encrypt" => Carried::pairs(
                    Message::default().data(1, &first).text(2, &key_id),
                    3,
                    &note,
                ),
                "Decrypt" => {
                    let mut noted = false;
                    for (field, value) in Fields(&message) {
                        noted |= field == 4 && Carried::pair(value) == note[0];
                    }
                    if !noted {
                        return Err(Status::new(code::INVALID_ARGUMENT, "no note"));
                    }
                    Message::default().data(1, &first)
                }
                _ => return Err(Status::new(code::UNIMPLEMENTED, "what?")),
            }))
        }

        fn asked(&self, method: &str) -> usize {
            self.asked.lock().get(method).copied().unwrap_or(0)
        }
    }

    fn open(dir: &Path, providers: &str) -> Result<Arc<Encryption>, crate::EncryptionError> {
        let path = dir.join("c.yaml");
        let text = format!(
            "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\nresources: [{{resources: [secrets], providers: [{providers}]}}]\n"
        );
        std::fs::write(&path, text).unwrap();
        Encryption::open(dir, Some(&path))
    }

    fn fresh(stale: bool) -> Unsealed {
        Unsealed {
            value: Some(TEXT.to_vec()),
            stale,
        }
    }

    #[test]
    fn values_are_sealed_with_the_plug_ins_key() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("kms.sock");
        let plugin = Plugin::start(&socket);
        let mine = format!(
            "{{kms: {{apiVersion: v2, name: mine, endpoint: 'unix://{}', timeout: 20s}}}}",
            socket.display()
        );
        let first = open(dir.path(), &mine).unwrap();
        let sealed: Vec<_> = (0..50)
            .map(|_| first.seal(AT, TEXT).unwrap().unwrap())
            .collect();
        assert!(sealed[0].starts_with(b"k8s:enc:kms:v2:mine:") && sealed[0] != sealed[1]);
        assert!(!sealed[0].windows(5).any(|w| w == b"plain"));
        assert!(sealed[0].len() <= TEXT.len() + knarr_store::SEAL_BYTES_MAX);
        assert_eq!(plugin.asked("Encrypt"), 1);
        // another start has another seed, and asks for the first one's once
        let second = open(dir.path(), &mine).unwrap();
        for one in &sealed {
            assert_eq!(second.unseal(AT, one).unwrap(), fresh(false));
        }
        assert_eq!(plugin.asked("Decrypt"), 1);
        assert!(
            second
                .unseal("/registry/core/secrets/ns/other", &sealed[0])
                .is_err()
        );
        // another key: what the last one sealed is to be written anew
        *plugin.key_id.lock() = "2".into();
        let third = open(dir.path(), &mine).unwrap();
        assert_eq!(third.unseal(AT, &sealed[0]).unwrap(), fresh(true));
        let newer = third.seal(AT, TEXT).unwrap().unwrap();
        assert_eq!(third.unseal(AT, &newer).unwrap(), fresh(false));
        // no longer the one that writes
        let off = open(dir.path(), &format!("{{identity: {{}}}}, {mine}")).unwrap();
        assert_eq!(off.unseal(AT, &newer).unwrap(), fresh(true));
        assert_eq!(off.seal(AT, TEXT).unwrap(), None);
        // not there
        std::fs::remove_file(&socket).unwrap();
        let said = open(dir.path(), &mine).err().unwrap().to_string();
        assert!(said.contains("the KMS plug-in \"mine\" at "), "{said}");
    }

    #[test]
    fn what_upstream_has_sealed_is_read() {
        // made by apiserver v0.36.1's transformer with a seed of bytes 1, 2, 3, …, for the place "/registry/x"
        let object = "CkMahbRZVbRw7NblxMLsYarR2Pm1t/lcAi4oZNA7+Iy3e2ZYUJ80X6Z7fwptrQtVdj8v+n8IxNZPLSD6RCh8Sk80AS8OEgExGiD+/fz7+vn49/b19PPy8fDv7u3s6+rp6Ofm5eTj4uHg3yIVChBub3RlLmV4YW1wbGUuY29tEgFuKAE=";
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("kms.sock");
        let _plugin = Plugin::start(&socket);
        let kms = Kms::open(Settings {
            name: "k".into(),
            socket,
            timeout: Duration::from_secs(20),
        })
        .unwrap();
        use base64::{Engine, engine::general_purpose::STANDARD};
        let object = STANDARD.decode(object).unwrap();
        let written = [kms.prefix.as_slice(), &object].concat();
        let opened = kms.unseal("/registry/x", &written).unwrap().unwrap();
        assert_eq!(opened, (b"a value".to_vec(), true));
    }

    #[test]
    fn a_new_key_of_the_plug_in_makes_a_new_seed() {
        let dir = tempfile::tempdir().unwrap();
        let socket = dir.path().join("kms.sock");
        let plugin = Plugin::start(&socket);
        let remote = Remote {
            settings: Settings {
                name: "mine".into(),
                socket: socket.clone(),
                timeout: Duration::from_secs(20),
            },
            runtime: tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap(),
        };
        let writing = ArcSwap::from_pointee(remote.writing().unwrap());
        refresh(&remote, &writing);
        assert_eq!(plugin.asked("Encrypt"), 1);
        *plugin.key_id.lock() = "2".into();
        refresh(&remote, &writing);
        assert_eq!(
            (plugin.asked("Encrypt"), writing.load().key_id.as_str()),
            (2, "2")
        );
        std::fs::remove_file(&socket).unwrap();
        refresh(&remote, &writing);
        assert_eq!(writing.load().key_id, "2");
    }
}
