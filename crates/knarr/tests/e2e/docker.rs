//! Docker's API over its socket, with real containers: as `docker` speaks it, in plain HTTP.

use std::{
    collections::BTreeMap,
    io::{Read, Write},
    net::Shutdown,
    os::unix::net::UnixStream,
    process::Command,
};

use serde_json::{Value, json};

use crate::crew::{Crew, DEADLINE, crew, eventually, text};

/// A request, answered: the status, and the body as it is.
pub(crate) fn raw(crew: &Crew, method: &str, path: &str, body: Option<&Value>) -> (u16, Vec<u8>) {
    let mut curl = Command::new("curl");
    curl.args([
        "-sS",
        "--max-time",
        "60",
        "-X",
        method,
        "-w",
        "%{stderr}%{http_code}",
        "--unix-socket",
    ]);
    curl.arg(crew.data.join("docker.sock"));
    if let Some(body) = body {
        curl.args([
            "-H",
            "Content-Type: application/json",
            "-d",
            &body.to_string(),
        ]);
    }
    curl.arg(format!("http://docker/v1.51{path}"));
    let output = curl.output().expect("curl; .ci/run installs it");
    assert!(
        output.status.success(),
        "{method} {path}: {}",
        text(&output)
    );
    let status = String::from_utf8_lossy(&output.stderr).parse().unwrap();
    (status, output.stdout)
}

pub(crate) fn ask(
    crew: &Crew,
    method: &str,
    path: &str,
    body: Option<&Value>,
    wanted: u16,
) -> Value {
    let (status, bytes) = raw(crew, method, path, body);
    let shown = String::from_utf8_lossy(&bytes).into_owned();
    assert_eq!(status, wanted, "{method} {path}: {shown}");
    serde_json::from_slice(&bytes).unwrap_or(Value::Null)
}

pub(crate) fn create(crew: &Crew, name: &str, body: &Value) -> String {
    let path = format!("/containers/create?name={name}");
    let made = ask(crew, "POST", &path, Some(body), 201);
    made["Id"].as_str().unwrap().to_string()
}

pub(crate) fn run(crew: &Crew, name: &str, body: &Value) -> String {
    let id = create(crew, name, body);
    ask(crew, "POST", &format!("/containers/{id}/start"), None, 204);
    id
}

/// Until it has ended; its exit code.
pub(crate) fn wait(crew: &Crew, name: &str) -> i64 {
    let ended = ask(crew, "POST", &format!("/containers/{name}/wait"), None, 200);
    ended["StatusCode"].as_i64().unwrap()
}

pub(crate) fn remove(crew: &Crew, name: &str) {
    ask(
        crew,
        "DELETE",
        &format!("/containers/{name}?force=1&v=1"),
        None,
        204,
    );
}

/// The platform, with its socket there.
pub(crate) fn serve(crew: &Crew) {
    crew.serve();
    let socket = crew.data.join("docker.sock");
    eventually("the socket is served", || {
        UnixStream::connect(&socket)
            .map(drop)
            .map_err(|e| e.to_string())
    });
}

/// What framed output has of each stream: which of two pipes is read first is nobody's promise.
pub(crate) fn frames(mut bytes: &[u8]) -> Vec<(u8, String)> {
    let mut all = BTreeMap::<u8, String>::new();
    while let [stream, 0, 0, 0, a, b, c, d, rest @ ..] = bytes {
        let length = u32::from_be_bytes([*a, *b, *c, *d]) as usize;
        let piece = String::from_utf8_lossy(&rest[..length]).into_owned();
        all.entry(*stream).or_default().push_str(&piece);
        bytes = &rest[length..];
    }
    assert!(bytes.is_empty(), "what is left is no frame: {bytes:?}");
    all.into_iter().collect()
}

/// A connection that has become a container's streams.
pub(crate) fn hijack(crew: &Crew, path: &str, body: &str) -> UnixStream {
    let mut stream = UnixStream::connect(crew.data.join("docker.sock")).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    let head = format!(
        "POST /v1.51{path} HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(head.as_bytes()).unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte).unwrap();
        answer.push(byte[0]);
    }
    let answer = String::from_utf8_lossy(&answer).into_owned();
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    stream
}

pub(crate) fn exec(crew: &Crew, name: &str, spec: Value) -> (Vec<(u8, String)>, i64) {
    let mut spec = spec;
    spec["AttachStdout"] = json!(true);
    spec["AttachStderr"] = json!(true);
    let made = ask(
        crew,
        "POST",
        &format!("/containers/{name}/exec"),
        Some(&spec),
        201,
    );
    let id = made["Id"].as_str().unwrap();
    let mut stream = hijack(crew, &format!("/exec/{id}/start"), "{}");
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    let told = ask(crew, "GET", &format!("/exec/{id}/json"), None, 200);
    (frames(&bytes), told["ExitCode"].as_i64().unwrap())
}

pub(crate) fn shell(script: &str) -> Value {
    json!({ "Image": "busybox:1", "Cmd": ["sh", "-c", script] })
}

#[test]
fn a_docker_container_lives() {
    crew(|crew| {
        crew.busybox();
        serve(crew);
        let talk = "echo out; echo err >&2; echo once >> /kept; trap 'exit 5' TERM; while :; do sleep 0.1; done";
        let id = run(crew, "talks", &shell(talk));
        assert_eq!(id.len(), 64);
        eventually("both streams are in its log", || {
            let (_, bytes) = raw(
                crew,
                "GET",
                "/containers/talks/logs?stdout=1&stderr=1",
                None,
            );
            let told = frames(&bytes);
            match told == [(1, "out\n".into()), (2, "err\n".into())] {
                true => Ok(()),
                false => Err(format!("{told:?}")),
            }
        });
        let (told, code) = exec(
            crew,
            "talks",
            json!({ "Cmd": ["sh", "-c", "id -u; echo $A >&2; exit 3"], "User": "7", "Env": ["A=b"] }),
        );
        assert_eq!(
            (told, code),
            (vec![(1, "7\n".into()), (2, "b\n".into())], 3)
        );
        ask(crew, "POST", "/containers/talks/stop?t=60", None, 204);
        let shown = ask(crew, "GET", "/containers/talks/json", None, 200);
        assert_eq!(
            (&shown["State"]["Status"], &shown["State"]["ExitCode"]),
            (&json!("exited"), &json!(5))
        );
        // What it wrote is there in its next run, which is the same container.
        ask(crew, "POST", "/containers/talks/start", None, 204);
        eventually("the second run has written, too", || {
            let (told, _) = exec(crew, "talks", json!({ "Cmd": ["cat", "/kept"] }));
            match told == [(1, "once\nonce\n".into())] {
                true => Ok(()),
                false => Err(format!("{told:?}")),
            }
        });
        assert_eq!(
            ask(crew, "GET", "/containers/talks/json", None, 200)["Id"],
            json!(id)
        );
        // The platform may be killed: container and API are there again.
        crew.kill();
        serve(crew);
        let list = ask(crew, "GET", "/containers/json", None, 200);
        assert_eq!(list[0]["Id"], json!(id), "{list}");
        let pods = crew.kube("get pods -n docker -o name");
        assert!(pods.contains(&format!("pod/talks-{}", &id[..12])), "{pods}");
        let refused = ask(crew, "DELETE", "/containers/talks", None, 409);
        assert!(
            refused["message"]
                .as_str()
                .unwrap()
                .contains("container is running"),
            "{refused}"
        );
        remove(crew, "talks");
        ask(crew, "GET", "/containers/talks/json", None, 404);
        assert_eq!(crew.kube("get pods -n docker -o name").trim(), "");
    });
}

#[test]
fn docker_clients_type_and_copy() {
    crew(|crew| {
        crew.busybox();
        serve(crew);
        // attached before it's started, as `docker run -i` does: nothing is lost, and the end of input is heard
        let mut body = shell("echo hello; cat; echo end >&2");
        body["OpenStdin"] = json!(true);
        body["StdinOnce"] = json!(true);
        let id = create(crew, "cat", &body);
        let mut stream = hijack(
            crew,
            &format!("/containers/{id}/attach?stream=1&stdin=1&stdout=1&stderr=1"),
            "",
        );
        ask(crew, "POST", &format!("/containers/{id}/start"), None, 204);
        stream.write_all(b"typed\n").unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut bytes = Vec::new();
        stream.read_to_end(&mut bytes).unwrap();
        assert_eq!(
            frames(&bytes),
            [(1, "hello\ntyped\n".into()), (2, "end\n".into())]
        );
        assert_eq!(wait(crew, "cat"), 0);
        // files of one that has ended: out, and in
        let put = format!(
            "cd {} && echo copied > in.txt && tar cf in.tar in.txt && curl -sS --fail -T in.tar --unix-socket {}/docker.sock 'http://docker/containers/cat/archive?path=/bin' && curl -sS --fail --unix-socket {}/docker.sock 'http://docker/containers/cat/archive?path=/bin/in.txt' | tar xO",
            crew.dir().display(),
            crew.data.display(),
            crew.data.display()
        );
        let output = crew.in_crew("sh").args(["-c", &put]).output().unwrap();
        assert_eq!(
            String::from_utf8_lossy(&output.stdout),
            "copied\n",
            "{}",
            text(&output)
        );
        let changed = ask(crew, "GET", "/containers/cat/changes", None, 200);
        let added = json!({ "Path": "/bin/in.txt", "Kind": 1 });
        assert!(changed.as_array().unwrap().contains(&added), "{changed}");
        remove(crew, "cat");
        // a command that isn't there
        let id = create(
            crew,
            "wrong",
            &json!({ "Image": "busybox:1", "Cmd": ["nosuch"] }),
        );
        let told = ask(crew, "POST", &format!("/containers/{id}/start"), None, 400);
        assert!(
            told["message"]
                .as_str()
                .unwrap()
                .contains("executable file not found"),
            "{told}"
        );
        let shown = ask(crew, "GET", "/containers/wrong/json", None, 200);
        assert_eq!(shown["State"]["ExitCode"], json!(127));
        remove(crew, "wrong");
    });
}

#[test]
fn docker_networks_and_volumes_join_containers() {
    crew(|crew| {
        crew.busybox();
        serve(crew);
        for name in ["front", "back"] {
            ask(
                crew,
                "POST",
                "/networks/create",
                Some(&json!({ "Name": name })),
                201,
            );
        }
        let on = |mut body: Value, network: &str, aliases: &[&str]| {
            body["HostConfig"]["NetworkMode"] = json!(network);
            body["NetworkingConfig"]["EndpointsConfig"][network]["Aliases"] = json!(aliases);
            body
        };
        let mut web = on(
            shell("mkdir /www; cp /data/page /www/; exec httpd -f -p 80 -h /www"),
            "front",
            &["shop"],
        );
        web["ExposedPorts"] = json!({ "80/tcp": {} });
        web["HostConfig"]["PortBindings"] = json!({ "80/tcp": [{ "HostPort": "" }] });
        web["HostConfig"]["Binds"] = json!(["pages:/data"]);
        web["Healthcheck"] =
            json!({ "Test": ["CMD", "ls", "/www/page"], "Interval": 1_000_000_000 });
        let mut writes = shell("echo volume > /data/page");
        writes["HostConfig"]["Binds"] = json!(["pages:/data"]);
        run(crew, "writes", &writes);
        assert_eq!(wait(crew, "writes"), 0);
        remove(crew, "writes");
        run(crew, "web", &web);
        run(crew, "near", &on(shell("sleep 1000"), "front", &[]));
        run(crew, "far", &on(shell("sleep 1000"), "back", &[]));
        let shown = eventually("web is healthy", || {
            let shown = ask(crew, "GET", "/containers/web/json", None, 200);
            match shown["State"]["Health"]["Status"] == "healthy" {
                true => Ok(shown),
                false => Err(shown["State"].to_string()),
            }
        });
        let ip = shown["NetworkSettings"]["Networks"]["front"]["IPAddress"]
            .as_str()
            .unwrap();
        // busybox is static: its wget can't look names up, its nslookup can
        for name in ["web", "shop", &shown["Id"].as_str().unwrap()[..12]] {
            eventually(&format!("near finds {name}"), || {
                let (told, _) = exec(crew, "near", json!({ "Cmd": ["nslookup", name] }));
                match told.iter().any(|(_, t)| t.contains(ip)) {
                    true => Ok(()),
                    false => Err(format!("{told:?}")),
                }
            });
            let (told, _) = exec(crew, "far", json!({ "Cmd": ["nslookup", name] }));
            assert!(
                !told.iter().any(|(_, t)| t.contains(ip)),
                "{name} from afar: {told:?}"
            );
        }
        let (told, _) = exec(crew, "near", json!({ "Cmd": ["cat", "/etc/resolv.conf"] }));
        assert!(told[0].1.contains("nameserver 127.0.0.11\n"), "{told:?}");
        let get = json!({ "Cmd": ["busybox", "timeout", "3", "wget", "-qO-", format!("http://{ip}/page")] });
        eventually("the page, from near", || {
            match exec(crew, "near", get.clone()) {
                (told, 0) if told == [(1, "volume\n".into())] => Ok(()),
                other => Err(format!("{other:?}")),
            }
        });
        let (told, code) = exec(crew, "far", get);
        assert_ne!(
            code, 0,
            "another network's container is out of reach: {told:?}"
        );
        let port = shown["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"]
            .as_str()
            .unwrap();
        let page = eventually("the port is open", || {
            crew.http(&format!("http://127.0.0.1:{port}/page"))
        });
        assert_eq!(page, "volume\n");
        let used = ask(crew, "DELETE", "/volumes/pages", None, 409);
        assert!(
            used["message"]
                .as_str()
                .unwrap()
                .contains("volume is in use"),
            "{used}"
        );
        ask(crew, "DELETE", "/networks/front", None, 403);
        for name in ["web", "near", "far"] {
            remove(crew, name);
        }
        ask(crew, "DELETE", "/volumes/pages", None, 204);
        let pruned = ask(crew, "POST", "/networks/prune", None, 200);
        assert_eq!(pruned["NetworksDeleted"].as_array().map(Vec::len), Some(2));
    });
}

#[test]
fn docker_streams_begin_behind_the_answer() {
    crew(|crew| {
        crew.busybox();
        serve(crew);
        run(crew, "box", &shell("sleep 1000"));
        for _ in 0..10 {
            let spec = json!({ "Cmd": ["echo", "first"], "AttachStdout": true });
            let made = ask(crew, "POST", "/containers/box/exec", Some(&spec), 201);
            let id = made["Id"].as_str().unwrap();
            let mut stream = UnixStream::connect(crew.data.join("docker.sock")).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            let request = format!(
                "POST /v1.51/exec/{id}/start HTTP/1.1\r\nHost: docker\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}"
            );
            stream.write_all(request.as_bytes()).unwrap();
            // docker-py's first read takes all that is there, and what comes with the head is lost to it
            eventually("the answer is there", || {
                match rustix::io::ioctl_fionread(&stream) {
                    Ok(1..) => Ok(()),
                    other => Err(format!("{other:?}")),
                }
            });
            std::thread::sleep(std::time::Duration::from_millis(30));
            let mut buffer = [0; 8192];
            let n = stream.read(&mut buffer).unwrap();
            let head = String::from_utf8_lossy(&buffer[..n]).into_owned();
            assert!(head.ends_with("\r\n\r\n"), "{head:?}");
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).unwrap();
            assert_eq!(frames(&rest), [(1, "first\n".to_string())]);
        }
        remove(crew, "box");
    });
}

#[test]
fn docker_networks_have_subnets() {
    crew(|crew| {
        crew.busybox();
        serve(crew);
        let make = |name: &str, ipam: Value, wanted: u16| {
            let body = json!({ "Name": name, "IPAM": { "Config": [ipam] } });
            ask(crew, "POST", "/networks/create", Some(&body), wanted)
        };
        make(
            "lan",
            json!({ "Subnet": "172.31.77.0/24", "Gateway": "172.31.77.254" }),
            201,
        );
        let told = make("twice", json!({ "Subnet": "172.31.0.0/16" }), 403);
        assert!(
            told["message"].as_str().unwrap().contains("Pool overlaps"),
            "{told}"
        );
        make("plain", json!({}), 201);
        let on = |script: &str, endpoint: Value| {
            let mut body = shell(script);
            body["HostConfig"]["NetworkMode"] = json!("lan");
            body["NetworkingConfig"]["EndpointsConfig"]["lan"] = endpoint;
            body
        };
        let at = |ip: &str| json!({ "IPAMConfig": { "IPv4Address": ip }, "MacAddress": "02:42:ac:1f:4d:14" });
        let web = on(
            "mkdir /www; echo page > /www/page; exec httpd -f -p 80 -h /www",
            at("172.31.77.20"),
        );
        run(crew, "web", &web);
        run(crew, "any", &on("sleep 1000", json!({})));
        let addresses = |name: &str| {
            let shown = ask(crew, "GET", &format!("/containers/{name}/json"), None, 200);
            let lan = &shown["NetworkSettings"]["Networks"]["lan"];
            ["IPAddress", "Gateway", "MacAddress"].map(|key| lan[key].as_str().unwrap().to_string())
        };
        assert_eq!(
            addresses("web"),
            ["172.31.77.20", "172.31.77.254", "02:42:ac:1f:4d:14"]
        );
        assert_eq!(addresses("any"), ["172.31.77.1", "172.31.77.254", ""]);
        let shown = ask(crew, "GET", "/networks/lan", None, 200);
        assert_eq!(shown["IPAM"]["Config"][0]["Subnet"], "172.31.77.0/24");
        let members = shown["Containers"].as_object().unwrap().values();
        let mut members: Vec<&str> = members
            .map(|m| m["IPv4Address"].as_str().unwrap())
            .collect();
        members.sort();
        assert_eq!(members, ["172.31.77.1/24", "172.31.77.20/24"]);
        let (told, _) = exec(
            crew,
            "web",
            json!({ "Cmd": ["busybox", "ip", "link", "show", "eth0"] }),
        );
        assert!(told[0].1.contains("02:42:ac:1f:4d:14"), "{told:?}");
        let get = json!({ "Cmd": ["busybox", "timeout", "20", "wget", "-qO-", "http://172.31.77.20/page"] });
        eventually(
            "its page at the address, and the address by its name",
            || {
                let page = exec(crew, "any", get.clone());
                let (named, _) = exec(crew, "any", json!({ "Cmd": ["nslookup", "web"] }));
                match page.1 == 0 && named.iter().any(|(_, t)| t.contains("172.31.77.20")) {
                    true => Ok(()),
                    false => Err(format!("{page:?} {named:?}")),
                }
            },
        );

        // two can't have it, one after the other can
        let second = create(crew, "second", &on("sleep 1000", at("172.31.77.20")));
        let told = ask(
            crew,
            "POST",
            &format!("/containers/{second}/start"),
            None,
            403,
        );
        assert!(
            told["message"]
                .as_str()
                .unwrap()
                .contains("Address already in use"),
            "{told}"
        );
        ask(crew, "POST", "/containers/web/stop?t=0", None, 204);
        ask(
            crew,
            "POST",
            &format!("/containers/{second}/start"),
            None,
            204,
        );
        assert_eq!(addresses("second")[0], "172.31.77.20");
        for (network, ip, why) in [
            (
                "lan",
                "10.9.9.9",
                "no configured subnet or ip-range contain the IP address 10.9.9.9",
            ),
            (
                "plain",
                "10.9.9.9",
                "only when connecting to networks with user configured subnets",
            ),
            (
                "bridge",
                "10.9.9.9",
                "supported on user defined networks only",
            ),
        ] {
            let mut body = shell("true");
            body["HostConfig"]["NetworkMode"] = json!(network);
            body["NetworkingConfig"]["EndpointsConfig"][network] = at(ip);
            let told = ask(crew, "POST", "/containers/create", Some(&body), 400);
            assert!(
                told["message"].as_str().unwrap().contains(why),
                "{network}: {told}"
            );
        }
        for name in ["web", "any", "second"] {
            remove(crew, name);
        }
    });
}

#[test]
fn docker_containers_join_and_leave_networks_while_they_run() {
    crew(|crew| {
        crew.busybox();
        serve(crew);
        for name in ["one", "two"] {
            ask(
                crew,
                "POST",
                "/networks/create",
                Some(&json!({ "Name": name })),
                201,
            );
        }
        for (name, network) in [("moves", "one"), ("stays", "two")] {
            let mut body = shell("exec httpd -f -p 80 -h /bin");
            body["HostConfig"]["NetworkMode"] = json!(network);
            run(crew, name, &body);
        }
        let change = |what: &str, body: Value| {
            ask(
                crew,
                "POST",
                &format!("/networks/two/{what}"),
                Some(&body),
                200,
            );
        };
        // found, and reached, in both directions
        let finds = |wanted: bool| {
            for (from, to) in [("moves", "stays"), ("stays", "moves")] {
                eventually(&format!("{from} finds {to}: {wanted}"), || {
                    let script = format!(
                        "ip=$(nslookup {to} | sed -n 's/^Address.*: *\\([0-9.]*\\)$/\\1/p' | grep -v 127.0.0.11 | tail -1); test -n \"$ip\" && busybox timeout 5 wget -qO /dev/null http://$ip/busybox; echo $? $ip"
                    );
                    let got = exec(crew, from, json!({ "Cmd": ["sh", "-c", script] }));
                    let found = got.0.iter().any(|(_, text)| text.starts_with("0 "));
                    match found == wanted {
                        true => Ok(()),
                        false => Err(format!("{got:?}")),
                    }
                });
            }
        };
        finds(false);
        change("connect", json!({ "Container": "moves" }));
        finds(true);
        change("disconnect", json!({ "Container": "moves" }));
        finds(false);
        for name in ["moves", "stays"] {
            remove(crew, name);
        }
    });
}
