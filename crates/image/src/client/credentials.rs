//! Logins as `docker login` and `podman login` leave them, and credential helpers.
//!
//! Source: docker/cli `cli/config` (`auths`, `credHelpers`, `credsStore`), docker/docker-credential-helpers (the protocol),
//! containers-auth.json(5).

use super::{ClientConfig, Error};
use base64::Engine;
use futures::future::BoxFuture;
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    io::Write,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// The most bytes of a file with logins, and of a helper's answer.
const BYTES_MAX: u64 = 1 << 20;
/// How long a helper may think.
const HELPER_TIMEOUT: Duration = Duration::from_secs(30);
/// How Docker's files call Docker Hub.
const HUB: &str = "https://index.docker.io/v1/";
/// Helpers' user name for identity tokens.
const TOKEN_USER: &str = "<token>";

/// A login. Its secrets are not shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credential {
    /// `HOST[:PORT]` it is for; none: the registry that the image's name says.
    pub registry: Option<String>,
    pub username: String,
    pub password: String,
    /// An OAuth2 refresh token instead of a password; may be empty.
    pub identity_token: String,
    /// A bearer token that is sent as it is; may be empty.
    pub registry_token: String,
}

impl std::fmt::Debug for Credential {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Credential({:?}, {:?})", self.registry, self.username)
    }
}

type Asking = dyn Fn(String) -> BoxFuture<'static, Option<Credential>> + Send + Sync;

/// Gives the login for a registry (`HOST[:PORT]`), e.g. one that a client of ours has.
#[derive(Clone)]
pub struct Logins(pub Arc<Asking>);

impl std::fmt::Debug for Logins {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Logins")
    }
}

#[derive(Serialize, Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct File {
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    auths: BTreeMap<String, Entry>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    cred_helpers: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    creds_store: String,
    /// What this crate doesn't know stays when a login is written.
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct Entry {
    #[serde(skip_serializing_if = "String::is_empty")]
    auth: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    username: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    password: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    identitytoken: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    registrytoken: String,
    #[serde(flatten)]
    rest: serde_json::Map<String, serde_json::Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    #[serde(default)]
    username: String,
    #[serde(default)]
    secret: String,
}

/// `REGISTRY_AUTH_FILE`, podman's, Docker's (`DOCKER_CONFIG`): in this order.
pub(super) fn default_files() -> Vec<PathBuf> {
    let env = |name: &str| {
        std::env::var_os(name)
            .filter(|v| !v.is_empty())
            .map(PathBuf::from)
    };
    let home = env("HOME");
    let mut files: Vec<PathBuf> = env("REGISTRY_AUTH_FILE").into_iter().collect();
    files.extend(env("DOCKER_CONFIG").map(|dir| dir.join("config.json")));
    files.extend(env("XDG_RUNTIME_DIR").map(|dir| dir.join("containers/auth.json")));
    files.extend(home.iter().map(|home| home.join(".docker/config.json")));
    files.extend(
        home.iter()
            .map(|home| home.join(".config/containers/auth.json")),
    );
    files
}

/// A server address without scheme and path: what Docker compares.
fn host_of(key: &str) -> &str {
    let bare = key
        .strip_prefix("https://")
        .or(key.strip_prefix("http://"))
        .unwrap_or(key);
    bare.split('/').next().unwrap_or(bare)
}

/// The names under which files may know a registry, best first; repositories' own logins (podman's) come before.
fn keys(registry: &str, repository: &str) -> Vec<String> {
    let mut keys = Vec::new();
    let mut path = format!("{registry}/{repository}");
    while let Some(cut) = path.rfind('/') {
        keys.push(path.clone());
        path.truncate(cut);
    }
    keys.push(registry.to_string());
    if matches!(registry, "docker.io" | "registry-1.docker.io") {
        keys.extend([HUB, "index.docker.io", "docker.io"].map(String::from));
    }
    keys
}

fn read(path: &Path) -> Result<Option<File>, Error> {
    let told = |why: String| Error::Config {
        path: path.display().to_string(),
        why,
    };
    let size = match std::fs::metadata(path) {
        Ok(meta) => meta.len(),
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(told(e.to_string())),
    };
    if size > BYTES_MAX {
        return Err(told("it is too large for a file with logins".into()));
    }
    let text = std::fs::read(path).map_err(|e| told(e.to_string()))?;
    if text.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    // the parser's message would show what it stumbled on: perhaps a secret
    let parsed = serde_json::from_slice(&text);
    parsed.map(Some).map_err(|e| {
        told(format!(
            "it is no file with logins (line {}, column {})",
            e.line(),
            e.column()
        ))
    })
}

fn of_entry(entry: &Entry) -> Option<Credential> {
    let mut found = Credential {
        registry: None,
        username: entry.username.clone(),
        password: entry.password.clone(),
        identity_token: entry.identitytoken.clone(),
        registry_token: entry.registrytoken.clone(),
    };
    if !entry.auth.is_empty() {
        let engine = base64::engine::general_purpose::STANDARD;
        let text = String::from_utf8(engine.decode(entry.auth.trim()).ok()?).ok()?;
        let (username, password) = text.split_once(':')?;
        found.username = username.into();
        found.password = password.trim_end_matches('\0').into();
    }
    (found != Credential::default()).then_some(found)
}

/// The login for a registry: of who is asked, or from the first file that has one.
pub(super) async fn find(
    config: &ClientConfig,
    registry: &str,
    repository: &str,
) -> Result<Option<Credential>, Error> {
    if let Some(Logins(ask)) = &config.logins
        && let Some(found) = ask(registry.to_string()).await
    {
        return Ok(Some(found));
    }
    let wanted = keys(registry, repository);
    for path in &config.credential_files {
        let Some(file) = read(path)? else { continue };
        for key in &wanted {
            if let Some(helper) = file.cred_helpers.get(key) {
                return ask(config, helper, key, registry).await;
            }
        }
        for key in &wanted {
            let exact = file.auths.get(key);
            // a path without a scheme is podman's: a login for that repository alone
            let same = |known: &&String| {
                let whole = known.contains("://") || !known.contains('/');
                whole && !key.contains('/') && host_of(known) == host_of(key)
            };
            let entry = exact.or_else(|| {
                let known = file.auths.keys().find(same)?;
                file.auths.get(known)
            });
            if let Some(found) = entry.and_then(of_entry) {
                return Ok(Some(found));
            }
        }
        if !file.creds_store.is_empty() {
            let server = match registry {
                "docker.io" | "registry-1.docker.io" => HUB,
                other => other,
            };
            let found = ask(config, &file.creds_store, server, registry).await?;
            if found.is_some() {
                return Ok(found);
            }
        }
    }
    Ok(None)
}

/// `docker-credential-NAME get`: the server's address in, JSON out.
async fn ask(
    config: &ClientConfig,
    helper: &str,
    server: &str,
    registry: &str,
) -> Result<Option<Credential>, Error> {
    let told = |why: String| Error::Credentials {
        registry: registry.into(),
        why,
    };
    let program = format!("docker-credential-{helper}");
    if helper.contains('/') {
        return Err(told(format!(
            "{helper:?} is no name of a credential helper"
        )));
    }
    let in_dirs = config.helper_dirs.as_ref().map(|dirs| {
        let mut places = dirs.iter().map(|dir| dir.join(&program));
        places
            .find(|p| p.exists())
            .ok_or_else(|| told(format!("{program} is not there")))
    });
    let place = in_dirs.transpose()?.unwrap_or(PathBuf::from(&program));
    let mut child = tokio::process::Command::new(place)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .map_err(|e| told(format!("{program}: {e}")))?;
    let (input, output) = (child.stdin.take(), child.stdout.take());
    let talk = async {
        if let Some(mut input) = input {
            // one that doesn't read its input may still answer
            let _ = input.write_all(server.as_bytes()).await;
        }
        let mut bytes = Vec::new();
        if let Some(output) = output {
            output.take(BYTES_MAX).read_to_end(&mut bytes).await?;
        }
        Ok::<_, std::io::Error>((child.wait().await?, bytes))
    };
    let (status, bytes) = match tokio::time::timeout(HELPER_TIMEOUT, talk).await {
        Ok(done) => done.map_err(|e| told(format!("{program}: {e}")))?,
        Err(_) => return Err(told(format!("{program} didn't answer within 30 s"))),
    };
    if !status.success() {
        let text = String::from_utf8_lossy(&bytes);
        return match text.trim() {
            "credentials not found in native keychain" => Ok(None),
            // helpers write their errors, never secrets, to stdout
            other => Err(told(format!("{program}: {other}"))),
        };
    }
    let answer: Answer = serde_json::from_slice(&bytes)
        .map_err(|_| told(format!("{program} answered something else than a login")))?;
    Ok(Some(match answer.username.as_str() {
        TOKEN_USER => Credential {
            identity_token: answer.secret,
            ..Credential::default()
        },
        _ => Credential {
            username: answer.username,
            password: answer.secret,
            ..Credential::default()
        },
    }))
}

/// Writes a login to a file like Docker's `config.json`, readable by its owner alone; the rest of the file stays.
///
/// # Errors
/// When the file can't be read as one, or not be written.
pub fn store_login(path: &Path, registry: &str, credential: &Credential) -> Result<(), Error> {
    let mut file = read(path)?.unwrap_or_default();
    let engine = base64::engine::general_purpose::STANDARD;
    let pair = format!("{}:{}", credential.username, credential.password);
    let entry = Entry {
        auth: engine.encode(pair),
        identitytoken: credential.identity_token.clone(),
        ..Entry::default()
    };
    file.auths.insert(key_for(registry), entry);
    write(path, &file)
}

/// Takes a login out of such a file; false when there was none.
///
/// # Errors
/// When the file can't be read as one, or not be written.
pub fn remove_login(path: &Path, registry: &str) -> Result<bool, Error> {
    let Some(mut file) = read(path)? else {
        return Ok(false);
    };
    let removed = file.auths.remove(&key_for(registry)).is_some();
    if removed {
        write(path, &file)?;
    }
    Ok(removed)
}

fn key_for(registry: &str) -> String {
    match registry {
        "docker.io" | "index.docker.io" => HUB.into(),
        other => other.into(),
    }
}

fn write(path: &Path, file: &File) -> Result<(), Error> {
    let told = |e: std::io::Error| Error::Config {
        path: path.display().to_string(),
        why: e.to_string(),
    };
    let dir = path.parent().unwrap_or(Path::new("."));
    std::fs::create_dir_all(dir).map_err(told)?;
    let text = serde_json::to_vec_pretty(file).map_err(|e| told(e.into()))?;
    // temporary files are their owner's alone
    let mut temp = tempfile::NamedTempFile::new_in(dir).map_err(told)?;
    temp.write_all(&text).map_err(told)?;
    temp.as_file().sync_all().map_err(told)?;
    temp.persist(path).map_err(|e| told(e.error))?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[tokio::test]
    async fn logins_are_found_where_others_left_them() {
        let dir = tempfile::tempdir().unwrap();
        let helper = dir.path().join("docker-credential-fake");
        let script = "#!/bin/sh\nread server\ncase $server in h.example) echo '{\"ServerURL\":\"h\",\"Username\":\"hu\",\"Secret\":\"hs\"}';;\n\
            t.example) echo '{\"Username\":\"<token>\",\"Secret\":\"tok\"}';;\n\
            *) echo credentials not found in native keychain; exit 1;; esac\n";
        let text = dir.path().join("helper");
        std::fs::write(&text, script).unwrap();
        // by another process: one that a test beside this one starts may have a file that we write open for a while, and
        // such a file can't be run
        let made = std::process::Command::new("install")
            .args(["-m", "755"])
            .args([&text, &helper])
            .status();
        assert!(made.unwrap().success());
        let file = dir.path().join("config.json");
        let text = r#"{"auths":{"https://index.docker.io/v1/":{"auth":"aHViOnB3Og=="},"http://r.example:5000/v1/":{"username":"u","password":"p"},
            "r.example/team":{"auth":"dGVhbTp4"},"empty.example":{}},
            "credHelpers":{"h.example":"fake"},"credsStore":"fake","HttpHeaders":{"X":"y"}}"#;
        std::fs::write(&file, text).unwrap();
        let config = ClientConfig {
            credential_files: vec![dir.path().join("missing.json"), file.clone()],
            helper_dirs: Some(vec![dir.path().into()]),
            ..ClientConfig::default()
        };
        let check = async |registry: &str, repository: &str, want: Option<(&str, &str, &str)>| {
            let found = find(&config, registry, repository).await.unwrap();
            let found = found.map(|c| (c.username, c.password, c.identity_token));
            let want = want.map(|(u, p, t)| (u.to_string(), p.to_string(), t.to_string()));
            assert_eq!(found, want, "{registry}/{repository}");
        };
        check("docker.io", "library/redis", Some(("hub", "pw:", ""))).await;
        check("r.example:5000", "a", Some(("u", "p", ""))).await;
        check("r.example", "team/app", Some(("team", "x", ""))).await;
        check("r.example", "other/app", None).await;
        check("h.example", "a", Some(("hu", "hs", ""))).await;
        check("t.example", "a", Some(("", "", "tok"))).await;
        check("empty.example", "a", None).await;

        let asked = ClientConfig {
            logins: Some(Logins(Arc::new(|registry| {
                let known = (registry == "r.example:5000").then(|| Credential {
                    username: "of-the-client".into(),
                    ..Credential::default()
                });
                Box::pin(async move { known })
            }))),
            ..config.clone()
        };
        for (registry, want) in [("r.example:5000", "of-the-client"), ("h.example", "hu")] {
            let found = find(&asked, registry, "a").await.unwrap();
            assert_eq!(found.unwrap().username, want, "{registry}");
        }

        let login = Credential {
            username: "new".into(),
            password: "secret".into(),
            ..Credential::default()
        };
        store_login(&file, "n.example", &login).unwrap();
        check("n.example", "a", Some(("new", "secret", ""))).await;
        assert!(
            std::fs::read_to_string(&file)
                .unwrap()
                .contains("HttpHeaders")
        );
        assert_eq!(
            std::fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        assert!(remove_login(&file, "n.example").unwrap());
        assert!(!remove_login(&file, "n.example").unwrap());
        assert!(!format!("{login:?}").contains("secret"));
    }
}
