//! Who follows which maker: `POST`, `DELETE` and `GET /users/{user}/follow/{maker}`.
#![forbid(unsafe_code)]

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::get,
};
use http::StatusCode;
use rusqlite::params;
use serde_json::{Value, json};
use shop_common::{Config, Db, Failure, Redis, check_ids};

const SCHEMA: &str = "CREATE TABLE IF NOT EXISTS follows (maker TEXT, user TEXT, PRIMARY KEY (maker, user)) WITHOUT ROWID";

#[derive(Clone)]
enum Store {
    Sqlite(Db),
    Redis(Redis),
}

/// # Errors
/// The database can't be opened.
pub fn app(config: &Config) -> Result<Router, shop_common::db::Error> {
    let store = match &config.redis {
        Some(address) => Store::Redis(Redis::new(address)),
        None => Store::Sqlite(Db::open(&config.data_dir, "follow", SCHEMA)?),
    };
    Ok(Router::new()
        .route(
            "/users/{user}/follow/{maker}",
            get(show).post(follow).delete(unfollow),
        )
        .with_state(store))
}

type Pair = Path<(String, String)>;

async fn show(
    State(store): State<Store>,
    Path((user, maker)): Pair,
) -> Result<Json<Value>, Failure> {
    check_ids(&[&user, &maker])?;
    let (following, followers) = match store {
        Store::Sqlite(db) => {
            db.call(move |c| {
                c.query_row(
                    "SELECT count(*) FILTER (WHERE user = ?2), count(*) FROM follows WHERE maker = ?1",
                    params![maker, user],
                    |r| Ok((r.get::<_, i64>(0)? > 0, r.get::<_, i64>(1)?)),
                )
            })
            .await?
        }
        Store::Redis(redis) => {
            let key = format!("followers:{maker}");
            let is = redis.repeatable(&["SISMEMBER", &key, &user]).await?.integer()?;
            (is > 0, redis.repeatable(&["SCARD", &key]).await?.integer()?)
        }
    };
    Ok(Json(
        json!({ "following": following, "followers": followers }),
    ))
}

async fn follow(state: State<Store>, pair: Pair) -> Result<StatusCode, Failure> {
    change(
        state,
        pair,
        "INSERT OR IGNORE INTO follows (maker, user) VALUES (?1, ?2)",
        "SADD",
    )
    .await
}

async fn unfollow(state: State<Store>, pair: Pair) -> Result<StatusCode, Failure> {
    change(
        state,
        pair,
        "DELETE FROM follows WHERE maker = ?1 AND user = ?2",
        "SREM",
    )
    .await
}

async fn change(
    State(store): State<Store>,
    Path((user, maker)): Pair,
    sql: &'static str,
    command: &str,
) -> Result<StatusCode, Failure> {
    check_ids(&[&user, &maker])?;
    match store {
        Store::Sqlite(db) => {
            db.call(move |c| c.execute(sql, params![maker, user]))
                .await?;
        }
        Store::Redis(redis) => {
            redis
                .repeatable(&[command, &format!("followers:{maker}"), &user])
                .await?;
        }
    }
    Ok(StatusCode::NO_CONTENT)
}
