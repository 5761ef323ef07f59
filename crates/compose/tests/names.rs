//! Which names services are found by, which ports their addresses carry, and what links tell.

use knarr_compose::{Options, Resources, load, translate};
use serde_json::Value;

fn made(text: &str, at_home: bool) -> Resources {
    let dir = tempfile::tempdir().unwrap();
    let folder = dir.path().join("shop");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("compose.yaml"), text).unwrap();
    let options = Options {
        files: vec![folder.join("compose.yaml")],
        ..Options::default()
    };
    let mut project = load(&options).unwrap();
    project.at_home = at_home;
    translate(&project, &Default::default())
}

/// `NAME ip=… ports=… ANNOTATIONS`, a line a Service, without those that publish.
fn services(made: &Resources) -> Vec<String> {
    let all = made.shared.iter().filter(|o| o["kind"] == "Service");
    let all = all.filter(|o| o["spec"]["type"].is_null());
    let text = |v: &Value| v.as_str().unwrap_or_default().to_string();
    all.map(|o| {
        let ports = o["spec"]["ports"].as_array().cloned().unwrap_or_default();
        let ports: Vec<String> = ports.iter().map(|p| p["port"].to_string()).collect();
        let selector = o["spec"]["selector"].as_object().unwrap();
        let selector: Vec<String> = selector
            .iter()
            .filter(|(k, _)| *k != "app.kubernetes.io/part-of")
            .map(|(k, v)| match k.as_str() {
                "app.kubernetes.io/name" => text(v),
                k => k.to_string(),
            })
            .collect();
        let annotations = &o["metadata"]["annotations"];
        let words = text(&annotations["knarr.dev/dns-names"]);
        let any = text(&annotations["knarr.dev/ports"]);
        let headless = if o["spec"]["clusterIP"] == "None" {
            " headless"
        } else {
            ""
        };
        format!(
            "{} -> {}{headless} [{}] {any}: {words}",
            text(&o["metadata"]["name"]),
            selector.join(","),
            ports.join(" ")
        )
    })
    .collect()
}

fn check(name: &str, text: &str, home: &[&str], elsewhere: &[&str], warnings: &[&str]) {
    assert_eq!(services(&made(text, true)), home, "{name}, on knarr");
    let there = made(text, false);
    assert_eq!(services(&there), elsewhere, "{name}, elsewhere");
    for warning in warnings {
        let mut all = there.warnings.iter();
        assert!(
            all.any(|w| w.contains(warning)),
            "{name}: {:?}",
            there.warnings
        );
    }
    assert_eq!(
        there.warnings.len(),
        warnings.len(),
        "{name}: {:?}",
        there.warnings
    );
}

#[test]
fn names_and_ports() {
    let (web, db) = ("shop-web-1 shop_web_1 web", "db shop-db-1 shop_db_1");
    check(
        "an address carries all ports",
        "services:\n  web: {image: a, expose: [80]}\n  db: {image: b}\n",
        &[
            &format!("db -> db [1] any: {db}"),
            &format!("web -> web [80] any: {web}"),
        ],
        &["db -> db headless [] : ", "web -> web [80] : "],
        &[],
    );
    check(
        "ports that others mention, and a health check of its own name",
        "services:\n  web: {image: a, environment: {DB: 'pg://u@db:5432/x'}}\n  db: {image: b, healthcheck: {test: 'nc -z db 5433 && nc db:5433'}}\n",
        &[
            &format!("db -> db [1] any: {db}"),
            &format!("web -> web [1] any: {web}"),
        ],
        &["db -> db [5432 5433] : ", "web -> web headless [] : "],
        &[],
    );
    check(
        "names as they are written",
        "services:\n  web:\n    image: a\n    expose: [80]\n    container_name: My.Web\n    hostname: API\n    networks: {default: {aliases: [my_web, plain]}}\n",
        &["web -> web [80] any: api my.web my_web plain web"],
        &[
            "web -> web [80] : ",
            "api -> web [80] : ",
            "my-web -> web [80] : ",
            "plain -> web [80] : ",
        ],
        &[
            "\"my.web\" is found on knarr only",
            "\"my_web\" is found on knarr only",
        ],
    );
    check(
        "a name of several",
        "services:\n  a: {image: a, expose: [80], container_name: a1, networks: {default: {aliases: [both]}}}\n  b: {image: b, expose: [80], container_name: b1, networks: {default: {aliases: [both]}}}\n",
        &[
            "a -> a [80] any: a a1",
            "b -> b [80] any: b b1",
            "both -> alias.knarr.dev/both [80] any: both",
        ],
        &[
            "a -> a [80] : ",
            "b -> b [80] : ",
            "a1 -> a [80] : ",
            "b1 -> b [80] : ",
            "both -> alias.knarr.dev/both [80] : ",
        ],
        &[],
    );
    let (front, back) = ("network.knarr.dev/front", "network.knarr.dev/back");
    check(
        "an alias that means another in each network",
        "services:\n  p: {image: a, expose: [1], container_name: p1, networks: {front: {aliases: [db]}}}\n  q: {image: b, expose: [1], container_name: q1, networks: {back: {aliases: [db]}}}\nnetworks: {front: , back: }\n",
        &[
            &format!("p -> p [1] any: db@{front} p@{front} p1@{front}"),
            &format!("q -> q [1] any: db@{back} q@{back} q1@{back}"),
        ],
        &[
            "p -> p [1] : ",
            "q -> q [1] : ",
            "db -> p [1] : ",
            "p1 -> p [1] : ",
            "q1 -> q [1] : ",
        ],
        &["services.q: the name \"db\""],
    );
    check(
        "a link's name is the linking service's own",
        "services:\n  web: {image: a, container_name: w1, links: ['db:cache']}\n  db: {image: b, container_name: d1}\n  cache: {image: c, container_name: c1}\n",
        &[
            "cache -> cache [1] any: c1 cache",
            "db -> db [1] any: cache@links.knarr.dev/web d1 db",
            "web -> web [1] any: w1 web",
        ],
        &[
            "cache -> cache headless [] : ",
            "db -> db headless [] : ",
            "web -> web headless [] : ",
            "c1 -> cache headless [] : ",
            "d1 -> db headless [] : ",
            "w1 -> web headless [] : ",
        ],
        &["services.db: the name \"cache\""],
    );
    let shared = "shared-network.knarr.dev/proxy";
    check(
        "a network that projects share",
        "services:\n  web: {image: a, container_name: w1, networks: [default, proxy]}\nnetworks: {proxy: {external: true}}\n",
        &[&format!(
            "web -> web [1] any: w1 w1@{shared} web web@{shared}"
        )],
        &["web -> web headless [] : ", "w1 -> web headless [] : "],
        &[],
    );
}

#[test]
fn pods_have_the_labels_that_names_ask_for() {
    let labels = |text: &str, at_home: bool| -> Vec<String> {
        let made = made(text, at_home);
        let of = &made.workloads[0].object["spec"]["template"]["metadata"]["labels"];
        let all = of.as_object().unwrap().keys();
        all.filter(|k| k.contains("knarr.dev/")).cloned().collect()
    };
    for (name, text, home, elsewhere) in [
        (
            "plain",
            "services: {a: {image: a}}",
            vec!["dns.knarr.dev/project"],
            vec![],
        ),
        (
            "apart",
            "services: {a: {image: a, networks: [x]}, b: {image: b, networks: [y]}}\nnetworks: {x: , y: }",
            vec!["dns.knarr.dev/project", "network.knarr.dev/x"],
            vec!["network.knarr.dev/x"],
        ),
        (
            "shared",
            "services: {a: {image: a, networks: [x]}}\nnetworks: {x: {name: the_proxy}}",
            vec![
                "dns.knarr.dev/project",
                "shared-network.knarr.dev/the-proxy",
            ],
            vec!["shared-network.knarr.dev/the-proxy"],
        ),
        (
            "linking",
            "services: {a: {image: a, links: ['b:c']}, b: {image: b}}",
            vec!["dns.knarr.dev/project", "links.knarr.dev/a"],
            vec![],
        ),
    ] {
        assert_eq!(labels(text, true), home, "{name}, on knarr");
        assert_eq!(labels(text, false), elsewhere, "{name}, elsewhere");
    }
}

#[test]
fn links_set_variables_where_the_engine_did() {
    let variables = |text: &str| -> Vec<String> {
        let made = made(text, true);
        let web = made.workloads.iter().find(|w| w.service == "web").unwrap();
        let env = web.object.pointer("/spec/template/spec/containers/0/env");
        let env = env.and_then(Value::as_array).cloned().unwrap_or_default();
        let pair = |e: &Value| {
            format!(
                "{}={}",
                e["name"].as_str().unwrap(),
                e["value"].as_str().unwrap()
            )
        };
        let own = |e: &String| !e.starts_with("PG_1_");
        env.iter().map(pair).filter(own).collect()
    };
    let expected = [
        "PG_ENV_USER=me",
        "PG_NAME=/web/pg",
        "PG_PORT=mine",
        "PG_PORT_53_UDP=udp://pg:53",
        "PG_PORT_53_UDP_ADDR=pg",
        "PG_PORT_53_UDP_PORT=53",
        "PG_PORT_53_UDP_PROTO=udp",
        "PG_PORT_5432_TCP=tcp://pg:5432",
        "PG_PORT_5432_TCP_ADDR=pg",
        "PG_PORT_5432_TCP_PORT=5432",
        "PG_PORT_5432_TCP_PROTO=tcp",
    ];
    let db = "{image: b, environment: {USER: me, PATH: /x}, expose: [5432, 53/udp]}";
    let web = "image: a, links: ['db:pg'], environment: {PG_PORT: mine}";
    let first = format!("web: {{{web}}}\ndb: {db}\n");
    assert_eq!(variables(&first), expected, "the first layout");
    let bridge = format!("services:\n  web: {{{web}, network_mode: bridge}}\n  db: {db}\n");
    assert_eq!(variables(&bridge), expected, "the engine's own bridge");
    // In networks of one's own the engine sets none: PG_PORT would be no number to who expects one.
    let today = format!("services:\n  web: {{{web}}}\n  db: {db}\n");
    assert_eq!(variables(&today), ["PG_PORT=mine"]);
}

#[test]
fn an_only_container_means_itself_by_its_names() {
    let file = "services:\n  kafka: {image: a, container_name: Broker, networks: {n: {aliases: [queue]}}}\n  many: {image: a}\nnetworks: {n: }\n";
    for (at_home, service, wanted) in [
        (
            true,
            "kafka",
            r#"\"ownNames\":[\"broker\",\"kafka\",\"queue\"]"#,
        ),
        (true, "many", ""),
        (false, "kafka", ""),
    ] {
        let made = made(file, at_home);
        let own = made.workloads.iter().find(|w| w.service == service);
        let text = own.unwrap().object.to_string();
        assert!(text.contains(wanted), "{text}");
        assert_eq!(text.contains("ownNames"), !wanted.is_empty(), "{text}");
    }
}
