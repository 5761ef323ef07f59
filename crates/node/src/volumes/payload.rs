//! What configMap, secret, downwardAPI and projected volumes show: objects to files.

use k8s_openapi::api::core::v1::{Container, DownwardAPIVolumeFile, KeyToPath, Pod, Volume};

use super::{
    atomic::{File, Payload},
    token,
};
use crate::{
    sources::{Data, Sources},
    spec::fields::{self, Facts},
};

const DEFAULT_MODE: i32 = 0o644;
const TOKEN_SECONDS: i64 = 3600;
/// Seconds after which a token is looked at again that can't be read.
const RENEW_UNREADABLE: u64 = 600;

/// Where tokens come from: the file's present content while that is good, else the API server.
pub(crate) struct Tokens<'a> {
    pub client: &'a kube::Client,
    /// the present file
    pub present: &'a (dyn Fn(&str) -> Option<Vec<u8>> + Send + Sync),
}

/// None: not one of these kinds of volume. Also gives the seconds after which tokens in it must be renewed.
pub(crate) async fn render(
    pod: &Pod,
    volume: &Volume,
    sources: &Sources,
    facts: &Facts<'_>,
    tokens: &Tokens<'_>,
) -> Result<Option<(Payload, Option<u64>)>, String> {
    let namespace = pod.metadata.namespace.as_deref().unwrap_or_default();
    let mut out = Payload::new();
    let mut renew_seconds = None;
    if let Some(source) = &volume.config_map {
        let optional = source.optional.unwrap_or(false);
        let data = sources
            .config_map(namespace, &source.name, optional)
            .await?;
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        project(
            data,
            source.items.as_deref(),
            mode,
            optional,
            "config",
            &mut out,
        )?;
    } else if let Some(source) = &volume.secret {
        let name = source.secret_name.as_deref().unwrap_or_default();
        let optional = source.optional.unwrap_or(false);
        let data = sources.secret(namespace, name, optional).await?;
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        project(
            data,
            source.items.as_deref(),
            mode,
            optional,
            "secret",
            &mut out,
        )?;
    } else if let Some(source) = &volume.downward_api {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        downward(
            pod,
            source.items.as_deref().unwrap_or_default(),
            mode,
            facts,
            &mut out,
        )?;
    } else if let Some(source) = &volume.projected {
        let mode = source.default_mode.unwrap_or(DEFAULT_MODE);
        for source in source.sources.iter().flatten() {
            if let Some(s) = &source.config_map {
                let optional = s.optional.unwrap_or(false);
                let data = sources.config_map(namespace, &s.name, optional).await?;
                project(data, s.items.as_deref(), mode, optional, "config", &mut out)?;
            }
            if let Some(s) = &source.secret {
                let optional = s.optional.unwrap_or(false);
                let data = sources.secret(namespace, &s.name, optional).await?;
                project(data, s.items.as_deref(), mode, optional, "secret", &mut out)?;
            }
            if let Some(s) = &source.downward_api {
                downward(
                    pod,
                    s.items.as_deref().unwrap_or_default(),
                    mode,
                    facts,
                    &mut out,
                )?;
            }
            if let Some(s) = &source.service_account_token {
                let now = jiff::Timestamp::now();
                let present = (tokens.present)(&s.path);
                let good = present.filter(|t| token::renew_in(t, now).is_some_and(|due| due > 0));
                let bytes = match good {
                    Some(bytes) => bytes,
                    None => {
                        let seconds = s.expiration_seconds.unwrap_or(TOKEN_SECONDS);
                        let audience = s.audience.clone().filter(|a| !a.is_empty());
                        token::request(tokens.client, pod, audience, Some(seconds))
                            .await?
                            .token
                            .unwrap_or_default()
                            .into_bytes()
                    }
                };
                let due = token::renew_in(&bytes, now).unwrap_or(RENEW_UNREADABLE);
                renew_seconds = Some(renew_seconds.map_or(due, |r: u64| r.min(due)));
                let security = pod.spec.as_ref().and_then(|s| s.security_context.as_ref());
                let user = common_user(pod);
                // for the containers' user alone when all run as one; the group of fsGroup may read it, too
                let mode = if user.is_some() || security.is_some_and(|c| c.fs_group.is_some()) {
                    0o600
                } else {
                    mode as u32
                };
                out.insert(s.path.clone(), File { bytes, mode, user });
            }
            if source.cluster_trust_bundle.is_some() || source.pod_certificate.is_some() {
                return Err(format!(
                    "volume {:?}: clusterTrustBundle and podCertificate are not supported by this node",
                    volume.name
                ));
            }
        }
    } else {
        return Ok(None);
    }
    Ok(Some((out, renew_seconds)))
}

fn project(
    data: Option<Data>,
    items: Option<&[KeyToPath]>,
    mode: i32,
    optional: bool,
    what: &str,
    out: &mut Payload,
) -> Result<(), String> {
    let data = data.unwrap_or_default();
    match items.filter(|i| !i.is_empty()) {
        None => {
            for (key, value) in data.0 {
                out.insert(
                    key,
                    File {
                        bytes: value,
                        mode: mode as u32,
                        user: None,
                    },
                );
            }
        }
        Some(items) => {
            for item in items {
                match data.get(&item.key) {
                    Some(value) => {
                        let file = File {
                            bytes: value.clone(),
                            mode: item.mode.unwrap_or(mode) as u32,
                            user: None,
                        };
                        out.insert(item.path.clone(), file);
                    }
                    None if optional => {}
                    None => {
                        return Err(format!("references non-existent {what} key: {}", item.key));
                    }
                }
            }
        }
    }
    Ok(())
}

fn downward(
    pod: &Pod,
    items: &[DownwardAPIVolumeFile],
    mode: i32,
    facts: &Facts<'_>,
    out: &mut Payload,
) -> Result<(), String> {
    for item in items {
        let text = if let Some(field) = &item.field_ref {
            fields::field(pod, &field.field_path, facts)?
        } else if let Some(selector) = &item.resource_field_ref {
            let name = selector.container_name.as_deref().unwrap_or_default();
            let container = find(pod, name)
                .ok_or_else(|| format!("resourceFieldRef: no container {name:?} in the pod"))?;
            fields::resource(selector, pod, container, facts)?
        } else {
            String::new()
        };
        let file = File {
            bytes: text.into_bytes(),
            mode: item.mode.unwrap_or(mode) as u32,
            user: None,
        };
        out.insert(item.path.clone(), file);
    }
    Ok(())
}

fn find<'a>(pod: &'a Pod, name: &str) -> Option<&'a Container> {
    let spec = pod.spec.as_ref()?;
    let inits = spec.init_containers.iter().flatten();
    spec.containers.iter().chain(inits).find(|c| c.name == name)
}

/// The user all the Pod's containers run as by its spec; None when one has none, or another (upstream's `FsUserFrom`).
fn common_user(pod: &Pod) -> Option<u32> {
    let spec = pod.spec.as_ref()?;
    let of_pod = spec.security_context.as_ref().and_then(|c| c.run_as_user);
    let inits = spec.init_containers.iter().flatten();
    let mut users = inits.chain(&spec.containers).map(|c| {
        let own = c.security_context.as_ref().and_then(|s| s.run_as_user);
        own.or(of_pod)
    });
    let first = users.next()??;
    users
        .all(|u| u == Some(first))
        .then(|| u32::try_from(first).ok())
        .flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn tokens_belong_to_the_user_all_containers_run_as() {
        let as_user = |user: i64| json!({"name": "c", "securityContext": {"runAsUser": user}});
        let plain = json!({"name": "c"});
        for (name, spec, want) in [
            ("nobody said", json!({"containers": [plain]}), None),
            (
                "the Pod's",
                json!({"securityContext": {"runAsUser": 7}, "containers": [plain]}),
                Some(7),
            ),
            (
                "each the same",
                json!({"containers": [as_user(7), as_user(7)]}),
                Some(7),
            ),
            (
                "two users",
                json!({"containers": [as_user(7), as_user(8)]}),
                None,
            ),
            (
                "an init container without",
                json!({"initContainers": [plain], "containers": [as_user(7)]}),
                None,
            ),
        ] {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "spec": spec})).unwrap();
            assert_eq!(common_user(&pod), want, "{name}");
        }
    }
}
