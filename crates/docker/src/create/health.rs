//! HEALTHCHECK, as Docker has it.

use crate::{
    error::{Fault, Result},
    http::Fields,
};
use serde_json::{Map, Value};

/// A check that the container is well. Times in nanoseconds; 0: as in the image, or Docker's default.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Health {
    /// `["CMD", …]`, `["CMD-SHELL", "…"]`, `["NONE"]`; empty: the image's
    pub test: Vec<String>,
    pub interval: i64,
    pub timeout: i64,
    pub retries: i64,
    pub start_period: i64,
    pub start_interval: i64,
}

/// SOURCE: moby `daemon/health.go`
pub const INTERVAL: i64 = 30_000_000_000;
pub const TIMEOUT: i64 = 30_000_000_000;
pub const RETRIES: i64 = 3;

pub fn read(map: Map<String, Value>) -> Result<Option<Health>> {
    if map.is_empty() {
        return Ok(None);
    }
    let mut f = Fields::new(map, "Healthcheck");
    let health = Health {
        test: f.texts("Test")?.unwrap_or_default(),
        interval: f.int("Interval")?.unwrap_or(0),
        timeout: f.int("Timeout")?.unwrap_or(0),
        retries: f.int("Retries")?.unwrap_or(0),
        start_period: f.int("StartPeriod")?.unwrap_or(0),
        start_interval: f.int("StartInterval")?.unwrap_or(0),
    };
    for (what, value) in [
        ("Interval", health.interval),
        ("Timeout", health.timeout),
        ("StartPeriod", health.start_period),
        ("StartInterval", health.start_interval),
    ] {
        if value != 0 && value < 1_000_000 {
            return Err(Fault::bad(format!(
                "{what} in Healthcheck cannot be less than 1ms"
            )));
        }
    }
    if health.retries < 0 {
        return Err(Fault::bad("Retries in Healthcheck cannot be negative"));
    }
    f.finish()?;
    Ok(Some(health))
}

impl Health {
    /// Takes from the image what isn't said here.
    pub fn over(mut self, image: Option<Health>) -> Health {
        let Some(image) = image else { return self };
        if self.test.is_empty() {
            self.test = image.test;
        }
        for (mine, other) in [
            (&mut self.interval, image.interval),
            (&mut self.timeout, image.timeout),
            (&mut self.retries, image.retries),
            (&mut self.start_period, image.start_period),
            (&mut self.start_interval, image.start_interval),
        ] {
            if *mine == 0 {
                *mine = other;
            }
        }
        self
    }

    /// The command that asks; None: nobody asks.
    pub fn command(&self, shell: &[String]) -> Option<Vec<String>> {
        match self.test.split_first() {
            Some((kind, rest)) if kind == "CMD" && !rest.is_empty() => Some(rest.to_vec()),
            Some((kind, rest)) if kind == "CMD-SHELL" && !rest.is_empty() => {
                let mut command = match shell.is_empty() {
                    true => vec!["/bin/sh".to_string(), "-c".into()],
                    false => shell.to_vec(),
                };
                command.push(rest.join(" "));
                Some(command)
            }
            _ => None,
        }
    }

    pub fn interval(&self) -> i64 {
        if self.interval == 0 {
            INTERVAL
        } else {
            self.interval
        }
    }
    pub fn timeout(&self) -> i64 {
        if self.timeout == 0 {
            TIMEOUT
        } else {
            self.timeout
        }
    }
    pub fn retries(&self) -> i64 {
        if self.retries == 0 {
            RETRIES
        } else {
            self.retries
        }
    }
}
