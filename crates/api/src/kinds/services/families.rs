//! Which families of addresses a Service has (upstream `pkg/registry/core/service/storage/alloc.go`, initIPFamilyFields).

use std::net::IpAddr;

use serde_json::{Value, json};

use crate::{
    kinds::{
        checks::{path, services as checks},
        json::{default, items, text},
    },
    registry::FieldError,
};

/// Which families of addresses the Service has, of those that the platform has (upstream's initIPFamilyFields).
pub(crate) fn families(
    o: &mut Value,
    old: Option<&Value>,
    configured: &[&str],
) -> Result<(), Vec<FieldError>> {
    let spec = &mut o["spec"];
    let headless = text(spec, "/clusterIP") == "None";
    let selects = spec["selector"].as_object().is_some_and(|s| !s.is_empty());
    let unselected = headless && !selects;
    let policy = if unselected {
        "RequireDualStack"
    } else {
        "SingleStack"
    };
    default(spec, "ipFamilyPolicy", policy);
    let at = path::Path::Root("spec");
    let mut errors = path::Errors::default();
    checks::cluster_ips(spec, None, &at, &mut errors);
    if !errors.0.is_empty() {
        return Err(errors.0);
    }
    let policy = text(spec, "/ipFamilyPolicy").to_string();
    let policy_at = at.child("ipFamilyPolicy");
    if policy == "SingleStack" {
        for (field, what) in [("clusterIPs", "cluster IPs"), ("ipFamilies", "IP families")] {
            if spec[field].as_array().is_some_and(|l| l.len() == 2) {
                errors.invalid(
                    &policy_at,
                    policy.as_str(),
                    format!("must be 'RequireDualStack' or 'PreferDualStack' when multiple {what} are specified"),
                );
            }
        }
    }
    checks::known_families(spec, configured, &at, &mut errors);
    if !errors.0.is_empty() {
        return Err(errors.0);
    }
    if unselected {
        if items(spec, "/ipFamilies").is_empty() {
            spec["ipFamilies"] = json!(["IPv4"]);
        }
        if policy != "SingleStack" {
            both(spec);
        }
        return Ok(());
    }
    // What was preferred, and could not be had then, isn't given later unasked.
    if policy == "PreferDualStack"
        && let Some(old) = old
        && ["ipFamilyPolicy", "ipFamilies", "clusterIPs"]
            .iter()
            .all(|key| spec[*key] == old["spec"][*key])
    {
        return Ok(());
    }
    if policy == "RequireDualStack" && configured.len() < 2 {
        let detail = "this cluster is not configured for dual-stack services";
        errors.invalid(&policy_at, policy.as_str(), detail);
    }
    let families_at = at.child("ipFamilies");
    for (i, f) in items(spec, "/ipFamilies").iter().enumerate() {
        if !configured.iter().any(|family| f == family) {
            errors.invalid(
                &families_at.index(i),
                f.clone(),
                "not configured on this cluster",
            );
        }
    }
    if !errors.0.is_empty() {
        return Err(errors.0);
    }
    // Of addresses that were asked for the families follow.
    let asked = items(spec, "/clusterIPs").iter().filter_map(Value::as_str);
    let asked = asked.filter_map(|ip| ip.parse::<IpAddr>().ok());
    let asked: Vec<&str> = asked.map(family_of).collect();
    for (i, family) in asked.into_iter().enumerate() {
        if items(spec, "/ipFamilies").len() != i {
            continue;
        }
        match spec["ipFamilies"].as_array_mut() {
            Some(families) => families.push(family.into()),
            None => spec["ipFamilies"] = json!([family]),
        }
    }
    if items(spec, "/ipFamilies").is_empty() {
        spec["ipFamilies"] = json!([configured.first()]);
    }
    if policy != "SingleStack" && configured.len() == 2 {
        both(spec);
    }
    Ok(())
}

/// `IPv4` or `IPv6`.
pub(crate) fn family_of(ip: IpAddr) -> &'static str {
    match ip {
        IpAddr::V4(_) => "IPv4",
        IpAddr::V6(_) => "IPv6",
    }
}

/// Adds the family that isn't there.
fn both(spec: &mut Value) {
    let families = items(spec, "/ipFamilies");
    if families.len() < 2 {
        let first = families[0].clone();
        let other = if first == "IPv4" { "IPv6" } else { "IPv4" };
        spec["ipFamilies"] = json!([first, other]);
    }
}
