//! From the API call that creates a Pod to the watch event that says it is Ready, one after the other and ten at a time, on
//! a whole platform; in turns with `podman kube play` of the same Pod and `podman run --detach` of the same image.
//!
//! `cargo bench -p knarr --bench pod_latency` as root. `KNARR_BENCH_PODS` changes the hundred; podman gets a fifth of them.
//!
//! knarr's Pod does more: an API write and a status write to disk, a network of its own with an address. podman is a process
//! that is started, where ours is asked over HTTPS; which network its Pods could have here is printed.

mod common;

use common::{
    Platform, Result, figures::Figures, isolated, mb, memory, podman::OwnPodman, ready::Pods,
    setting,
};
use std::time::Duration;

const AT_ONCE: usize = 10;
/// podman's share of the rounds.
const RIVALS: usize = 5;

fn main() -> Result<()> {
    isolated(bench())
}

async fn bench() -> Result<()> {
    let count = setting("KNARR_BENCH_PODS", 100)? as usize;
    let platform = Platform::start()?;
    platform.pack_busybox()?;
    let podman = OwnPodman::new(platform.data.path(), platform.data.path());
    let network = podman.as_ref().ok().map(OwnPodman::network);
    let pods = Pods::new(platform.client().await?);
    // the first ones warm everything that is lazy
    for n in 0..3 {
        pods.one(format!("warm-{n}")).await?;
    }
    let mut alone = Figures::times("create → Ready, one after the other");
    for n in 0..count {
        alone.took("knarr", pods.one(format!("alone-{n}")).await?);
        if n % RIVALS == 0 {
            let name = format!("one-{n}");
            alone.attempt("podman kube play", || {
                played(&podman, &network, &[name]).map(first)
            });
            alone.attempt("podman run", || started(&podman, 1).map(first));
        }
    }
    let mut together = Figures::times("create → Ready, ten at a time");
    for round in 0..count.div_ceil(AT_ONCE) {
        let all = (0..AT_ONCE).map(|n| pods.one(format!("ten-{round}-{n}")));
        for took in futures::future::join_all(all).await {
            together.took("knarr", took?);
        }
        if round % RIVALS == 0 {
            let names: Vec<String> = (0..AT_ONCE).map(|n| format!("t{round}-{n}")).collect();
            several(
                &mut together,
                "podman kube play",
                played(&podman, &network, &names),
            );
            several(&mut together, "podman run", started(&podman, AT_ONCE));
        }
    }
    let kept = memory(platform.pid())?;
    if let Some(Ok(network)) = network {
        println!("podman's Pods have the network: {network}");
    }
    alone.print();
    together.print();
    println!(
        "\nthe platform after these Pods: {:.1} MB PSS, of it heap and stacks {:.1} MB",
        mb(kept.pss),
        mb(kept.anonymous)
    );
    Ok(())
}

type Podman = Result<OwnPodman>;

fn first(all: Vec<Duration>) -> f64 {
    all.first().map_or(f64::NAN, |took| common::ms(*took))
}

fn several(figures: &mut Figures, row: &str, took: Result<Vec<Duration>>) {
    match took {
        Ok(all) => all.into_iter().for_each(|one| figures.took(row, one)),
        Err(e) => figures.broken(row, &e),
    }
}

fn there(podman: &Podman) -> Result<&OwnPodman> {
    podman.as_ref().map_err(|e| e.to_string().into())
}

/// Does `work` so many times at once.
fn at_once<T: Send>(count: usize, work: impl Fn(usize) -> Result<T> + Sync) -> Result<Vec<T>> {
    let work = &work;
    let all = std::thread::scope(|scope| {
        let begun: Vec<_> = (0..count)
            .map(|n| scope.spawn(move || work(n).map_err(|e| e.to_string())))
            .collect();
        begun
            .into_iter()
            .map(|t| t.join().map_err(|_| "a thread panicked".to_string())?)
            .collect::<std::result::Result<Vec<T>, String>>()
    });
    Ok(all?)
}

fn played(
    podman: &Podman,
    network: &Option<Result<&'static str>>,
    names: &[String],
) -> Result<Vec<Duration>> {
    let podman = there(podman)?;
    let network = match network {
        Some(Ok(network)) => *network,
        Some(Err(e)) => return Err(e.to_string().into()),
        None => return Err("podman doesn't work here".into()),
    };
    let files: Vec<_> = names.iter().map(|n| podman.pod(n)).collect::<Result<_>>()?;
    let took = at_once(names.len(), |n| podman.play(&files[n], network));
    for file in &files {
        podman.down(file)?;
    }
    took
}

fn started(podman: &Podman, count: usize) -> Result<Vec<Duration>> {
    let podman = there(podman)?;
    let all = at_once(count, |_| podman.start())?;
    for (_, id) in &all {
        podman.remove(id)?;
    }
    Ok(all.into_iter().map(|(took, _)| took).collect())
}
