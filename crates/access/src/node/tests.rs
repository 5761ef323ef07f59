use super::{authorize::no, *};
use crate::attributes::{Attributes, FieldRequirement};
use serde_json::json;

fn sample() -> Graph {
    let mut g = Graph::default();
    let pod = json!({"spec": {"nodeName": "n1", "serviceAccountName": "sa",
        "imagePullSecrets": [{"name": "pull"}],
        "containers": [{"env": [{"valueFrom": {"secretKeyRef": {"name": "key"}}}, {"valueFrom": {"configMapKeyRef": {"name": "conf"}}}],
            "envFrom": [{"secretRef": {"name": "all"}}]}],
        "resourceClaims": [{"name": "a", "resourceClaimName": "direct"}, {"name": "b", "resourceClaimTemplateName": "t"}],
        "volumes": [{"name": "s", "secret": {"secretName": "vol"}}, {"name": "p", "projected": {"sources": [{"configMap": {"name": "kube-root-ca.crt"}}]}},
            {"name": "c", "persistentVolumeClaim": {"claimName": "claim"}}, {"name": "e", "ephemeral": {}}]},
        "status": {"resourceClaimStatuses": [{"name": "b", "resourceClaimName": "made"}]}});
    g.pod("ns", "p1", Some(pod.to_string().as_bytes()));
    let other = json!({"spec": {"nodeName": "n2", "containers": [], "volumes": [{"name": "s", "secret": {"secretName": "other"}}]}});
    g.pod("ns", "p2", Some(other.to_string().as_bytes()));
    let mirror = json!({"metadata": {"annotations": {MIRROR: "x"}}, "spec": {"nodeName": "n1", "volumes": [{"secret": {"secretName": "stolen"}}]}});
    g.pod("ns", "m", Some(mirror.to_string().as_bytes()));
    let unbound = json!({"spec": {"volumes": [{"secret": {"secretName": "unbound"}}]}});
    g.pod("ns", "u", Some(unbound.to_string().as_bytes()));
    let pv = json!({"spec": {"claimRef": {"namespace": "ns", "name": "claim"}, "csi": {"nodeStageSecretRef": {"name": "stage", "namespace": "sys"}, "controllerPublishSecretRef": {"name": "control", "namespace": "sys"}}}});
    g.volume("pv", Some(pv.to_string().as_bytes()));
    let va = json!({"spec": {"nodeName": "n1"}});
    g.attachment("va", Some(va.to_string().as_bytes()));
    g.slice("slice", Some(va.to_string().as_bytes()));
    g
}

#[test]
fn nodes_reach_what_their_pods_refer_to() {
    let g = sample();
    let get = |resource: &str, name: &str| {
        let (resource, group) = resource.split_once('.').unwrap_or((resource, ""));
        let cluster = matches!(
            resource,
            "persistentvolumes" | "volumeattachments" | "resourceslices" | "nodes"
        );
        let namespace = if cluster { "" } else { "ns" };
        Attributes::resource("get", group, resource, namespace, name)
    };
    let verb = |verb: &str, a: Attributes| Attributes {
        verb: verb.into(),
        ..a
    };
    let on = |node: &str, a: Attributes| Attributes {
        fields: vec![FieldRequirement {
            field: "spec.nodeName".into(),
            not: false,
            value: node.into(),
        }],
        ..a
    };
    let at = |namespace: &str, a: Attributes| Attributes {
        namespace: namespace.into(),
        ..a
    };
    let none = "no relationship found between node 'n1' and this object";
    let cases: Vec<(&str, Attributes, Result<(), &str>)> = vec![
        ("secret of a volume", get("secrets", "vol"), Ok(())),
        ("watched", verb("watch", get("secrets", "vol")), Ok(())),
        ("secret of a variable", get("secrets", "key"), Ok(())),
        ("secret of all variables", get("secrets", "all"), Ok(())),
        ("secret to pull", get("secrets", "pull"), Ok(())),
        (
            "secret of the volume's driver",
            at("sys", get("secrets", "stage")),
            Ok(()),
        ),
        (
            "secret of the driver's controller",
            at("sys", get("secrets", "control")),
            Err(none),
        ),
        ("secret on another node", get("secrets", "other"), Err(none)),
        (
            "secret of a mirror Pod",
            get("secrets", "stolen"),
            Err(none),
        ),
        (
            "secret of an unbound Pod",
            get("secrets", "unbound"),
            Err(none),
        ),
        (
            "secret of another namespace",
            at("x", get("secrets", "vol")),
            Err(none),
        ),
        (
            "secret written",
            verb("update", get("secrets", "vol")),
            Err("can only read resources of this type"),
        ),
        (
            "all secrets",
            verb("list", get("secrets", "")),
            Err("No Object name found"),
        ),
        ("configmap", get("configmaps", "conf"), Ok(())),
        (
            "projected configmap",
            get("configmaps", "kube-root-ca.crt"),
            Ok(()),
        ),
        ("claim", get("persistentvolumeclaims", "claim"), Ok(())),
        (
            "ephemeral claim",
            get("persistentvolumeclaims", "p1-e"),
            Ok(()),
        ),
        (
            "claim's status",
            verb(
                "patch",
                get("persistentvolumeclaims", "claim").part("status"),
            ),
            Ok(()),
        ),
        (
            "claim followed",
            verb("watch", get("persistentvolumeclaims", "claim")),
            Ok(()),
        ),
        (
            "volume followed",
            verb("watch", get("persistentvolumes", "pv")),
            Err("can only get individual resources of this type"),
        ),
        ("volume", get("persistentvolumes", "pv"), Ok(())),
        (
            "resource claim",
            get("resourceclaims.resource.k8s.io", "direct"),
            Ok(()),
        ),
        (
            "resource claim made of a template",
            get("resourceclaims.resource.k8s.io", "made"),
            Ok(()),
        ),
        (
            "attachment",
            get("volumeattachments.storage.k8s.io", "va"),
            Ok(()),
        ),
        (
            "token",
            verb("create", get("serviceaccounts", "sa").part("token")),
            Ok(()),
        ),
        ("account", get("serviceaccounts", "sa"), Ok(())),
        (
            "another's token",
            verb("create", get("serviceaccounts", "x").part("token")),
            Err(none),
        ),
        (
            "slice",
            get("resourceslices.resource.k8s.io", "slice"),
            Ok(()),
        ),
        (
            "own lease",
            at(LEASES, get("leases.coordination.k8s.io", "n1")),
            Ok(()),
        ),
        (
            "other lease",
            at(LEASES, get("leases.coordination.k8s.io", "n2")),
            Err("can only access node lease with the same name as the requesting node"),
        ),
        (
            "lease elsewhere",
            get("leases.coordination.k8s.io", "n1"),
            Err("can only access leases in the \"kube-node-lease\" system namespace"),
        ),
        ("itself", get("nodes", "n1"), Ok(())),
        (
            "another node",
            get("nodes", "n2"),
            Err("node 'n1' cannot read 'n2', only its own Node object"),
        ),
        (
            "all nodes",
            verb("list", get("nodes", "")),
            Err("node 'n1' cannot read all nodes, only its own Node object"),
        ),
        ("own pod", get("pods", "p1"), Ok(())),
        ("another's pod", get("pods", "p2"), Err(none)),
        ("own pods", on("n1", verb("list", get("pods", ""))), Ok(())),
        (
            "another's pods",
            on("n2", verb("list", get("pods", ""))),
            Err("can only list/watch pods with spec.nodeName field selector"),
        ),
        (
            "pod's status",
            verb("patch", get("pods", "p2").part("status")),
            Ok(()),
        ),
        ("pod's log", get("pods", "p1").part("log"), Err("")),
        (
            "services",
            verb("watch", at("", get("services", ""))),
            Ok(()),
        ),
        ("events", verb("create", get("events", "")), Ok(())),
        ("deployments", get("deployments.apps", "d"), Err("")),
    ];
    for (name, a, want) in cases {
        let got = g.authorize("n1", &a);
        match want {
            Ok(()) => assert!(got.allowed(), "{name}: {got:?}"),
            Err(why) => assert_eq!(got, no(why), "{name}"),
        }
    }
}

#[test]
fn what_goes_is_forgotten() {
    let mut g = sample();
    let key = Attributes::resource("get", "", "secrets", "ns", "key");
    let stage = Attributes::resource("get", "", "secrets", "sys", "stage");
    let again = json!({"spec": {"nodeName": "n1", "containers": [{"envFrom": [{"secretRef": {"name": "key"}}]}]}});
    g.pod("ns", "p3", Some(again.to_string().as_bytes()));
    g.pod("ns", "p1", None);
    assert!(
        g.authorize("n1", &key).allowed(),
        "another Pod still needs it"
    );
    assert!(!g.authorize("n1", &stage).allowed());
    g.pod("ns", "p3", None);
    assert!(!g.authorize("n1", &key).allowed());
    g.pod("ns", "p2", None);
    g.pod("ns", "m", None);
    assert!(g.pods.is_empty() && g.referred.is_empty());
}
