//! What a service's own names mean to its containers, and what else of the network its file says.

use crate::crew::{crew, eventually, text};

/// Servers that listen at what their own names say, at once.
const FILE: &str = r#"
name: names
x-serve: &serve
  image: busybox:1
  command:
    - sh
    - -c
    - |
      ip=$$(nslookup $$NAME | busybox sed -n 's/^Address: \([0-9.]*\)$$/\1/p' | busybox head -n 1)
      echo "listens at $$ip"
      hostname > /tmp/who
      exec httpd -f -p $$ip:9092 -h /tmp
services:
  kafka:
    <<: *serve
    environment: { NAME: kafka }
    mac_address: 02:42:AC:11:00:07
    healthcheck: { test: cat /tmp/who, interval: 1s }
  queue:
    <<: *serve
    environment: { NAME: mail.queue }
    networks: { default: { aliases: [mail.queue], interface_name: wan0 } }
  many:
    <<: *serve
    environment: { NAME: many }
    deploy: { replicas: 3 }
  client: { image: "busybox:1", command: sleep 100000, init: true }
"#;

#[test]
fn containers_listen_at_what_their_own_names_say() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        crew.file("app/compose.yaml", FILE);
        let file = crew.dir().join("app/compose.yaml");
        let compose = |line: &[&str]| {
            crew.knarr(&[&["compose", "-f", file.to_str().unwrap()], line].concat())
        };
        let up = compose(&["up", "-d"]);
        assert!(up.status.success(), "{}", text(&up));
        // Of busybox, which is static, only nslookup finds names.
        let ask = |who: &str, name: &str| {
            let find = format!(
                "for ip in $(nslookup {name} | busybox sed -n 's/^Address: \\([0-9.]*\\)$/\\1/p'); do busybox timeout 10 wget -qO- http://$ip:9092/who; done; true"
            );
            text(&compose(&["exec", "-T", who, "sh", "-c", &find]))
        };
        for (who, name, servers) in [
            ("client", "kafka", 1),
            ("client", "mail.queue", 1),
            ("client", "many", 1),
            ("kafka", "kafka", 1),
            ("queue", "mail.queue", 1),
            // As with Docker, it finds all of them, itself among them.
            ("many", "many", 3),
        ] {
            eventually("all that are meant answer", || {
                let said = ask(who, name);
                let found: std::collections::BTreeSet<&str> = said.lines().collect();
                match found.len() == servers && found.iter().all(|f| f.contains('-')) {
                    true => Ok(()),
                    false => Err(format!("{name} for {who}: {said}")),
                }
            });
        }
        for (who, line, wanted) in [
            (
                "kafka",
                &["cat", "/sys/class/net/eth0/address"][..],
                "02:42:ac:11:00:07\n",
            ),
            ("queue", &["ls", "/sys/class/net"], "lo\nwan0\n"),
        ] {
            let said = compose(&[&["exec", "-T", who], line].concat());
            assert_eq!(String::from_utf8_lossy(&said.stdout), wanted, "{who}");
        }
    });
}
