//! `--call=targets`: what can be built. SOURCE: buildkit `frontend/subrequests/targets`

use super::{Answer, Location, base64, described, go_json, table::table};
use crate::{error::Result, stages::Dockerfile};
use serde::Serialize;

#[derive(Serialize)]
struct Target {
    #[serde(skip_serializing_if = "String::is_empty")]
    name: String,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    default: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    description: String,
    base: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<String>,
    location: Location,
}

#[derive(Serialize)]
struct Targets {
    targets: Vec<Target>,
    sources: Vec<String>,
}

/// The stages of a Dockerfile.
///
/// # Errors
/// One that can't be read.
pub fn targets(text: &str) -> Result<Answer> {
    let file = Dockerfile::parse(text)?;
    let last = file.stages.len().saturating_sub(1);
    let stages = file.stages.iter().enumerate();
    let targets = stages.map(|(at, stage)| Target {
        name: stage.name.clone(),
        default: at == last,
        description: described(&file, stage.first, &stage.name),
        base: stage.base.clone(),
        platform: stage.platform.clone(),
        location: Location::of(stage.first, stage.last),
    });
    let targets: Vec<Target> = targets.collect();
    let mut rows = vec![vec!["TARGET".into(), "DESCRIPTION".into()]];
    rows.extend(targets.iter().map(|target| {
        let name = match (target.name.as_str(), target.default) {
            ("", true) => "(default)".into(),
            (name, true) => format!("{name} (default)"),
            (name, false) => name.to_owned(),
        };
        vec![name, target.description.clone()]
    }));
    let sources = vec![base64(text)];
    Ok(Answer {
        json: go_json(&Targets { targets, sources }),
        text: table(1, &rows),
        warnings: 0,
        status: 0,
        error: None,
    })
}
