//! Who runs on the machine's images: the containers of all its nodes, and those that stand alone.

use std::path::PathBuf;

use knarr_runtime::{ContainerSpec, Runtime};

use crate::{nodes, paths::Paths, run};

/// Their specifications, but for those of one node, which knows them itself. Blocking, a small file each.
pub fn but_for(paths: &Paths, node: Option<u8>) -> Vec<ContainerSpec> {
    let nodes = nodes::known(paths).into_iter();
    let mut roots: Vec<PathBuf> = nodes
        .filter(|number| Some(*number) != node)
        .map(|number| nodes::runtime_dir(paths, number))
        .collect();
    let alone = run::record::Home::new(paths).containers();
    let folders = std::fs::read_dir(alone).into_iter().flatten().flatten();
    roots.extend(folders.map(|folder| folder.path().join("runtime")));
    roots
        .iter()
        .flat_map(|root| Runtime::recorded(root))
        .collect()
}

/// The layers that they run on.
pub fn layers(paths: &Paths) -> Vec<PathBuf> {
    let mut used: Vec<PathBuf> = but_for(paths, None)
        .into_iter()
        .flat_map(|c| c.lower)
        .collect();
    used.sort();
    used.dedup();
    used
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_nodes_and_what_stands_alone() {
        let dir = tempfile::tempdir().unwrap();
        let paths = Paths {
            data: dir.path().into(),
        };
        let record = |folder: &str, layer: &str| {
            let folder = dir.path().join(folder);
            std::fs::create_dir_all(&folder).unwrap();
            let spec = serde_json::json!({"id": "c", "lower": [layer]});
            std::fs::write(folder.join("spec.json"), spec.to_string()).unwrap();
        };
        record("runtime/containers/a", "/first");
        record("nodes/2/runtime/containers/b", "/second");
        record("run/containers/c/runtime/containers/c", "/alone");
        for (node, want) in [
            (None, &["/alone", "/first", "/second"][..]),
            (Some(1), &["/alone", "/second"]),
            (Some(2), &["/alone", "/first"]),
        ] {
            let mut got: Vec<PathBuf> = but_for(&paths, node)
                .into_iter()
                .flat_map(|c| c.lower)
                .collect();
            got.sort();
            let want: Vec<PathBuf> = want.iter().map(PathBuf::from).collect();
            assert_eq!(got, want, "{node:?}");
        }
        assert_eq!(layers(&paths).len(), 3);
    }
}
