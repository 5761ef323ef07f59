//! Containers without a platform: subnets and addresses of their own, links, ports out of a range, and Docker's exit codes.

use crate::crew::{Crew, crew, text};

fn idle<'a>(name: &'a str, flags: &[&'a str]) -> Vec<&'a str> {
    [
        &["run", "-d", "--name", name],
        flags,
        &["busybox:1", "sleep", "1000"],
    ]
    .concat()
}

fn refused(crew: &Crew, arguments: &[&str], code: i32, part: &str) {
    let got = crew.knarr(arguments);
    let said = text(&got);
    assert_eq!(got.status.code(), Some(code), "{arguments:?}: {said}");
    assert!(said.contains(part), "{arguments:?}: {said}");
}

#[test]
fn subnets_and_addresses() {
    crew(|crew| {
        crew.busybox();
        let subnet = ["--subnet", "10.231.0.0/24", "--gateway", "10.231.0.254"];
        let range = ["--ip-range", "10.231.0.128/26", "mine"];
        crew.ok(&[&["network", "create"], &subnet[..], &range].concat());
        crew.ok(&["network", "create", "plain"]);
        let config = "{{json .IPAM.Config}}";
        assert_eq!(
            crew.ok(&["network", "inspect", "-f", config, "mine"]),
            "[{\"Gateway\":\"10.231.0.254\",\"IPRange\":\"10.231.0.128/26\",\"Subnet\":\"10.231.0.0/24\"}]\n"
        );
        let again = ["network", "create", "--subnet", "10.231.0.0/25", "other"];
        refused(crew, &again, 1, "Pool overlaps");
        for (flags, part) in [
            (
                &["--network", "plain", "--ip", "10.231.0.9"][..],
                "user configured subnets",
            ),
            (
                &["--network", "mine", "--ip", "10.232.0.9"],
                "no configured subnet",
            ),
            (&["--ip", "10.231.0.9"], "user defined networks only"),
        ] {
            refused(crew, &idle("none", flags), 125, part);
        }

        let place = "name=mine,ip=10.231.0.7,alias=well";
        crew.ok(&idle(
            "fixed",
            &["--network", place, "--mac-address", "02:42:ac:11:00:99"],
        ));
        let where_ = "{{with .NetworkSettings.Networks.mine}}{{.IPAddress}}/{{.IPPrefixLen}} {{.Gateway}}{{end}}";
        assert_eq!(
            crew.ok(&["inspect", "-f", where_, "fixed"]),
            "10.231.0.7/24 10.231.0.254\n"
        );
        refused(
            crew,
            &idle("twin", &["--network", "mine", "--ip", "10.231.0.7"]),
            125,
            "Address already in use",
        );
        crew.ok(&idle("other", &["--network", "mine"]));
        assert!(
            crew.ok(&["inspect", "-f", where_, "other"])
                .starts_with("10.231.0.128/24 ")
        );
        crew.ok(&idle("alien", &["--network", "plain"]));
        let inside =
            |name: &str, script: &str| text(&crew.knarr(&["exec", name, "sh", "-c", script]));
        assert_eq!(
            inside("fixed", "cat /sys/class/net/eth0/address"),
            "02:42:ac:11:00:99\n"
        );
        let found = inside(
            "other",
            "nslookup well 127.0.0.11; ping -c 1 -W 5 well >/dev/null && echo reached",
        );
        assert!(
            found.contains("10.231.0.7") && found.contains("reached"),
            "{found}"
        );
        let far = inside(
            "alien",
            "ping -c 1 -W 1 10.231.0.7 >/dev/null || echo not reached",
        );
        assert_eq!(far, "not reached\n");

        // one that runs comes in, and the address goes with it
        crew.ok(&["network", "connect", "--ip", "10.231.0.8", "mine", "alien"]);
        let near = inside(
            "alien",
            "ping -c 1 -W 5 10.231.0.7 >/dev/null && echo reached",
        );
        assert_eq!(near, "reached\n");
        crew.ok(&["restart", "-t", "0", "fixed"]);
        assert!(
            crew.ok(&["inspect", "-f", where_, "fixed"])
                .starts_with("10.231.0.7/24 ")
        );
        crew.ok(&["rm", "-f", "fixed", "other", "alien"]);
        crew.ok(&["network", "rm", "mine", "plain"]);
    });
}

#[test]
fn links() {
    crew(|crew| {
        crew.busybox();
        crew.ok(&idle("db", &["--expose", "5432", "-e", "PASSWORD=x"]));
        let look = "ping -c 1 -W 5 store >/dev/null && echo reached; env | grep ^STORE_ | sort";
        let ip = crew.ok(&["inspect", "-f", "{{.NetworkSettings.IPAddress}}", "db"]);
        let ip = ip.trim();
        let said = crew.ok(&[
            "run",
            "--rm",
            "--name",
            "app",
            "--link",
            "db:store",
            "busybox:1",
            "sh",
            "-c",
            look,
        ]);
        let wanted = format!(
            "reached\nSTORE_ENV_PASSWORD=x\nSTORE_NAME=/app/store\nSTORE_PORT=tcp://{ip}:5432\nSTORE_PORT_5432_TCP=tcp://{ip}:5432\n\
             STORE_PORT_5432_TCP_ADDR={ip}\nSTORE_PORT_5432_TCP_PORT=5432\nSTORE_PORT_5432_TCP_PROTO=tcp\n"
        );
        assert_eq!(said, wanted);
        refused(
            crew,
            &["run", "--link", "nobody", "busybox:1"],
            125,
            "could not get container for nobody",
        );

        // who starts again may have another address
        crew.ok(&idle("app", &["--link", "db"]));
        crew.ok(&["stop", "-t", "0", "db"]);
        crew.ok(&idle("between", &[]));
        crew.ok(&["start", "db"]);
        let found = crew.ok(&[
            "exec",
            "app",
            "sh",
            "-c",
            "ping -c 1 -W 5 db >/dev/null && grep -c db /etc/hosts",
        ]);
        assert_eq!(found, "1\n");
        crew.ok(&["rm", "--link", "/app/db"]);
        assert_eq!(
            crew.ok(&["inspect", "-f", "{{.HostConfig.Links}}", "app"]),
            "<no value>\n"
        );
        crew.ok(&["rm", "-f", "db", "app", "between"]);
    });
}

#[test]
fn ports_out_of_a_range() {
    crew(|crew| {
        crew.busybox();
        for (name, port) in [("one", "0.0.0.0:18400"), ("two", "0.0.0.0:18401")] {
            crew.ok(&idle(name, &["-p", "18400-18401:80"]));
            assert_eq!(crew.ok(&["port", name, "80"]).trim(), port);
        }
        refused(
            crew,
            &idle("three", &["-p", "18400-18401:80"]),
            125,
            "port is already allocated",
        );
        crew.ok(&["rm", "-f", "one"]);
        crew.ok(&idle("four", &["-p", "18400-18401:80"]));
        assert_eq!(crew.ok(&["port", "four"]), "80/tcp -> 0.0.0.0:18400\n");
        crew.ok(&["rm", "-f", "two", "four"]);
        crew.ok(&idle("told", &["--expose", "3000-3001"]));
        assert_eq!(
            crew.ok(&["ps", "--format", "{{.Ports}}"]),
            "3000/tcp, 3001/tcp\n"
        );
        crew.ok(&["rm", "-f", "told"]);
    });
}

#[test]
fn dockers_exit_codes() {
    crew(|crew| {
        crew.busybox();
        crew.ok(&idle(
            "web",
            &["--restart", "on-failure:3", "-p", "18410:80", "-l", "a=b"],
        ));
        for (line, code, part) in [
            (
                "run --nope busybox:1",
                125,
                "unknown flag: --nope\n\nUsage:  knarr run",
            ),
            (
                "run -d -a stdout busybox:1",
                1,
                "cannot specify both --attach and --detach",
            ),
            (
                "run --pull never none:1",
                125,
                "Run 'knarr run --help' for more information",
            ),
            ("run -p 99999:80 busybox:1", 125, "invalid hostPort: 99999"),
            (
                "create --restart often busybox:1",
                125,
                "unknown policy 'often'",
            ),
            (
                "create --name web busybox:1",
                1,
                "Conflict. The container name \"/web\"",
            ),
            ("exec --nope web true", 125, "unknown flag: --nope"),
            ("exec web", 1, "requires at least 2 arguments"),
            ("exec web nope", 127, "executable file not found"),
            ("exec -w /nope web true", 127, "no such file or directory"),
            ("ps extra", 1, "accepts no arguments"),
            ("ps --filter status=odd", 1, "invalid value for state (odd)"),
            ("update web", 1, "you must provide one or more flags"),
            ("kill -s NOPE web", 1, "invalid signal: NOPE"),
            (
                "network create bridge",
                1,
                "not permitted on predefined bridge network",
            ),
            (
                "network rm host",
                1,
                "pre-defined network and cannot be removed",
            ),
            ("network create -d odd n", 1, "plugin \"odd\" not found"),
            ("rmi none:1", 1, "No such image: none:1"),
            ("inspect nothing", 1, "No such object: nothing"),
            ("network nope", 1, "unknown command: knarr network nope"),
            ("volume create -o type=nfs v", 1, "is not there"),
        ] {
            refused(crew, &line.split(' ').collect::<Vec<_>>(), code, part);
        }
        let policy =
            "{{.HostConfig.RestartPolicy.Name}} {{.HostConfig.RestartPolicy.MaximumRetryCount}}";
        assert_eq!(crew.ok(&["inspect", "-f", policy, "web"]), "on-failure 3\n");
        let ports =
            "{{range $p, $all := .NetworkSettings.Ports}}{{$p}} {{(index $all 0).HostPort}}{{end}}";
        assert_eq!(crew.ok(&["inspect", "-f", ports, "web"]), "80/tcp 18410\n");
        assert_eq!(
            crew.ok(&["network", "ls", "--format", "{{.Name}} {{.Driver}}"]),
            "bridge bridge\nhost host\nnone null\n"
        );
        let inside = crew.ok(&[
            "network",
            "inspect",
            "bridge",
            "-f",
            "{{range .Containers}}{{.Name}}{{end}}",
        ]);
        assert_eq!(inside, "web\n");

        // the same layers are another image all the same
        let root = crew.data.join("root.tar").display().to_string();
        crew.ok(&["export", "-o", &root, "web"]);
        crew.ok(&["import", &root, "twin:1"]);
        crew.ok(&["import", "-c", "ENV A=b", &root, "twin:2"]);
        crew.ok(&["create", "--name", "user", "twin:1", "true"]);
        crew.ok(&["rmi", "twin:2"]);
        refused(crew, &["rmi", "twin:1"], 1, "must force");
        crew.ok(&["rm", "user"]);
        crew.ok(&["rmi", "twin:1"]);
        crew.ok(&["pause", "web"]);
        refused(crew, &["exec", "web", "true"], 1, "is paused, unpause");
        refused(crew, &["pause", "web"], 1, "is already paused");
        crew.ok(&["unpause", "web"]);
        // who is killed has ended when the command has
        crew.ok(&["kill", "web"]);
        refused(crew, &["kill", "web"], 1, "is not running");
        refused(
            crew,
            &["attach", "web"],
            1,
            "cannot attach to a stopped container",
        );
        crew.ok(&["rm", "web"]);

        let folder = crew.data.join("bound");
        std::fs::create_dir_all(&folder).unwrap();
        let device = format!("device={}", folder.display());
        crew.ok(&[
            "volume",
            "create",
            "-o",
            "type=none",
            "-o",
            "o=bind",
            "-o",
            &device,
            "bound",
        ]);
        crew.ok(&[
            "run",
            "--rm",
            "-v",
            "bound:/x",
            "busybox:1",
            "touch",
            "/x/here",
        ]);
        assert!(folder.join("here").exists());
        crew.ok(&["volume", "rm", "bound"]);
        assert!(
            folder.join("here").exists(),
            "the folder isn't the volume's"
        );
        std::fs::remove_dir_all(&folder).unwrap();
        std::fs::remove_file(&root).unwrap();
        let tar = crew.knarr(&["save", "busybox:1"]);
        assert!(tar.status.success() && tar.stdout.len() > 10_000);
    });
}
