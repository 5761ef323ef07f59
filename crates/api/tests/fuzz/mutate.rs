//! Mutations of bytes and of JSON, from a random number that a failure can be begun with again.

use std::time::{Duration, Instant};

use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::{Map, Value, json};

/// Where a target begins, when `KNARR_FUZZ_SEED` doesn't say.
const SEED: u64 = 1;

/// So many rounds; or, with `KNARR_FUZZ_SECONDS`, as many as fit.
pub fn rounds(bounded: usize) -> Box<dyn Iterator<Item = usize>> {
    let seconds = std::env::var("KNARR_FUZZ_SECONDS").ok();
    match seconds
        .and_then(|s| s.parse().ok())
        .map(Duration::from_secs)
    {
        None => Box::new(0..bounded),
        Some(time) => {
            let end = Instant::now() + time;
            let mut told = Instant::now();
            Box::new((0..).take_while(move |n| {
                if told.elapsed() > Duration::from_secs(60) {
                    told = Instant::now();
                    eprintln!("{n} inputs");
                }
                if Instant::now() >= end {
                    eprintln!("{n} inputs in {} s, no failure", time.as_secs());
                    return false;
                }
                true
            }))
        }
    }
}

/// A source of mutations.
pub struct Mutator {
    rng: StdRng,
    what: &'static str,
    start: u64,
}

/// Bits of the languages that are read.
const WORDS: [&str; 40] = [
    "null",
    "true",
    "{}",
    "[]",
    "\"\"",
    "0",
    "-1",
    "1e999",
    "9223372036854775808",
    "1.5",
    "\\u0000",
    "\\ud800",
    "\u{feff}",
    "é",
    "\u{202e}",
    "$patch",
    "$retainKeys",
    "$setElementOrder/containers",
    "$deleteFromPrimitiveList/finalizers",
    "metadata",
    "managedFields",
    "resourceVersion",
    "name",
    "..",
    "/",
    "~0",
    "~1",
    "-",
    "%",
    "&a ",
    "*a",
    "<<: ",
    "--- ",
    "!!binary ",
    "k8s\0",
    "\u{7f}",
    "in (",
    ")",
    ",",
    "=",
];

impl Mutator {
    /// The mutations of a target.
    pub fn new(what: &'static str) -> Mutator {
        let given = std::env::var("KNARR_FUZZ_SEED").ok();
        let start = given.and_then(|s| s.parse().ok()).unwrap_or(SEED);
        Mutator {
            rng: StdRng::seed_from_u64(start),
            what,
            start,
        }
    }
    /// For messages.
    pub fn told(&self) -> String {
        format!("target {} with KNARR_FUZZ_SEED={}", self.what, self.start)
    }
    /// A number from 0 to `n` - 1.
    pub fn below(&mut self, n: usize) -> usize {
        self.rng.random_range(0..n.max(1))
    }

    /// A few changes of bytes.
    pub fn bytes(&mut self, seed: &[u8]) -> Vec<u8> {
        let mut out = seed.to_vec();
        for _ in 0..1 + self.below(4) {
            let at = self.below(out.len() + 1);
            match self.below(8) {
                0 if at < out.len() => out[at] ^= 1 << self.below(8),
                1 if at < out.len() => out[at] = self.below(256) as u8,
                2 => out.insert(at, self.below(256) as u8),
                3 if at < out.len() => drop(out.remove(at)),
                4 => out.truncate(at),
                5 => {
                    let word = WORDS[self.below(WORDS.len())];
                    out.splice(at..at, word.bytes());
                }
                6 => {
                    // a piece of it again, somewhere
                    let from = self.below(out.len());
                    let to = (from + self.below(40)).min(out.len());
                    let piece = out[from.min(to)..to].to_vec();
                    let times = 1 + self.below(4);
                    out.splice(at..at, piece.repeat(times));
                }
                _ => {
                    let to = (at + self.below(20)).min(out.len());
                    out.drain(at.min(to)..to);
                }
            }
        }
        out
    }

    /// JSON with another structure; now and then no JSON at all.
    pub fn json(&mut self, seed: &Value) -> Vec<u8> {
        let mut value = seed.clone();
        for _ in 0..1 + self.below(3) {
            self.change(&mut value, 0);
        }
        let text = value.to_string().into_bytes();
        if self.below(5) == 0 {
            self.bytes(&text)
        } else {
            text
        }
    }

    fn change(&mut self, value: &mut Value, depth: usize) {
        let deeper = depth < 8 && self.below(5) > 0;
        match value {
            Value::Object(map) if deeper && !map.is_empty() => {
                let keys: Vec<String> = map.keys().cloned().collect();
                let key = &keys[self.below(keys.len())];
                match self.below(8) {
                    0 => drop(map.remove(key)),
                    1 => {
                        let other = WORDS[self.below(WORDS.len())].to_string();
                        if let Some(v) = map.remove(key) {
                            map.insert(other, v);
                        }
                    }
                    2 => {
                        let word = self.word();
                        map.insert(WORDS[self.below(WORDS.len())].to_string(), word);
                    }
                    _ => {
                        if let Some(v) = map.get_mut(key) {
                            self.change(v, depth + 1);
                        }
                    }
                }
            }
            Value::Array(list) if deeper && !list.is_empty() => {
                let at = self.below(list.len());
                match self.below(6) {
                    0 => drop(list.remove(at)),
                    1 => {
                        let copy = list[at].clone();
                        list.insert(at, copy);
                    }
                    2 => list.reverse(),
                    _ => self.change(&mut list[at], depth + 1),
                }
            }
            Value::String(text) if self.below(3) > 0 => {
                let changed = self.bytes(text.as_bytes());
                *text = String::from_utf8_lossy(&changed).into_owned();
            }
            other => *other = self.word(),
        }
    }

    fn word(&mut self) -> Value {
        match self.below(12) {
            0 => Value::Null,
            1 => true.into(),
            2 => json!(-1),
            3 => json!(0),
            4 => json!(i64::MAX),
            5 => json!(u64::MAX),
            6 => json!(1.5e300),
            7 => json!([]),
            8 => Value::Object(Map::new()),
            9 => json!([null, {}, [], "", 0]),
            10 => "x".repeat(self.below(3000)).into(),
            _ => WORDS[self.below(WORDS.len())].into(),
        }
    }
}
