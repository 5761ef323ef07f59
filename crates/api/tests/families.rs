//! Which families and addresses a Service gets, on platforms with one family and with two (upstream's
//! `test/integration/dualstack`).

use k8s_openapi::api::core::v1::Service;
use knarr_api::{ApiServer, Config};
use kube::{
    Api,
    api::{Patch, PatchParams, PostParams},
};
use serde_json::{Value, json};

fn server(dual: bool) -> (tempfile::TempDir, Api<Service>) {
    let dir = tempfile::tempdir().unwrap();
    let mut config = Config::for_tests(dir.path());
    config.service_cidr6 = dual.then(|| ("fd00:43::".parse().unwrap(), 112));
    let api = ApiServer::new(config).unwrap();
    let client = api.client("admin", &["system:masters"], "test");
    (dir, Api::default_namespaced(client))
}

/// `policy families addresses`, or the refusal.
fn show(result: kube::Result<Service>) -> String {
    let spec = match result {
        Ok(service) => service.spec.unwrap(),
        Err(error) => return error.to_string(),
    };
    let ips = spec.cluster_ips.unwrap_or_default();
    let ips = ips.iter().map(|ip| match &**ip {
        "None" => "None",
        six if six.starts_with("fd00:43::") => "6",
        four if four.starts_with("10.43.") => "4",
        _ => "?",
    });
    let families = spec.ip_families.unwrap_or_default();
    let families: Vec<_> = families.iter().map(|f| &f[2..]).collect();
    format!(
        "{} {} {}",
        spec.ip_family_policy.unwrap_or_default(),
        families.join(","),
        ips.collect::<Vec<_>>().join(",")
    )
}

async fn make(api: &Api<Service>, name: &str, more: &Value) -> String {
    let mut spec = json!({"selector":{"a":"b"},"ports":[{"port":80}]});
    for (key, value) in more.as_object().unwrap() {
        spec[key] = value.clone();
    }
    let object = json!({"metadata":{"name":name},"spec":spec});
    let object = serde_json::from_value(object).unwrap();
    show(api.create(&PostParams::default(), &object).await)
}

/// What is asked for, on one family and on two; a refusal is found by a part of it.
#[tokio::test]
async fn what_is_asked_for_and_given() {
    let not_dual = "this cluster is not configured for dual-stack services";
    let no_six = "not configured on this cluster";
    let table = [
        ("nothing", json!({}), "SingleStack v4 4", "SingleStack v4 4"),
        (
            "prefer",
            json!({"ipFamilyPolicy":"PreferDualStack"}),
            "PreferDualStack v4 4",
            "PreferDualStack v4,v6 4,6",
        ),
        (
            "require",
            json!({"ipFamilyPolicy":"RequireDualStack"}),
            not_dual,
            "RequireDualStack v4,v6 4,6",
        ),
        (
            "the second",
            json!({"ipFamilies":["IPv6"]}),
            no_six,
            "SingleStack v6 6",
        ),
        (
            "both, the second first",
            json!({"ipFamilyPolicy":"RequireDualStack","ipFamilies":["IPv6","IPv4"]}),
            not_dual,
            "RequireDualStack v6,v4 6,4",
        ),
        (
            "the order follows the one that is named",
            json!({"ipFamilyPolicy":"PreferDualStack","ipFamilies":["IPv6"]}),
            no_six,
            "PreferDualStack v6,v4 6,4",
        ),
        (
            "an address names its family",
            json!({"clusterIP":"fd00:43::77"}),
            no_six,
            "SingleStack v6 6",
        ),
        (
            "two addresses",
            json!({"ipFamilyPolicy":"RequireDualStack","clusterIP":"10.43.3.3","clusterIPs":["10.43.3.3","fd00:43::33"]}),
            "IPv6 is not configured on this cluster",
            "RequireDualStack v4,v6 4,6",
        ),
        (
            "two families without the policy",
            json!({"ipFamilies":["IPv4","IPv6"]}),
            "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
            "must be 'RequireDualStack' or 'PreferDualStack' when multiple IP families are specified",
        ),
        (
            "an address of no range",
            json!({"clusterIP":"fd00:44::1"}),
            no_six,
            "failed to allocate IP fd00:44::1: the provided network does not match the current range",
        ),
        (
            "headless",
            json!({"clusterIP":"None"}),
            "SingleStack v4 None",
            "SingleStack v4 None",
        ),
        (
            "headless, of both",
            json!({"clusterIP":"None","ipFamilyPolicy":"PreferDualStack"}),
            "PreferDualStack v4 None",
            "PreferDualStack v4,v6 None",
        ),
        (
            "headless without Pods of its own",
            json!({"clusterIP":"None","selector":null}),
            "RequireDualStack v4,v6 None",
            "RequireDualStack v4,v6 None",
        ),
        (
            "an alias",
            json!({"type":"ExternalName","externalName":"a.example"}),
            "  ",
            "  ",
        ),
    ];
    let (_one_dir, one) = server(false);
    let (_two_dir, two) = server(true);
    for (at, (what, spec, on_one, on_two)) in table.iter().enumerate() {
        for (api, expected, count) in [(&one, on_one, 1), (&two, on_two, 2)] {
            let got = make(api, &format!("s{at}"), spec).await;
            assert!(
                got.contains(expected),
                "{what}, {count}: {got}, not {expected}"
            );
        }
    }
    let again = make(&two, "again", &json!({"clusterIP":"fd00:43::33"})).await;
    assert!(
        again.contains("provided IP is already allocated"),
        "{again}"
    );
}

#[tokio::test]
async fn up_and_down_again() {
    let (_dir, api) = server(true);
    assert_eq!(make(&api, "s", &json!({})).await, "SingleStack v4 4");
    let first = api.get("s").await.unwrap().spec.unwrap().cluster_ip;
    let patch = async |spec: Value| {
        let patch = Patch::Merge(json!({ "spec": spec }));
        show(api.patch("s", &PatchParams::default(), &patch).await)
    };
    for (spec, expected) in [
        (
            json!({"ipFamilyPolicy":"PreferDualStack"}),
            "PreferDualStack v4,v6 4,6",
        ),
        (json!({"ports":[{"port":81}]}), "PreferDualStack v4,v6 4,6"),
        (json!({"ipFamilyPolicy":"SingleStack"}), "SingleStack v4 4"),
        (
            json!({"ipFamilyPolicy":"RequireDualStack"}),
            "RequireDualStack v4,v6 4,6",
        ),
    ] {
        assert_eq!(patch(spec.clone()).await, expected, "{spec}");
    }
    let last = api.get("s").await.unwrap().spec.unwrap().cluster_ip;
    assert_eq!(first, last, "the first address is for life");
}
