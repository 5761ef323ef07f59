//! By which signal a service's containers are asked to end.

use crate::crew::crew;

#[test]
fn the_signal_that_the_file_names_ends_the_container() {
    crew(|crew| {
        crew.busybox();
        crew.serve();
        // Who doesn't hear its signal writes nothing, and is killed in the end.
        crew.file(
            "app/compose.yaml",
            r#"
x-all: &all
  image: busybox:1
  stop_grace_period: 60s
  healthcheck: {test: ["CMD", "ls", "/ready"], interval: 1s, retries: 100}
  volumes: ["./out:/out"]
services:
  own:
    <<: *all
    command: ["sh", "-c", "trap 'echo int > /out/own; exit 0' INT; touch /ready; while true; do sleep 0.1; done"]
    stop_signal: SIGINT
  usual:
    <<: *all
    command: ["sh", "-c", "trap 'echo term > /out/usual; exit 0' TERM; touch /ready; while true; do sleep 0.1; done"]
"#,
        );
        crew.ok(&["up", "app"]);
        crew.ok(&["down", "app"]);
        let said = |name: &str| std::fs::read_to_string(crew.dir().join("app/out").join(name));
        assert_eq!(said("own").unwrap(), "int\n");
        assert_eq!(said("usual").unwrap(), "term\n");
    });
}
