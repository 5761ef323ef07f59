//! What the kernel counts for each container only where the container is in the right tree.

mod common;

use std::path::Path;

use common::World;

#[tokio::test(flavor = "multi_thread")]
async fn pressure_and_block_io_are_counted_where_the_machine_can() {
    let w = World::new();
    w.sandbox("s").await;
    w.run(w.spec("a", "sleep 1000")).await;
    let cgroup = w.rt().cgroup("a").unwrap();
    let usage = w.rt().usage(&cgroup).unwrap();
    // of a hybrid machine, else of one with v2 alone
    let roots = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
    let tree = roots.into_iter().find(|p| p.join("cpu.pressure").exists());
    let told = [
        &usage.pressure.cpu,
        &usage.pressure.memory,
        &usage.pressure.io,
    ];
    assert_eq!(told.map(Option::is_some), [tree.is_some(); 3]);
    let own = cgroup.strip_prefix("/").unwrap();
    for root in tree.into_iter().chain([Path::new("/sys/fs/cgroup/blkio")]) {
        if root.is_dir() {
            let procs = std::fs::read_to_string(root.join(own).join("cgroup.procs"));
            assert_eq!(procs.unwrap().lines().count(), 1, "{}", root.display());
        }
    }
    // one more process is where the first is
    let spec = knarr_runtime::ExecSpec {
        args: ["/bin/sleep", "1000"].map(String::from).into(),
        ..Default::default()
    };
    let _second = w.rt().exec("a", spec).await.unwrap();
    if let Some(root) = tree {
        let procs = std::fs::read_to_string(root.join(own).join("cgroup.procs"));
        assert_eq!(procs.unwrap().lines().count(), 2, "{}", root.display());
    }
}
