//! What verbs of containers, networks, volumes and images do alike: show, remove and prune.

use super::template;
use crate::{error::Error, listing::Filters};
use clap::Args;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Args)]
pub struct Inspect {
    /// A template like {{.Name}}, or json
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    /// There for scripts: all that is known is told anyway
    #[arg(short, long, hide = true)]
    verbose: bool,
    #[arg(required = true)]
    names: Vec<String>,
}

/// Everything of a name, whatever it is.
#[derive(Args)]
pub struct InspectAny {
    /// Only things of this kind: container, image, network or volume
    #[arg(long = "type", value_parser = ["container", "image", "network", "volume"], value_name = "KIND")]
    pub kind: Option<String>,
    /// As ps -s
    #[arg(short, long, hide = true)]
    size: bool,
    #[command(flatten)]
    pub asked: Inspect,
}

impl Inspect {
    /// Prints what is known of each, and what is wrong with the others; the exit code.
    ///
    /// # Errors
    /// That the template can't be read.
    pub fn print(&self, known: impl Fn(&str) -> Result<Value, Error>) -> Result<u8, Error> {
        let (mut all, mut wrong) = (Vec::new(), Vec::new());
        for name in &self.names {
            match known(name) {
                Ok(value) => all.push(value),
                Err(error) => wrong.push(error),
            }
        }
        match self.format.as_deref().filter(|f| !f.is_empty()) {
            None => println!("{}", indented(&json!(all))),
            Some("json") => println!("{}", json!(all)),
            Some(format) => {
                for one in &all {
                    println!("{}", template::fill(format, one).map_err(Error::Input)?);
                }
            }
        }
        for error in &wrong {
            eprintln!("knarr: {error}");
        }
        Ok(u8::from(!wrong.is_empty()))
    }
}

/// By four, as Docker does it.
fn indented(value: &Value) -> String {
    use serde::Serialize;
    if value.as_array().is_some_and(Vec::is_empty) {
        return "[]".into();
    }
    let mut out = Vec::new();
    let pretty = serde_json::ser::PrettyFormatter::with_indent(b"    ");
    let mut to = serde_json::Serializer::with_formatter(&mut out, pretty);
    match value.serialize(&mut to) {
        Ok(()) => String::from_utf8_lossy(&out).into_owned(),
        Err(_) => value.to_string(),
    }
}

#[derive(Args)]
pub struct Remove {
    /// It's no failure when there is none
    #[arg(short, long)]
    force: bool,
    #[arg(required = true)]
    names: Vec<String>,
}

impl Remove {
    /// Removes each, whatever becomes of the others; the exit code. `gone`: of what wasn't there, with force.
    pub fn each(
        &self,
        remove: impl Fn(&str) -> Result<(), Error>,
        there: impl Fn(&str) -> bool,
        gone: impl Fn(&str),
    ) -> u8 {
        let mut code = 0;
        for name in &self.names {
            match remove(name) {
                Ok(()) => println!("{name}"),
                Err(_) if self.force && !there(name) => gone(name),
                Err(error) => {
                    eprintln!("knarr: {error}");
                    code = 1;
                }
            }
        }
        code
    }
}

/// What `prune` is asked.
#[derive(Args)]
#[group(skip)]
pub struct Prune {
    /// Don't ask: nothing is asked anyway
    #[arg(short, long)]
    force: bool,
    /// Only those of which this holds: until=24h, label=NAME=value; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Which of them are pruned.
pub struct Pruned {
    filters: Filters,
    until: Vec<jiff::Timestamp>,
}

impl Prune {
    /// # Errors
    /// For a filter or a moment that is none.
    pub fn read(&self) -> Result<Pruned, Error> {
        self.read_with(&[])
    }

    /// With more filters than all have.
    ///
    /// # Errors
    /// As [`Prune::read`].
    pub fn read_with(&self, more: &[&str]) -> Result<Pruned, Error> {
        let known = [&["until", "label", "label!"], more].concat();
        let filters = Filters::read(&self.filter, &known)?;
        let until = filters.values("until").map(super::moment);
        let until = until.collect::<Result<_, _>>()?;
        Ok(Pruned { filters, until })
    }
}

impl Pruned {
    pub fn values<'a>(&'a self, key: &'a str) -> impl Iterator<Item = &'a str> {
        self.filters.values(key)
    }

    pub fn fits(&self, made: jiff::Timestamp, labels: &BTreeMap<String, String>) -> bool {
        self.filters.labels(labels) && self.until.iter().all(|at| made < *at)
    }
}

/// What a `prune` says of what it removed.
pub struct Reclaimed {
    kind: &'static str,
    any: bool,
    bytes: u64,
}

impl Reclaimed {
    pub fn new(kind: &'static str) -> Reclaimed {
        Reclaimed {
            kind,
            any: false,
            bytes: 0,
        }
    }

    pub fn say(&mut self, name: &str, bytes: u64) {
        if !self.any {
            println!("Deleted {}:", self.kind);
        }
        println!("{name}");
        self.any = true;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub fn total(self) {
        if self.any {
            println!();
        }
        println!(
            "Total reclaimed space: {}",
            knarr_docker::human_size(self.bytes, 4)
        );
    }
}
