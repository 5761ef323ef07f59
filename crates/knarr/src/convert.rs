//! `knarr convert`: a compose file as Kubernetes manifests.

use crate::{error::Error, facts, paths::Paths, plan::Source, project::ProjectArguments, work};
use clap::Args;
use knarr_image::ImageStore;
use serde_json::Value;
use std::collections::BTreeMap;

#[derive(Args)]
pub struct ConvertArguments {
    /// The folder with the compose file, or the file. Default: this folder
    path: Option<String>,
    #[command(flatten)]
    project: ProjectArguments,
    /// Print JSON instead of YAML
    #[arg(long)]
    json: bool,
}

/// Prints the resources, which apply unchanged to any cluster: `knarr convert | kubectl apply -f -`.
pub fn convert(paths: &Paths, arguments: ConvertArguments) -> Result<u8, Error> {
    let words: Vec<String> = arguments.path.into_iter().collect();
    let (Source::Compose(mut project), _) = arguments.project.read(&words)? else {
        return Err(Error::Input(
            "these are Kubernetes manifests already".into(),
        ));
    };
    for warning in &project.warnings {
        eprintln!("warning: {warning}");
    }
    work::find_devices(&mut project)?;
    // What images say of themselves, where they are here; they keep their names, which mean the same elsewhere.
    let mut known = BTreeMap::new();
    if paths.images().is_dir()
        && let Ok(store) = ImageStore::open(&paths.images())
    {
        known = facts::facts(&project, &store, &BTreeMap::new())?;
        for facts in known.values_mut() {
            facts.reference = None;
        }
    }
    let made = knarr_compose::translate(&project, &known);
    for warning in &made.warnings {
        eprintln!("warning: {warning}");
    }
    let workloads = made.workloads.into_iter().map(|w| w.object);
    let objects: Vec<Value> = made.shared.into_iter().chain(workloads).collect();
    if arguments.json {
        let list = serde_json::json!({ "apiVersion": "v1", "kind": "List", "items": objects });
        println!("{list:#}");
        return Ok(0);
    }
    for object in &objects {
        println!("---\n{}", yaml(object)?.trim_end());
    }
    Ok(0)
}

pub fn yaml(value: &Value) -> Result<String, Error> {
    serde_saphyr::to_string(value).map_err(|e| Error::Failed(e.to_string()))
}
