//! `knarr builder`: what builds keep for the next ones.

use crate::{cli::Output, dockerfile_build, error::Error, layers_shown::size, paths::Paths};
use clap::{Args, Subcommand};
use knarr_build::{Limits, Prune, Space};
use serde_json::json;
use std::time::SystemTime;

#[derive(Subcommand)]
pub enum BuilderVerb {
    /// Remove the build cache, or a part of it
    Prune(PruneArguments),
    /// List what is in the build cache
    Du {
        /// How it is printed
        #[arg(long, short, value_enum, default_value = "text")]
        output: Output,
    },
}

#[derive(Args)]
pub struct PruneArguments {
    /// What named images have, too
    #[arg(short, long)]
    pub all: bool,
    /// until=DURATION: only what was not used for so long, e.g. until=24h
    #[arg(long, value_name = "until=DURATION")]
    pub filter: Vec<String>,
    /// So much may always stay, what was used last, e.g. 10g
    #[arg(long, alias = "keep-storage", value_name = "BYTES")]
    pub reserved_space: Option<String>,
    /// The most that may stay
    #[arg(long, value_name = "BYTES")]
    pub max_used_space: Option<String>,
    /// So much of the disk is to be free
    #[arg(long, value_name = "BYTES")]
    pub min_free_space: Option<String>,
    /// There for scripts: nobody is asked
    #[arg(short, long, hide = true)]
    pub force: bool,
    /// How it is printed
    #[arg(long, short, value_enum, default_value = "text")]
    pub output: Output,
}

pub async fn run(paths: &Paths, verb: BuilderVerb) -> Result<u8, Error> {
    let engine = dockerfile_build::engine(paths, Limits::default())?;
    let told = |e: knarr_build::Error| Error::Failed(e.to_string());
    match verb {
        BuilderVerb::Prune(a) => {
            let (age, space) = wanted(&a)?;
            let wanted = Prune::asked(age, engine.kept(&space).map_err(told)?, a.all);
            let pruned = engine.prune(&wanted).map_err(told)?.ok_or_else(|| {
                Error::Failed("a build is running: try again when it has ended".into())
            })?;
            match a.output {
                Output::Json => println!(
                    "{}",
                    json!({"CachesDeleted": pruned.snapshots, "SpaceReclaimed": pruned.bytes_freed})
                ),
                Output::Text => {
                    for id in &pruned.snapshots {
                        println!("{id}");
                    }
                    println!("Total:\t{}", size(pruned.bytes_freed));
                }
            }
        }
        BuilderVerb::Du { output } => {
            let all = engine.usage().map_err(told)?;
            let ago = |time: SystemTime| time.elapsed().unwrap_or_default().as_secs();
            let sum: u64 = all.iter().map(|u| u.bytes).sum();
            match output {
                Output::Json => println!(
                    "{}",
                    json!(
                        all.iter()
                            .map(|u| json!({
                                "ID": u.id, "Type": u.kind, "Size": u.bytes, "Description": u.description,
                                "CreatedAt": u.created, "LastUsedSeconds": ago(u.last_used), "Shared": u.layer.is_some(),
                            }))
                            .collect::<Vec<_>>()
                    )
                ),
                Output::Text => {
                    println!("{:<40}{:>10}  {:<16}DESCRIPTION", "ID", "SIZE", "TYPE");
                    for u in &all {
                        println!("{:<40}{:>10}  {:<16}{}", u.id, size(u.bytes), u.kind, u.description);
                    }
                    println!("Total:\t{}", size(sum));
                }
            }
        }
    }
    engine.close().await.map_err(told)?;
    Ok(0)
}

/// How long nobody may have used it, in seconds, and what may stay.
fn wanted(a: &PruneArguments) -> Result<(Option<u64>, Space), Error> {
    let mut age = None;
    for filter in &a.filter {
        let duration = filter.strip_prefix("until=").ok_or_else(|| {
            Error::Input(format!(
                "invalid filter {filter:?}: there is until=DURATION"
            ))
        })?;
        let parsed: jiff::SignedDuration = duration.parse().map_err(|_| {
            Error::Input(format!("{duration:?} is no duration: use e.g. 24h or 30m"))
        })?;
        age = Some(u64::try_from(parsed.as_secs()).unwrap_or(0));
    }
    let bytes = |text: &Option<String>| match text {
        Some(text) => crate::build_options::bytes(text),
        None => Ok(0),
    };
    let space = Space {
        reserved_bytes: bytes(&a.reserved_space)?,
        used_max_bytes: bytes(&a.max_used_space)?,
        free_min_bytes: bytes(&a.min_free_space)?,
    };
    Ok((age, space))
}
