//! Whole files in, resources or errors out.

use knarr_compose::{ImageFacts, Options, PullPolicy, load, translate};
use serde_json::json;
use std::{collections::BTreeMap, time::Duration};

fn options(text: &str) -> (tempfile::TempDir, Options) {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("demo");
    std::fs::create_dir_all(folder.join("ctx")).unwrap();
    std::fs::write(folder.join("compose.yaml"), text).unwrap();
    (
        dir,
        Options {
            files: vec![folder.join("compose.yaml")],
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
            "services.web additional properties 'prots' not allowed, did you mean 'ports'?",
        ),
        (
            "not honoured yet",
            "services:\n  web:\n    image: x\n    runtime: nvidia\n",
            4,
            "services.web.runtime: knarr cannot honour",
        ),
        (
            "no image",
            "services:\n  web:\n    command: x\n",
            2,
            "service \"web\" has neither an image nor a build context specified",
        ),
        (
            "missing context",
            "services:\n  web:\n    build: ./nope\n",
            3,
            "the build context",
        ),
        (
            "missing context, long",
            "services:\n  web:\n    build:\n      context: ./nope\n",
            4,
            "the build context",
        ),
        (
            "cycle",
            "services:\n  a:\n    image: x\n    depends_on: [b]\n  b:\n    image: x\n    depends_on: [c]\n  c:\n    image: x\n    depends_on: [a]\n",
            4,
            "dependency cycle detected: a -> b -> c -> a",
        ),
        (
            "itself",
            "services:\n  a:\n    image: x\n    depends_on: [a]\n",
            4,
            "dependency cycle detected: a -> a",
        ),
        (
            "unknown dependency",
            "services:\n  a:\n    image: x\n    depends_on:\n      - z\n",
            5,
            "service \"a\" depends on undefined service \"z\"",
        ),
        (
            "wrong type",
            "services:\n  a:\n    image: x\n    deploy:\n      replicas: many\n",
            5,
            "services.a.deploy.replicas: failed to cast to expected type: strconv.Atoi: parsing \"many\": invalid syntax",
        ),
        (
            "bad port",
            "services:\n  a:\n    image: x\n    ports:\n      - 80:80\n      - 99999:80\n",
            6,
            "invalid hostPort: 99999",
        ),
        (
            "undeclared volume",
            "services:\n  a:\n    image: x\n    volumes:\n      - data:/d\n",
            5,
            "service \"a\" refers to undefined volume data",
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
            "services must be a mapping",
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
        &BTreeMap::from([(
            "db".to_string(),
            ImageFacts {
                reference: Some("pg@sha256:0".to_string()),
                ..ImageFacts::default()
            },
        )]),
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
        [
            (None, 8080, "TCP".to_string()),
            (Some("127.0.0.1".to_string()), 9000, "TCP".to_string())
        ]
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

#[test]
fn what_has_no_health_check_must_last_to_count() {
    let cases = [
        ("no health check", "{image: a}", json!(5)),
        (
            "a health check",
            "{image: a, healthcheck: {test: 'true'}}",
            json!(null),
        ),
        (
            "it says itself how long",
            "{image: a, deploy: {update_config: {monitor: 9s}}}",
            json!(9),
        ),
        (
            "the pause between two, for clusters that know no other",
            "{image: a, deploy: {update_config: {monitor: 9s, delay: 20s}}}",
            json!(20),
        ),
    ];
    for (name, service, want) in cases {
        let (_dir, options) = options(&format!("services: {{a: {service}}}\n"));
        let made = translate(&load(&options).unwrap(), &BTreeMap::new());
        let object = &made.workloads[0].object;
        assert_eq!(object["spec"]["minReadySeconds"], want, "{name}");
    }
}

#[test]
fn images_are_asked_for_anew_when_they_are_old() {
    let hours = |n: u64| PullPolicy::Refresh(Duration::from_secs(n * 3600));
    for (said, want) in [
        ("daily", hours(24)),
        ("weekly", hours(7 * 24)),
        ("every_12h", hours(12)),
        ("every_1d12h", hours(36)),
        ("refresh", hours(0)),
        ("if_not_present", PullPolicy::Missing),
    ] {
        let text = format!("services: {{a: {{image: a, pull_policy: {said}}}}}\n");
        let (_dir, options) = options(&text);
        let project = load(&options).unwrap();
        assert_eq!(project.services["a"].pull_policy, want, "{said}");
        assert!(project.warnings.is_empty(), "{said}");
    }
}

#[test]
fn variables_come_from_the_files_that_the_shell_or_the_caller_names() {
    let (dir, mut options) =
        options("services: {web: {image: x, environment: {V: \"${V:-none}\"}}}\n");
    let folder = dir.path().join("demo");
    options.folder = folder.clone();
    let write = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    write(".env", "V=usual\nCOMPOSE_ENV_FILES=b.env\n");
    write("a.env", "V=a\n");
    write("b.env", "V=b\n");
    for (name, given, shell, want) in [
        ("a file's own list is none", "", "", "usual"),
        ("the shell's", "", ".env,b.env", "b"),
        ("the caller's before the shell's", "a.env", "b.env", "a"),
    ] {
        let given = [given].into_iter().filter(|g| !g.is_empty());
        options.env_files = given.map(Into::into).collect();
        options.environment = [("COMPOSE_ENV_FILES".to_string(), shell.to_string())].into();
        let project = load(&options).unwrap();
        let value = project.services["web"].environment["V"].clone();
        assert_eq!(value, want, "{name}");
    }
}

#[test]
fn names_that_are_one_to_kubernetes_are_refused() {
    for (text, wanted) in [
        (
            "services:\n  a-b: {image: x}\n  a_b: {image: x}\n",
            Some("compose.yaml:3:"),
        ),
        (
            "services:\n  a: {image: x, volumes: ['v.1:/a', 'v_1:/b']}\nvolumes:\n  v.1:\n  v_1: {}\n",
            Some("volumes.v_1: it and volumes.v.1 are both \"v-1\""),
        ),
        (
            "services:\n  a: {image: x, configs: [c_1, c-1]}\nconfigs:\n  c_1: {content: a}\n  c-1: {content: b}\n",
            Some("configs.c_1: it and configs.c-1 are both \"c-1\""),
        ),
        (
            "services:\n  a: {image: x, ports: [80]}\n  a-published: {image: x}\n",
            Some(
                "services.a-published: \"a-published\" is what leads to the ports that a publishes",
            ),
        ),
        (
            "services:\n  a: {image: x}\n  a-published: {image: x}\n",
            None,
        ),
        ("services:\n  a_b: {image: x}\n  a_c: {image: x}\n", None),
        (
            "services:\n  a_b: {image: x}\n  a-b: {image: x, profiles: [off]}\n",
            None,
        ),
    ] {
        let (_dir, options) = options(text);
        let found = load(&options).map_err(|e| e.to_string());
        match (wanted, found) {
            (None, Ok(_)) => {}
            (Some(wanted), Err(error)) => assert!(error.contains(wanted), "{text}: {error}"),
            (_, found) => panic!("{text}: {}", found.is_ok()),
        }
    }
}

#[test]
fn a_container_of_the_project_is_meant_where_its_name_is_said() {
    let text = |mode: &str| {
        format!(
            "services:\n  vpn: {{image: v, container_name: suite-vpn, volumes: ['./ctx:/c']}}\n  app: {{image: a, {mode}}}\n"
        )
    };
    let (_dir, joined) = options(&text(
        "network_mode: 'container:suite-vpn', volumes_from: ['container:suite-vpn:ro']",
    ));
    let made = translate(&load(&joined).unwrap(), &BTreeMap::new());
    assert_eq!(made.workloads.len(), 1);
    let containers = &made.workloads[0].object["spec"]["template"]["spec"]["containers"];
    let names: Vec<&str> = containers
        .as_array()
        .unwrap()
        .iter()
        .filter_map(|c| c["name"].as_str())
        .collect();
    assert_eq!(names, ["vpn", "app"]);
    assert_eq!(
        containers[1]["volumeMounts"][0],
        json!({ "mountPath": "/c", "name": "bind-0", "readOnly": true })
    );
    let (_dir, foreign) = options(&text("network_mode: 'container:another'"));
    let error = load(&foreign).unwrap_err().to_string();
    assert!(error.contains("container:another"), "{error}");
}

#[test]
fn network_mode_may_name_a_network() {
    for (mode, networks, want) in [
        ("back", "back: {name: back}", Some(("back", false))),
        ("outer", "back: {name: outer}", Some(("outer", false))),
        ("theirs", "back: {}", Some(("theirs", true))),
        ("bridge", "back: {}", None),
    ] {
        let (_dir, options) = options(&format!(
            "services:\n  a: {{image: v, network_mode: {mode}}}\nnetworks:\n  {networks}\n"
        ));
        let project = load(&options).unwrap();
        let found: Vec<(&str, bool)> = project
            .networks
            .values()
            .map(|n| (n.name.as_str(), n.external))
            .collect();
        assert_eq!(found, Vec::from_iter(want), "{mode} {networks}");
        assert_eq!(project.services["a"].networks.len(), found.len());
    }
}
