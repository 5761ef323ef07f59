//! `kill -9` of the platform: containers outlive it, what it acknowledged is there, what it had begun it ends.

use std::sync::{
    Mutex,
    atomic::{AtomicBool, Ordering::Relaxed},
};

use crate::crew::{Crew, crew, eventually};

const ROUNDS: usize = 50;

fn pods(crew: &Crew, app: &str) -> Vec<(String, String)> {
    let all = crew.containers("demo").into_iter();
    all.filter(|(name, _)| name.starts_with(app)).collect()
}

struct End<'a>(&'a AtomicBool);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

#[test]
fn fifty_kills_lose_nothing() {
    crew(|crew| {
        crew.busybox();
        crew.file("app/compose.yaml", crate::lifecycle::APP);
        crew.serve();
        crew.ok(&["up", "app"]);
        let keeper = pods(crew, "keeper");
        assert_eq!(keeper.len(), 1);
        let acknowledged = Mutex::new(Vec::<String>::new());
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            // Writes go on all the time; only those that kubectl reports as done count.
            let writer = scope.spawn(|| {
                for number in 0.. {
                    if done.load(Relaxed) {
                        return;
                    }
                    let name = format!("w{number}");
                    let value = format!("--from-literal=n={number}");
                    if crew
                        .kubectl(&["-n", "demo", "create", "configmap", &name, &value])
                        .status
                        .success()
                    {
                        acknowledged.lock().unwrap().push(name);
                    }
                }
            });
            // Also when a round fails, or the scope would wait for the writer for ever.
            let _end = End(&done);
            for round in 0..ROUNDS {
                // Every other round in the midst of a rollout.
                let rolling = round % 2 == 1;
                if rolling {
                    crew.kube(&format!("-n demo set env deployment/web ROUND={round}"));
                }
                // Not always at the same moment of what goes on.
                std::thread::sleep(std::time::Duration::from_millis(round as u64 * 37 % 200));
                let before = pods(crew, "web");
                crew.kill();
                crew.serve();
                assert_eq!(
                    pods(crew, "keeper"),
                    keeper,
                    "round {round}: the same container runs"
                );
                if rolling {
                    crew.kube("-n demo rollout status deployment/web --timeout=180s");
                } else {
                    assert_eq!(
                        pods(crew, "web"),
                        before,
                        "round {round}: the same containers run"
                    );
                }
                eventually("the published port serves", || {
                    crew.http("http://127.0.0.1:8000/")
                });
            }
            done.store(true, Relaxed);
            writer.join().unwrap();
        });
        let there = crew.kube("-n demo get configmaps -o name");
        let there = there.lines().collect::<std::collections::HashSet<_>>();
        let acknowledged = acknowledged.into_inner().unwrap();
        println!(
            "{} acknowledged writes over {ROUNDS} kills",
            acknowledged.len()
        );
        assert!(
            acknowledged.len() >= ROUNDS / 5,
            "the writer hardly wrote: {}",
            acknowledged.len()
        );
        for name in acknowledged {
            assert!(
                there.contains(format!("configmap/{name}").as_str()),
                "{name} was acknowledged and is lost"
            );
        }
        let starts = crew.ok(&["exec", "-p", "demo", "keeper", "--", "cat", "/d/starts"]);
        assert_eq!(starts.lines().count(), 1, "keeper was never started again");
    });
}
