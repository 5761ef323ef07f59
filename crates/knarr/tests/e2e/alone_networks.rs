//! `knarr run`: networks of one's own, without a platform.

use crate::crew::{Crew, crew, eventually, text};

const SERVE: &str = "mkdir -p /www; hostname > /www/who; exec httpd -f -p 80 -h /www";

fn start(crew: &Crew, name: &str, arguments: &[&str], script: &str) {
    let head = ["run", "-d", "--name", name, "-h", name];
    let all = [&head[..], arguments, &["busybox:1", "sh", "-c", script]].concat();
    crew.ok(&all);
}

/// Who answers to a name inside; empty: nobody. busybox is static: its nslookup can look names up, its wget can't.
fn who(crew: &Crew, from: &str, name: &str) -> String {
    let script = format!(
        "ip=$(nslookup {name} | sed -n 's/^Address.*: *\\([0-9.]*\\)$/\\1/p' | grep -v 127.0.0.11 | tail -1); test -n \"$ip\" && busybox timeout 10 wget -qO- http://$ip/who; true"
    );
    crew.ok(&["container", "exec", from, "sh", "-c", &script])
        .trim()
        .to_string()
}

fn finds(crew: &Crew, from: &str, name: &str, wanted: &str) {
    eventually(&format!("{from} asks for {name}"), || {
        match who(crew, from, name) {
            got if got == wanted => Ok(()),
            got => Err(format!("{got:?}, wanted {wanted:?}")),
        }
    });
}

#[test]
fn containers_find_each_other_in_their_networks() {
    crew(|crew| {
        crew.busybox();
        for name in ["front", "back"] {
            let id = crew.ok(&["network", "create", "--label", "a=b", name]);
            assert_eq!(id.trim().len(), 64);
        }
        let again = text(&crew.knarr(&["network", "create", "back"]));
        assert!(
            again.contains("network with name back already exists"),
            "{again}"
        );
        let none = text(&crew.knarr(&["run", "--rm", "--network", "nope", "busybox:1", "true"]));
        assert!(none.contains("network nope not found"), "{none}");
        start(
            crew,
            "db",
            &["--network", "back", "--network-alias", "my_db"],
            SERVE,
        );
        start(
            crew,
            "web",
            &["--network", "front", "--network", "name=back,alias=site"],
            SERVE,
        );
        start(crew, "proxy", &["--network", "front"], SERVE);
        start(crew, "plain", &[], SERVE);
        for (from, name, wanted) in [
            ("web", "db", "db"),
            ("web", "my_db", "db"),
            ("web", "proxy", "proxy"),
            ("db", "site", "web"),
            ("proxy", "web", "web"),
            ("proxy", "db", ""),
            ("proxy", "site", ""),
        ] {
            finds(crew, from, name, wanted);
        }
        let resolv = crew.ok(&["container", "exec", "web", "cat", "/etc/resolv.conf"]);
        assert!(resolv.starts_with("nameserver 127.0.0.11\n"), "{resolv}");
        // nor do they reach each other by address
        let address = |name: &str| {
            let shown = crew.ok(&[
                "container",
                "inspect",
                "-f",
                "{{.NetworkSettings.IPAddress}}",
                name,
            ]);
            shown.trim().to_string()
        };
        let reaches = |from: &str, to: &str| {
            let url = format!("http://{}/who", address(to));
            let get = [
                "container",
                "exec",
                from,
                "busybox",
                "timeout",
                "3",
                "wget",
                "-qO-",
                &url,
            ];
            crew.knarr(&get).status.success()
        };
        for (from, to) in [("web", "db"), ("proxy", "web")] {
            eventually(&format!("{from} reaches {to}"), || {
                match reaches(from, to) {
                    true => Ok(()),
                    false => Err("it does not".into()),
                }
            });
        }
        for (from, to) in [("proxy", "db"), ("plain", "db"), ("db", "plain")] {
            assert!(!reaches(from, to), "{from} reaches {to}");
        }

        // while they run
        crew.ok(&["network", "connect", "--alias", "late", "back", "proxy"]);
        finds(crew, "proxy", "db", "db");
        finds(crew, "db", "late", "proxy");
        crew.ok(&["network", "disconnect", "back", "proxy"]);
        finds(crew, "proxy", "db", "");

        // an end is seen, and a new start
        crew.ok(&["container", "stop", "-t", "0", "db"]);
        finds(crew, "web", "my_db", "");
        crew.ok(&["container", "start", "db"]);
        finds(crew, "web", "my_db", "db");

        let used = text(&crew.knarr(&["network", "rm", "front"]));
        assert!(used.contains("has active endpoints"), "{used}");
        let shown = crew.ok(&["network", "inspect", "front"]);
        assert!(
            shown.contains("\"web\"") && shown.contains("\"proxy\""),
            "{shown}"
        );
        crew.ok(&["container", "rm", "-f", "db", "web", "proxy", "plain"]);
        // nobody is left to answer, and nothing of the rules
        eventually("the server of names has ended", || {
            let lock = crew.data.join("run/network/resolver");
            let file = std::fs::File::open(lock).unwrap();
            match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => Ok(()),
                Err(e) => Err(e.to_string()),
            }
        });
        crew.ok(&["network", "rm", "front", "back"]);
        let own = ["network", "ls", "-qf", "type=custom"];
        assert_eq!(crew.ok(&own), "");
    });
}

#[test]
fn an_internal_network_has_no_way_out() {
    crew(|crew| {
        crew.busybox();
        crew.ok(&["network", "create", "--internal", "inside"]);
        crew.ok(&["network", "create", "open"]);
        start(crew, "c-a", &["--network", "inside"], SERVE);
        start(crew, "c-b", &["--network", "inside"], SERVE);
        start(crew, "c-c", &["--network", "open"], SERVE);
        finds(crew, "c-a", "c-b", "c-b");
        finds(crew, "c-a", "c-c", "");
        crew.ok(&["container", "rm", "-f", "c-a", "c-b", "c-c"]);
    });
}
