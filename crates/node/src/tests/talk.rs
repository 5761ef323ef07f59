//! Logs and exec: the right container, upstream's words.

use futures::StreamExt;
use serde_json::json;

use super::fake::World;
use crate::LogRequest;

async fn logs(world: &World, request: LogRequest) -> Result<String, (u16, String)> {
    let stream = world
        .node
        .as_ref()
        .unwrap()
        .logs(request)
        .await
        .map_err(|e| (e.status, e.message))?;
    let work = stream.map(Result::unwrap).collect::<Vec<_>>();
    let chunks = tokio::time::timeout(super::fake::DEADLINE, work)
        .await
        .expect("the log never ends");
    Ok(String::from_utf8(chunks.concat()).unwrap())
}

fn of(pod: &str) -> LogRequest {
    LogRequest {
        namespace: "default".into(),
        pod: pod.into(),
        ..LogRequest::default()
    }
}

#[tokio::test]
async fn logs_of_now_and_before() {
    let world = World::new().await;
    let container = |n: &str| json!({"name": n, "image": "app:1", "command": ["run"], "args": [n]});
    world
        .create("one", json!({"containers": [container("a")]}))
        .await;
    world
        .create(
            "two",
            json!({"containers": [container("b"), container("c")], "initContainers": [
        {"name": "i", "image": "app:1", "command": ["exit", "0"]}]}),
        )
        .await;
    world.until_ready("one").await;
    world.until_ready("two").await;
    assert_eq!(logs(&world, of("one")).await.unwrap(), "run a\n");
    let named = |pod: &str, c: &str| LogRequest {
        container: Some(c.into()),
        ..of(pod)
    };
    assert_eq!(logs(&world, named("two", "c")).await.unwrap(), "run c\n");
    assert_eq!(logs(&world, named("two", "i")).await.unwrap(), "exit 0\n");
    let check = async |request: LogRequest, status: u16, message: &str| {
        assert_eq!(
            logs(&world, request).await,
            Err((status, message.to_owned()))
        );
    };
    check(of("none"), 404, "pods \"none\" not found").await;
    check(of("two"), 400, "a container name must be specified for pod two, choose one of: [b c] or one of the init containers: [i]").await;
    check(
        named("two", "x"),
        400,
        "container x is not valid for pod two",
    )
    .await;
    check(
        LogRequest {
            previous: true,
            ..of("one")
        },
        400,
        "previous terminated container \"a\" in pod \"one\" not found",
    )
    .await;
    // A follower's stream ends with the container.
    let follow = LogRequest {
        follow: true,
        ..of("one")
    };
    let id = world.engine.id_of("a").unwrap();
    let (text, ()) = tokio::join!(logs(&world, follow), async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        world.engine.end(&id, 1, None, false);
    });
    assert_eq!(text.unwrap(), "run a\n");
    world
        .until("one", |p| {
            p["status"]["containerStatuses"][0]["restartCount"] == 1
        })
        .await;
    assert_eq!(
        logs(
            &world,
            LogRequest {
                previous: true,
                ..of("one")
            }
        )
        .await
        .unwrap(),
        "run a\n"
    );
}

#[tokio::test]
async fn waiting_containers_have_no_logs_and_take_no_commands() {
    let world = World::new().await;
    world
        .create(
            "p",
            json!({"containers": [{"name": "c", "image": "missing:1"}]}),
        )
        .await;
    world
        .until("p", |p| {
            p["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == "ErrImagePull"
        })
        .await;
    let error = logs(&world, of("p")).await.unwrap_err();
    assert_eq!(
        error,
        (
            400,
            "container \"c\" in pod \"p\" is waiting to start: trying and failing to pull image"
                .into()
        )
    );
    let node = world.node.as_ref().unwrap();
    let check = async |container: Option<&str>, status: u16, message: &str| {
        let error = node
            .check_exec("default", "p", container)
            .await
            .unwrap_err();
        assert_eq!((error.status, error.message.as_str()), (status, message));
    };
    check(None, 404, "container not found (\"c\")").await;
    check(Some("x"), 400, "container x is not valid for pod p").await;
    let error = node.check_exec("default", "q", None).await.unwrap_err();
    assert_eq!(
        (error.status, error.message.as_str()),
        (404, "pods \"q\" not found")
    );
}

#[tokio::test]
async fn the_previous_log_of_a_crash_loop_is_the_last_one() {
    let world = World::new().await;
    world
        .create(
            "p",
            json!({"containers": [{"name": "c", "image": "app:1", "command": ["exit", "1"]}]}),
        )
        .await;
    let runs = || world.engine.runs.lock().len();
    loop {
        world
            .until("p", |p| {
                let status = &p["status"]["containerStatuses"][0];
                status["state"]["waiting"]["reason"] == "CrashLoopBackOff"
                    && status["restartCount"] == runs() - 1
            })
            .await;
        let attempts = runs();
        let dir = world.folder("p").await.join("c");
        for n in 0..attempts {
            std::fs::write(
                dir.join(format!("{n}.log")),
                format!("2026-01-01T00:00:00Z stdout F attempt {n}\n"),
            )
            .unwrap();
        }
        let shown = logs(&world, of("p")).await.unwrap();
        let previous = LogRequest {
            previous: true,
            ..of("p")
        };
        let before = logs(&world, previous).await.unwrap();
        // another restart wrote a log of its own
        if runs() == attempts {
            let last = format!("attempt {}\n", attempts - 1);
            assert_eq!((&shown, &before), (&last, &last));
            return;
        }
    }
}
