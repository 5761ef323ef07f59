//! Configuration from the environment.

use std::path::PathBuf;

#[derive(Debug, Clone)]
pub struct Config {
    /// `PORT`, default 8080.
    pub port: u16,
    /// `DATA_DIR`, default `/data`.
    pub data_dir: PathBuf,
    /// `REDIS_ADDR` (default `redis:6379`) if `SHOP_STORE` is `redis`.
    pub redis: Option<String>,
}

impl Config {
    /// # Errors
    /// A sentence that names the variable and what it may be.
    pub fn from_env() -> Result<Self, String> {
        let port = or("PORT", "8080");
        let redis = match or("SHOP_STORE", "sqlite").as_str() {
            "sqlite" => None,
            "redis" => Some(or("REDIS_ADDR", "redis:6379")),
            other => return Err(format!("SHOP_STORE={other}: use sqlite or redis")),
        };
        Ok(Self {
            port: port
                .parse()
                .map_err(|_| format!("PORT={port}: use a port from 0 to 65535"))?,
            data_dir: or("DATA_DIR", "/data").into(),
            redis,
        })
    }
}

/// The variable's value, or `default` if it is unset or empty.
#[must_use]
pub fn or(name: &str, default: &str) -> String {
    std::env::var(name)
        .ok()
        .filter(|v| !v.is_empty())
        .unwrap_or_else(|| default.into())
}
