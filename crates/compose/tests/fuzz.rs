//! Random compose and env files in bounded amounts: none panics or runs without end, and what is read translates.
//! `cargo run -p xtask -- fuzz --target compose --minutes N` runs more of them.

#[allow(dead_code)]
#[path = "../../api/tests/fuzz/mutate.rs"]
mod mutate;

use knarr_compose::{Options, config, load, translate};
use mutate::{Mutator, rounds};
use std::collections::BTreeMap;

const SEEDS: [&str; 9] = [
    "services:\n  a: {image: x, container_name: A.b, hostname: h_1, links: [\"b:c.d\"], networks: {n: {aliases: [c, x_y], ipv4_address: 10.0.0.5}, m: }}\n  b: {image: y, networks: {m: {aliases: [c]}}, restart: \"on-failure:3\"}\nnetworks: {n: {name: z}, m: {internal: true}}\n",
    "x-a: &a {image: x, init: \"yes\"}\nservices:\n  b: {<<: *a, ports: [\"127.0.0.1:80-81:80-81/udp\", {target: 1, published: 2-3}]}\n",
    "services:\n  a: {image: x, extends: b, environment: {A: 1, B: }}\n  b: {image: y, environment: [A=2, C], command: 'sh -c \"a b\"'}\n",
    "services:\n  a:\n    image: ${A:-${B:?no}}\n    volumes: [v:/a:ro, /b, ./c:/c, {type: tmpfs, target: /d, tmpfs: {size: 1g}}]\nvolumes: {v: {driver_opts: {type: nfs, o: \"addr=1.2.3.4\", device: \":/x\"}}}\n",
    "name: n\nservices: {a: {image: x, depends_on: {b: {condition: service_healthy}}}, b: {image: y, healthcheck: {test: [CMD, a], interval: 1m30s}}}\n---\nservices: {a: {ports: !override [80], labels: !reset [], deploy: {replicas: 3, resources: {limits: {cpus: '0.5', memory: 1g}}}}}\n",
    "services:\n  a: {image: x, networks: {n: {aliases: [q]}}, configs: [c], secrets: [{source: s, mode: 0400}]}\n  b: {image: x, network_mode: service:a}\nnetworks: {n: {internal: true}}\nconfigs: {c: {content: $X}}\nsecrets: {s: {environment: E}}\n",
    "web:\n  image: x\n  dockerfile: D\n  links: [\"db:d\"]\n  volumes: [\"q:/q\"]\ndb: {image: y, net: \"container:web\"}\n",
    "services:\n  a: {image: x, ulimits: {nofile: {soft: 1, hard: 2}}, devices: [\"/dev/null:/n:r\"], tmpfs: [\"/t:size=3m\"], user: \"a:b\", stop_signal: 9, security_opt: [\"seccomp:unconfined\"]}\n",
    "services:\n  a: {image: x, post_start: [{command: a b, working_dir: /d}], develop: {watch: [{path: ., action: sync, target: /x}]}, deploy: {update_config: {order: stop-first, parallelism: 0}, placement: {constraints: [\"node.labels.a==b\"]}}}\n",
];

#[test]
fn fuzz_compose() {
    let mut m = Mutator::new("compose");
    for _ in rounds(2000) {
        let seed = SEEDS[m.below(SEEDS.len())];
        let bytes = m.bytes(seed.as_bytes());
        let text = String::from_utf8_lossy(&bytes).into_owned();
        // No file of the machine is taken in by chance.
        if text.contains("include") || text.contains("file") {
            continue;
        }
        let options = Options {
            folder: "/nowhere/fuzz".into(),
            files: vec!["-".into()],
            environment: BTreeMap::from([("A".into(), "a$B".into()), ("E".into(), "e".into())]),
            profiles: vec!["*".into()],
            stdin: Some(text.clone()),
            ..Options::default()
        };
        let run = || {
            let read = config(&options);
            if let Ok(mut project) = load(&options) {
                assert!(read.is_ok(), "what loads can be shown");
                for at_home in [false, true] {
                    project.at_home = at_home;
                    let made = translate(&project, &BTreeMap::new());
                    assert!(made.workloads.len() <= project.services.len());
                }
            }
        };
        let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(run));
        assert!(done.is_ok(), "a panic: {} with {text:?}", m.told());
    }
}
