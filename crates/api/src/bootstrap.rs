//! What every cluster has from its first moment: the four namespaces, the Service `kubernetes`, its range, and the CA
//! that clients verify it by, in `kube-public`, from where a controller brings it to every namespace.

use serde_json::{Value, json};

use crate::{
    access,
    identity::Identity,
    own,
    query::WriteOptions,
    registry::Resource,
    server::Inner,
    status::Failure,
    write::{Part, Write},
};

/// Field manager of what the server writes by itself.
pub const MANAGER: &str = "kube-apiserver";
/// Namespaces of every cluster.
pub const NAMESPACES: [&str; 4] = ["kube-system", "kube-public", "kube-node-lease", "default"];

/// Priority classes of every cluster: name, value, description.
pub const SYSTEM_PRIORITIES: [(&str, i64, &str); 2] = [
    (
        "system-node-critical",
        2_000_001_000,
        "Used for system critical pods that must not be moved from their current node.",
    ),
    (
        "system-cluster-critical",
        2_000_000_000,
        "Used for system critical pods that must run in the cluster, but can be moved to another node if necessary.",
    ),
];

/// Makes what is missing.
pub async fn run(inner: &Inner) -> Result<(), Failure> {
    namespaces(inner).await?;
    if let Some(r) = inner.catalog().preferred("", "configmaps") {
        let o = json!({
            "apiVersion": "v1", "kind": "ConfigMap",
            "metadata": {"name": "kube-root-ca.crt", "namespace": "kube-public"},
            "data": {"ca.crt": inner.pki.ca_pem},
        });
        ensure(inner, &r, "kube-public", o).await?;
    }
    // before the first Service, whose address is of it
    service_range(inner).await?;
    own_service(inner).await?;
    priorities(inner).await?;
    access::bootstrap::run(inner).await?;
    crate::measured::bootstrap(inner).await?;
    crate::fairness::bootstrap(inner).await?;
    crate::aggregate::bootstrap(inner).await
}

/// The namespaces.
pub async fn namespaces(inner: &Inner) -> Result<(), Failure> {
    if let Some(r) = inner.catalog().preferred("", "namespaces") {
        for name in NAMESPACES {
            let o = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
            ensure(inner, &r, "", o).await?;
        }
    }
    Ok(())
}

/// The priorities of what the cluster itself is made of.
async fn priorities(inner: &Inner) -> Result<(), Failure> {
    let Some(r) = inner
        .catalog()
        .preferred("scheduling.k8s.io", "priorityclasses")
    else {
        return Ok(());
    };
    for (name, value, description) in SYSTEM_PRIORITIES {
        let o = json!({
            "apiVersion": "scheduling.k8s.io/v1", "kind": "PriorityClass", "metadata": {"name": name},
            "value": value, "description": description, "preemptionPolicy": "PreemptLowerPriority",
        });
        ensure(inner, &r, "", o).await?;
    }
    Ok(())
}

/// The Service `kubernetes`.
pub async fn own_service(inner: &Inner) -> Result<(), Failure> {
    if let Some(r) = inner.catalog().preferred("", "services") {
        let (base, _) = inner.config.service_cidr;
        let address = std::net::Ipv4Addr::from(u32::from(base).wrapping_add(1)).to_string();
        let o = json!({
            "apiVersion": "v1", "kind": "Service",
            "metadata": {"name": "kubernetes", "namespace": "default",
                "labels": {"component": "apiserver", "provider": "kubernetes"}},
            "spec": {
                "type": "ClusterIP", "sessionAffinity": "None", "clusterIP": address, "clusterIPs": [address],
                "ipFamilies": ["IPv4"], "ipFamilyPolicy": "SingleStack",
                "ports": [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": 6443}],
            },
        });
        ensure(inner, &r, "default", o).await?;
    }
    Ok(())
}

/// The ServiceCIDR `kubernetes`, and that it is ready (upstream `pkg/controlplane/controller/defaultservicecidr`).
pub async fn service_range(inner: &Inner) -> Result<(), Failure> {
    const READY: &str = "Kubernetes default Service CIDR is ready";
    let Some(r) = inner
        .catalog()
        .preferred("networking.k8s.io", "servicecidrs")
    else {
        return Ok(());
    };
    let (base, bits) = inner.config.service_cidr;
    let mut cidrs = vec![format!("{base}/{bits}")];
    if let Some((base, bits)) = inner.config.service_cidr6 {
        cidrs.push(format!("{base}/{bits}"));
    }
    let o = json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes"},
        "spec": {"cidrs": &cidrs},
    });
    ensure(inner, &r, "", o).await?;
    let manager = "kubernetes-service-cidr-controller";
    let place = ("", "kubernetes");
    if cidrs.len() == 2 {
        // a host that has come to have both families
        own::change_if_there(inner, &r, place, Part::Main, manager, |range| {
            let had = &mut range["spec"]["cidrs"];
            if *had == json!([&cidrs[0]]) {
                *had = json!(&cidrs);
            }
        })
        .await?;
    }
    own::change_if_there(inner, &r, place, Part::Status, manager, |range| {
        // a range of other addresses isn't this server's to judge, nor is one that goes
        if range["spec"]["cidrs"] != json!(&cidrs)
            || range["metadata"]["deletionTimestamp"].is_string()
        {
            return;
        }
        let status = &mut range["status"];
        let told = status["conditions"].as_array();
        if told.is_some_and(|all| all.iter().any(|c| c["type"] == "Ready")) {
            return;
        }
        *status = json!({"conditions": [{
            "type": "Ready", "status": "True", "reason": "", "message": READY,
            "lastTransitionTime": crate::object::now(),
        }]});
    })
    .await
}

/// Creates the object unless one of its name is there.
pub async fn ensure(
    inner: &Inner,
    r: &Resource,
    namespace: &str,
    object: Value,
) -> Result<(), Failure> {
    let name = crate::object::meta(&object, "name").to_string();
    let key = crate::catalog::key(r, namespace, &name);
    if inner.store.snapshot().get(&key).is_some() {
        return Ok(());
    }
    let (who, options) = (Identity::loopback(), WriteOptions::internal(MANAGER));
    let mut w = Write::new(inner, &who, r, namespace, &name, &options, Part::Main);
    match w.create(object, false).await {
        Err(f) if f.reason() == "AlreadyExists" => Ok(()),
        done => done.map(|_| ()),
    }
}
