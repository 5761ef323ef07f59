//! Which resources the API has.

use std::{collections::HashMap, sync::Arc};

use serde::Deserialize;

use crate::{
    error::Result,
    machinery::rest::Rest,
    objects::meta::{self, nullable},
};

/// A resource, at the version that the server prefers.
#[derive(Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Resource {
    /// "" for the core group
    pub group: Box<str>,
    /// version
    pub version: Box<str>,
    /// plural name
    pub plural: Box<str>,
    /// kind
    pub kind: Box<str>,
    /// lives in namespaces
    pub namespaced: bool,
    /// can be listed and watched
    pub watchable: bool,
    /// can be deleted
    pub deletable: bool,
    /// can be deleted all at once
    pub collection_deletable: bool,
}

impl Resource {
    /// `v1`, `apps/v1`
    pub fn api_version(&self) -> String {
        meta::api_version(&self.group, &self.version)
    }
    /// Path of the collection; all namespaces for "".
    pub fn collection(&self, namespace: &str) -> String {
        let namespace = if self.namespaced { namespace } else { "" };
        meta::collection(&self.group, &self.version, &self.plural, namespace)
    }
    /// Path of an object.
    pub fn path(&self, namespace: &str, name: &str) -> String {
        format!("{}/{name}", self.collection(namespace))
    }
    /// `pods`, `deployments.apps`
    pub fn group_resource(&self) -> String {
        if self.group.is_empty() {
            self.plural.to_string()
        } else {
            format!("{}.{}", self.plural, self.group)
        }
    }
    /// Events come and go: nobody owns them, and they own nothing.
    pub fn is_event(&self) -> bool {
        &*self.plural == "events" && matches!(&*self.group, "" | "events.k8s.io")
    }
}

#[derive(Deserialize)]
struct Groups {
    #[serde(default, deserialize_with = "nullable")]
    groups: Vec<Group>,
}
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Group {
    name: Box<str>,
    preferred_version: Version,
}
#[derive(Deserialize)]
struct Version {
    version: Box<str>,
}
#[derive(Deserialize)]
struct Resources {
    #[serde(default, deserialize_with = "nullable")]
    resources: Vec<Item>,
}
#[derive(Deserialize)]
struct Item {
    name: Box<str>,
    kind: Box<str>,
    #[serde(default)]
    namespaced: bool,
    #[serde(default, deserialize_with = "nullable")]
    verbs: Vec<Box<str>>,
}

/// What was found.
#[derive(Default)]
pub struct Discovered {
    /// resources, sorted
    pub resources: Vec<Arc<Resource>>,
    /// groups that didn't answer
    pub failed: Vec<String>,
}

/// Asks the server. Groups that fail (an aggregated server that's down) are named in the answer.
pub async fn discover(rest: &Rest) -> Result<Discovered> {
    let mut found = Discovered::default();
    of_version(rest, "", "v1", &mut found.resources).await?;
    let groups: Groups = rest.get("/apis").await?;
    for group in groups.groups {
        let version = &group.preferred_version.version;
        if let Err(e) = of_version(rest, &group.name, version, &mut found.resources).await {
            found.failed.push(format!("{}/{version}: {e}", group.name));
        }
    }
    found.resources.sort();
    Ok(found)
}

async fn of_version(
    rest: &Rest,
    group: &str,
    version: &str,
    into: &mut Vec<Arc<Resource>>,
) -> Result<()> {
    let path = if group.is_empty() {
        format!("/api/{version}")
    } else {
        format!("/apis/{group}/{version}")
    };
    let list: Resources = rest.get(&path).await?;
    for item in list.resources {
        if item.name.contains('/') {
            continue;
        }
        let can = |verb: &str| item.verbs.iter().any(|v| &**v == verb);
        into.push(Arc::new(Resource {
            group: group.into(),
            version: version.into(),
            watchable: can("list") && can("watch"),
            deletable: can("delete") && can("list"),
            collection_deletable: can("deletecollection"),
            plural: item.name,
            kind: item.kind,
            namespaced: item.namespaced,
        }));
    }
    Ok(())
}

/// Resources by `apiVersion` and kind; other versions of a group than the preferred one are looked up once.
#[derive(Default)]
pub struct ByKind {
    known: HashMap<(Box<str>, Box<str>), Arc<Resource>>,
}

impl ByKind {
    /// From discovery.
    pub fn new(resources: &[Arc<Resource>]) -> ByKind {
        ByKind {
            known: resources
                .iter()
                .map(|r| ((r.api_version().into(), r.kind.clone()), r.clone()))
                .collect(),
        }
    }
    /// The resource of a kind, if known.
    pub fn get(&self, api_version: &str, kind: &str) -> Option<Arc<Resource>> {
        self.known.get(&(api_version.into(), kind.into())).cloned()
    }
    /// Asks for all kinds of a version.
    pub async fn ask(rest: &Rest, api_version: &str) -> Result<Vec<Arc<Resource>>> {
        let (group, version) = api_version.rsplit_once('/').unwrap_or(("", api_version));
        let mut found = vec![];
        match of_version(rest, group, version, &mut found).await {
            Ok(()) => Ok(found),
            Err(e) if e.is_not_found() => Ok(vec![]),
            Err(e) => Err(e),
        }
    }
    /// Adds some.
    pub fn learn(&mut self, more: Vec<Arc<Resource>>) {
        for r in more {
            self.known
                .insert((r.api_version().into(), r.kind.clone()), r);
        }
    }
}
