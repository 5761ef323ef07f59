//! The catalogue: `GET /products` and `GET /products/{product}`.
#![forbid(unsafe_code)]

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::get,
};
use http::StatusCode;
use rusqlite::Row;
use serde::{Deserialize, Serialize};
use shop_common::{Config, Db, Failure, check_ids};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Product {
    pub id: String,
    pub name: String,
    pub maker: String,
    pub maker_name: String,
    pub price_cents: i64,
    pub text: String,
    /// 0 to 359, of the picture.
    pub hue: i64,
    /// `bowl`, `vase`, `cloth`, `board` or `candle`.
    pub shape: String,
}

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS products (id TEXT PRIMARY KEY, name TEXT, maker TEXT, maker_name TEXT, price_cents INTEGER, text TEXT, hue INTEGER, shape TEXT);
INSERT OR IGNORE INTO products VALUES
('breakfast-bowl','Breakfast bowl','ines','Inês Duarte',2400,'Thrown on the wheel in Caldas da Rainha, glazed the blue of a morning sea. Holds exactly one good breakfast.',205,'bowl'),
('salad-bowl','Salad bowl','ines','Inês Duarte',4800,'Wide, low and heavy enough to stay where you put it. Stoneware, fired twice.',150,'bowl'),
('bud-vase','Bud vase','ines','Inês Duarte',1900,'For the single flower that you brought home. Matt white clay outside, clear glaze within.',28,'vase'),
('floor-vase','Floor vase','tomas','Tomás Reis',12500,'Half a metre of red clay, coil by coil, burnished with a river stone.',12,'vase'),
('oil-jar','Oil jar','tomas','Tomás Reis',3600,'Keeps a litre of olive oil cool and dark, as such jars have for two thousand years.',48,'vase'),
('wool-blanket','Wool blanket','marta','Marta Figueira',14800,'Woven in Serra da Estrela from the wool of sheep that live there. Warm, and honest about it.',340,'cloth'),
('linen-towel','Linen towel','marta','Marta Figueira',1600,'Gets better with every wash for the first ten years. After that it only stays good.',190,'cloth'),
('table-runner','Table runner','marta','Marta Figueira',5200,'A strip of indigo and white for the long table. Each one takes two days on the loom.',225,'cloth'),
('bread-board','Bread board','rui','Rui Salgado',3900,'One piece of cork oak, oiled, with the bark left on one edge.',32,'board'),
('cheese-board','Cheese board','rui','Rui Salgado',2900,'Olive wood from a tree that fell by itself. Room for three cheeses and an argument.',42,'board'),
('beeswax-candle','Beeswax candle','clara','Clara Nunes',1400,'Dipped forty times by hand. Burns for nine hours and smells of the hive.',45,'candle'),
('lavender-candle','Lavender candle','clara','Clara Nunes',1700,'The same wax, with lavender from the hill behind the workshop.',270,'candle')";

/// # Errors
/// The database can't be opened.
pub fn app(config: &Config) -> Result<Router, shop_common::db::Error> {
    let db = Db::open(&config.data_dir, "products", SCHEMA)?;
    Ok(Router::new()
        .route("/products", get(list))
        .route("/products/{product}", get(show))
        .with_state(db))
}

fn product(r: &Row<'_>) -> rusqlite::Result<Product> {
    Ok(Product {
        id: r.get(0)?,
        name: r.get(1)?,
        maker: r.get(2)?,
        maker_name: r.get(3)?,
        price_cents: r.get(4)?,
        text: r.get(5)?,
        hue: r.get(6)?,
        shape: r.get(7)?,
    })
}

async fn list(State(db): State<Db>) -> Result<Json<Vec<Product>>, Failure> {
    let all = db
        .call(|c| {
            c.prepare_cached("SELECT * FROM products ORDER BY rowid")?
                .query_map([], product)?
                .collect()
        })
        .await?;
    Ok(Json(all))
}

async fn show(State(db): State<Db>, Path(id): Path<String>) -> Result<Json<Product>, Failure> {
    check_ids(&[&id])?;
    let found: Vec<Product> = db
        .call(|c| {
            c.prepare_cached("SELECT * FROM products WHERE id = ?1")?
                .query_map([id], product)?
                .collect()
        })
        .await?;
    let found = found.into_iter().next();
    found
        .map(Json)
        .ok_or_else(|| Failure::new(StatusCode::NOT_FOUND, "no such product"))
}
