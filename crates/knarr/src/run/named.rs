//! What `knarr network` and `knarr volume` do alike with names: show, and remove.

use super::template;
use crate::error::Error;
use clap::Args;
use serde_json::{Value, json};

#[derive(Args)]
pub struct Inspect {
    /// A template like {{.Name}}
    #[arg(short, long, value_name = "TEMPLATE")]
    format: Option<String>,
    #[arg(required = true)]
    names: Vec<String>,
}

impl Inspect {
    /// Prints what is known of each, when all are known.
    ///
    /// # Errors
    /// The first that `known` has; that the template can't be read.
    pub fn print(&self, known: impl Fn(&str) -> Result<Value, Error>) -> Result<(), Error> {
        let all: Vec<Value> = self
            .names
            .iter()
            .map(|name| known(name))
            .collect::<Result<_, _>>()?;
        let Some(format) = &self.format else {
            println!("{:#}", json!(all));
            return Ok(());
        };
        for one in &all {
            println!("{}", template::fill(format, one).map_err(Error::Input)?);
        }
        Ok(())
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
    /// Removes each, whatever becomes of the others; the exit code.
    pub fn each(
        &self,
        remove: impl Fn(&str) -> Result<(), Error>,
        there: impl Fn(&str) -> bool,
    ) -> u8 {
        let mut code = 0;
        for name in &self.names {
            match remove(name) {
                Ok(()) => println!("{name}"),
                Err(_) if self.force && !there(name) => {}
                Err(error) => {
                    eprintln!("knarr: {error}");
                    code = 1;
                }
            }
        }
        code
    }
}
