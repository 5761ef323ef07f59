//! The IPAddress objects of Services: each comes and goes in the very commit that gives a Service its address or takes it away
//! (upstream's allocator makes the one, then the other, and mends what was left of half of it).

use std::net::IpAddr;

use knarr_schema::managed;
use knarr_store::{Expect, Op, Snapshot};
use serde_json::{Value, json};

use crate::{
    bootstrap, catalog, decode,
    kinds::services::addresses::{GROUP, held},
    object::{self, meta},
    registry::{Handle, Resource},
    server::Inner,
};

/// The label that tells whose an IPAddress is, and what upstream's allocator writes there.
const MANAGED_BY: (&str, &str) = ("ipaddress.kubernetes.io/managed-by", "ipallocator.k8s.io");
const FAMILY: &str = "ipaddress.kubernetes.io/ip-family";

/// Whether writes of this resource take addresses or give them back.
pub fn concerns(r: &Resource) -> bool {
    match r.group {
        "" => r.plural == "services",
        GROUP => r.plural == "ipaddresses",
        _ => false,
    }
}

/// What is written of IPAddresses together with a Service that was `old` and is to be `new`. An address that another object
/// has meanwhile is a conflict of the commit.
pub fn ops(
    inner: &Inner,
    snapshot: &Snapshot,
    r: &Resource,
    old: Option<&Value>,
    new: Option<&Value>,
) -> Vec<Op> {
    if !r.group.is_empty() || r.plural != "services" {
        return vec![];
    }
    let Some(r) = inner.catalog().preferred(GROUP, "ipaddresses") else {
        return vec![];
    };
    let (had, has) = (
        old.map(held).unwrap_or_default(),
        new.map(held).unwrap_or_default(),
    );
    let gone = had.iter().filter(|ip| !has.contains(ip));
    let gone = gone.filter_map(|ip| removal(snapshot, &r, *ip, old?));
    let come = has.iter().filter(|ip| !had.contains(ip));
    let come = come.filter_map(|ip| addition(snapshot, &r, *ip, new?));
    gone.chain(come).collect()
}

fn parent(service: &Value) -> Value {
    json!({"resource": "services", "namespace": meta(service, "namespace"), "name": meta(service, "name")})
}

fn removal(snapshot: &Snapshot, r: &Handle, ip: IpAddr, service: &Value) -> Option<Op> {
    let key = catalog::key(r, "", &ip.to_string());
    let entry = snapshot.get(&key)?;
    let address = object::parse(&entry.value).ok()?;
    let finalizers = address["metadata"]["finalizers"].as_array();
    // what somebody else still needs is left to the controller that repairs addresses
    let free = finalizers.is_none_or(Vec::is_empty);
    let own = address["spec"]["parentRef"] == parent(service);
    (free && own).then(|| Op::Delete {
        key: key.into(),
        expect: Expect::Revision(entry.mod_revision),
        last: None,
    })
}

fn addition(snapshot: &Snapshot, r: &Handle, ip: IpAddr, service: &Value) -> Option<Op> {
    let name = ip.to_string();
    let key = catalog::key(r, "", &name);
    if snapshot.get(&key).is_some() {
        // the Service had it before there were objects of addresses, or has got it back
        return None;
    }
    let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
    let now = object::now();
    let mut o = json!({
        "kind": "IPAddress", "apiVersion": catalog::api_version(r),
        "metadata": {
            "name": name, "uid": uuid::Uuid::new_v4().to_string(), "creationTimestamp": now,
            "labels": {FAMILY: family, MANAGED_BY.0: MANAGED_BY.1},
        },
        "spec": {"parentRef": parent(service)},
    });
    if crate::kinds::has_generation(r) {
        object::meta_mut(&mut o).insert("generation".into(), 1.into());
    }
    if let Some(ty) = decode::type_of(r) {
        let manager = managed::Manager {
            name: bootstrap::MANAGER,
            subresource: "",
            api_version: &catalog::api_version(r),
            time: &now,
        };
        managed::update(ty, None, &mut o, &manager);
    }
    Some(Op::Put {
        key: key.into(),
        value: object::encode(&o).spliced(),
        expect: Expect::Absent,
    })
}
