//! Which resource is served where, and how a URL's path names an object of it.

use std::collections::HashMap;

use percent_encoding::percent_decode_str;

use crate::{
    registry::{Handle, Resource},
    versions,
};

/// All resources served, in discovery order, found by group, version and plural. Immutable: what is served changes by
/// another catalog taking its place.
#[derive(Clone)]
pub struct Catalog {
    resources: Vec<Handle>,
    by_name: HashMap<(&'static str, &'static str, &'static str), Handle>,
}

/// What a resource path asks for.
#[derive(Clone)]
pub struct Target {
    /// The resource.
    pub resource: Handle,
    /// Namespace in the path; empty for cluster-scoped resources and for all namespaces.
    pub namespace: String,
    /// Object's name; empty for collections.
    pub name: String,
    /// `status`, `scale`, `log`, …; empty for the object itself.
    pub subresource: String,
    /// The deprecated `/watch/` prefix.
    pub watch: bool,
}

/// What a path is.
pub enum Route {
    /// An object or a collection.
    Resource(Target),
    /// `/api`
    LegacyVersions,
    /// `/apis`
    Groups,
    /// `/apis/<group>`
    Group(String),
    /// `/api/v1`, `/apis/<group>/<version>`
    Version(String, String),
    /// Anything else (health, version, OpenAPI, …)
    Other,
}

impl Catalog {
    /// A catalog of these resources.
    pub fn new(resources: &'static [Resource]) -> Catalog {
        Catalog::of_handles(resources.iter().map(Handle::from).collect())
    }
    /// The built-in resources of this catalog and these: of CustomResourceDefinitions, in discovery order.
    pub fn with_custom(&self, custom: Vec<Handle>) -> Catalog {
        let built_in = self.resources.iter().filter(|r| r.custom.is_none());
        Catalog::of_handles(built_in.cloned().chain(custom).collect())
    }
    fn of_handles(resources: Vec<Handle>) -> Catalog {
        let by_name = resources
            .iter()
            .map(|r| ((r.group, r.version, r.plural), r.clone()))
            .collect();
        Catalog { resources, by_name }
    }
    /// In discovery order.
    pub fn all(&self) -> &[Handle] {
        &self.resources
    }
    /// One resource.
    pub fn find(&self, group: &str, version: &str, plural: &str) -> Option<Handle> {
        // a key borrowed for less than 'static can't index a map of 'static keys; tables are short enough otherwise
        let key: (&str, &str, &str) = (group, version, plural);
        self.by_name.get(&key).cloned()
    }
    /// The first (preferred) version of a resource.
    pub fn preferred(&self, group: &str, plural: &str) -> Option<Handle> {
        self.resources
            .iter()
            .find(|r| r.group == group && r.plural == plural)
            .cloned()
    }
    /// Group names in order of first appearance, without the core group.
    pub fn groups(&self) -> Vec<&'static str> {
        let mut groups = Vec::new();
        for r in &self.resources {
            if !r.group.is_empty() && !groups.contains(&r.group) {
                groups.push(r.group);
            }
        }
        groups
    }
    /// Versions of a group, preferred first.
    pub fn versions(&self, group: &str) -> Vec<&'static str> {
        let mut versions = Vec::new();
        for r in self.resources.iter().filter(|r| r.group == group) {
            if !versions.contains(&r.version) {
                versions.push(r.version);
            }
        }
        versions
    }
    /// Resources of one version.
    pub fn of(&self, group: &str, version: &str) -> Vec<Handle> {
        self.resources
            .iter()
            .filter(|r| r.group == group && r.version == version)
            .cloned()
            .collect()
    }

    /// Reads a path; None when it looks like a resource path but nothing is served there.
    pub fn route(&self, path: &str) -> Option<Route> {
        // as Go's router: an escaped slash is a slash
        let path = percent_decode_str(path).decode_utf8().ok()?;
        // Exactly as what is authorized is read (`RequestInfo`): an empty part is a part, and nothing is served there.
        let parts: Vec<&str> = path.trim_matches('/').split('/').collect();
        if parts.len() > 1 && parts.contains(&"") {
            return None;
        }
        let (group, rest) = match parts.as_slice() {
            ["api"] => return Some(Route::LegacyVersions),
            ["apis"] => return Some(Route::Groups),
            ["apis", group] => return Some(Route::Group(group.to_string())),
            ["api", rest @ ..] => ("", rest),
            ["apis", group, rest @ ..] => (*group, rest),
            _ => return Some(Route::Other),
        };
        let (version, mut rest) = rest.split_first()?;
        if rest.is_empty() {
            return Some(Route::Version(group.to_string(), version.to_string()));
        }
        let watch = rest.first() == Some(&"watch");
        if watch {
            rest = &rest[1..];
        }
        let find = |plural: &str| self.find(group, version, plural);
        let (resource, namespace, name, sub) = match *rest {
            // sub-resources of namespaces win over resources within one only for these two names
            ["namespaces", name, sub @ ("status" | "finalize")] => {
                (find("namespaces")?, "", name, sub)
            }
            ["namespaces", namespace, plural, ref tail @ ..] if tail.len() <= 2 => {
                let r = find(plural)?;
                if !r.namespaced {
                    return None;
                }
                let name = tail.first().copied().unwrap_or("");
                (r, namespace, name, tail.get(1).copied().unwrap_or(""))
            }
            [plural] => (find(plural)?, "", "", ""),
            [plural, name] => (find(plural)?, "", name, ""),
            [plural, name, sub] => (find(plural)?, "", name, sub),
            _ => return None,
        };
        if resource.namespaced && namespace.is_empty() && !name.is_empty() {
            return None;
        }
        Some(Route::Resource(Target {
            resource,
            namespace: namespace.to_string(),
            name: name.to_string(),
            subresource: sub.to_string(),
            watch,
        }))
    }
}

/// Store key of an object.
pub fn key(r: &Resource, namespace: &str, name: &str) -> String {
    let mut k = prefix(r, namespace);
    k.push_str(name);
    k
}

/// Key prefix of a collection: of one namespace, or of all when it is empty.
pub fn prefix(r: &Resource, namespace: &str) -> String {
    let group = match versions::key_group(r) {
        "" => "core",
        group => group,
    };
    if r.namespaced && !namespace.is_empty() {
        format!("/registry/{group}/{}/{namespace}/", r.plural)
    } else {
        format!("/registry/{group}/{}/", r.plural)
    }
}

/// Namespace (empty for cluster scope) and name in a key of this resource.
pub fn split_key<'a>(r: &Resource, key: &'a str) -> (&'a str, &'a str) {
    let mut tail = key.rsplitn(3, '/');
    let name = tail.next().unwrap_or("");
    let namespace = if r.namespaced {
        tail.next().unwrap_or("")
    } else {
        ""
    };
    (namespace, name)
}

/// `apps/v1`, or `v1` for the core group.
pub fn api_version(r: &Resource) -> String {
    if r.group.is_empty() {
        r.version.to_string()
    } else {
        format!("{}/{}", r.group, r.version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::request_info::RequestInfo;

    /// Whoever may ask for one thing must not be served another: what is authorized is what is routed to.
    #[test]
    fn paths_are_read_as_they_are_authorized() {
        const PARTS: [&str; 11] = [
            "",
            "namespaces",
            "a",
            "pods",
            "nodes",
            "exec",
            "status",
            "watch",
            "proxy",
            "a%2Fexec",
            "%2F",
        ];
        let catalog = Catalog::new(crate::kinds::builtin());
        let (mut routed, mut paths) = (0, vec![String::new()]);
        for _ in 0..5 {
            let longer = |path: &String| PARTS.map(|part| format!("{path}/{part}"));
            paths = paths.iter().flat_map(longer).collect();
            for rest in &paths {
                for prefix in ["/api/v1", "/api//v1", "//api/v1", "/api/v1/watch"] {
                    let path = format!("{prefix}{rest}");
                    let Some(Route::Resource(t)) = catalog.route(&path) else {
                        continue;
                    };
                    routed += 1;
                    let info = RequestInfo::new(&http::Method::GET, &path.parse().unwrap());
                    let namespace = match t.resource.plural {
                        "namespaces" => t.name.clone(),
                        _ => t.namespace.clone(),
                    };
                    assert_eq!(
                        (
                            &*info.resource,
                            &info.namespace,
                            &info.name,
                            &info.subresource
                        ),
                        (t.resource.plural, &namespace, &t.name, &t.subresource),
                        "{path}"
                    );
                }
            }
        }
        assert!(routed > 1000, "{routed}");
    }
}
