//! kill -9 while clients write over HTTPS, again and again: every acknowledged write is there afterwards, and a watch goes
//! on from the last revision it saw, with every event once.
//!
//! `KNARR_KILL_ROUNDS=200 cargo test -p knarr-api --test kill` runs more rounds than the usual 20.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use futures::StreamExt;
use http::{Method, Request};
use http_body_util::BodyExt;
use kube::{Client, client::Body};
use serde_json::{Value, json};

const DIR_VARIABLE: &str = "KNARR_API_KILL_TEST_DIR";
const ROUNDS: usize = 20;
const WRITERS: u64 = 8;
/// Objects of each writer, written in turn.
const OBJECTS: u64 = 10;
/// Time between a writer's writes: 1,000 a second of all.
const PACE: Duration = Duration::from_millis(8);
const PATIENCE: Duration = Duration::from_secs(120);
const PATH: &str = "/api/v1/namespaces/default/configmaps";

/// Not a test of its own: the server that gets killed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "run by kill_nine_loses_nothing_over_https"]
async fn the_victim() {
    let Some(dir) = std::env::var_os(DIR_VARIABLE) else {
        panic!("only kill_nine_loses_nothing_over_https runs this")
    };
    let dir = Path::new(&dir);
    let server = knarr_api::ApiServer::for_tests(dir);
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    std::fs::write(
        dir.join("kubeconfig"),
        server.kubeconfig(address, "x").unwrap(),
    )
    .unwrap();
    println!("\nREADY");
    server.serve(listener).await.unwrap();
}

struct Victim(Child);
impl Drop for Victim {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn start(dir: &Path) -> Victim {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "the_victim",
            "--ignored",
            "--nocapture",
            "--test-threads=1",
        ])
        .env(DIR_VARIABLE, dir)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut ready = lines.map_while(Result::ok).filter(|l| l == "READY");
    assert!(ready.next().is_some(), "the server didn't start");
    Victim(child)
}

async fn client(dir: &Path) -> Client {
    let kubeconfig = kube::config::Kubeconfig::read_from(dir.join("kubeconfig")).unwrap();
    let config = kube::Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await;
    Client::try_from(config.unwrap()).unwrap()
}

/// One answer's JSON; None when the server died on it.
async fn send(client: &Client, method: Method, path: &str, body: Value) -> Option<(u16, Value)> {
    let body = if body.is_null() {
        vec![]
    } else {
        body.to_string().into_bytes()
    };
    let request = Request::builder()
        .method(method)
        .uri(path)
        .header("content-type", "application/json");
    let response = client
        .send(request.body(Body::from(body)).unwrap())
        .await
        .ok()?;
    let code = response.status().as_u16();
    let bytes = response.into_body().collect().await.ok()?.to_bytes();
    Some((code, serde_json::from_slice(&bytes).ok()?))
}

/// A write as it was acknowledged or seen: revision → object and count.
type Log = Arc<Mutex<BTreeMap<u64, (String, u64)>>>;

fn entry(o: &Value) -> (u64, (String, u64)) {
    let text = |p: &str| o.pointer(p).and_then(Value::as_str).unwrap_or_default();
    let revision = text("/metadata/resourceVersion").parse().unwrap();
    let count = text("/data/n").parse().unwrap_or_default();
    (revision, (text("/metadata/name").to_string(), count))
}

/// Writes until the server is gone; `count` goes on in the next round.
async fn write(
    client: Client,
    writer: u64,
    mut count: u64,
    acknowledged: Log,
    done: Arc<AtomicBool>,
) -> u64 {
    let mut tick = tokio::time::interval(PACE);
    while !done.load(Ordering::Relaxed) {
        tick.tick().await;
        count += 1;
        let name = format!("w{writer}-{}", count % OBJECTS);
        let body = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"n": count.to_string()}});
        let put = send(
            &client,
            Method::PUT,
            &format!("{PATH}/{name}"),
            body.clone(),
        )
        .await;
        let answer = match put {
            Some((404, _)) => send(&client, Method::POST, PATH, body).await,
            answer => answer,
        };
        match answer {
            Some((200 | 201, o)) => {
                let (revision, what) = entry(&o);
                let before = acknowledged.lock().unwrap().insert(revision, what);
                assert_eq!(before, None, "revision {revision} was given twice");
            }
            Some((code, o)) => panic!("{code}: {o}"),
            None => break,
        }
    }
    count
}

/// Watches on from a revision until the server is gone. Returns the last revision, and whether it had to list again.
async fn watch(client: Client, mut last: u64, seen: Log) -> (u64, bool) {
    let path = format!("{PATH}?watch=1&resourceVersion={last}");
    let request = Request::get(path).body(Body::empty()).unwrap();
    let Ok(response) = client.send(request).await else {
        return (last, false);
    };
    let mut stream = response.into_body().into_data_stream();
    let mut rest: Vec<u8> = Vec::new();
    while let Some(Ok(chunk)) = stream.next().await {
        rest.extend_from_slice(&chunk);
        while let Some(end) = rest.iter().position(|b| *b == b'\n') {
            let line: Vec<u8> = rest.drain(..=end).collect();
            let event: Value = serde_json::from_slice(&line).unwrap();
            if event["type"] == "ERROR" {
                assert_eq!(event["object"]["code"], 410, "{event}");
                return (last, true);
            }
            let (revision, what) = entry(&event["object"]);
            assert!(revision > last, "{revision} after {last}: {event}");
            last = revision;
            seen.lock().unwrap().insert(revision, what);
        }
    }
    (last, false)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_nine_loses_nothing_over_https() {
    let rounds = std::env::var("KNARR_KILL_ROUNDS").ok();
    let rounds: usize = rounds.and_then(|r| r.parse().ok()).unwrap_or(ROUNDS);
    let dir = tempfile::tempdir().unwrap();
    let (acknowledged, seen) = (Log::default(), Log::default());
    let mut counts = vec![0; WRITERS as usize];
    let (mut last, mut lists, mut writing) = (0, 0, Duration::ZERO);
    for round in 0..=rounds {
        let mut victim = start(dir.path());
        let client = client(dir.path()).await;
        let listed = tokio::time::timeout(PATIENCE, send(&client, Method::GET, PATH, Value::Null));
        let (code, list) = listed.await.unwrap().expect("a list");
        assert_eq!(code, 200, "{list}");
        if round == 0 {
            last = list["metadata"]["resourceVersion"]
                .as_str()
                .unwrap()
                .parse()
                .unwrap();
        }
        // what is there, by name; every acknowledged write is, or a later one to the same object
        let there: BTreeMap<String, (u64, u64)> = list["items"]
            .as_array()
            .unwrap()
            .iter()
            .map(entry)
            .map(|(revision, (name, count))| (name, (revision, count)))
            .collect();
        for (revision, (name, count)) in acknowledged.lock().unwrap().iter() {
            let (now, stored) = there
                .get(name)
                .unwrap_or_else(|| panic!("round {round}: {name} is gone"));
            assert!(
                now >= revision && stored >= count,
                "round {round}: {name} had {count} acknowledged at {revision}, {stored} is there at {now}"
            );
        }
        let done = Arc::new(AtomicBool::new(false));
        let watcher = tokio::spawn(watch(client.clone(), last, seen.clone()));
        let started = Instant::now();
        let mut writers = Vec::new();
        if round < rounds {
            for (writer, count) in counts.iter().enumerate() {
                writers.push(tokio::spawn(write(
                    client.clone(),
                    writer as u64,
                    *count,
                    acknowledged.clone(),
                    done.clone(),
                )));
            }
            // some writes of this round, however slow the machine is, and then some time more
            let before = acknowledged.lock().unwrap().len();
            let begun = async {
                while acknowledged.lock().unwrap().len() < before + 2 {
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            };
            tokio::time::timeout(PATIENCE, begun)
                .await
                .expect("the round's first writes");
            tokio::time::sleep(Duration::from_millis(rand::random_range(50..500))).await;
        } else {
            // the last round only lets the watch see the end of the one before
            let newest = there
                .values()
                .map(|(revision, _)| *revision)
                .max()
                .unwrap_or(0);
            let caught_up = async {
                while seen
                    .lock()
                    .unwrap()
                    .keys()
                    .next_back()
                    .is_none_or(|r| *r < newest)
                {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            };
            tokio::time::timeout(PATIENCE, caught_up)
                .await
                .expect("the watch catches up");
        }
        victim.0.kill().unwrap();
        victim.0.wait().unwrap();
        writing += started.elapsed();
        done.store(true, Ordering::Relaxed);
        for (count, writer) in counts.iter_mut().zip(writers) {
            *count = tokio::time::timeout(PATIENCE, writer)
                .await
                .unwrap()
                .unwrap();
        }
        let (at, expired) = tokio::time::timeout(PATIENCE, watcher)
            .await
            .unwrap()
            .unwrap();
        last = at;
        if expired {
            // the log no longer reached back: as told, from what is there
            lists += 1;
            let mut seen = seen.lock().unwrap();
            for (revision, what) in acknowledged.lock().unwrap().iter() {
                seen.entry(*revision).or_insert_with(|| what.clone());
            }
            last = seen.keys().next_back().copied().unwrap_or(last);
        }
    }
    let (acknowledged, seen) = (acknowledged.lock().unwrap(), seen.lock().unwrap());
    for (revision, what) in acknowledged.iter() {
        assert_eq!(
            seen.get(revision),
            Some(what),
            "the watch missed revision {revision}"
        );
    }
    let rate = acknowledged.len() as f64 / writing.as_secs_f64();
    println!(
        "{rounds} rounds, {} writes acknowledged ({rate:.0} a second), {} events seen, {lists} times listed again",
        acknowledged.len(),
        seen.len()
    );
    assert!(acknowledged.len() > rounds, "{} writes", acknowledged.len());
    assert!(lists * 10 <= rounds, "listed again {lists} times");
}
