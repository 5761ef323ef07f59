//! Volumes without a name: what becomes of those that the file has, and of those that images declare.

use knarr_compose::{ImageFacts, Options, UNNAMED, Unnamed, load, translate};
use serde_json::Value;
use std::{collections::BTreeMap, fs};

#[test]
fn who_is_replaced_with_a_gap_is_told_why() {
    let alone = Some("it alone writes to its volumes");
    let handed_on = Some("its volumes without a name are handed on");
    // (name, service, what its image declares, why)
    for (name, service, declared, why) in [
        ("nothing is its own", "", "", None),
        ("a volume", "volumes: ['v:/data']", "", alone),
        (
            "a volume that it only reads",
            "volumes: ['v:/data:ro']",
            "",
            None,
        ),
        ("several write", "scale: 2, volumes: ['v:/data']", "", None),
        (
            "the machine's network",
            "network_mode: host",
            "",
            Some("it listens on the machine's own network"),
        ),
        ("what the image declares", "", "/data", handed_on),
        (
            "start-first can't be had",
            "deploy: {update_config: {order: start-first}}",
            "/data",
            handed_on,
        ),
        (
            "start-first",
            "volumes: ['v:/data'], deploy: {update_config: {order: start-first}}",
            "",
            None,
        ),
        (
            "stop-first was asked for",
            "deploy: {update_config: {order: stop-first}}",
            "/data",
            None,
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("compose.yaml");
        let text = format!("name: p\nservices:\n  a: {{image: a, {service}}}\nvolumes: {{v: }}\n");
        fs::write(&file, text).unwrap();
        let options = Options {
            files: vec![file],
            ..Options::default()
        };
        let mut project = load(&options).unwrap();
        project.at_home = true;
        let facts = ImageFacts {
            volumes: Vec::from_iter((!declared.is_empty()).then(|| declared.into())),
            ..ImageFacts::default()
        };
        let all = translate(&project, &BTreeMap::from([("a".to_string(), facts)]));
        assert_eq!(all.workloads[0].gap, why, "{name}");
    }
}

/// The claims' names, the volumes of the service's Pods, their annotation, and the strategy.
fn made(service: &str, at_home: bool, unnamed: Unnamed) -> (Vec<String>, String, String, String) {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("compose.yaml");
    let text = format!(
        "name: p\nservices:\n  db: {{image: a, {service}}}\n  r: {{image: b, volumes_from: ['db:ro']}}\nvolumes: {{v: }}\n"
    );
    fs::write(&file, text).unwrap();
    let options = Options {
        files: vec![file],
        ..Options::default()
    };
    let mut project = load(&options).unwrap();
    project.at_home = at_home;
    project.unnamed = unnamed;
    let facts = ImageFacts {
        volumes: vec!["/declared/".into(), "/over".into()],
        ..ImageFacts::default()
    };
    let all = translate(&project, &BTreeMap::from([("db".to_string(), facts)]));
    let claims = all
        .shared
        .iter()
        .filter(|o| o["metadata"]["labels"][UNNAMED] == "true");
    let name = |o: &Value| o["metadata"]["name"].as_str().unwrap().to_string();
    let own = |service: &str| all.workloads.iter().find(|w| w.service == service).unwrap();
    let (db, reader) = (&own("db").object, &own("r").object);
    let pod = &db["spec"]["template"];
    // Who shares them mounts the same claims.
    let claims: Vec<String> = claims.map(name).collect();
    for claim in &claims {
        assert!(reader.to_string().contains(claim.as_str()), "{service}");
    }
    (
        claims,
        pod["spec"]["volumes"].to_string(),
        pod["metadata"]["annotations"]["knarr.dev/own-folders"].to_string(),
        db["spec"]["strategy"]["type"].to_string(),
    )
}

#[test]
fn volumes_without_a_name_have_claims() {
    let plain = "volumes: ['/data', 'v:/over']";
    // (name, service, at home, claims, folders of their own, strategy)
    for (name, service, at_home, claims, folders, strategy) in [
        (
            "alone",
            plain,
            true,
            2,
            "\"anonymous-0 anonymous-1\"",
            "\"Recreate\"",
        ),
        (
            "several",
            "scale: 3, volumes: ['/data']",
            true,
            3,
            "\"anonymous-0 anonymous-1 anonymous-2\"",
            "\"RollingUpdate\"",
        ),
        (
            "start-first is for what nobody hands on",
            "volumes: ['/data'], deploy: {update_config: {order: start-first}}",
            true,
            3,
            "\"anonymous-0 anonymous-1 anonymous-2\"",
            "\"Recreate\"",
        ),
        ("elsewhere, alone", plain, false, 2, "null", "\"Recreate\""),
        (
            "elsewhere, several",
            "scale: 3, volumes: ['/data']",
            false,
            0,
            "null",
            "\"RollingUpdate\"",
        ),
        (
            "on each node",
            "deploy: {mode: global}",
            true,
            0,
            "null",
            "null",
        ),
        (
            "to its end",
            "restart: 'no'",
            true,
            2,
            "\"anonymous-0 anonymous-1\"",
            "null",
        ),
    ] {
        let found = made(service, at_home, Unnamed::default());
        assert_eq!(found.0.len(), claims, "{name}: {found:?}");
        assert_eq!(found.2, folders, "{name}");
        assert_eq!(found.3, strategy, "{name}");
    }
    // The claims that a service has are kept; others are new with each seed.
    let seeded = |seed: &str| Unnamed {
        kept: BTreeMap::from([(("db".into(), "/data".into()), "db-before".into())]),
        seed: seed.into(),
    };
    let (first, second) = (
        made(plain, true, seeded("1")),
        made(plain, true, seeded("2")),
    );
    assert!(first.0.contains(&"db-before".to_string()) && first.1.contains("db-before"));
    assert_ne!(first.0, second.0);
    assert_eq!(first.0, made(plain, true, seeded("1")).0);
}
