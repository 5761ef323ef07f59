//! Whether a node's agent may do what it asks for, in upstream's words when it may not.

use super::{Graph, LEASES, Place, Thing, is};
use crate::attributes::{Attributes, Decision};

impl Graph {
    /// Whether the agent of `node` may. NoOpinion says why not.
    pub fn authorize(&self, node: &str, a: &Attributes) -> Decision {
        if node.is_empty() {
            return no("unknown node for user \"system:node:\"");
        }
        if a.resource_request {
            let (verb, sub) = (a.verb.as_str(), a.subresource.as_str());
            let read = matches!(verb, "get" | "list" | "watch");
            let thing = |thing| self.refers(node, thing, &a.namespace, &a.name);
            match (a.group.as_str(), a.resource.as_str()) {
                ("", "secrets") => return readable(node, a, || thing(Thing::Secret)),
                ("", "configmaps") => return readable(node, a, || thing(Thing::ConfigMap)),
                ("", "persistentvolumeclaims") if sub == "status" => {
                    return match verb {
                        "update" | "patch" => related(node, a, || thing(Thing::Claim)),
                        _ => no("can only get/update/patch this type"),
                    };
                }
                // upstream's agents ask for a claim again and again; ours follows it, which shows no more
                ("", "persistentvolumeclaims") => {
                    return readable(node, a, || thing(Thing::Claim));
                }
                ("", "persistentvolumes") => {
                    let volume = || self.volumes.get(&*a.name);
                    return gettable(node, a, || {
                        volume().is_some_and(|v| self.claims(node, &v.claim))
                    });
                }
                ("resource.k8s.io", "resourceclaims") => {
                    return gettable(node, a, || thing(Thing::ResourceClaim));
                }
                ("storage.k8s.io", "volumeattachments") => {
                    return gettable(node, a, || is(&self.attachments, &a.name, node));
                }
                ("", "serviceaccounts") if verb == "get" && sub.is_empty() => {
                    return readable(node, a, || thing(Thing::Account));
                }
                ("", "serviceaccounts") => {
                    return match (verb, sub) {
                        ("create", "token") if !a.name.is_empty() => {
                            related(node, a, || thing(Thing::Account))
                        }
                        ("create", _) if !a.name.is_empty() => {
                            no("can only create token subresource of serviceaccount")
                        }
                        _ => no("can only create tokens for individual service accounts"),
                    };
                }
                ("coordination.k8s.io", "leases") => return lease(node, a),
                ("storage.k8s.io", "csinodes") => return csi_node(node, a),
                ("resource.k8s.io", "resourceslices") => return self.resource_slice(node, a),
                ("", "nodes") => return own_node(node, a),
                ("", "pods") => {
                    return match (sub, verb) {
                        ("", "get") => self.own_pod(node, a),
                        ("", "list" | "watch") if selects(a, "spec.nodeName", node) => yes(),
                        ("", "list" | "watch") if !a.name.is_empty() => self.own_pod(node, a),
                        ("", _) if read => {
                            no("can only list/watch pods with spec.nodeName field selector")
                        }
                        ("", "create" | "delete")
                        | ("status", "update" | "patch")
                        | ("eviction", "create") => yes(),
                        _ => no(""),
                    };
                }
                ("certificates.k8s.io", "podcertificaterequests") => return no(""),
                _ => {}
            }
        }
        match self.rules.iter().any(|r| r.allows(a)) {
            true => yes(),
            false => no(""),
        }
    }

    fn own_pod(&self, node: &str, a: &Attributes) -> Decision {
        let place: Place = (a.namespace.as_str().into(), a.name.as_str().into());
        related(node, a, || {
            self.pods.get(&place).is_some_and(|p| &*p.node == node)
        })
    }

    fn resource_slice(&self, node: &str, a: &Attributes) -> Decision {
        if !a.subresource.is_empty() {
            return no("cannot authorize ResourceSlice subresources");
        }
        match a.verb.as_str() {
            "create" => yes(),
            "get" | "update" | "patch" | "delete" => {
                related(node, a, || is(&self.slices, &a.name, node))
            }
            "watch" | "list" | "deletecollection" => match selects(a, "spec.nodeName", node) {
                true => yes(),
                false => no(
                    "can only list/watch/deletecollection resourceslices with nodeName field selector",
                ),
            },
            _ => no(
                "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection",
            ),
        }
    }
}

fn yes() -> Decision {
    Decision::Allow(String::new())
}

pub(super) fn no(why: &str) -> Decision {
    Decision::NoOpinion(why.to_string())
}

fn selects(a: &Attributes, field: &str, value: &str) -> bool {
    let wanted = |f: &crate::attributes::FieldRequirement| f.field == field && !f.not;
    a.fields.iter().any(|f| wanted(f) && f.value == value)
}

fn related(node: &str, a: &Attributes, ask: impl Fn() -> bool) -> Decision {
    if a.name.is_empty() {
        return no("No Object name found");
    }
    match ask() {
        true => yes(),
        false => Decision::NoOpinion(format!(
            "no relationship found between node '{node}' and this object"
        )),
    }
}

fn readable(node: &str, a: &Attributes, ask: impl Fn() -> bool) -> Decision {
    if !a.is_read_only() {
        return no("can only read resources of this type");
    }
    if !a.subresource.is_empty() {
        return no("cannot read subresource");
    }
    if a.namespace.is_empty() {
        return no("can only read namespaced object of this type");
    }
    related(node, a, ask)
}

fn gettable(node: &str, a: &Attributes, ask: impl Fn() -> bool) -> Decision {
    if a.verb != "get" {
        return no("can only get individual resources of this type");
    }
    if !a.subresource.is_empty() {
        return no("cannot get subresource");
    }
    related(node, a, ask)
}

fn lease(node: &str, a: &Attributes) -> Decision {
    if !matches!(
        a.verb.as_str(),
        "get" | "create" | "update" | "patch" | "delete"
    ) {
        return no("can only get, create, update, patch, or delete a node lease");
    }
    if a.namespace != LEASES {
        return no("can only access leases in the \"kube-node-lease\" system namespace");
    }
    if a.verb != "create" && a.name != node {
        return no("can only access node lease with the same name as the requesting node");
    }
    yes()
}

fn csi_node(node: &str, a: &Attributes) -> Decision {
    if !matches!(
        a.verb.as_str(),
        "get" | "create" | "update" | "patch" | "delete"
    ) {
        return no("can only get, create, update, patch, or delete a CSINode");
    }
    if !a.subresource.is_empty() {
        return no("cannot authorize CSINode subresources");
    }
    if a.verb != "create" && a.name != node {
        return no("can only access CSINode with the same name as the requesting node");
    }
    yes()
}

fn own_node(node: &str, a: &Attributes) -> Decision {
    match (a.subresource.as_str(), a.verb.as_str()) {
        ("", "create" | "update" | "patch") | ("status", "update" | "patch") => yes(),
        ("", "get" | "list" | "watch") if a.name == node => yes(),
        ("", "get" | "list" | "watch") => Decision::NoOpinion(match a.name.as_str() {
            "" => format!("node '{node}' cannot read all nodes, only its own Node object"),
            other => format!("node '{node}' cannot read '{other}', only its own Node object"),
        }),
        _ => no(""),
    }
}
