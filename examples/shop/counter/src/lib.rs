//! How often pages were viewed: `POST /hits/{page}` counts one more, `GET` only reads.
#![forbid(unsafe_code)]

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::get,
};
use serde_json::{Value, json};
use shop_common::{Config, Db, Failure, Redis, check_ids};

// A view that a power cut forgets is no loss: NORMAL spares a sync for each.
const SCHEMA: &str =
    "CREATE TABLE IF NOT EXISTS hits (page TEXT PRIMARY KEY, count INTEGER NOT NULL) WITHOUT ROWID";

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
        None => Store::Sqlite(Db::open(&config.data_dir, "counter", SCHEMA)?),
    };
    Ok(Router::new()
        .route("/hits/{page}", get(read).post(hit))
        .with_state(store))
}

async fn hit(State(store): State<Store>, Path(page): Path<String>) -> Result<Json<Value>, Failure> {
    check_ids(&[&page])?;
    let count = match store {
        Store::Sqlite(db) => {
            db.call(move |c| {
                c.pragma_update(None, "synchronous", "NORMAL")?;
                c.query_row(
                    "INSERT INTO hits VALUES (?1, 1) ON CONFLICT (page) DO UPDATE SET count = count + 1 RETURNING count",
                    [page],
                    |r| r.get::<_, i64>(0),
                )
            })
            .await?
        }
        Store::Redis(redis) => redis.once(&["INCR", &format!("hits:{page}")]).await?.integer()?,
    };
    Ok(Json(json!({ "count": count })))
}

async fn read(
    State(store): State<Store>,
    Path(page): Path<String>,
) -> Result<Json<Value>, Failure> {
    check_ids(&[&page])?;
    let count = match store {
        Store::Sqlite(db) => {
            db.call(move |c| {
                c.query_row(
                    "SELECT coalesce(max(count), 0) FROM hits WHERE page = ?1",
                    [page],
                    |r| r.get::<_, i64>(0),
                )
            })
            .await?
        }
        Store::Redis(redis) => redis
            .repeatable(&["GET", &format!("hits:{page}")])
            .await?
            .integer()?,
    };
    Ok(Json(json!({ "count": count })))
}
