//! The example, as its README says it runs.

use std::{path::PathBuf, time::Duration};

use crate::{
    crew::{Crew, crew, eventually},
    load::{self, Connection},
};

const REQUESTS_PER_SECOND: u32 = 2000;

fn example(folder: &str) -> String {
    let root = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../../examples")
        .join(folder);
    root.canonicalize().unwrap().to_str().unwrap().to_string()
}

/// Signs a visitor up; answers the cookie. Pages wait three seconds for what they need, which may be too few where all has
/// just been started: the next try is another visitor's, as the first may have got through.
fn sign_up(name: &str) -> String {
    let mut tries = 0;
    let answer = eventually("a visitor signs up", || {
        tries += 1;
        let mut connection = Connection::open(8080).map_err(|e| e.to_string())?;
        let form = format!("name={name}{tries}&password=correct-horse");
        let request = load::post("/sign-up", "", &form, 303).request;
        let answer = connection.send(&request).map_err(|e| e.to_string())?;
        match answer.status {
            303 => Ok(answer),
            _ => Err(String::from_utf8_lossy(&answer.body).into_owned()),
        }
    });
    let cookie = answer.headers.split("session=").nth(1).unwrap();
    format!("session={}", cookie.split(';').next().unwrap())
}

/// The path of some product's page. As [`sign_up`], where all has just been started.
fn product(crew: &Crew) -> String {
    let (page, at) = eventually("a product on the first page", || {
        let page = crew.http("http://127.0.0.1:8080/")?;
        match page.find("/products/") {
            Some(at) => Ok((page, at)),
            None => Err(page),
        }
    });
    let end = page[at..].find(['"', '>', ' ', '\'']).unwrap();
    page[at..at + end].to_string()
}

fn page(path: &str) -> (u16, String) {
    let mut connection = Connection::open(8080).unwrap();
    let answer = connection.send(&load::get(path, "", 200).request).unwrap();
    (
        answer.status,
        String::from_utf8_lossy(&answer.body).into_owned(),
    )
}

#[test]
fn no_request_fails_while_frontend_and_orders_are_replaced_twice() {
    crew(|crew| {
        crew.ok(&["up", &example("shop")]);
        let (product, cookie) = (product(crew), sign_up("crew"));
        let name = product.rsplit('/').next().unwrap().to_string();
        let shots = vec![
            load::get("/", "", 200),
            load::get(&product, "", 200),
            load::get("/", &cookie, 200),
            load::get("/cart", &cookie, 200),
            load::get(&product, &cookie, 200),
            load::post("/cart", &cookie, &format!("product={name}&quantity=2"), 303),
        ];
        let load = load::start(8080, REQUESTS_PER_SECOND, shots);
        std::thread::sleep(Duration::from_secs(1));
        for _ in 0..2 {
            let before = crew.containers("shop");
            for name in ["frontend", "orders"] {
                crew.kube(&format!("-n shop rollout restart deployment/{name}"));
            }
            for name in ["frontend", "orders"] {
                crew.kube(&format!(
                    "-n shop rollout status deployment/{name} --timeout=180s"
                ));
            }
            eventually("the four former ones have gone", || {
                let after = crew.containers("shop");
                let stayed = after.iter().filter(|pod| before.contains(pod)).count();
                match (after.len(), stayed) {
                    (8, 4) => Ok(()),
                    _ => Err(format!("{after:?}")),
                }
            });
            std::thread::sleep(Duration::from_secs(1));
        }
        let (sent, failures) = load.end();
        assert!(
            failures.is_empty(),
            "{} of {sent} failed: {:?}",
            failures.len(),
            &failures[..failures.len().min(5)]
        );
    });
}

#[test]
fn pages_keep_serving_without_follow() {
    crew(|crew| {
        crew.ok(&["up", &example("shop")]);
        let product = product(crew);
        let has_button = || page(&product).1.contains("/follow");
        // a page doesn't wait long for it
        eventually("the button is there", || match has_button() {
            true => Ok(()),
            false => Err(crew.ok(&["status"])),
        });
        // It can't come back by itself while its image's program is told to fail.
        crew.kube("-n shop patch deployment follow --type=json -p [{\"op\":\"add\",\"path\":\"/spec/template/spec/containers/0/command\",\"value\":[\"/nothing\"]},{\"op\":\"replace\",\"path\":\"/spec/strategy\",\"value\":{\"type\":\"Recreate\"}}]");
        eventually("the button is missing, nothing else", || {
            let (status, text) = page(&product);
            assert_eq!(status, 200);
            match text.contains("/follow") {
                false => Ok(()),
                true => Err("the button is there".into()),
            }
        });
        assert_eq!(page("/").0, 200);
        // the button is also missing where follow is only slow
        eventually("follow is told as missing", || {
            let status = crew.ok(&["status"]);
            let mut lines = status.lines();
            match lines.any(|l| l.contains("follow") && !l.contains("1/1")) {
                true => Ok(()),
                false => Err(status),
            }
        });
        crew.kube("-n shop rollout undo deployment/follow");
        eventually("the button is back", || match has_button() {
            true => Ok(()),
            false => Err(crew.ok(&["status"])),
        });
        // Killed, it comes back by itself, and pages serve meanwhile.
        let pod = crew.kube("-n shop get pods -l app.kubernetes.io/name=follow -o name");
        let pod = if pod.is_empty() {
            crew.kube("-n shop get pods -o name")
        } else {
            pod
        };
        let pod = pod
            .lines()
            .find(|l| l.contains("follow"))
            .unwrap()
            .trim_start_matches("pod/")
            .to_string();
        eventually("all is ready", || {
            let said = crew.ok(&["status", "-o", "json"]);
            let list: serde_json::Value = serde_json::from_str(&said).unwrap();
            match list["ready"] == true {
                true => Ok(()),
                false => Err(said),
            }
        });
        let id = crew
            .containers("shop")
            .into_iter()
            .find(|(name, _)| *name == pod)
            .unwrap()
            .1;
        crew.kill_process("shop-follow");
        for _ in 0..20 {
            assert_eq!(page(&product).0, 200);
        }
        eventually("another container", || {
            let now = crew
                .containers("shop")
                .into_iter()
                .find(|(name, _)| *name == pod);
            match now {
                Some((_, new)) if new != id => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        eventually("the button is back", || match has_button() {
            true => Ok(()),
            false => Err(crew.ok(&["status"])),
        });
    });
}

#[test]
fn with_redis_which_may_die() {
    crew(|crew| {
        for program in ["/usr/bin/redis-server", "/usr/bin/redis-cli"] {
            assert!(
                PathBuf::from(program).exists(),
                "{program} is missing; .ci/run installs redis-server"
            );
        }
        crew.ok(&[
            "image",
            "pack",
            "--name",
            "docker.io/library/redis:7",
            "/usr/bin/redis-server",
            "/usr/bin/redis-cli",
            "--cmd",
            "redis-server",
        ]);
        let out = crew
            .command(&["up", &example("shop"), "--profile", "redis"])
            .output()
            .unwrap();
        assert!(out.status.success(), "{}", crate::crew::text(&out));
        let product = product(crew);
        eventually("the button", || {
            match page(&product).1.contains("/follow") {
                true => Ok(()),
                false => Err(crew.ok(&["logs", "follow"])),
            }
        });
        let id = || {
            crew.containers("shop")
                .into_iter()
                .find(|(name, _)| name.starts_with("redis"))
                .map(|(_, id)| id)
        };
        let before = id().expect("redis runs");
        // The server is told to end: its container ends, and is started again.
        crew.knarr(&["exec", "redis", "--", "redis-cli", "shutdown", "nosave"]);
        for _ in 0..20 {
            assert_eq!(page(&product).0, 200);
            assert_eq!(page("/").0, 200);
        }
        eventually("redis is back", || match id() {
            Some(now) if now != before => Ok(()),
            other => Err(format!("{other:?}")),
        });
        eventually("the button is back", || {
            match page(&product).1.contains("/follow") {
                true => Ok(()),
                false => Err(crew.ok(&["status"])),
            }
        });
    });
}

#[test]
fn from_kubernetes_manifests() {
    crew(|crew| {
        crew.ok(&["up", &example("shop/k8s")]);
        product(crew);
        let again = crew.knarr(&["up", &example("shop/k8s")]);
        assert!(
            crate::crew::text(&again).contains("nothing had changed"),
            "{}",
            crate::crew::text(&again)
        );
        crew.ok(&["down", &example("shop/k8s")]);
    });
}
