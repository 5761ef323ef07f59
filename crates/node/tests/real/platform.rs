//! A platform in a process of its own: `platform <dir> <cgroup parent>`, until it's killed. Its address is in `<dir>/kubeconfig`.

use std::path::PathBuf;

use crate::world;

pub fn main(args: &[String]) -> ! {
    let [dir, cgroup_parent] = args else {
        eprintln!("usage: platform <dir> <cgroup parent>");
        std::process::exit(2);
    };
    let dir = PathBuf::from(dir);
    let tokio = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    tokio.block_on(async {
        let api = {
            let dir = dir.clone();
            tokio::task::spawn_blocking(move || world::api_server(&dir))
                .await
                .unwrap()
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let config = api
            .kubeconfig(listener.local_addr().unwrap(), "test")
            .unwrap();
        std::fs::write(dir.join("kubeconfig.new"), config).unwrap();
        std::fs::rename(dir.join("kubeconfig.new"), dir.join("kubeconfig")).unwrap();
        let server = api.clone();
        tokio::spawn(async move { server.serve(listener).await.unwrap() });
        let _here = world::start_node(&dir, cgroup_parent, &api).await;
        std::future::pending::<()>().await;
    });
    std::process::exit(0)
}
