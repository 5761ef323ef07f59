//! Blobs sent to a registry: small ones in one request; others as Docker sends them, a stream and then the digest, so that
//! what broke off goes on where the registry is, and a blob may be sent while it is made.

use super::{
    Error, Event, Progress, Step, body, http,
    session::{Call, Place, Session, Tries},
};
use ::http::{HeaderValue, Method, StatusCode, header};
use std::{
    io::Read,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

/// The registry has hashed what it got, at the latest so many stall times after the last byte.
const COMMIT_STALLS: u32 = 5;

/// Blobs of at most so many bytes go in one request.
const SMALL_BYTES: u64 = 1 << 20;

/// Gives the content from the start, as often as it is asked.
pub(super) type Opener = Arc<dyn Fn() -> std::io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// A blob to send.
pub(super) struct Outgoing {
    pub digest: String,
    pub size: u64,
    pub open: Opener,
}

/// Whether the place has the blob.
pub(super) async fn exists(session: &Session, place: &Place, digest: &str) -> Result<bool, Error> {
    let scopes = session.scope("pull,push");
    let path = format!("/{}/blobs/{digest}", session.repository);
    let call = Call::new(Method::HEAD, path, &scopes);
    let mut tries = Tries::new(session.config.attempts);
    loop {
        let error = match session.ask(place, &call).await {
            Ok(answer) if answer.status() == StatusCode::OK => return Ok(true),
            Ok(answer) if answer.status() == StatusCode::NOT_FOUND => return Ok(false),
            Ok(answer) => answer.refused().await,
            Err(error) => error,
        };
        tries.after(error).await?;
    }
}

/// Asks the place to take the blob from one of its other repositories. False: it doesn't, and begins no upload that we use.
pub(super) async fn mount(
    session: &Session,
    place: &Place,
    digest: &str,
    from: &str,
) -> Result<bool, Error> {
    let mut scopes = session.scope("pull,push");
    scopes.push(format!("repository:{from}:pull"));
    let path = format!(
        "/{}/blobs/uploads/?mount={digest}&from={from}",
        session.repository
    );
    let mut call = Call::new(Method::POST, path, &scopes);
    call.headers
        .insert(header::CONTENT_LENGTH, HeaderValue::from_static("0"));
    let answer = session.ask(place, &call).await?;
    if answer.status() == StatusCode::CREATED {
        return Ok(true);
    }
    if answer.status() == StatusCode::ACCEPTED
        && let Some(location) = location(&answer)
    {
        // it began an upload instead: taken back, as far as it lets us
        let scopes = session.scope("pull,push");
        let _ = session
            .ask(place, &Call::new(Method::DELETE, location, &scopes))
            .await;
    }
    Ok(false)
}

fn location(answer: &super::session::Answer) -> Option<String> {
    let to = answer.header("location")?;
    http::join(&answer.url.parse().ok()?, to)
}

/// A blob that is made while it is sent: its digest is known at its end.
pub(super) struct Growing<T> {
    /// Gives the content from the start, as often as it is asked.
    pub open: Opener,
    /// What it became, once all of it was read.
    pub made: Arc<dyn Fn() -> Option<T> + Send + Sync>,
    /// How much of what it is made of was read, and of how much.
    pub read: Arc<AtomicU64>,
    pub of: u64,
}

type Tell<'a> = &'a (dyn Fn(Step) + Send + Sync);

/// How far one request's body is.
struct Moved {
    /// All of it went out.
    ended: AtomicBool,
    /// Bytes of the blob so far.
    beat: tokio::sync::watch::Sender<u64>,
}

/// Sends a blob: in one request, as a stream, or in pieces of `chunk_bytes`. What breaks off goes on where the registry says
/// that it is; `begun` is an upload of the same bytes that broke off before.
pub(super) async fn send(
    session: &Session,
    place: &Place,
    blob: &Outgoing,
    mut begun: Option<String>,
    chunk_bytes: Option<u64>,
    progress: &dyn Progress,
) -> Result<(), Error> {
    let tell = |step| {
        progress.event(Event::Blob {
            digest: blob.digest.clone(),
            step,
        });
    };
    let mut tries = Tries::new(session.config.attempts);
    let mut in_one = blob.size <= SMALL_BYTES;
    loop {
        let from = match begun.take() {
            Some(to) => standing(session, place, &to, blob.size).await,
            None => None,
        };
        let resumed = from.is_some();
        let (to, at) = match from {
            Some(from) => from,
            None => (begin(session, place).await?, 0),
        };
        let error = if in_one && !resumed && chunk_bytes.is_none() {
            match whole(session, place, blob, &to, &tell).await {
                Ok(()) => return Ok(()),
                Err(error) => error,
            }
        } else {
            begun = Some(to.clone());
            match parts(session, place, blob, to, at, chunk_bytes, &tell).await {
                Ok(()) => return Ok(()),
                // it doesn't go on there, or isn't what was sent: once more from the start
                Err(Error::Status { status, .. }) if resumed && (400..500).contains(&status) => {
                    begun = None;
                    continue;
                }
                // it takes no streams: in one request, then
                Err(Error::Status { status, .. })
                    if !in_one && chunk_bytes.is_none() && (400..500).contains(&status) =>
                {
                    begun = None;
                    in_one = true;
                    continue;
                }
                Err(error) => error,
            }
        };
        tries.after(error).await?;
        tell(Step::Retrying {
            attempt: tries.attempt,
        });
    }
}

/// Sends a blob while it is made; gives what it became. When that breaks off: the upload's address, where it may go on.
pub(super) async fn grow<T>(
    session: &Session,
    place: &Place,
    blob: &Growing<T>,
    digest: impl Fn(&T) -> String,
    tell: Tell<'_>,
) -> Result<T, (Error, Option<String>)> {
    let to = begin(session, place).await.map_err(|e| (e, None))?;
    let broken = |error| (error, Some(to.clone()));
    let moved = Arc::new(Moved::new());
    let make = body_of(blob.open.clone(), 0, None, moved.clone());
    let scopes = session.scope("pull,push");
    let mut call = Call::new(Method::PATCH, to.clone(), &scopes);
    call.body = &make;
    let seen = |_| {
        tell(Step::Transferring {
            at: blob.read.load(Ordering::Relaxed).min(blob.of),
            of: blob.of,
        });
    };
    let answer = moving(session, place, call, &moved, &seen)
        .await
        .map_err(broken)?;
    let next = location(&answer).unwrap_or_else(|| to.clone());
    let why = "the upload's end was not seen";
    let made = (blob.made)().ok_or_else(|| broken(Error::network(&answer.url, why)))?;
    finish(session, place, &next, &digest(&made))
        .await
        .map_err(broken)?;
    Ok(made)
}

impl Moved {
    fn new() -> Moved {
        Moved {
            ended: AtomicBool::new(false),
            beat: tokio::sync::watch::channel(0).0,
        }
    }
}

/// Begins an upload; gives its address.
async fn begin(session: &Session, place: &Place) -> Result<String, Error> {
    let scopes = session.scope("pull,push");
    let path = format!("/{}/blobs/uploads/", session.repository);
    let mut call = Call::new(Method::POST, path, &scopes);
    let none = HeaderValue::from_static("0");
    call.headers.insert(header::CONTENT_LENGTH, none);
    let mut tries = Tries::new(session.config.attempts);
    loop {
        let error = match session.ask(place, &call).await {
            Ok(answer) if answer.status() == StatusCode::ACCEPTED => {
                return location(&answer)
                    .ok_or_else(|| Error::wrong(&answer.url, "an upload without a Location"));
            }
            Ok(answer) => answer.refused().await,
            Err(error) => error,
        };
        tries.after(error).await?;
    }
}

/// Where an upload goes on, and at which byte; none: nowhere.
async fn standing(session: &Session, place: &Place, to: &str, size: u64) -> Option<(String, u64)> {
    let scopes = session.scope("pull,push");
    let call = Call::new(Method::GET, to.into(), &scopes);
    let answer = session.ask(place, &call).await.ok()?;
    if !answer.status().is_success() {
        return None;
    }
    let range = answer.header("range")?.trim_start_matches("bytes=");
    let last: u64 = range.strip_prefix("0-")?.parse().ok()?;
    // "0-0" is what some say of nothing
    let at = last.checked_add(1).filter(|at| *at > 1 && *at <= size)?;
    Some((location(&answer).unwrap_or_else(|| to.into()), at))
}

fn with_digest(to: &str, digest: &str) -> String {
    let mark = if to.contains('?') { '&' } else { '?' };
    format!("{to}{mark}digest={digest}")
}

/// Ends an upload of which all bytes are there.
async fn finish(session: &Session, place: &Place, to: &str, digest: &str) -> Result<(), Error> {
    let scopes = session.scope("pull,push");
    let mut call = Call::new(Method::PUT, with_digest(to, digest), &scopes);
    let none = HeaderValue::from_static("0");
    call.headers.insert(header::CONTENT_LENGTH, none);
    let moved = Moved::new();
    moved.ended.store(true, Ordering::Relaxed);
    moving(session, place, call, &moved, &|_| {}).await?;
    Ok(())
}

/// All of it in one request.
async fn whole(
    session: &Session,
    place: &Place,
    blob: &Outgoing,
    to: &str,
    tell: Tell<'_>,
) -> Result<(), Error> {
    let to = with_digest(to, &blob.digest);
    put(
        session,
        place,
        blob,
        Method::PUT,
        to,
        0..blob.size,
        None,
        tell,
    )
    .await?;
    Ok(())
}

/// What is left from `at`, in pieces or in one, and its end.
async fn parts(
    session: &Session,
    place: &Place,
    blob: &Outgoing,
    mut to: String,
    mut at: u64,
    chunk_bytes: Option<u64>,
    tell: Tell<'_>,
) -> Result<(), Error> {
    while at < blob.size {
        let left = blob.size - at;
        let n = chunk_bytes.filter(|c| *c > 0).unwrap_or(left).min(left);
        // a stream from the start says nothing of its place, as Docker's doesn't
        let ranged = chunk_bytes.is_some() || at > 0;
        let range = format!("{at}-{}", at + n - 1);
        let range = ranged.then(|| HeaderValue::try_from(range).ok()).flatten();
        let put = put(
            session,
            place,
            blob,
            Method::PATCH,
            to,
            at..at + n,
            range,
            tell,
        );
        let answer = put.await?;
        to = location(&answer)
            .ok_or_else(|| Error::wrong(&answer.url, "a part of an upload without a Location"))?;
        at += n;
    }
    finish(session, place, &to, &blob.digest).await
}

/// Makes bodies of `length` bytes from `start`, or of all from there.
fn body_of(
    open: Opener,
    start: u64,
    length: Option<u64>,
    moved: Arc<Moved>,
) -> impl Fn() -> body::Body + Send + Sync {
    move || {
        let (open, moved) = (open.clone(), moved.clone());
        moved.ended.store(false, Ordering::Relaxed);
        moved.beat.send_replace(start);
        body::reader(
            move || {
                let mut from = open()?;
                std::io::copy(&mut from.by_ref().take(start), &mut std::io::sink())?;
                Ok(from.take(length.unwrap_or(u64::MAX)))
            },
            move |n| {
                moved.ended.fetch_or(n == 0, Ordering::Relaxed);
                moved.beat.send_modify(|at| *at += n as u64);
            },
        )
    }
}

#[allow(clippy::too_many_arguments)]
async fn put(
    session: &Session,
    place: &Place,
    blob: &Outgoing,
    method: Method,
    to: String,
    range: Range<u64>,
    content_range: Option<HeaderValue>,
    tell: Tell<'_>,
) -> Result<super::session::Answer, Error> {
    let length = range.end - range.start;
    let moved = Arc::new(Moved::new());
    let make = body_of(blob.open.clone(), range.start, Some(length), moved.clone());
    let scopes = session.scope("pull,push");
    let mut call = Call::new(method, to, &scopes);
    call.body = match length {
        0 => &http::empty,
        _ => &make,
    };
    call.headers.insert(header::CONTENT_LENGTH, length.into());
    if let Some(value) = content_range {
        call.headers.insert(header::CONTENT_RANGE, value);
    }
    let of = blob.size;
    moving(session, place, call, &moved, &|at| {
        tell(Step::Transferring { at, of })
    })
    .await
}

/// Asks with a body that must keep moving.
async fn moving(
    session: &Session,
    place: &Place,
    mut call: Call<'_>,
    moved: &Moved,
    seen: &(dyn Fn(u64) + Send + Sync),
) -> Result<super::session::Answer, Error> {
    let kind = HeaderValue::from_static("application/octet-stream");
    call.headers.insert(header::CONTENT_TYPE, kind);
    let url = call.path.split('?').next().unwrap_or_default().to_string();
    let stall = session.config.stall_timeout;
    let mut beats = moved.beat.subscribe();
    let asked = session.ask(place, &call);
    tokio::pin!(asked);
    let answer = loop {
        let patience: Duration = match moved.ended.load(Ordering::Relaxed) {
            true => stall * COMMIT_STALLS,
            false => stall,
        };
        tokio::select! {
            answer = &mut asked => break answer?,
            moved = tokio::time::timeout(patience, beats.changed()) => match moved {
                Ok(_) => seen(*beats.borrow_and_update()),
                Err(_) => {
                    let why = format!("it took nothing for {} s", patience.as_secs());
                    return Err(Error::network(url, why));
                }
            }
        }
    };
    match answer.status() {
        StatusCode::CREATED | StatusCode::ACCEPTED | StatusCode::NO_CONTENT => Ok(answer),
        _ => Err(answer.refused().await),
    }
}
