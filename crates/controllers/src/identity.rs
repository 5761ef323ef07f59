//! In whose name each controller asks: upstream's (`cmd/kube-controller-manager` with `--use-service-account-credentials`).
//!
//! What they may is in the server's default roles; `system:masters` is none of them.

/// A user with the groups that come with its kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// E.g. `system:serviceaccount:kube-system:deployment-controller`.
    pub user: String,
    /// E.g. `system:serviceaccounts`.
    pub groups: &'static [&'static str],
}

const ACCOUNTS: &[&str] = &[
    "system:serviceaccounts",
    "system:serviceaccounts:kube-system",
];

/// Controllers by name, and their service accounts in `kube-system`.
const NAMES: &[(&str, &str)] = &[
    ("attachdetach", "attachdetach-controller"),
    ("bootstrapsigner", "bootstrap-signer"),
    ("certificates", "certificate-controller"),
    (
        "clusterroleaggregation",
        "clusterrole-aggregation-controller",
    ),
    ("cronjob", "cronjob-controller"),
    ("daemonset", "daemon-set-controller"),
    ("deployment", "deployment-controller"),
    ("disruption", "disruption-controller"),
    ("endpoints", "endpoint-controller"),
    ("endpointslice", "endpointslice-controller"),
    (
        "endpointslicemirroring",
        "endpointslicemirroring-controller",
    ),
    ("ephemeral", "ephemeral-volume-controller"),
    ("eventexpiry", "event-expiry-controller"),
    ("garbagecollector", "generic-garbage-collector"),
    ("horizontalpodautoscaler", "horizontal-pod-autoscaler"),
    ("job", "job-controller"),
    ("legacytokencleaner", "legacy-service-account-token-cleaner"),
    ("namespace", "namespace-controller"),
    ("nodelifecycle", "node-controller"),
    ("nodettl", "ttl-controller"),
    ("podgc", "pod-garbage-collector"),
    ("replicaset", "replicaset-controller"),
    ("replicationcontroller", "replication-controller"),
    ("resourceclaim", "resource-claim-controller"),
    ("resourcequota", "resourcequota-controller"),
    ("serviceaccount", "service-account-controller"),
    ("servicecidr", "service-cidrs-controller"),
    ("serviceaddresses", "service-addresses-controller"),
    ("tainteviction", "node-controller"),
    ("tokencleaner", "token-cleaner"),
    ("statefulset", "statefulset-controller"),
    (
        "vacprotection",
        "volumeattributesclass-protection-controller",
    ),
    ("volume", "persistent-volume-binder"),
];

/// Who the controller called `name` is. What belongs to no controller of its own (the shared watches, the Events) is asked
/// for by the manager of them all.
pub fn identity(name: &str) -> Identity {
    let account = NAMES.iter().find(|(n, _)| *n == name).map(|(_, a)| a);
    match (name, account) {
        ("scheduler", _) => Identity {
            user: "system:kube-scheduler".into(),
            groups: &[],
        },
        (_, Some(account)) => Identity {
            user: format!("system:serviceaccount:kube-system:{account}"),
            groups: ACCOUNTS,
        },
        (_, None) => Identity {
            user: "system:kube-controller-manager".into(),
            groups: &[],
        },
    }
}
