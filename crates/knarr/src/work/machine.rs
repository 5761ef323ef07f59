//! What of this machine a project's services lead to: Docker's socket, bound folders, disks.

use serde_json::{Value, json};

use crate::error::Error;

/// Where Docker listens by default, under both of the names that compose files use.
const DOCKER_SOCKETS: [&str; 2] = ["/var/run/docker.sock", "/run/docker.sock"];

/// A service that mounts Docker's socket wants to see the containers of its project (as Traefik does), and they are here:
/// it gets the platform's own socket. Where that isn't served, the mount stays what the file says.
pub fn own_docker_socket(project: &mut knarr_compose::Project, own: &std::path::Path) {
    if !own.exists() {
        return;
    }
    let mounts = project.services.values_mut().flat_map(|s| &mut s.mounts);
    for mount in mounts {
        if let knarr_compose::Source::Bind { path, .. } = &mut mount.source
            && DOCKER_SOCKETS.iter().any(|d| path.as_os_str() == *d)
        {
            *path = own.to_path_buf();
        }
    }
}

/// Makes the folders that services bind and that aren't there, as Docker does. They are there before the resources are made
/// of the file, so that those say the same at the next `up`.
///
/// # Errors
/// When one can't be made.
pub fn make_bound_folders(project: &knarr_compose::Project) -> Result<(), Error> {
    for (name, service) in &project.services {
        for mount in &service.mounts {
            if let knarr_compose::Source::Bind { path, create, .. } = &mount.source
                && *create
                && !path.exists()
            {
                std::fs::create_dir_all(path).map_err(|e| {
                    let path = path.display();
                    Error::Input(format!(
                        "{name}: error while creating mount source path '{path}': {e}"
                    ))
                })?;
            }
        }
    }
    Ok(())
}

/// Writes the numbers of the disks that services limit in place of their paths, as the node reads them.
///
/// # Errors
/// When one is not there.
pub fn find_devices(project: &mut knarr_compose::Project) -> Result<(), Error> {
    for (name, service) in &mut project.services {
        let io = service.settings.limits.get_mut("io");
        let kinds = io.and_then(Value::as_object_mut).into_iter().flatten();
        let limits = kinds
            .filter_map(|(_, all)| all.as_array_mut())
            .flatten()
            .filter_map(Value::as_object_mut);
        for limit in limits {
            let Some(Value::String(path)) = limit.remove("path") else {
                continue;
            };
            let found = rustix::fs::stat(&path).map_err(|e| {
                Error::Input(format!(
                    "{name}: blkio_config: cannot look up {path:?}: {e}"
                ))
            })?;
            limit.insert("major".into(), json!(rustix::fs::major(found.st_rdev)));
            limit.insert("minor".into(), json!(rustix::fs::minor(found.st_rdev)));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::{super::of_compose, *};
    use std::{collections::BTreeMap, path::PathBuf};

    #[test]
    fn what_is_bound_and_missing_is_made_once() {
        let folder = std::env::temp_dir().join(format!("knarr-bound-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = "services: {a: {image: a, volumes: ['./made/deep:/m', {type: bind, source: ./not, target: /n, bind: {create_host_path: false}}]}}";
        std::fs::write(folder.join("compose.yaml"), file).unwrap();
        let options = knarr_compose::Options {
            folder: folder.clone(),
            ..Default::default()
        };
        let up = || {
            let project = knarr_compose::load(&options).unwrap();
            make_bound_folders(&project).unwrap();
            let work = of_compose(&project, &BTreeMap::new());
            work.units[0].document.object.clone()
        };
        let first = up();
        assert!(folder.join("made/deep").is_dir());
        assert!(!folder.join("not").exists());
        assert_eq!(
            first,
            up(),
            "nothing is rolled out when nothing was changed"
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn limited_disks_are_known_by_their_numbers() {
        let folder = tempfile::tempdir().unwrap();
        let found = |disk: &str| {
            let file = format!(
                "services: {{a: {{image: a, blkio_config: {{weight: 300, device_read_bps: [{{path: {disk}, rate: 1mb}}]}}}}, b: {{image: b}}}}"
            );
            std::fs::write(folder.path().join("compose.yaml"), file).unwrap();
            let options = knarr_compose::Options {
                folder: folder.path().to_path_buf(),
                ..Default::default()
            };
            let mut project = knarr_compose::load(&options).unwrap();
            // what is found stays found
            find_devices(&mut project)?;
            find_devices(&mut project)?;
            Ok::<_, Error>(Value::Object(project.services["a"].settings.limits.clone()))
        };
        let device = json!({ "major": 1, "minor": 3, "rate": 1_048_576 });
        let wanted = json!({ "io": { "weight": 300, "read_bps": [device] } });
        assert_eq!(found("/dev/null").unwrap(), wanted);
        let missing = found("/dev/none-such").unwrap_err().to_string();
        assert!(missing.contains("a: blkio_config"), "{missing}");
        assert!(missing.contains("/dev/none-such"), "{missing}");
    }

    #[test]
    fn who_mounts_dockers_socket_gets_the_platforms() {
        let folder = std::env::temp_dir().join(format!("knarr-work-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        let file = "services: {a: {image: a, volumes: ['/var/run/docker.sock:/var/run/docker.sock:ro', '/run/docker.sock:/d', '/run:/r']}}";
        std::fs::write(folder.join("compose.yaml"), file).unwrap();
        let options = knarr_compose::Options {
            folder: folder.clone(),
            ..Default::default()
        };
        let sources = |own: &std::path::Path| {
            let mut project = knarr_compose::load(&options).unwrap();
            own_docker_socket(&mut project, own);
            let mounts = project.services["a"].mounts.iter();
            let path = |m: &knarr_compose::Mount| match &m.source {
                knarr_compose::Source::Bind { path, .. } => path.clone(),
                other => panic!("{other:?}"),
            };
            mounts.map(path).collect::<Vec<_>>()
        };
        let said = ["/var/run/docker.sock", "/run/docker.sock", "/run"];
        assert_eq!(sources(&folder.join("none")), said.map(PathBuf::from));
        let own = folder.join("compose.yaml");
        assert_eq!(
            sources(&own),
            [own.clone(), own.clone(), PathBuf::from("/run")]
        );
        std::fs::remove_dir_all(&folder).unwrap();
    }
}
