//! Volumes without a name, as Compose keeps them: a service that is replaced finds those of the containers before. Their
//! claims are those that the project's workloads name; what none names any more is nobody's, and stays until `down -v`.

use crate::error::Error;
use k8s_openapi::api::core::v1::PersistentVolumeClaim;
use knarr_compose::{OWN_FOLDERS, Project, UNNAMED, UNNAMED_OF, Unnamed};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DeleteParams, DynamicObject, ListParams},
    core::GroupVersionKind,
};
use serde_json::Value;
use std::{
    collections::{BTreeMap, BTreeSet},
    hash::{BuildHasher as _, Hasher as _, RandomState},
};

/// Tells the project which claims its services have; with `renew`, none of those that are to have new ones.
///
/// # Errors
/// When the platform does not answer.
pub async fn remember(
    client: &Client,
    project: &mut Project,
    renew: Option<&[String]>,
) -> Result<(), Error> {
    let namespace = knarr_compose::namespace(&project.name);
    let named = named(client, &namespace).await?;
    let mut kept = BTreeMap::new();
    for claim in claims(client, &namespace).await? {
        let Some((service, target)) = of(&claim) else {
            continue;
        };
        let renewed = renew.is_some_and(|all| all.is_empty() || all.contains(&service));
        let name = claim.name_any();
        if named.contains(&name) && !renewed && claim.metadata.deletion_timestamp.is_none() {
            kept.insert((service, target), name);
        }
    }
    project.unnamed = Unnamed {
        kept,
        seed: format!("{:016x}", RandomState::new().build_hasher().finish()),
    };
    Ok(())
}

/// Removes the claims of these services, of all when none is named; they go when nothing uses them any more.
///
/// # Errors
/// When the platform does not answer.
pub async fn forget(client: &Client, namespace: &str, services: &[String]) -> Result<(), Error> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    for claim in claims(client, namespace).await? {
        let its = of(&claim).map(|(service, _)| service);
        if services.is_empty() || its.is_some_and(|s| services.contains(&s)) {
            match api
                .delete(&claim.name_any(), &DeleteParams::background())
                .await
            {
                Err(kube::Error::Api(status)) if status.code == 404 => {}
                other => drop(other?),
            }
        }
    }
    Ok(())
}

async fn claims(client: &Client, namespace: &str) -> Result<Vec<PersistentVolumeClaim>, Error> {
    let api: Api<PersistentVolumeClaim> = Api::namespaced(client.clone(), namespace);
    let mine = ListParams::default().labels(&format!("{UNNAMED}=true"));
    Ok(api.list(&mine).await?.items)
}

/// (service, place in its container)
fn of(claim: &PersistentVolumeClaim) -> Option<(String, String)> {
    let (service, target) = claim.annotations().get(UNNAMED_OF)?.split_once(' ')?;
    Some((service.to_string(), target.to_string()))
}

/// The claims that the project's workloads name.
async fn named(client: &Client, namespace: &str) -> Result<BTreeSet<String>, Error> {
    let mine = ListParams::default().labels("app.kubernetes.io/managed-by=knarr");
    let mut all = BTreeSet::new();
    for (group, kind) in [("apps", "Deployment"), ("batch", "Job")] {
        let resource = ApiResource::from_gvk(&GroupVersionKind::gvk(group, "v1", kind));
        let api: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &resource);
        for object in api.list(&mine).await? {
            let volumes = object.data.pointer("/spec/template/spec/volumes");
            let volumes = volumes.and_then(Value::as_array).into_iter().flatten();
            let names = volumes
                .filter_map(|v| v.pointer("/persistentVolumeClaim/claimName")?.as_str())
                .map(String::from);
            all.extend(names);
        }
    }
    Ok(all)
}

/// Whether it is the claim of a volume without a name.
pub fn is_claim(object: &Value) -> bool {
    object["metadata"]["labels"][UNNAMED].is_string()
}

/// Of a Pod's template: its volumes without a name are its own, and go with it.
pub fn its_own(template: &mut Value) {
    let Some(annotations) = template["metadata"]["annotations"].as_object_mut() else {
        return;
    };
    let Some(Value::String(names)) = annotations.remove(OWN_FOLDERS) else {
        return;
    };
    let own: BTreeSet<&str> = names.split(' ').collect();
    let volumes = template["spec"]["volumes"].as_array_mut();
    for volume in volumes.into_iter().flatten() {
        if volume["name"].as_str().is_some_and(|n| own.contains(n)) {
            *volume = serde_json::json!({ "name": volume["name"], "emptyDir": {} });
        }
    }
}
