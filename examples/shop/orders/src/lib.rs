//! A cart and orders per user; several replicas share one database.
//! `GET /users/{user}/cart`, `PUT /users/{user}/cart/{product}` (`{quantity}`, 0 takes it out),
//! `GET /users/{user}/orders`, `PUT /users/{user}/orders/{key}` orders the cart: sent twice with one key, it orders once.
#![forbid(unsafe_code)]

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::{get, put},
};
use http::StatusCode;
use rusqlite::{OptionalExtension, TransactionBehavior, params};
use serde::{Deserialize, Serialize};
use shop_common::{Client, Config, Context, Db, Failure, check_ids};
use std::time::Duration;

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS carts (user TEXT, product TEXT, quantity INTEGER NOT NULL, PRIMARY KEY (user, product));
CREATE TABLE IF NOT EXISTS orders (user TEXT, key TEXT, made INTEGER NOT NULL, total_cents INTEGER NOT NULL, lines TEXT NOT NULL, PRIMARY KEY (user, key))";
const QUANTITY_MAX: i64 = 99;

#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq)]
pub struct Line {
    pub product: String,
    pub quantity: i64,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Order {
    pub key: String,
    /// Unix seconds.
    pub made: i64,
    pub total_cents: i64,
    pub lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Quantity {
    quantity: i64,
}

#[derive(Deserialize)]
struct Price {
    id: String,
    price_cents: i64,
}

#[derive(Clone)]
struct Shop {
    db: Db,
    client: Client,
    products: String,
}

/// `products`: that service's address, such as `http://products:8080`.
///
/// # Errors
/// The database can't be opened.
pub fn app_with(config: &Config, products: &str) -> Result<Router, shop_common::db::Error> {
    let shop = Shop {
        db: Db::open(&config.data_dir, "orders", SCHEMA)?,
        client: Client::new(Duration::from_secs(2)),
        products: products.into(),
    };
    Ok(Router::new()
        .route("/users/{user}/cart", get(cart))
        .route("/users/{user}/cart/{product}", put(set))
        .route("/users/{user}/orders", get(list))
        .route("/users/{user}/orders/{key}", put(order))
        .with_state(shop))
}

/// As [`app_with`], with the address from `PRODUCTS_URL`.
///
/// # Errors
/// The database can't be opened.
pub fn app(config: &Config) -> Result<Router, shop_common::db::Error> {
    app_with(
        config,
        &shop_common::config::or("PRODUCTS_URL", "http://products:8080"),
    )
}

fn cart_of(c: &rusqlite::Connection, user: &str) -> rusqlite::Result<Vec<Line>> {
    c.prepare_cached("SELECT product, quantity FROM carts WHERE user = ?1 ORDER BY product")?
        .query_map([user], |r| {
            Ok(Line {
                product: r.get(0)?,
                quantity: r.get(1)?,
            })
        })?
        .collect()
}

async fn cart(
    State(shop): State<Shop>,
    Path(user): Path<String>,
) -> Result<Json<Vec<Line>>, Failure> {
    check_ids(&[&user])?;
    Ok(Json(shop.db.call(move |c| cart_of(c, &user)).await?))
}

async fn set(
    State(shop): State<Shop>,
    Path((user, product)): Path<(String, String)>,
    Json(Quantity { quantity }): Json<Quantity>,
) -> Result<StatusCode, Failure> {
    check_ids(&[&user, &product])?;
    if !(0..=QUANTITY_MAX).contains(&quantity) {
        return Err(Failure::bad(format!("quantity: 0 to {QUANTITY_MAX}")));
    }
    shop.db
        .call(move |c| match quantity {
            0 => c.execute(
                "DELETE FROM carts WHERE user = ?1 AND product = ?2",
                params![user, product],
            ),
            _ => c.execute(
                "INSERT INTO carts VALUES (?1, ?2, ?3) ON CONFLICT DO UPDATE SET quantity = ?3",
                params![user, product, quantity],
            ),
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn order(
    State(shop): State<Shop>,
    Path((user, key)): Path<(String, String)>,
    context: Context,
) -> Result<StatusCode, Failure> {
    check_ids(&[&user, &key])?;
    let prices: Vec<Price> = shop
        .client
        .get(&context, &format!("{}/products", shop.products))
        .await?;
    let done = shop
        .db
        .call(move |c| {
            let t = c.transaction_with_behavior(TransactionBehavior::Immediate)?;
            let known = t
                .query_row(
                    "SELECT 1 FROM orders WHERE user = ?1 AND key = ?2",
                    params![user, key],
                    |_| Ok(()),
                )
                .optional()?;
            if known.is_some() {
                return Ok(true);
            }
            let lines = cart_of(&t, &user)?;
            let total: Option<i64> = lines
                .iter()
                .map(|l| {
                    let price = prices.iter().find(|p| p.id == l.product)?;
                    Some(price.price_cents * l.quantity)
                })
                .sum();
            let (Some(total), false) = (total, lines.is_empty()) else {
                return Ok(false);
            };
            let text = serde_json::to_string(&lines)
                .map_err(|e| rusqlite::Error::ToSqlConversionFailure(e.into()))?;
            t.execute(
                "INSERT INTO orders VALUES (?1, ?2, unixepoch(), ?3, ?4)",
                params![user, key, total, text],
            )?;
            t.execute("DELETE FROM carts WHERE user = ?1", [&user])?;
            t.commit()?;
            Ok(true)
        })
        .await?;
    if done {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(Failure::new(
            StatusCode::CONFLICT,
            "the cart is empty or holds something no longer sold",
        ))
    }
}

async fn list(
    State(shop): State<Shop>,
    Path(user): Path<String>,
) -> Result<Json<Vec<Order>>, Failure> {
    check_ids(&[&user])?;
    let orders = shop
        .db
        .call(move |c| {
            c.prepare_cached(
                "SELECT key, made, total_cents, lines FROM orders WHERE user = ?1 ORDER BY made DESC, rowid DESC LIMIT 100",
            )?
            .query_map([user], |r| {
                let lines: String = r.get(3)?;
                Ok(Order {
                    key: r.get(0)?,
                    made: r.get(1)?,
                    total_cents: r.get(2)?,
                    lines: serde_json::from_str(&lines).map_err(|e| {
                        rusqlite::Error::FromSqlConversionFailure(3, rusqlite::types::Type::Text, e.into())
                    })?,
                })
            })?
            .collect()
        })
        .await?;
    Ok(Json(orders))
}
