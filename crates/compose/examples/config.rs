//! Prints what compose files come to as JSON, one line each: `config DIR|FILE[,FILE…] …`; to be compared with
//! what compose-go makes of the same files. Beside it stand the Kubernetes resources, or why there are none.

use knarr_compose::Options;
use std::{collections::BTreeMap, path::PathBuf};

fn main() {
    for argument in std::env::args().skip(1) {
        let mut options = Options {
            environment: std::env::vars().collect(),
            ..Options::default()
        };
        match PathBuf::from(&argument) {
            folder if folder.is_dir() => options.folder = folder,
            _ => options.files = argument.split(',').map(PathBuf::from).collect(),
        }
        options.profiles = vec!["*".into()];
        let out = match knarr_compose::config(&options) {
            Ok(project) => serde_json::json!({ "path": argument, "project": project }),
            Err(e) => serde_json::json!({ "path": argument, "error": e.to_string() }),
        };
        let mut out = out;
        match knarr_compose::load(&options) {
            Ok(project) => {
                let made = knarr_compose::translate(&project, &BTreeMap::new());
                out["warnings"] = project.warnings.iter().map(ToString::to_string).collect();
                out["resources"] = made
                    .shared
                    .into_iter()
                    .chain(made.workloads.into_iter().map(|w| w.object))
                    .collect();
            }
            Err(e) => out["refused"] = e.to_string().into(),
        }
        println!("{out}");
    }
}
