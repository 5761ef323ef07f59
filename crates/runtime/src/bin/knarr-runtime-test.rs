//! The smallest program that can be a runtime's caller: it takes the runtime's roles, and for tests it runs or deletes containers until it is killed.

use std::path::PathBuf;

use knarr_runtime::{Config, ContainerSpec, Runtime, SandboxSpec, dispatch_role};

fn main() {
    dispatch_role();
    let args: Vec<String> = std::env::args().collect();
    let [_, command, root, cgroup_parent, lower] = args.as_slice() else {
        eprintln!("usage: knarr-runtime-test churn <root> <cgroup parent> <rootfs>");
        std::process::exit(2);
    };
    if command != "churn" {
        eprintln!("unknown command {command:?}: only churn is known");
        std::process::exit(2);
    }
    let config = Config {
        root: PathBuf::from(root),
        exe: std::env::current_exe().unwrap_or_default(),
        cgroup_parent: cgroup_parent.clone(),
        host: Default::default(),
    };
    let done = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(|e| e.to_string())
        .and_then(|tokio| tokio.block_on(churn(config, lower)));
    if let Err(text) = done {
        eprintln!("{text}");
        std::process::exit(1);
    }
}

/// Makes and removes sandboxes and containers, some short-lived and some not, for ever.
async fn churn(config: Config, lower: &str) -> Result<(), String> {
    let runtime = Runtime::open(config).map_err(|e| e.to_string())?;
    // says to the test that adoption is over and the churn begins
    println!("ready {}", runtime.containers().len());
    for round in 0u64.. {
        let name = format!("{}-{round}", std::process::id());
        let sandbox = SandboxSpec {
            id: format!("s-{name}"),
            hostname: "churn".into(),
            share_pid: round % 3 == 0,
            ..SandboxSpec::default()
        };
        let sandbox_id = sandbox.id.clone();
        runtime
            .create_sandbox(sandbox)
            .await
            .map_err(|e| e.to_string())?;
        for (i, command) in ["exit 7", "sleep 1000"].iter().enumerate() {
            let id = format!("c-{name}-{i}");
            let spec = ContainerSpec {
                id: id.clone(),
                sandbox: sandbox_id.clone(),
                lower: vec![PathBuf::from(lower)],
                args: ["/bin/sh", "-c", command].map(String::from).to_vec(),
                cgroup: format!("pod{name}/{id}"),
                ..ContainerSpec::default()
            };
            runtime.run(spec).await.map_err(|e| e.to_string())?;
            if i == 0 {
                runtime.wait(&id).await.map_err(|e| e.to_string())?;
            }
            if round % 2 == 0 {
                runtime.delete(&id).await.map_err(|e| e.to_string())?;
            }
        }
        if round % 2 == 0 {
            runtime
                .delete_sandbox(&sandbox_id)
                .await
                .map_err(|e| e.to_string())?;
        }
    }
    Ok(())
}
