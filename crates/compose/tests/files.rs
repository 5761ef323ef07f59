//! Whole files in, resources or errors out.

use knarr_compose::{Options, load, translate};
use std::collections::BTreeMap;

fn options(text: &str) -> (tempfile::TempDir, Options) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("demo");
    std::fs::create_dir_all(folder.join("ctx")).unwrap();
    std::fs::write(folder.join("compose.yaml"), text).unwrap();
    (
        dir,
        Options {
            file: folder.join("compose.yaml"),
            ..Options::default()
        },
    )
}

#[test]
fn what_is_wrong_is_named_with_its_line() {
    let cases = [
        (
            "unknown key",
            "services:\n  web:\n    image: x\n    prots: [80]\n",
            4,
            "services.web.prots: unknown key, did you mean \"ports\"?",
        ),
        (
            "not honoured yet",
            "services:\n  web:\n    image: x\n    network_mode: host\n",
            4,
            "services.web.network_mode: knarr cannot honour",
        ),
        (
            "no image",
            "services:\n  web:\n    command: x\n",
            2,
            "services.web: it has neither image nor build",
        ),
        (
            "missing context",
            "services:\n  web:\n    build: ./nope\n",
            3,
            "services.web.build: the build context",
        ),
        (
            "missing context, long",
            "services:\n  web:\n    build:\n      context: ./nope\n",
            4,
            "services.web.build.context: the build context",
        ),
        (
            "cycle",
            "services:\n  a:\n    image: x\n    depends_on: [b]\n  b:\n    image: x\n    depends_on: [c]\n  c:\n    image: x\n    depends_on: [a]\n",
            4,
            "circle: a → b → c → a",
        ),
        (
            "itself",
            "services:\n  a:\n    image: x\n    depends_on: [a]\n",
            4,
            "circle: a → a",
        ),
        (
            "unknown dependency",
            "services:\n  a:\n    image: x\n    depends_on:\n      - z\n",
            4,
            "service \"z\" is not in this file",
        ),
        (
            "never healthy",
            "services:\n  a:\n    image: x\n    depends_on:\n      b:\n        condition: service_healthy\n  b:\n    image: x\n",
            5,
            "has no healthcheck",
        ),
        (
            "wrong type",
            "services:\n  a:\n    image: x\n    deploy:\n      replicas: many\n",
            5,
            "services.a.deploy.replicas: expected a whole number, found the string \"many\"",
        ),
        (
            "bad port",
            "services:\n  a:\n    image: x\n    ports:\n      - 80:80\n      - 99999:80\n",
            6,
            "is not a port",
        ),
        (
            "undeclared volume",
            "services:\n  a:\n    image: x\n    volumes:\n      - data:/d\n",
            4,
            "volume \"data\" is not declared",
        ),
        (
            "required variable",
            "services:\n  a:\n    image: ${TAG:?set TAG}\n",
            3,
            "required variable TAG is missing a value: set TAG",
        ),
        (
            "services is a list",
            "services:\n  - a\n",
            1,
            "services: expected a mapping, found a list",
        ),
        ("nothing", "services: {}\n", 1, "no services"),
    ];
    for (name, text, line, want) in cases {
        let (_dir, options) = options(text);
        let error = load(&options).map(|_| ()).unwrap_err();
        assert!(error.to_string().contains(want), "{name}: {error}");
        assert_eq!(error.line, Some(line), "{name}: {error}");
    }
    let (_dir, broken) = options("services:\n  a: [\n");
    assert!(
        load(&broken)
            .unwrap_err()
            .to_string()
            .contains("not valid YAML")
    );
}

const WEB: &str = r#"
services:
  web:
    image: nginx:1
    ports: ["8080:80", "127.0.0.1:9000:90"]
    environment: { A: "1", B: "$$(X)", FROM_OUTSIDE: }
    deploy: { replicas: 2, resources: { limits: { cpus: "0.5", memory: 64m } } }
    healthcheck: { test: ["CMD", "curl", "-f", "http://localhost:80/ok"], interval: 2s, retries: 5 }
    depends_on:
      db: { condition: service_healthy }
      cache: { condition: service_started, required: false }
  db:
    image: pg
    volumes: ["data:/var/lib", "./conf:/etc/c:ro"]
    healthcheck: { test: "pg_isready || exit 1" }
    user: "70:70"
  cache:
    image: redis:7
    profiles: [redis]
    expose: ["6379"]
volumes: { data: }
"#;

#[test]
fn services_become_deployments_services_and_claims() {
    let (_dir, mut options) = options(WEB);
    options.environment = BTreeMap::from([("FROM_OUTSIDE".to_string(), "yes".to_string())]);
    let project = load(&options).unwrap();
    let made = translate(
        &project,
        &BTreeMap::from([("db".to_string(), "pg@sha256:0".to_string())]),
    );
    assert_eq!(made.namespace, "demo");
    let kinds: Vec<String> = made
        .shared
        .iter()
        .map(|o| {
            format!(
                "{}/{}",
                o["kind"].as_str().unwrap(),
                o["metadata"]["name"].as_str().unwrap()
            )
        })
        .collect();
    assert_eq!(
        kinds,
        [
            "Namespace/demo",
            "PersistentVolumeClaim/data",
            "Service/db",
            "Service/web",
            "Service/web-published",
            "Service/web-published-1"
        ]
    );
    assert_eq!(made.shared[2]["spec"]["clusterIP"], "None");
    assert_eq!(made.shared[4]["spec"]["ports"][0]["port"], 8080);
    assert_eq!(
        made.shared[5]["metadata"]["annotations"]["knarr.dev/host-ip"],
        "127.0.0.1"
    );
    let (db, web) = (&made.workloads[0].object, &made.workloads[1].object);
    assert_eq!(db["spec"]["strategy"]["type"], "Recreate");
    assert_eq!(
        db["spec"]["template"]["spec"]["containers"][0]["image"],
        "pg@sha256:0"
    );
    assert_eq!(
        db["spec"]["template"]["spec"]["containers"][0]["securityContext"]["runAsGroup"],
        70
    );
    assert_eq!(
        web["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"],
        0
    );
    let container = &web["spec"]["template"]["spec"]["containers"][0];
    assert_eq!(container["readinessProbe"]["httpGet"]["path"], "/ok");
    assert_eq!(container["readinessProbe"]["periodSeconds"], 2);
    assert_eq!(container["env"][1]["value"], "$$(X)");
    assert_eq!(container["env"][2]["value"], "yes");
    assert_eq!(container["resources"]["limits"]["cpu"], "500m");
    assert_eq!(made.workloads[1].depends_on.len(), 1);
    assert_eq!(
        made.workloads[1].published,
        [(None, 8080), (Some("127.0.0.1".to_string()), 9000)]
    );
}

#[test]
fn profiles_switch_services_on() {
    let (_dir, mut options) = options(WEB);
    options.profiles = vec!["redis".into()];
    let project = load(&options).unwrap();
    assert!(project.services.contains_key("cache"));
    assert_eq!(project.services["web"].depends_on.len(), 2);
}

#[test]
fn every_translated_object_is_typed_kubernetes() {
    use k8s_openapi::api::{
        apps::v1::Deployment,
        core::v1::{PersistentVolumeClaim, Service},
    };
    let (_dir, options) = options(WEB);
    let made = translate(&load(&options).unwrap(), &BTreeMap::new());
    for object in made
        .shared
        .into_iter()
        .chain(made.workloads.into_iter().map(|w| w.object))
    {
        let kind = object["kind"].as_str().unwrap().to_string();
        let read = match kind.as_str() {
            "Deployment" => serde_json::from_value::<Deployment>(object).map(|_| ()),
            "Service" => serde_json::from_value::<Service>(object).map(|_| ()),
            "PersistentVolumeClaim" => {
                serde_json::from_value::<PersistentVolumeClaim>(object).map(|_| ())
            }
            _ => Ok(()),
        };
        read.unwrap_or_else(|e| panic!("{kind}: {e}"));
    }
}
