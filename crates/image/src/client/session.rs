//! A registry as one pull or push sees it: its hosts in order, logins, tokens, tries again.

use super::{
    ClientConfig, Credential, Error, Reference,
    auth::{self, Token},
    body::Body,
    credentials, hosts,
    hosts::Host,
    http::{Ask, Http},
};
use ::http::{HeaderMap, HeaderValue, Method, Response, StatusCode};
use hyper::body::Incoming;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    time::{Duration, Instant},
};
use tokio::sync::OnceCell;

/// The longest wait before another try, whatever the registry asks for.
const WAIT_MAX: Duration = Duration::from_secs(60);
/// How often one request may be refused for its login before we give up: each stale token and each login is one.
const REFUSALS_MAX: usize = 16;

pub(super) struct Session {
    pub config: ClientConfig,
    pub registry: String,
    pub repository: String,
    pub places: Vec<Place>,
    given: Vec<Credential>,
}

/// One host of the registry.
pub(super) struct Place {
    pub host: Host,
    http: OnceCell<(Http, &'static str)>,
    logins: OnceCell<Vec<Option<Credential>>>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// Which of the logins is used.
    login: usize,
    tokens: HashMap<String, Token>,
}

/// What is asked of a registry.
pub(super) struct Call<'a> {
    pub method: Method,
    /// Below `…/v2`, or a whole address (an upload's).
    pub path: String,
    pub headers: HeaderMap,
    pub body: &'a (dyn Fn() -> Body + Send + Sync),
    pub scopes: &'a [String],
}

impl<'a> Call<'a> {
    pub fn new(method: Method, path: String, scopes: &'a [String]) -> Call<'a> {
        Call {
            method,
            path,
            headers: HeaderMap::new(),
            body: &super::http::empty,
            scopes,
        }
    }
}

/// An answer, with what is needed to read its body.
pub(super) struct Answer {
    pub response: Response<Incoming>,
    pub http: Http,
    pub url: String,
}

impl Answer {
    pub fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.response.headers().get(name)?.to_str().ok()
    }

    pub async fn whole(self, max: usize) -> Result<Vec<u8>, Error> {
        let body = self.response.into_body();
        self.http.whole(&self.url, body, max).await
    }

    pub async fn refused(self) -> Error {
        self.http.refused(&self.url, self.response).await
    }
}

impl Session {
    pub fn new(
        config: &ClientConfig,
        reference: &Reference,
        given: Vec<Credential>,
    ) -> Result<Session, Error> {
        let places = hosts::of(config, &reference.registry)?
            .into_iter()
            .map(|host| Place {
                host,
                http: OnceCell::new(),
                logins: OnceCell::new(),
                state: Mutex::default(),
            });
        Ok(Session {
            config: config.clone(),
            registry: reference.registry.clone(),
            repository: reference.repository.clone(),
            places: places.collect(),
            given,
        })
    }

    /// `repository:NAME:ACTIONS`.
    pub fn scope(&self, actions: &str) -> Vec<String> {
        vec![format!("repository:{}:{actions}", self.repository)]
    }

    async fn logins<'p>(&self, place: &'p Place) -> Result<&'p [Option<Credential>], Error> {
        let find = async {
            let fits = |c: &&Credential| match &c.registry {
                Some(registry) => {
                    *registry == place.host.authority
                        || (!place.host.mirror && *registry == self.registry)
                }
                None => !place.host.mirror,
            };
            let mut all: Vec<Option<Credential>> =
                self.given.iter().filter(fits).cloned().map(Some).collect();
            if all.is_empty() {
                let name = match place.host.mirror {
                    true => &place.host.authority,
                    false => &self.registry,
                };
                all.push(credentials::find(&self.config, name, &self.repository).await?);
            }
            Ok::<_, Error>(all)
        };
        place
            .logins
            .get_or_try_init(|| find)
            .await
            .map(Vec::as_slice)
    }

    /// The connection to a place; where no scheme is set, whichever it answers: HTTPS first.
    async fn http<'p>(&self, place: &'p Place) -> Result<&'p (Http, &'static str), Error> {
        let open = async {
            let (connect, stall) = (self.config.connect_timeout, self.config.stall_timeout);
            let http = Http::new(&place.host, &self.config.proxies, connect, stall)?;
            if let Some(scheme) = place.host.scheme {
                return Ok((http, scheme));
            }
            let ask = Ask {
                method: Method::GET,
                url: format!("https://{}{}/", place.host.authority, place.host.path),
                headers: HeaderMap::new(),
                body: &super::http::empty,
                authorization: None,
            };
            let scheme = match http.send(&ask).await {
                Ok(_) => "https",
                Err(Error::Network { .. }) => "http",
                Err(other) => return Err(other),
            };
            Ok::<_, Error>((http, scheme))
        };
        place.http.get_or_try_init(|| open).await
    }

    /// Asks one place; meets its challenges with the logins there are. Any other answer than 401 is given back.
    pub async fn ask(&self, place: &Place, call: &Call<'_>) -> Result<Answer, Error> {
        let (http, scheme) = self.http(place).await?;
        let mut url = match call.path.contains("://") {
            true => call.path.clone(),
            false => format!(
                "{scheme}://{}{}{}",
                place.host.authority, place.host.path, call.path
            ),
        };
        if place.host.mirror && !call.path.contains("://") {
            let mark = if url.contains('?') { '&' } else { '?' };
            url = format!("{url}{mark}ns={}", self.registry);
        }
        let key = call.scopes.join(" ");
        let mut headers = call.headers.clone();
        for (name, value) in &place.host.headers {
            let name = ::http::HeaderName::try_from(name.as_str());
            if let (Ok(name), Ok(value)) = (name, HeaderValue::from_str(value)) {
                headers.append(name, value);
            }
        }
        for _ in 0..REFUSALS_MAX {
            let (used, authorization) = {
                let state = place.state.lock();
                let token = state.tokens.get(&key);
                let fresh = token.filter(|t| t.until > Instant::now());
                (state.login, fresh.map(|t| t.header.clone()))
            };
            // an upload's own address may be on a host that must not see the token
            let home = url.starts_with(&format!("{scheme}://{}/", place.host.authority));
            let ask = Ask {
                method: call.method.clone(),
                url: url.clone(),
                headers: headers.clone(),
                body: call.body,
                authorization: authorization.clone().filter(|_| home),
            };
            let response = http.send(&ask).await?;
            let refused = response.status() == StatusCode::UNAUTHORIZED
                || (response.status() == StatusCode::FORBIDDEN && authorization.is_some());
            if !refused || !home {
                return Ok(Answer {
                    response,
                    http: http.clone(),
                    url,
                });
            }
            let logins = self.logins(place).await?;
            let challenges = auth::challenges(response.headers());
            let why = http.refused(&url, response).await;
            // another task may have met the challenge, or gone to the next login, meanwhile
            let first = {
                let mut state = place.state.lock();
                let now = state.tokens.get(&key).map(|t| t.header.clone());
                if state.login != used || (now.is_some() && now != authorization) {
                    continue;
                }
                state.tokens.remove(&key);
                // refused with a token that was fresh: this login isn't allowed to
                authorization.is_none()
            };
            let mut got = None;
            if first {
                let login = logins.get(used).and_then(Option::as_ref);
                for challenge in &challenges {
                    got = auth::meet(http, challenge, call.scopes, login).await?;
                    if got.is_some() {
                        break;
                    }
                }
            }
            let mut state = place.state.lock();
            match got {
                Some(token) => {
                    state.tokens.insert(key.clone(), token);
                }
                None if used + 1 < logins.len() => {
                    if state.login == used {
                        state.login += 1;
                        state.tokens.clear();
                    }
                }
                None => return Err(self.denied(why)),
            }
        }
        Err(self.denied(Error::wrong(&url, "it asks for a login again and again")))
    }

    fn denied(&self, why: Error) -> Error {
        let why = match why {
            Error::Status { status, body, .. } if body.is_empty() => format!("status {status}"),
            Error::Status { body, .. } => body,
            other => other.to_string(),
        };
        Error::Denied {
            registry: self.registry.clone(),
            repository: self.repository.clone(),
            why,
        }
    }

    /// Asks the places that fit, in order, until one of them gives what `good` wants; each is tried again while that may
    /// help.
    pub async fn ask_any(
        &self,
        fits: impl Fn(&Host) -> bool + Send,
        call: &Call<'_>,
        good: impl Fn(StatusCode) -> bool + Send,
    ) -> Result<(&Place, Answer), Error> {
        let mut last = None;
        for place in self.places.iter().filter(|p| fits(&p.host)) {
            let attempts = match place.host.mirror {
                // the next one is quicker than patience
                true => 1,
                false => self.config.attempts,
            };
            let mut tries = Tries::new(attempts);
            let error = loop {
                let failed = match self.ask(place, call).await {
                    Ok(answer) if good(answer.status()) => return Ok((place, answer)),
                    Ok(answer) => answer.refused().await,
                    Err(error) => error,
                };
                if let Err(error) = tries.after(failed).await {
                    break error;
                }
            };
            tracing::debug!(host = place.host.authority, %error, "a registry's host");
            last = Some(error);
        }
        Err(last.unwrap_or_else(|| Error::Config {
            path: self.registry.clone(),
            why: "no host is set up for this".into(),
        }))
    }
}

/// Counts the tries of one thing.
pub(super) struct Tries {
    left: u32,
    /// Which one this is, from 1.
    pub attempt: u32,
}

impl Tries {
    pub fn new(attempts: u32) -> Tries {
        Tries {
            left: attempts.max(1),
            attempt: 1,
        }
    }

    /// Waits until the next try; gives the error back when it is final or there were enough tries.
    pub async fn after(&mut self, error: Error) -> Result<(), Error> {
        self.left -= 1;
        if !error.is_transient() || self.left == 0 {
            return Err(error);
        }
        tokio::time::sleep(pause(&error, self.attempt)).await;
        self.attempt += 1;
        Ok(())
    }
}

/// How long to wait after an attempt: what the registry asks for, or half a second that doubles.
fn pause(error: &Error, attempt: u32) -> Duration {
    let asked = match error {
        Error::Status {
            retry_after_s: Some(seconds),
            ..
        } => Duration::from_secs(*seconds),
        _ => Duration::from_millis(500 << attempt.min(7)) / 2,
    };
    asked.min(WAIT_MAX)
}

/// Whether a registry takes a login.
///
/// # Errors
/// `Denied` when it doesn't; others when it can't be asked.
pub async fn check_login(
    config: &ClientConfig,
    registry: &str,
    credential: Credential,
) -> Result<(), Error> {
    let reference = Reference {
        registry: registry.into(),
        repository: String::new(),
        tag: None,
        digest: None,
    };
    let session = Session::new(config, &reference, vec![credential])?;
    let call = Call::new(Method::GET, "/".into(), &[]);
    let own = |host: &Host| !host.mirror;
    session.ask_any(own, &call, |s| s.is_success()).await?;
    Ok(())
}
