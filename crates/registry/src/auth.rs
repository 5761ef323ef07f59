//! Who may pull and push: users of an `htpasswd` file (bcrypt, as Docker's registry reads it), by Basic authentication or
//! by a token that is got with it (distribution, docs/spec/auth/token.md), and who an outside judge of tokens knows.

use crate::{
    Error,
    error::Refusal,
    route::{Target, queries},
    server::{Registry, host},
};
use axum::{
    http::{HeaderMap, Method, header, request::Parts},
    response::{IntoResponse, Response},
};
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use parking_lot::Mutex;
use ring::hmac;
use serde::{Deserialize, Serialize};
use std::{
    collections::HashMap,
    fs,
    future::Future,
    net::IpAddr,
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};
use tokio::sync::Semaphore;

const SERVICE: &str = "knarr";
/// How long a token is good.
const TOKEN_AGE: Duration = Duration::from_secs(3600);
/// How long a password that was right isn't computed again, and of how many.
const REMEMBER: Duration = Duration::from_secs(600);
const REMEMBERED_MAX: usize = 256;
/// bcrypt is slow on purpose: so many at once.
const VERIFY_MAX: usize = 2;
/// What a password is compared with where there is no such user, so that it takes as long.
const NOBODY: &str = "$2b$10$abcdefghijklmnopqrstuuAvFcHoZ/CzWwSrVOUvOLAFcfdmEKQEm";

/// What somebody may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    Pull,
    /// Also delete; includes pulling.
    Push,
}

/// What somebody may do who doesn't say who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Anonymous {
    Nothing,
    Pull,
}

/// Judges tokens that this registry didn't make (a platform's service accounts).
pub trait TokenReview: Send + Sync {
    /// What the bearer may do; none when the token is not good.
    fn review<'a>(
        &'a self,
        token: &'a str,
    ) -> Pin<Box<dyn Future<Output = Option<Access>> + Send + 'a>>;
}

/// A registry's users.
pub struct Auth {
    file: PathBuf,
    anonymous: Anonymous,
    tokens: bool,
    review: Option<Arc<dyn TokenReview>>,
    users: Mutex<Users>,
    right: Mutex<HashMap<[u8; 32], Instant>>,
    key: hmac::Key,
    verify: Semaphore,
}

#[derive(Default)]
struct Users {
    read: Option<SystemTime>,
    hashes: HashMap<String, String>,
}

/// What a request may do.
pub struct Granted(Rights);

enum Rights {
    All,
    Pull,
    /// And whether its bearer may read every repository anyway.
    Scopes(Vec<Scope>, bool),
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Scope {
    #[serde(rename = "type")]
    kind: String,
    name: String,
    actions: Vec<String>,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    /// Unix seconds.
    until: u64,
    access: Vec<Scope>,
    reads_all: bool,
}

impl Granted {
    /// May it read this repository?
    pub fn pulls(&self, name: &str) -> bool {
        self.may("repository", name, "pull")
    }

    /// May it take blobs from other repositories? From wherever one is only when it may read them all.
    pub fn mounts(&self, from_is_said: bool) -> bool {
        from_is_said || !matches!(self.0, Rights::Scopes(_, false))
    }

    fn may(&self, kind: &str, name: &str, action: &str) -> bool {
        match &self.0 {
            Rights::All => true,
            Rights::Pull => action == "pull" || kind == "registry",
            Rights::Scopes(scopes, _) => scopes.iter().any(|scope| {
                let does = |a: &String| a == action || a == "*";
                scope.kind == kind && scope.name == name && scope.actions.iter().any(does)
            }),
        }
    }
}

impl Auth {
    /// Reads the users of a file of lines `user:hash`, which is read again when it changes. `tokens`: clients are sent
    /// for a token, not asked for a password with each request. Blocking.
    ///
    /// # Errors
    /// When the file can't be read, or has a hash that isn't bcrypt's.
    pub fn open(
        file: &Path,
        anonymous: Anonymous,
        tokens: bool,
        review: Option<Arc<dyn TokenReview>>,
    ) -> Result<Auth, Error> {
        let random = ring::rand::SystemRandom::new();
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &random).map_err(|_| Error::Io {
            path: "/dev/urandom".into(),
            source: std::io::Error::other("no random numbers"),
        })?;
        let auth = Auth {
            file: file.to_path_buf(),
            anonymous,
            tokens,
            review,
            users: Mutex::default(),
            right: Mutex::default(),
            key,
            verify: Semaphore::new(VERIFY_MAX),
        };
        auth.read()?;
        Ok(auth)
    }

    /// Reads the users again if the file has changed.
    fn read(&self) -> Result<(), Error> {
        let io = |source| Error::Io {
            path: self.file.clone(),
            source,
        };
        let modified = fs::metadata(&self.file)
            .and_then(|m| m.modified())
            .map_err(io)?;
        if self.users.lock().read == Some(modified) {
            return Ok(());
        }
        let text = fs::read_to_string(&self.file).map_err(io)?;
        let hashes = parse_users(&text).map_err(|(line, why)| Error::Htpasswd {
            path: self.file.clone(),
            line,
            why,
        })?;
        *self.users.lock() = Users {
            read: Some(modified),
            hashes,
        };
        Ok(())
    }

    /// Is this the user's password?
    async fn knows(self: &Arc<Self>, user: &str, password: &str) -> bool {
        let this = self.clone();
        let read = tokio::task::spawn_blocking(move || this.read()).await;
        if let Ok(Err(error)) = read {
            tracing::warn!(%error, "the registry's users could not be read again: those of before stay");
        }
        let hash = self.users.lock().hashes.get(user).cloned();
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| NOBODY.to_string());
        let key = self.fingerprint(&[user, password, &hash]);
        let now = Instant::now();
        let fresh = |at: &Instant| now.duration_since(*at) < REMEMBER;
        if self.right.lock().get(&key).is_some_and(fresh) {
            return known;
        }
        let Ok(_permit) = self.verify.acquire().await else {
            return false;
        };
        let password = password.to_string();
        let verify = tokio::task::spawn_blocking(move || bcrypt::verify(password, &hash));
        let is = known && matches!(verify.await, Ok(Ok(true)));
        if is {
            let mut right = self.right.lock();
            if right.len() >= REMEMBERED_MAX {
                right.clear();
            }
            right.insert(key, now);
        }
        is
    }

    fn fingerprint(&self, parts: &[&str]) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.key);
        for part in parts {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part.as_bytes());
        }
        let mut out = [0; 32];
        out.copy_from_slice(context.sign().as_ref());
        out
    }

    fn make_token(&self, access: Vec<Scope>, reads_all: bool) -> String {
        let until = unix_now() + TOKEN_AGE.as_secs();
        let claims = serde_json::to_vec(&Claims {
            until,
            access,
            reads_all,
        })
        .unwrap_or_default();
        let claims = URL_SAFE_NO_PAD.encode(claims);
        let tag = hmac::sign(&self.key, claims.as_bytes());
        format!("{claims}.{}", URL_SAFE_NO_PAD.encode(tag.as_ref()))
    }

    fn read_token(&self, token: &str) -> Option<Rights> {
        let (claims, tag) = token.split_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.key, claims.as_bytes(), &tag).ok()?;
        let claims = URL_SAFE_NO_PAD.decode(claims).ok()?;
        let claims: Claims = serde_json::from_slice(&claims).ok()?;
        (claims.until > unix_now()).then_some(Rights::Scopes(claims.access, claims.reads_all))
    }

    /// What the credentials of a request allow; none when there are none, an error when they are wrong.
    async fn credentials(self: &Arc<Self>, headers: &HeaderMap) -> Result<Option<Rights>, ()> {
        let Some(value) = headers.get(header::AUTHORIZATION) else {
            return Ok(None);
        };
        let value = value.to_str().map_err(|_| ())?;
        let (scheme, rest) = value.split_once(' ').ok_or(())?;
        let rest = rest.trim();
        match scheme.to_ascii_lowercase().as_str() {
            "basic" => {
                let (user, password) = basic(rest).ok_or(())?;
                if self.knows(&user, &password).await {
                    return Ok(Some(Rights::All));
                }
                self.judge(&password).await.map(Some).ok_or(())
            }
            "bearer" => match self.read_token(rest) {
                Some(rights) => Ok(Some(rights)),
                None => self.judge(rest).await.map(Some).ok_or(()),
            },
            _ => Err(()),
        }
    }

    async fn judge(&self, token: &str) -> Option<Rights> {
        match self.review.as_ref()?.review(token).await? {
            Access::Pull => Some(Rights::Pull),
            Access::Push => Some(Rights::All),
        }
    }

    fn nobody(&self) -> Option<Rights> {
        (self.anonymous == Anonymous::Pull).then_some(Rights::Pull)
    }

    /// The refusal that tells a client how to say who it is.
    fn challenge(&self, parts: &Parts, scope: &str, wrong: bool) -> Refusal {
        let why = match wrong {
            true => "authentication required: the user's name, password or token is wrong",
            false => "authentication required",
        };
        let challenge = match self.tokens {
            false => format!("Basic realm=\"{SERVICE}\""),
            true => {
                let secure = parts.uri.scheme_str() == Some("https")
                    || parts
                        .headers
                        .get("x-forwarded-proto")
                        .is_some_and(|p| p == "https");
                let scheme = if secure { "https" } else { "http" };
                // A quote in a host's name would end the value.
                let host = host(parts).unwrap_or("localhost").replace(['"', '\\'], "");
                let scope = match scope {
                    "" => String::new(),
                    scope => format!(",scope=\"{scope}\""),
                };
                format!("Bearer realm=\"{scheme}://{host}/v2/token\",service=\"{SERVICE}\"{scope}")
            }
        };
        Refusal::unauthorized(why).header(header::WWW_AUTHENTICATE, &challenge)
    }
}

fn unix_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

fn basic(encoded: &str) -> Option<(String, String)> {
    let decoded = base64::engine::general_purpose::STANDARD
        .decode(encoded)
        .ok()?;
    let text = String::from_utf8(decoded).ok()?;
    let (user, password) = text.split_once(':')?;
    Some((user.to_string(), password.to_string()))
}

fn parse_users(text: &str) -> Result<HashMap<String, String>, (usize, String)> {
    let mut users = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let line = line.trim();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let bad = |why: &str| (number + 1, why.to_string());
        let (user, hash) = line
            .split_once(':')
            .ok_or_else(|| bad("expected USER:HASH"))?;
        if !["$2a$", "$2b$", "$2x$", "$2y$"]
            .iter()
            .any(|kind| hash.starts_with(kind))
        {
            return Err(bad("the hash is not bcrypt's"));
        }
        users.insert(user.to_string(), hash.to_string());
    }
    Ok(users)
}

/// `repository:NAME:pull,push`
fn parse_scope(text: &str) -> Option<Scope> {
    let (kind, rest) = text.split_once(':')?;
    let (name, actions) = rest.rsplit_once(':')?;
    Some(Scope {
        kind: kind.to_string(),
        name: name.to_string(),
        actions: actions.split(',').map(str::to_string).collect(),
    })
}

/// What a request needs.
fn needs(target: &Target, method: &Method) -> (&'static str, String, &'static str) {
    let reads = matches!(*method, Method::GET | Method::HEAD);
    match (target, target.repository()) {
        (Target::Uploads(name) | Target::Upload(name, _), _) => {
            ("repository", name.clone(), "push")
        }
        (_, Some(name)) if reads => ("repository", name.to_string(), "pull"),
        (_, Some(name)) if *method == Method::DELETE => ("repository", name.to_string(), "delete"),
        (_, Some(name)) => ("repository", name.to_string(), "push"),
        (Target::Catalog, None) => ("registry", "catalog".into(), "*"),
        (_, None) => ("", String::new(), ""),
    }
}

/// Lets a request in, or tells how it could.
pub async fn authorize(
    registry: &Arc<Registry>,
    parts: &Parts,
    target: &Target,
) -> Result<Granted, Refusal> {
    let Some(auth) = &registry.options.auth else {
        return Ok(Granted(Rights::All));
    };
    let (kind, name, action) = needs(target, &parts.method);
    let scope = match (kind, action) {
        ("", _) => String::new(),
        (kind, "push") => format!("{kind}:{name}:pull,push"),
        (kind, action) => format!("{kind}:{name}:{action}"),
    };
    let rights = auth.credentials(&parts.headers).await;
    let rights = rights.map_err(|()| auth.challenge(parts, &scope, true))?;
    let known = rights.is_some();
    let Some(rights) = rights.or_else(|| auth.nobody()) else {
        return Err(auth.challenge(parts, &scope, false));
    };
    let granted = Granted(rights);
    match kind.is_empty() || granted.may(kind, &name, action) {
        // Who asks at the base wants to know whether to log in.
        true if kind.is_empty() && !known && auth.tokens => Err(auth.challenge(parts, "", false)),
        true => Ok(granted),
        false if known && matches!(granted.0, Rights::Pull) => Err(Refusal::denied(
            "requested access to the resource is denied: this account may pull only",
        )),
        false => Err(auth.challenge(parts, &scope, false)),
    }
}

/// `GET /v2/token?service=…&scope=…`: a token for what is asked for and allowed.
pub async fn token(registry: &Arc<Registry>, parts: &Parts) -> Result<Response, Refusal> {
    let auth = registry.options.auth.as_ref().filter(|auth| auth.tokens);
    let auth = auth.ok_or_else(|| Refusal::not_here("this registry gives no tokens"))?;
    if parts.method != Method::GET {
        return Err(Refusal::method("a token is got with GET").header(header::ALLOW, "GET"));
    }
    let wrong = |wrong| {
        let why = match wrong {
            true => "the user's name or password is wrong",
            false => "authentication required",
        };
        Refusal::unauthorized(why).header(
            header::WWW_AUTHENTICATE,
            &format!("Basic realm=\"{SERVICE}\""),
        )
    };
    let rights = auth
        .credentials(&parts.headers)
        .await
        .map_err(|()| wrong(true))?;
    let rights = rights
        .or_else(|| auth.nobody())
        .ok_or_else(|| wrong(false))?;
    let granted = Granted(rights);
    let asked = queries(parts.uri.query(), "scope").take(32);
    let texts: Vec<String> = asked.collect();
    let scopes = texts
        .iter()
        .flat_map(|text| text.split(' '))
        .filter_map(parse_scope);
    let scopes = scopes.filter_map(|mut scope| {
        scope
            .actions
            .retain(|action| granted.may(&scope.kind, &scope.name, action));
        (!scope.actions.is_empty()).then_some(scope)
    });
    let token = auth.make_token(scopes.collect(), granted.mounts(false));
    let answer = serde_json::json!({
        "token": token,
        "access_token": token,
        "expires_in": TOKEN_AGE.as_secs(),
    });
    let headers = [(header::CACHE_CONTROL, "no-store")];
    Ok((headers, axum::Json(answer)).into_response())
}

/// Refuses requests that a browser was led to send here under another's name.
pub fn known_host(registry: &Registry, parts: &Parts) -> Result<(), Refusal> {
    if !registry.options.known_hosts_only {
        return Ok(());
    }
    let asked = host(parts).unwrap_or("");
    let bare = match asked
        .strip_prefix('[')
        .and_then(|rest| rest.split_once(']'))
    {
        Some((address, _)) => address,
        None => asked.rsplit_once(':').map_or(asked, |(name, _)| name),
    };
    let local = bare.eq_ignore_ascii_case("localhost")
        || bare.to_ascii_lowercase().ends_with(".localhost")
        || bare.parse().is_ok_and(|ip: IpAddr| ip.is_loopback());
    if local
        || registry
            .options
            .hosts
            .iter()
            .any(|host| host.eq_ignore_ascii_case(asked))
    {
        return Ok(());
    }
    Err(Refusal::denied(format!(
        "this registry is not called {asked:?}: use localhost, or give the name to the platform with --registry-name"
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_read_as_htpasswd_writes_them() {
        let users = parse_users("# ours\n\nann:$2y$05$abc\nbob:$2b$10$d:e\n").unwrap();
        assert_eq!(users["ann"], "$2y$05$abc");
        assert_eq!(users["bob"], "$2b$10$d:e");
        for (text, line) in [
            ("ann:{SHA}x", 1),
            ("a:$2y$05$x\nann", 2),
            ("ann:$apr1$x", 1),
        ] {
            assert_eq!(
                parse_users(text).map_err(|(line, _)| line),
                Err(line),
                "{text}"
            );
        }
    }

    #[test]
    fn a_hash_that_fits_nobody_can_be_computed() {
        assert!(!bcrypt::verify("password", NOBODY).unwrap());
    }

    #[test]
    fn scopes_are_read_as_clients_write_them() {
        let scope = parse_scope("repository:localhost:5000/a/b:pull,push").unwrap();
        assert_eq!(
            (scope.kind.as_str(), scope.name.as_str()),
            ("repository", "localhost:5000/a/b")
        );
        assert_eq!(scope.actions, ["pull", "push"]);
        assert_eq!(parse_scope("repository"), None);
    }
}
