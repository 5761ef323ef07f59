//! One container of a Pod, whole: image, environment, user, mounts and limits, as the runtime takes it.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    path::{Path, PathBuf},
};

use k8s_openapi::api::core::v1::{Container, Pod, VolumeMount};
use knarr_image::Image;
use knarr_runtime::{ContainerSpec, Device, Mount};
use rustix::fs::FileType;

use crate::{
    context::Context,
    spec::{
        copy_up::copy_up, env, expand::expand, extras, fields::Facts, files, joins, kept,
        pod_resources, resources, security, user,
    },
    volumes::{self, Paths, sub_path},
};

/// Labels by which a container is found again.
pub(crate) mod labels {
    pub(crate) const POD_UID: &str = "io.kubernetes.pod.uid";
    pub(crate) const POD_NAME: &str = "io.kubernetes.pod.name";
    pub(crate) const POD_NAMESPACE: &str = "io.kubernetes.pod.namespace";
    pub(crate) const CONTAINER: &str = "io.kubernetes.container.name";
    pub(crate) const ATTEMPT: &str = "io.kubernetes.container.restartCount";
    pub(crate) const GRACE_SECONDS: &str = "io.kubernetes.pod.terminationGracePeriod";
    pub(crate) const IMAGE: &str = "knarr.io/image";
    pub(crate) const IMAGE_ID: &str = "knarr.io/image-id";
    /// digests of the images that are its volumes
    pub(crate) const IMAGE_VOLUMES: &str = "knarr.io/image-volumes";
    pub(crate) const STOP_SIGNAL: &str = "knarr.io/stop-signal";
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

pub(crate) struct Request<'a> {
    pub context: &'a Context,
    pub pod: &'a Pod,
    pub container: &'a Container,
    pub id: String,
    pub attempt: u32,
    pub image: &'a Image,
    pub paths: &'a Paths,
    pub pod_ip: Option<IpAddr>,
    /// the container whose processes it is to see
    pub target: Option<String>,
    /// digests of the images that are its volumes
    pub image_volumes: Vec<String>,
}

pub(crate) fn log_path(data_dir: &Path, uid: &str, container: &str, attempt: u32) -> PathBuf {
    let dir = volumes::pod_dir(data_dir, uid).join(container);
    dir.join(format!("{attempt}.log"))
}

pub(crate) fn message_path(data_dir: &Path, uid: &str, container: &str, attempt: u32) -> PathBuf {
    let dir = volumes::pod_dir(data_dir, uid).join(".messages");
    dir.join(format!("{container}.{attempt}"))
}

/// `docker.io/library/redis@sha256:…`
pub(crate) fn image_id(image: &Image) -> String {
    let name = image.name.split('@').next().unwrap_or_default();
    let slash = name.rfind('/').map_or(0, |i| i + 1);
    let repository = match name[slash..].find(':') {
        Some(colon) => &name[..slash + colon],
        None => name,
    };
    if repository.is_empty() {
        image.digest.clone()
    } else {
        format!("{repository}@{}", image.digest)
    }
}

/// Everything for `Runtime::run`; also makes the container's folders and sub-path mounts. An error is a `CreateContainerConfigError`.
pub(crate) async fn spec(request: Request<'_>) -> Result<ContainerSpec, String> {
    let Request {
        context,
        pod,
        container,
        image,
        pod_ip,
        attempt,
        ..
    } = request;
    let pod_spec = pod.spec.as_ref().ok_or("the pod has no spec")?;
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let name = pod.metadata.name.as_deref().unwrap_or_default();
    let uid = pod.metadata.uid.as_deref().unwrap_or_default();
    let host_ips = context.network.addresses(context.host_ip);
    let pod_ips = pod_ip.map_or_else(Vec::new, |ip| context.network.addresses(ip));
    let facts = Facts {
        node_name: &context.name,
        host_ips: &host_ips,
        pod_ips: &pod_ips,
        cpus_milli: context.cpus_milli,
        memory_bytes: context.memory_bytes,
    };
    let links = pod_spec.enable_service_links.unwrap_or(true);
    let extras = extras::of(pod, container)?;
    let services = match extras.no_services {
        true => Vec::new(),
        false => context.services.of(namespace, links).await,
    };
    let own = env::container_variables(
        pod,
        container,
        &services,
        &context.sources,
        request.paths,
        &facts,
    )
    .await?;
    let lookup = |variable: &str| own.get(variable);
    let expanded = |list: &Option<Vec<String>>| -> Option<Vec<String>> {
        let list = list.as_ref().filter(|l| !l.is_empty())?;
        Some(list.iter().map(|a| expand(a, lookup)).collect())
    };

    let (command, arguments) = (expanded(&container.command), expanded(&container.args));
    let args = match (command, arguments) {
        (Some(mut command), arguments) => {
            command.extend(arguments.unwrap_or_default());
            command
        }
        (None, Some(arguments)) => [image.config.entrypoint.clone(), arguments].concat(),
        (None, None) => [image.config.entrypoint.clone(), image.config.cmd.clone()].concat(),
    };
    if args.is_empty() {
        return Err(
            "no command specified: set `command`, or use an image that has an entrypoint".into(),
        );
    }

    let mut mount_list = Vec::new();
    for (index, mount) in container.volume_mounts.iter().flatten().enumerate() {
        mount_list.push((index, mount.clone(), wanted_sub_path(mount, lookup)?));
    }
    let mut confinement = security::confinement(
        pod,
        container,
        &context.seccomp_dir(),
        context.settings.seccomp_default,
    )?;
    let may_mount =
        confinement.privileged || (confinement.capabilities.iter()).any(|c| c == "CAP_SYS_ADMIN");
    let may_mount = may_mount || joins::is_dockers(pod);
    if extras.unmasked && may_mount {
        confinement.masked_paths = Some(Vec::new());
        confinement.readonly_paths = Some(Vec::new());
    }
    if may_mount {
        confinement.masked_paths = extras.masked_paths.clone().or(confinement.masked_paths);
        confinement.readonly_paths = extras.readonly_paths.clone().or(confinement.readonly_paths);
    }
    let log_path = log_path(&context.data_dir, uid, &container.name, attempt);
    let message = message_path(&context.data_dir, uid, &container.name, attempt);
    let message_target = container
        .termination_message_path
        .clone()
        .filter(|p| !p.is_empty())
        .unwrap_or_else(|| "/dev/termination-log".into());
    let pod_dir = volumes::pod_dir(&context.data_dir, uid);

    // All that touches files, in one go off the event loop.
    let files = {
        let (pod, container, paths) = (pod.clone(), container.clone(), request.paths.clone());
        let layers = image.layers.clone();
        let image_user = extras.user.clone().unwrap_or(image.config.user.clone());
        let (copied, groups) = (extras.copy_up.clone(), extras.groups.clone());
        let used = extras.devices.clone();
        let (log_path, message) = (log_path.clone(), message.clone());
        tokio::task::spawn_blocking(move || -> Result<_, String> {
            let mut user = user::resolve(&pod, &container, &image_user, &layers)?;
            user::join(&mut user, &groups, &layers)?;
            let failed = |e: std::io::Error| format!("cannot prepare the container's files: {e}");
            if let Some(dir) = log_path.parent() {
                std::fs::create_dir_all(dir).map_err(failed)?;
            }
            if let Some(dir) = message.parent() {
                std::fs::create_dir_all(dir).map_err(failed)?;
            }
            std::fs::write(&message, b"").map_err(failed)?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o666);
            std::fs::set_permissions(&message, mode).map_err(failed)?;
            drop_old_logs(&log_path, attempt);
            let mut out: Vec<Mount> = Vec::new();
            for (index, mount, sub_path) in mount_list {
                out.push(volume_mount(
                    &pod_dir,
                    &container.name,
                    index,
                    &mount,
                    &sub_path,
                    &paths,
                )?);
            }
            for mount in out.iter().filter(|m| copied.contains(&m.destination)) {
                copy_up(&layers, &mount.destination, &mount.source).map_err(failed)?;
            }
            let mut devices = volume_devices(&container, &paths, &mut out)?;
            devices.extend(extras::devices(&used, &out));
            let etc = pod_dir.join(".etc");
            let hostname = files::hostname_file(&etc, &pod, &container.name);
            managed_mounts(&etc, hostname, &message, &message_target, &mut out);
            Ok((user, out, devices))
        })
        .await
        .unwrap_or_else(|e| Err(format!("a file task failed: {e}")))?
    };
    let (user, mounts, devices) = files;

    let hostname = files::kernel_hostname(pod, &context.cluster_domain, &context.name);
    let mut environment = env::merged(&image.config.env, own);
    let mut default = |variable: &str, value: String| {
        if environment.get(variable).is_none() {
            environment.set(variable, value);
        }
    };
    default("PATH", DEFAULT_PATH.into());
    default("HOSTNAME", hostname);
    default("HOME", user.home.clone().unwrap_or_else(|| "/".into()));
    let tty = container.tty.unwrap_or(false);
    if tty {
        default("TERM", "xterm".into());
    }
    let cwd = [
        container.working_dir.as_deref(),
        Some(&image.config.working_dir),
    ]
    .into_iter()
    .flatten()
    .find(|dir| !dir.is_empty())
    .unwrap_or("/");

    let grace = pod_spec.termination_grace_period_seconds.unwrap_or(30);
    let stop_signal = container
        .lifecycle
        .as_ref()
        .and_then(|l| l.stop_signal.clone())
        .or_else(|| extras.stop_signal.clone())
        .or_else(|| image.config.stop_signal.clone())
        .unwrap_or_default();
    let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
    let mut labels = BTreeMap::from([
        label(labels::POD_UID, uid),
        label(labels::POD_NAME, name),
        label(labels::POD_NAMESPACE, namespace),
        label(labels::CONTAINER, &container.name),
        label(labels::ATTEMPT, &attempt.to_string()),
        label(labels::GRACE_SECONDS, &grace.to_string()),
        label(labels::IMAGE, &image.name),
        label(labels::IMAGE_ID, &image_id(image)),
        label(labels::STOP_SIGNAL, &stop_signal),
    ]);
    if !request.image_volumes.is_empty() {
        labels.extend([label(
            labels::IMAGE_VOLUMES,
            &request.image_volumes.join(" "),
        )]);
    }
    let kept_upper = kept::folder(&context.data_dir, pod)?;
    Ok(ContainerSpec {
        cgroup: format!("{}/{}", pod_resources::cgroup_path(pod), request.id),
        id: request.id,
        sandbox: uid.to_owned(),
        labels,
        lower: image.layers.clone(),
        kept_upper: kept_upper.clone(),
        read_only_rootfs: confinement.read_only_rootfs,
        args,
        env: environment.lines(),
        cwd: PathBuf::from(cwd),
        user: knarr_runtime::User {
            uid: user.uid,
            gid: user.gid,
            additional_gids: user.additional_gids,
            umask: extras.umask,
        },
        mounts,
        devices,
        device_rules: match joins::is_dockers(pod) || extras::has_devices(pod) {
            true => extras.device_rules.clone(),
            false => vec![],
        },
        resources: knarr_runtime::Resources {
            oom_group: !context.settings.single_process_oom_kill,
            ..extras.limits(resources::cgroup(pod, container))
        },
        memory_mounts: extras.tmpfs.clone(),
        no_shm: extras.no_shm,
        host_cgroups: extras.host_cgroups && may_mount,
        privileged: confinement.privileged,
        capabilities: confinement.capabilities,
        no_new_privileges: confinement.no_new_privileges,
        seccomp: confinement.seccomp,
        masked_paths: confinement.masked_paths,
        readonly_paths: confinement.readonly_paths,
        tty,
        tty_size: extras.tty_size,
        stdin: container.stdin.unwrap_or(false),
        stdin_once: container.stdin_once.unwrap_or(false),
        // Docker's clients attach before the start, and miss nothing
        early_output: (kept_upper.is_some() || extras.early_output)
            && (tty || container.stdin.unwrap_or(false)),
        log_path,
        log_max_bytes: extras
            .log_max_bytes
            .unwrap_or(context.settings.log_bytes_max),
        log_files_max: extras
            .log_files_max
            .unwrap_or(context.settings.log_files_max)
            .max(1),
        oom_score_adj: extras
            .oom_score_adj
            .unwrap_or_else(|| resources::oom_score_adj(pod, container, &context.machine)),
        rlimits: extras.rlimits(),
        pid_of: request.target,
        ..ContainerSpec::default()
    })
}

/// The sub-path of a mount, variables filled in; one that is missing or empty is an error, as for upstream.
fn wanted_sub_path<'a>(
    mount: &VolumeMount,
    lookup: impl Fn(&str) -> Option<&'a str>,
) -> Result<Option<String>, String> {
    if let Some(text) = mount.sub_path_expr.as_deref().filter(|p| !p.is_empty()) {
        let missing = std::cell::RefCell::new(std::collections::BTreeSet::new());
        let expanded = expand(text, |name| {
            let value = lookup(name).filter(|v| !v.is_empty());
            if value.is_none() {
                missing.borrow_mut().insert(name.to_owned());
            }
            value
        });
        let missing: Vec<String> = missing.into_inner().into_iter().collect();
        if !missing.is_empty() {
            return Err(format!("missing value for {}", missing.join(", ")));
        }
        return Ok(Some(expanded));
    }
    Ok(mount.sub_path.clone().filter(|p| !p.is_empty()))
}

fn bind_sub_path(
    volume: &Path,
    path: &str,
    target: &Path,
    mount: &VolumeMount,
    container: &str,
) -> Result<(), String> {
    sub_path::bind(volume, path, target).map_err(|error| match &error {
        sub_path::Error::Absolute(_) | sub_path::Error::Backsteps(_) => error.to_string(),
        sub_path::Error::Create(cause) | sub_path::Error::Prepare(cause) => {
            tracing::warn!(volume = %volume.display(), path, %cause, "{error}");
            format!(
                "{error} for volumeMount {:?} of container {container:?}",
                mount.name
            )
        }
    })
}

/// Only this attempt's log and the one before it are kept.
fn drop_old_logs(log_path: &Path, attempt: u32) {
    let Some(dir) = log_path.parent() else { return };
    for entry in std::fs::read_dir(dir).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let number = name
            .to_str()
            .and_then(|n| n.split('.').next())
            .and_then(|n| n.parse::<u32>().ok());
        if number.is_some_and(|n| n + 1 < attempt) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

fn volume_mount(
    pod_dir: &Path,
    container: &str,
    index: usize,
    mount: &VolumeMount,
    sub_path: &Option<String>,
    paths: &Paths,
) -> Result<Mount, String> {
    let volume = paths.get(mount.name.as_str()).ok_or_else(|| {
        format!(
            "cannot find volume {:?} to mount into container {container:?}",
            mount.name
        )
    })?;
    let source = match sub_path {
        None => volume.path.clone(),
        Some(sub_path) => {
            let target = pod_dir
                .join(".subpaths")
                .join(container)
                .join(index.to_string());
            bind_sub_path(&volume.path, sub_path, &target, mount, container)?;
            target
        }
    };
    let propagation = match mount.mount_propagation.as_deref() {
        Some("HostToContainer") => "rslave",
        Some("Bidirectional") => "rshared",
        _ => "private",
    };
    let read_only = mount.read_only.unwrap_or(false) || volume.read_only;
    let recursive = mount.read_only.unwrap_or(false)
        && matches!(
            mount.recursive_read_only.as_deref(),
            Some("Enabled" | "IfPossible")
        );
    let mount_path = Path::new("/").join(&mount.mount_path);
    Ok(Mount {
        source,
        destination: mount_path,
        read_only,
        propagation: propagation.into(),
        recursive_read_only: recursive,
    })
}

/// Block volumes: each device's node is the host's own, and may be used. Blocking.
fn volume_devices(
    container: &Container,
    paths: &Paths,
    out: &mut Vec<Mount>,
) -> Result<Vec<Device>, String> {
    let mut devices = Vec::new();
    for wanted in container.volume_devices.iter().flatten() {
        let volume = paths.get(wanted.name.as_str()).ok_or_else(|| {
            format!(
                "volume {:?} is not found for container {:?}",
                wanted.name, container.name
            )
        })?;
        let source = std::fs::canonicalize(&volume.path)
            .map_err(|e| format!("device {}: {e}", volume.path.display()))?;
        let stat =
            rustix::fs::stat(&source).map_err(|e| format!("device {}: {e}", source.display()))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::BlockDevice {
            return Err(format!("{} is no block device", source.display()));
        }
        let destination = PathBuf::from(&wanted.device_path);
        devices.push(Device {
            path: destination.clone(),
            block: true,
            major: rustix::fs::major(stat.st_rdev),
            minor: rustix::fs::minor(stat.st_rdev),
            mode: stat.st_mode & 0o7777,
            access: if volume.read_only { "r" } else { "mrw" }.into(),
        });
        out.push(Mount {
            source,
            destination,
            read_only: false,
            propagation: "private".into(),
            recursive_read_only: false,
        });
    }
    Ok(devices)
}

/// The files that the node keeps for the container, unless the Pod mounts its own there.
fn managed_mounts(
    etc: &Path,
    hostname: PathBuf,
    message: &Path,
    message_target: &str,
    out: &mut Vec<Mount>,
) {
    let candidates = [
        (etc.join("hosts"), PathBuf::from("/etc/hosts")),
        (hostname, PathBuf::from("/etc/hostname")),
        (etc.join("resolv.conf"), PathBuf::from("/etc/resolv.conf")),
        (message.to_owned(), PathBuf::from(message_target)),
    ];
    for (source, destination) in candidates {
        if out.iter().all(|m| m.destination != destination) {
            out.push(Mount {
                source,
                destination,
                read_only: false,
                propagation: "private".into(),
                recursive_read_only: false,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn image_ids() {
        let check = |name: &str, want: &str| {
            let image = Image {
                name: name.into(),
                digest: "sha256:ab".into(),
                manifest: "sha256:ab".into(),
                id: String::new(),
                config: knarr_image::ImageConfig::default(),
                layers: vec![],
                size_bytes: 0,
                created: None,
                pulled: false,
            };
            assert_eq!(image_id(&image), want);
        };
        check(
            "docker.io/library/redis:7",
            "docker.io/library/redis@sha256:ab",
        );
        check("localhost:5000/x", "localhost:5000/x@sha256:ab");
        check("localhost:5000/x:v1", "localhost:5000/x@sha256:ab");
        check("a/b@sha256:ab", "a/b@sha256:ab");
    }

    #[test]
    fn old_logs_go_and_the_previous_stays() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["1.log", "1.log.20260101", "2.log", "3.log"] {
            std::fs::write(dir.path().join(name), "").unwrap();
        }
        drop_old_logs(&dir.path().join("3.log"), 3);
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .flatten()
            .map(|e| e.file_name())
            .collect();
        left.sort();
        assert_eq!(left, ["2.log", "3.log"]);
    }
}
