//! Users and sessions. Passwords are kept as PBKDF2, session tokens as SHA-256: a stolen file opens no account.
//! `POST /users` and `POST /sessions` (`{name, password}`) answer with a token; `GET` and `DELETE /sessions/{token}`.
#![forbid(unsafe_code)]

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{get, post},
};
use http::StatusCode;
use ring::{
    digest, pbkdf2,
    rand::{SecureRandom, SystemRandom},
};
use rusqlite::{OptionalExtension, params};
use serde::Deserialize;
use serde_json::{Value, json};
use shop_common::{Config, Db, Failure, check_ids};
use std::num::NonZeroU32;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS users (name TEXT PRIMARY KEY, salt BLOB NOT NULL, hash BLOB NOT NULL);
CREATE TABLE IF NOT EXISTS sessions (token BLOB PRIMARY KEY, user TEXT NOT NULL, ends INTEGER NOT NULL)";
const SESSION_SECONDS: i64 = 7 * 24 * 3600;
const KIND: pbkdf2::Algorithm = pbkdf2::PBKDF2_HMAC_SHA256;
/// As OWASP's password storage cheat sheet says for SHA-256.
const ROUNDS: NonZeroU32 = NonZeroU32::new(600_000).unwrap();

/// # Errors
/// The database can't be opened.
pub fn app(config: &Config) -> Result<Router, shop_common::db::Error> {
    let db = Db::open(&config.data_dir, "auth", SCHEMA)?;
    Ok(Router::new()
        .route("/users", post(sign_up))
        .route("/sessions", post(sign_in))
        .route("/sessions/{token}", get(session).delete(sign_out))
        .with_state(db))
}

#[derive(Deserialize)]
struct Credentials {
    name: String,
    password: String,
}

fn random<const N: usize>() -> Result<[u8; N], Failure> {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).map_err(|_| {
        Failure::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "the machine gives no random numbers",
        )
    })?;
    Ok(bytes)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|e| Failure::new(StatusCode::INTERNAL_SERVER_ERROR, e.to_string()))
}

fn key(token: &str) -> Vec<u8> {
    digest::digest(&digest::SHA256, token.as_bytes())
        .as_ref()
        .to_vec()
}

async fn new_session(db: &Db, user: String) -> Result<(StatusCode, Json<Value>), Failure> {
    let token: String = random::<32>()?.iter().map(|b| format!("{b:02x}")).collect();
    let (hash, name) = (key(&token), user.clone());
    db.call(move |c| {
        c.execute("DELETE FROM sessions WHERE ends < unixepoch()", [])?;
        c.execute(
            "INSERT INTO sessions VALUES (?1, ?2, unixepoch() + ?3)",
            params![hash, name, SESSION_SECONDS],
        )
    })
    .await?;
    Ok((
        StatusCode::CREATED,
        Json(json!({ "user": user, "token": token })),
    ))
}

async fn sign_up(
    State(db): State<Db>,
    Json(given): Json<Credentials>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    check_ids(&[&given.name])?;
    if !(8..=256).contains(&given.password.len()) {
        return Err(Failure::bad("a password has 8 to 256 characters"));
    }
    let salt = random::<16>()?;
    let hash = blocking(move || {
        let mut hash = [0; 32];
        pbkdf2::derive(KIND, ROUNDS, &salt, given.password.as_bytes(), &mut hash);
        hash
    })
    .await?;
    let name = given.name.clone();
    let added = db
        .call(move |c| {
            c.execute(
                "INSERT OR IGNORE INTO users VALUES (?1, ?2, ?3)",
                params![name, salt, hash],
            )
        })
        .await?;
    if added == 0 {
        return Err(Failure::new(StatusCode::CONFLICT, "the name is taken"));
    }
    new_session(&db, given.name).await
}

async fn sign_in(
    State(db): State<Db>,
    Json(given): Json<Credentials>,
) -> Result<(StatusCode, Json<Value>), Failure> {
    let name = given.name.clone();
    let known: Option<(Vec<u8>, Vec<u8>)> = db
        .call(move |c| {
            c.query_row(
                "SELECT salt, hash FROM users WHERE name = ?1",
                [name],
                |r| Ok((r.get(0)?, r.get(1)?)),
            )
            .optional()
        })
        .await?;
    // An unknown name takes as long as a wrong password.
    let right = blocking(move || {
        let (salt, hash) = known.clone().unwrap_or_else(|| (vec![0; 16], vec![0; 32]));
        pbkdf2::verify(KIND, ROUNDS, &salt, given.password.as_bytes(), &hash).is_ok()
            && known.is_some()
    })
    .await?;
    if !right {
        return Err(Failure::new(
            StatusCode::UNAUTHORIZED,
            "name or password is wrong",
        ));
    }
    new_session(&db, given.name).await
}

async fn session(State(db): State<Db>, Path(token): Path<String>) -> Result<Json<Value>, Failure> {
    let user: Option<String> = db
        .call(move |c| {
            c.query_row(
                "SELECT user FROM sessions WHERE token = ?1 AND ends >= unixepoch()",
                [key(&token)],
                |r| r.get(0),
            )
            .optional()
        })
        .await?;
    user.map(|user| Json(json!({ "user": user })))
        .ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "no such session"))
}

async fn sign_out(State(db): State<Db>, Path(token): Path<String>) -> Result<StatusCode, Failure> {
    db.call(move |c| c.execute("DELETE FROM sessions WHERE token = ?1", [key(&token)]))
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
