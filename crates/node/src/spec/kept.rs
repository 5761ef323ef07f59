//! `knarr.dev/writable-layer: NAME`: what the Pod's only container writes into its own root is kept for the next Pod of the
//! namespace that asks for the same name. One at a time: who makes such Pods sees to it.

use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::Pod;

pub(crate) const LAYER: &str = "knarr.dev/writable-layer";
const NAME_MAX: usize = 64;

fn annotation<'a>(pod: &'a Pod, key: &str) -> Option<&'a str> {
    let annotations = pod.metadata.annotations.as_ref()?;
    annotations.get(key).map(String::as_str)
}

/// Where a kept layer is.
pub(crate) fn place(data_dir: &Path, namespace: &str, name: &str) -> PathBuf {
    data_dir.join("layers").join(namespace).join(name)
}

/// The folder of the Pod's kept layer, if it asks for one.
pub(crate) fn folder(data_dir: &Path, pod: &Pod) -> Result<Option<PathBuf>, String> {
    let Some(name) = annotation(pod, LAYER) else {
        return Ok(None);
    };
    let plain = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    if name.is_empty() || name.len() > NAME_MAX || !name.bytes().all(plain) {
        return Err(format!(
            "annotation {LAYER}: {name:?} must be 1 to {NAME_MAX} of a-z, 0-9 and '-'"
        ));
    }
    let containers = pod.spec.as_ref().map_or(0, |s| {
        s.containers.len() + s.init_containers.as_ref().map_or(0, Vec::len)
    });
    if containers != 1 {
        return Err(format!(
            "annotation {LAYER}: only for a Pod of one container"
        ));
    }
    let namespace = pod.metadata.namespace.as_deref().unwrap_or("default");
    Ok(Some(place(data_dir, namespace, name)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kept_layer_is_below_its_namespace() {
        let check = |name: &str, containers: usize, wanted: Option<&str>| {
            let list: Vec<_> = (0..containers)
                .map(|i| serde_json::json!({ "name": format!("c{i}") }))
                .collect();
            let pod = serde_json::json!({
                "metadata": { "namespace": "ns", "annotations": { LAYER: name } },
                "spec": { "containers": list },
            });
            let pod: Pod = serde_json::from_value(pod).unwrap();
            let got = folder(Path::new("/data"), &pod).ok().flatten();
            assert_eq!(got, wanted.map(PathBuf::from), "{name}");
        };
        check("abc-1", 1, Some("/data/layers/ns/abc-1"));
        check("abc-1", 2, None);
        check("../x", 1, None);
        check("", 1, None);
        check("a/b", 1, None);
    }
}
