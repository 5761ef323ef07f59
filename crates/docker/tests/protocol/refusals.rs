//! What is refused, in which words and with which status.

use super::{Daemon, filters};
use serde_json::Value;

#[tokio::test]
async fn refusals_are_dockers() {
    let daemon = Daemon::start().await;
    let check = |line: &'static str, body: &'static str, status: u16, message: &'static str| {
        let daemon = &daemon;
        async move {
            let (got, headers, text) = daemon.ask(line, body).await;
            let value: Value =
                serde_json::from_str(&text).unwrap_or_else(|e| panic!("{line}: {text:?}: {e}"));
            assert_eq!(
                (got, value["message"].as_str()),
                (status, Some(message)),
                "{line} {body}"
            );
            assert_eq!(headers["content-type"], "application/json");
        }
    };
    let create = "POST /v1.51/containers/create";
    check("GET /v1.23/info", "", 400, "client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version").await;
    check(
        "GET /v1.99/info",
        "",
        400,
        "client version 1.99 is too new. Maximum supported API version is 1.51",
    )
    .await;
    check("GET /nonsense", "", 404, "page not found: GET /nonsense").await;
    check(
        "GET /containers/none/json",
        "",
        404,
        "No such container: none",
    )
    .await;
    check(
        "POST /containers/none/start",
        "",
        404,
        "No such container: none",
    )
    .await;
    check(
        "POST /exec/none/start",
        "{}",
        404,
        "No such exec instance: none",
    )
    .await;
    check(
        "GET /images/none/json",
        "",
        404,
        "No such image: none:latest",
    )
    .await;
    check("DELETE /images/a/b:c", "", 404, "No such image: a/b:c").await;
    check(
        "GET /networks/nowhere",
        "",
        404,
        "network nowhere not found",
    )
    .await;
    check(
        "POST /v1.43/containers/create",
        r#"{"Image": "tiny:1", "NetworkingConfig": {"EndpointsConfig": {"a": {}, "b": {}}}}"#,
        400,
        "Container cannot be created with multiple network endpoints: a, b",
    )
    .await;
    check(
        create,
        r#"{"Image": "tiny:1", "HostConfig": {"Mounts": [{"Type": "volume", "Target": "/v", "VolumeOptions": {"DriverConfig": {"Name": "nope"}}}]}}"#,
        404,
        "error looking up volume plugin nope: plugin \"nope\" not found",
    )
    .await;
    check(
        "DELETE /networks/bridge",
        "",
        403,
        "bridge is a pre-defined network and cannot be removed",
    )
    .await;
    check("GET /volumes/none", "", 404, "get none: no such volume").await;
    check("GET /services", "", 503, "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.").await;
    check(
        "GET /containers/json?filters=%7B%22x%22%3A%5B%22y%22%5D%7D",
        "",
        400,
        "invalid filter 'x'",
    )
    .await;
    check(
        create,
        "",
        400,
        "config cannot be empty in order to create a container",
    )
    .await;
    check(
        create,
        r#"{"Image": "none"}"#,
        404,
        "No such image: none:latest",
    )
    .await;
    check(
        "POST /containers/create?name=-",
        r#"{"Image": "tiny:1"}"#,
        400,
        "Invalid container name (-), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
    )
    .await;
    check(
        create,
        r#"{"Image": "tiny:1", "HostConfig": {"Devices": [{"PathOnHost": "/dev/x"}]}}"#,
        400,
        r#"error gathering device information while adding custom device "/dev/x": no such file or directory"#,
    )
    .await;
    check(create, r#"{"Image": "tiny:1", "HostConfig": {"AutoRemove": true, "RestartPolicy": {"Name": "always"}}}"#, 400, "can't create 'AutoRemove' container with restart policy").await;
    check(create, r#"{"Image": "tiny:1", "HostConfig": {"Binds": ["a:b"]}}"#, 400, "invalid volume specification: 'a:b': invalid mount config for type \"bind\": invalid mount path: 'b' mount path must be absolute").await;
    check(
        create,
        r#"{"Image": "tiny:1", "HostConfig": {"NetworkMode": "mine"}}"#,
        404,
        "network mine not found",
    )
    .await;
    check(
        create,
        r#"{"Image": "tiny:1", "StopSignal": "SIGFOO"}"#,
        400,
        "invalid signal: SIGFOO",
    )
    .await;
    check("POST /networks/create", r#"{"Name": "x", "Driver": "overlay"}"#, 503, "This node is not a swarm manager. Use \"docker swarm init\" or \"docker swarm join\" to connect this node to swarm and try again.").await;
    check("POST /volumes/create", r#"{"Name": "x y"}"#, 400, "create x y: \"x y\" includes invalid characters for a local volume name, only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path").await;
    check(
        "POST /build?version=2&remote=upload-request",
        "",
        501,
        "a context that comes by another request (upload-request) is not supported by knarr",
    )
    .await;
}

#[tokio::test]
async fn words_and_statuses_are_a_daemons() {
    let daemon = Daemon::start().await;
    let body = r#"{"Image": "tiny:1", "Cmd": ["-c", "true"], "ExposedPorts": {"80/tcp": {}}}"#;
    let (status, _, text) = daemon.ask("POST /containers/create?name=web", body).await;
    assert_eq!(status, 201, "{text}");
    let id = serde_json::from_str::<Value>(&text).unwrap()["Id"]
        .as_str()
        .unwrap()
        .to_string();
    let list = |text: &str| format!("GET /containers/json?all=1&{}", filters(text));
    let not_running = format!("cannot kill container: web: container {id} is not running");
    let cases = [
        (
            list(r#"{"status":["odd"]}"#),
            "",
            400,
            "invalid filter 'status=odd': invalid value for state (odd): must be one of created, running, paused, restarting, removing, exited, dead",
        ),
        (
            list(r#"{"health":["odd"]}"#),
            "",
            400,
            "invalid filter 'health=odd': invalid value for health (odd): must be one of none, starting, healthy, unhealthy",
        ),
        (
            list(r#"{"exited":["odd"]}"#),
            "",
            400,
            "invalid filter 'exited=odd': strconv.Atoi: parsing \"odd\": invalid syntax",
        ),
        (
            list(r#"{"publish":["odd"]}"#),
            "",
            500,
            "error while looking up for publish odd: strconv.ParseUint: parsing \"odd\": invalid syntax",
        ),
        (list(r#"{"is-task":["odd"]}"#), "", 200, ""),
        (list(r#"{"expose":["70-90"]}"#), "", 200, ""),
        (
            "POST /containers/none/rename?name=x".into(),
            "",
            404,
            "No such container: none",
        ),
        (
            "POST /containers/web/rename?name=-".into(),
            "",
            400,
            "Error when allocating new name: Invalid container name (/-), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed",
        ),
        (
            "POST /containers/none/kill".into(),
            "",
            404,
            "cannot kill container: none: No such container: none",
        ),
        (
            "POST /containers/web/kill?signal=odd".into(),
            "",
            400,
            "cannot kill container: web: invalid signal: odd",
        ),
        (
            "POST /containers/web/kill?signal=99".into(),
            "",
            400,
            "cannot kill container: web: the linux daemon does not support signal 99",
        ),
        ("POST /containers/web/kill".into(), "", 409, &not_running),
        (
            "POST /containers/web/resize?h=1".into(),
            "",
            400,
            "invalid resize width \"\": invalid syntax",
        ),
        (
            "POST /containers/web/resize?h=x&w=1".into(),
            "",
            400,
            "invalid resize height \"x\": invalid syntax",
        ),
        (
            "POST /containers/web/resize?h=4294967296&w=1".into(),
            "",
            400,
            "invalid resize height \"4294967296\": value out of range",
        ),
        (
            "POST /containers/create".into(),
            r#"{"Image": "tiny:1", "HostConfig": {"PidMode": "odd"}}"#,
            400,
            "invalid PID mode: odd",
        ),
        (
            "POST /containers/create".into(),
            r#"{"Image": "tiny:1", "HostConfig": {"PidMode": "container:"}}"#,
            400,
            "invalid PID mode: container:",
        ),
        (
            "POST /containers/create".into(),
            r#"{"Image": "tiny:1", "Hostname": "h", "HostConfig": {"NetworkMode": "container:web"}}"#,
            400,
            "conflicting options: hostname and the network mode",
        ),
        (
            "POST /containers/create".into(),
            r#"{"Image": "tiny:1", "HostConfig": {"NetworkMode": "container:web", "PortBindings": {"80/tcp": [{}]}}}"#,
            400,
            "conflicting options: port publishing and the container type network mode",
        ),
        (
            "POST /containers/create".into(),
            r#"{"Image": "tiny:1", "HostConfig": {"NetworkMode": "container:"}}"#,
            400,
            "invalid network mode: invalid container format container:<name|id>",
        ),
        (
            "POST /containers/create?name=joins-net".into(),
            r#"{"Image": "tiny:1", "Cmd": ["x"], "HostConfig": {"NetworkMode": "container:web"}}"#,
            201,
            "",
        ),
        (
            "POST /containers/joins-net/start".into(),
            "",
            409,
            "cannot join network namespace of a non running container: container web is created",
        ),
        (
            "POST /networks/none/connect".into(),
            r#"{"Container": "joins-net"}"#,
            400,
            "container sharing network namespace with another container or host cannot be connected to any other network",
        ),
        (
            "POST /containers/create".into(),
            r#"{"Image": "tiny:1", "Cmd": ["x"], "HostConfig": {"IpcMode": "container:none"}}"#,
            400,
            "No such container: none",
        ),
        (
            "POST /containers/create".into(),
            r#"{"Image": "tiny:1", "HostConfig": {"VolumesFrom": ["none"]}}"#,
            400,
            "No such container: none",
        ),
        (
            "POST /containers/create".into(),
            r#"{"Image": "tiny:sha256:0"}"#,
            400,
            "invalid reference format",
        ),
        (
            "POST /volumes/create".into(),
            "{} more",
            400,
            "unexpected content after JSON",
        ),
        (
            "POST /networks/create".into(),
            r#"{"Name": "host"}"#,
            403,
            "operation is not permitted on predefined host network",
        ),
        (
            "POST /networks/create".into(),
            r#"{"Name": "x", "Driver": "odd"}"#,
            404,
            "plugin \"odd\" not found",
        ),
        (
            "POST /networks/host/connect".into(),
            r#"{"Container": "web"}"#,
            400,
            "cannot connect container to host network - container must be created in host network mode",
        ),
        (
            "POST /networks/bridge/disconnect".into(),
            r#"{"Container": "none", "Force": true}"#,
            404,
            "endpoint none not found",
        ),
        (
            "POST /images/tiny:1/tag?repo=docker.io/library/sha256&tag=x".into(),
            "",
            400,
            "refusing to create an ambiguous tag using digest algorithm as name",
        ),
        (
            "POST /images/create?fromImage=x&platform=odd".into(),
            "",
            400,
            "\"odd\": unknown operating system or architecture: invalid argument",
        ),
        (
            "POST /commit?container=web&changes=BOGUS+x".into(),
            "{}",
            400,
            "BOGUS is not a valid change command",
        ),
        (
            "GET /images/get?names=tiny%3A1&names=none".into(),
            "",
            404,
            "No such image: none",
        ),
        (
            "GET /containers/web/archive".into(),
            "",
            400,
            "bad parameter: path cannot be empty",
        ),
    ];
    for (line, body, status, message) in cases {
        let (got, _, text) = daemon.ask(&line, body).await;
        let value: Value = serde_json::from_str(&text).unwrap_or_default();
        let told = value["message"].as_str().unwrap_or_default();
        assert_eq!((got, told), (status, message), "{line} {body}");
    }
}
