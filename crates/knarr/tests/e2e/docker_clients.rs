//! What clients of Docker's API other than `docker` say: dockerode, testcontainers, `docker` before buildx.

use std::{fs, process::Command};

use serde_json::{Value, json};

use crate::{
    crew::{crew, eventually, text},
    docker::{ask, create, frames, raw, remove, run, serve, shell},
};

fn status(crew: &crate::crew::Crew, name: &str) -> String {
    let told = ask(crew, "GET", &format!("/containers/{name}/json"), None, 200);
    told["State"]["Status"].as_str().unwrap().to_string()
}

#[test]
fn other_clients_are_understood() {
    crew(|crew| {
        crew.busybox();
        serve(crew);

        // networks are named, and nothing is said of them; the query's name is in the body, too
        for name in ["na", "nb"] {
            let body = json!({ "Name": name });
            ask(crew, "POST", "/networks/create", Some(&body), 201);
        }
        let mut body = shell("sleep 1000");
        body["name"] = json!("two");
        body["HostConfig"] = json!({ "NetworkMode": "na" });
        body["NetworkingConfig"] = json!({ "EndpointsConfig": { "na": {}, "nb": {} } });
        create(crew, "two", &body);
        let told = ask(crew, "GET", "/containers/two/json", None, 200);
        let networks = told["NetworkSettings"]["Networks"].as_object().unwrap();
        let networks: Vec<&String> = networks.keys().collect();
        assert_eq!(networks, ["na", "nb"]);
        remove(crew, "two");

        // an exec without an upgrade of the connection: the output is the answer's body
        run(crew, "lives", &shell("sleep 1000"));
        let spec = json!({ "Cmd": ["sh", "-c", "echo out; echo err >&2; exit 3"], "AttachStdout": true, "AttachStderr": true });
        let made = ask(crew, "POST", "/containers/lives/exec", Some(&spec), 201);
        let id = made["Id"].as_str().unwrap();
        let start = json!({ "stdin": true, "Detach": false, "Tty": false });
        let (code, bytes) = raw(crew, "POST", &format!("/exec/{id}/start"), Some(&start));
        let mut told = frames(&bytes);
        told.sort();
        assert_eq!(code, 200);
        assert_eq!(told, [(1, "out\n".into()), (2, "err\n".into())]);
        let told = ask(crew, "GET", &format!("/exec/{id}/json"), None, 200);
        assert_eq!(told["ExitCode"], 3);
        remove(crew, "lives");

        // BuildKit behind the classic request
        let temp = tempfile::tempdir().unwrap();
        let folder = temp.path().join("context");
        fs::create_dir_all(&folder).unwrap();
        fs::write(
            folder.join("Dockerfile"),
            "FROM busybox:1\nRUN --mount=type=cache,target=/c echo told > /made\n",
        )
        .unwrap();
        let archive = temp.path().join("context.tar");
        let mut tar = Command::new("tar");
        tar.arg("-cf").arg(&archive).arg("-C").arg(&folder).arg(".");
        assert!(tar.status().unwrap().success());
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "120", "-X", "POST", "--unix-socket"])
            .arg(crew.data.join("docker.sock"))
            .args(["-H", "Content-Type: application/x-tar", "--data-binary"])
            .arg(format!("@{}", archive.display()))
            .arg("http://docker/v1.51/build?version=2&t=traced:1");
        let output = curl.output().unwrap();
        let told = text(&output);
        let lines: Vec<Value> = (String::from_utf8_lossy(&output.stdout).lines())
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect();
        assert!(
            lines.iter().any(|l| l["id"] == "moby.buildkit.trace"),
            "{told}"
        );
        let last = lines.last().unwrap();
        assert_eq!(last["id"], "moby.image.id", "{told}");
        let image = ask(crew, "GET", "/images/traced:1/json", None, 200);
        assert_eq!(image["Id"], last["aux"]["ID"]);

        // one that nobody waits for any more is killed all the same, and one that is to start again does
        let deaf = "trap 'echo heard' TERM; while :; do sleep 0.1; done";
        for (name, request, wanted) in [
            ("stopped", "stop", "exited"),
            ("restarted", "restart", "running"),
        ] {
            run(crew, name, &shell(deaf));
            eventually("it listens", || {
                let pid = ask(crew, "GET", &format!("/containers/{name}/json"), None, 200);
                match pid["State"]["Pid"].as_i64() {
                    Some(pid) if pid > 0 => Ok(()),
                    _ => Err(pid.to_string()),
                }
            });
            let before = ask(crew, "GET", &format!("/containers/{name}/json"), None, 200);
            let mut left = Command::new("curl");
            left.args(["-sS", "--max-time", "0.5", "-X", "POST", "--unix-socket"])
                .arg(crew.data.join("docker.sock"))
                .arg(format!(
                    "http://docker/v1.51/containers/{name}/{request}?t=2"
                ));
            assert!(!left.output().unwrap().status.success(), "it is waited for");
            eventually("it is done", || {
                let told = ask(crew, "GET", &format!("/containers/{name}/json"), None, 200);
                let other = told["State"]["StartedAt"] != before["State"]["StartedAt"];
                let done = status(crew, name) == wanted && (wanted != "running" || other);
                match done {
                    true => Ok(()),
                    false => Err(told["State"].to_string()),
                }
            });
            remove(crew, name);
        }
    });
}
