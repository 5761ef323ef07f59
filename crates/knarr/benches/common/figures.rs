//! What was measured, by row, and how it compares. Rows are measured in turns, so that what else the machine does meets all
//! alike; a row that doesn't work here says why and stays out.

use super::{Result, ms};
use std::time::Duration;

/// Which values are the good ones.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Better {
    /// Milliseconds and the like.
    Less,
    /// Megabytes a second and the like.
    More,
}

struct Row {
    name: String,
    values: Vec<f64>,
    broken: Option<String>,
}

/// A table that fills.
pub struct Figures {
    title: String,
    unit: &'static str,
    better: Better,
    rows: Vec<Row>,
}

impl Figures {
    /// Of times, in milliseconds.
    pub fn times(title: &str) -> Figures {
        Figures::new(title, "ms", Better::Less)
    }

    pub fn new(title: &str, unit: &'static str, better: Better) -> Figures {
        Figures {
            title: title.into(),
            unit,
            better,
            rows: Vec::new(),
        }
    }

    fn row(&mut self, name: &str) -> &mut Row {
        let at = self.rows.iter().position(|row| row.name == name);
        let at = at.unwrap_or_else(|| {
            self.rows.push(Row {
                name: name.into(),
                values: Vec::new(),
                broken: None,
            });
            self.rows.len() - 1
        });
        &mut self.rows[at]
    }

    pub fn add(&mut self, name: &str, value: f64) {
        self.row(name).values.push(value);
    }

    pub fn took(&mut self, name: &str, took: Duration) {
        self.add(name, ms(took));
    }

    /// Whether the row worked so far: one that didn't isn't tried again.
    pub fn works(&mut self, name: &str) -> bool {
        self.row(name).broken.is_none()
    }

    pub fn broken(&mut self, name: &str, why: &dyn std::fmt::Display) {
        let text = why.to_string();
        self.row(name).broken = Some(text.lines().last().unwrap_or_default().into());
    }

    /// Takes the values back, when they were to warm what is lazy.
    pub fn forget(&mut self) {
        self.rows.iter_mut().for_each(|row| row.values.clear());
    }

    /// One value of a rival: when it fails, its row says so.
    pub fn attempt(&mut self, name: &str, measure: impl FnOnce() -> Result<f64>) {
        if self.works(name) {
            match measure() {
                Ok(value) => self.add(name, value),
                Err(e) => self.broken(name, &e),
            }
        }
    }

    /// The values for which half and 99 of 100 are at least as good.
    fn summary(&self, row: &Row) -> Option<(f64, f64)> {
        let mut sorted = row.values.clone();
        sorted.sort_by(f64::total_cmp);
        if self.better == Better::More {
            sorted.reverse();
        }
        let at = |percent: usize| {
            let at = (sorted.len() * percent).div_ceil(100).saturating_sub(1);
            sorted.get(at).copied()
        };
        Some((at(50)?, at(99)?))
    }

    /// Prints the table; the first row is the one that the others are compared with.
    pub fn print(&self) {
        let unit = self.unit;
        println!(
            "\n| {} | n | p50 {unit} | p99 {unit} | to the first: p50 | p99 |",
            self.title
        );
        println!("|---|---:|---:|---:|---:|---:|");
        let base = self.rows.first().and_then(|row| self.summary(row));
        for row in &self.rows {
            if let Some(why) = &row.broken {
                println!("| {} | does not work here: {why} |", row.name);
                continue;
            }
            let Some((p50, p99)) = self.summary(row) else {
                continue;
            };
            let (b50, b99) = base.unwrap_or((p50, p99));
            println!(
                "| {} | {} | {p50:.1} | {p99:.1} | {:.2} | {:.2} |",
                row.name,
                row.values.len(),
                p50 / b50,
                p99 / b99,
            );
        }
    }
}
