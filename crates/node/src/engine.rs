//! What the pod machinery asks of the container runtime and the image store: two small traits, so that it runs on fakes in tests.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use knarr_runtime::{
    Attachment, Container, ContainerSpec, ExecProcess, ExecSpec, Exit, Resources, Runtime, Sandbox,
    SandboxSpec, Usage,
};
use tokio::{io::AsyncReadExt, sync::Notify};

use crate::measure::Operations;

/// Containers and sandboxes; errors are texts meant for Pod status and events.
#[async_trait::async_trait]
pub(crate) trait ContainerEngine: Send + Sync + 'static {
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, String>;
    async fn delete_sandbox(&self, id: &str) -> Result<(), String>;
    fn sandboxes(&self) -> Vec<Sandbox>;
    fn sandbox(&self, id: &str) -> Option<Sandbox> {
        self.sandboxes().into_iter().find(|s| s.spec.id == id)
    }
    async fn run(&self, spec: ContainerSpec) -> Result<Container, String>;
    fn containers(&self) -> Vec<Container>;
    /// Ids of the containers in a sandbox.
    fn containers_in(&self, sandbox: &str) -> Vec<String> {
        let all = self.containers().into_iter().map(|c| c.spec);
        all.filter(|s| s.sandbox == sandbox).map(|s| s.id).collect()
    }
    fn container(&self, id: &str) -> Option<Container>;
    async fn wait(&self, id: &str) -> Result<Exit, String>;
    async fn signal(&self, id: &str, signal: i32) -> Result<(), String>;
    async fn delete(&self, id: &str) -> Result<(), String>;
    async fn exec(&self, id: &str, spec: ExecSpec) -> Result<ExecProcess, String>;
    async fn attach(&self, id: &str) -> Result<Attachment, String>;
    async fn update_resources(&self, id: &str, resources: Resources) -> Result<(), String>;
    /// Sets the limits of a cgroup above containers'.
    async fn set_group(&self, path: &str, resources: Resources) -> Result<(), String>;
    /// Bytes of memory that a container, or all in a cgroup above some, uses. Blocking.
    fn memory(&self, _id: &str) -> Option<u64> {
        None
    }
    fn group_memory(&self, _path: &str) -> Option<u64> {
        None
    }
    /// The cgroup of a container. None here and below: an engine that counts nothing, or what is asked for is gone.
    fn cgroup(&self, _id: &str) -> Option<PathBuf> {
        None
    }
    /// The cgroup that all containers are in.
    fn group(&self) -> Option<PathBuf> {
        None
    }
    /// The folder with what a container has written into its own root file system.
    fn written_dir(&self, _id: &str) -> Option<PathBuf> {
        None
    }
    /// The processes in a cgroup. Blocking.
    fn processes(&self, _group: &Path) -> Vec<i32> {
        Vec::new()
    }
    /// What a cgroup has used. Blocking.
    fn usage(&self, _group: &Path) -> Option<Usage> {
        None
    }
    /// The CPU time that a cgroup has used, in nanoseconds. Blocking.
    fn cpu_ns(&self, _group: &Path) -> Option<u64> {
        None
    }
    /// Runs a command to its end and gives its exit code and the first `output_bytes_max` bytes of its output; dropping the future kills it.
    async fn exec_capture(
        &self,
        id: &str,
        args: Vec<String>,
        output_bytes_max: usize,
    ) -> Result<(i32, Vec<u8>), String>;
}

/// Images by name. `resolve` blocks on files.
#[async_trait::async_trait]
pub(crate) trait ImageSource: Send + Sync + 'static {
    /// Brings an image from its registry, with the first of the logins that is let in; tells `moved` whenever something of
    /// it has come.
    async fn pull(
        &self,
        name: &str,
        _logins: Vec<knarr_image::client::Credential>,
        _moved: Arc<Notify>,
    ) -> Result<knarr_image::Image, String> {
        Err(format!("{name} is nowhere"))
    }
    fn resolve(&self, name: &str) -> Result<Option<knarr_image::Image>, String>;
    /// A folder that changes whenever an image is added, when there is one to watch.
    fn watch_dir(&self) -> Option<PathBuf>;
    /// All of them, one for each name. Blocks on files.
    fn list(&self) -> Result<Vec<knarr_image::Image>, String> {
        Ok(Vec::new())
    }
    /// Takes a name away, and with its last one the image, but for the layers in `used`. Blocks on files.
    fn remove(&self, _name: &str, _used: &[PathBuf]) -> Result<(), String> {
        Ok(())
    }
}

/// The real one; it counts what is asked of it.
pub(crate) struct RuntimeEngine(pub(crate) Runtime, pub(crate) Arc<Operations>);

/// Kills the process if it's dropped before it has ended.
struct KillOnDrop(Option<ExecProcess>);
impl Drop for KillOnDrop {
    fn drop(&mut self) {
        if let Some(process) = &self.0 {
            process.kill();
        }
    }
}

async fn read_some(
    pipe: Option<tokio::net::unix::pipe::Receiver>,
    bytes_max: usize,
) -> std::io::Result<Vec<u8>> {
    let mut kept = Vec::new();
    let Some(mut pipe) = pipe else {
        return Ok(kept);
    };
    let mut chunk = [0u8; 4096];
    loop {
        let n = pipe.read(&mut chunk).await?;
        if n == 0 {
            return Ok(kept);
        }
        let room = bytes_max.saturating_sub(kept.len()).min(n);
        kept.extend_from_slice(&chunk[..room]);
    }
}

#[async_trait::async_trait]
impl ContainerEngine for RuntimeEngine {
    async fn create_sandbox(&self, spec: SandboxSpec) -> Result<Sandbox, String> {
        let mapped = spec.user_namespace.is_some();
        let made = self
            .1
            .time("run_podsandbox", self.0.create_sandbox(spec))
            .await;
        self.1.pod_begun(made.is_err());
        if mapped {
            self.1.user_namespaced(made.is_err());
        }
        made.map_err(text)
    }
    async fn delete_sandbox(&self, id: &str) -> Result<(), String> {
        self.1
            .time("remove_podsandbox", self.0.delete_sandbox(id))
            .await
            .map_err(text)
    }
    fn sandboxes(&self) -> Vec<Sandbox> {
        self.0.sandboxes()
    }
    fn sandbox(&self, id: &str) -> Option<Sandbox> {
        self.0.sandbox(id)
    }
    async fn run(&self, spec: ContainerSpec) -> Result<Container, String> {
        let sandbox = spec.sandbox.clone();
        let made = self.1.time("start_container", self.0.run(spec)).await;
        let mapped = || {
            let sandbox = self.0.sandbox(&sandbox);
            sandbox.is_some_and(|s| s.spec.user_namespace.is_some())
        };
        if made.is_err() && mapped() {
            self.1.user_namespaced_container_failed();
        }
        made.map_err(text)
    }
    fn containers(&self) -> Vec<Container> {
        self.0.containers()
    }
    fn containers_in(&self, sandbox: &str) -> Vec<String> {
        self.0.containers_in(sandbox)
    }
    fn container(&self, id: &str) -> Option<Container> {
        self.0.container(id)
    }
    async fn wait(&self, id: &str) -> Result<Exit, String> {
        self.0.wait(id).await.map_err(text)
    }
    async fn signal(&self, id: &str, signal: i32) -> Result<(), String> {
        self.1
            .time("stop_container", self.0.signal(id, signal))
            .await
            .map_err(text)
    }
    async fn delete(&self, id: &str) -> Result<(), String> {
        self.1
            .time("remove_container", self.0.delete(id))
            .await
            .map_err(text)
    }
    async fn exec(&self, id: &str, spec: ExecSpec) -> Result<ExecProcess, String> {
        self.1
            .time("exec", self.0.exec(id, spec))
            .await
            .map_err(text)
    }
    async fn attach(&self, id: &str) -> Result<Attachment, String> {
        self.1.time("attach", self.0.attach(id)).await.map_err(text)
    }
    async fn update_resources(&self, id: &str, resources: Resources) -> Result<(), String> {
        self.1
            .time("update_container", self.0.update_resources(id, resources))
            .await
            .map_err(text)
    }
    async fn set_group(&self, path: &str, resources: Resources) -> Result<(), String> {
        self.0.set_group(path, resources).await.map_err(text)
    }
    fn memory(&self, id: &str) -> Option<u64> {
        self.0.stats(id).ok().map(|s| s.memory_bytes)
    }
    fn group_memory(&self, path: &str) -> Option<u64> {
        self.0.group_stats(path).ok().map(|s| s.memory_bytes)
    }
    fn cgroup(&self, id: &str) -> Option<PathBuf> {
        self.0.cgroup(id).ok()
    }
    fn group(&self) -> Option<PathBuf> {
        Some(self.0.group(""))
    }
    fn written_dir(&self, id: &str) -> Option<PathBuf> {
        self.0.written_dir(id).ok()
    }
    fn processes(&self, group: &Path) -> Vec<i32> {
        self.0.processes(group)
    }
    fn usage(&self, group: &Path) -> Option<Usage> {
        self.0.usage(group).ok()
    }
    fn cpu_ns(&self, group: &Path) -> Option<u64> {
        self.0.cpu_ns(group).ok()
    }
    async fn exec_capture(
        &self,
        id: &str,
        args: Vec<String>,
        output_bytes_max: usize,
    ) -> Result<(i32, Vec<u8>), String> {
        let spec = ExecSpec {
            args,
            ..ExecSpec::default()
        };
        let mut guard = KillOnDrop(Some(
            self.1
                .time("exec_sync", self.0.exec(id, spec))
                .await
                .map_err(text)?,
        ));
        let process = guard.0.as_mut().ok_or("process is gone")?;
        let (stdout, stderr) = (process.stdout.take(), process.stderr.take());
        let (out, err) = tokio::join!(
            read_some(stdout, output_bytes_max),
            read_some(stderr, output_bytes_max)
        );
        let mut output = out.map_err(|e| e.to_string())?;
        output.extend_from_slice(&err.map_err(|e| e.to_string())?);
        output.truncate(output_bytes_max);
        let code = process.wait().await;
        guard.0 = None;
        Ok((code, output))
    }
}

fn text(error: knarr_runtime::Error) -> String {
    error.to_string()
}

pub(crate) struct StoreImages(
    pub(crate) knarr_image::ImageStore,
    pub(crate) knarr_image::client::ClientConfig,
);

#[async_trait::async_trait]
impl ImageSource for StoreImages {
    async fn pull(
        &self,
        name: &str,
        credentials: Vec<knarr_image::client::Credential>,
        moved: Arc<Notify>,
    ) -> Result<knarr_image::Image, String> {
        let options = knarr_image::client::PullOptions {
            config: self.1.clone(),
            credentials,
            ..Default::default()
        };
        let progress = move |_| moved.notify_one();
        let pulled = self.0.pull(name, &options, &progress).await;
        pulled.map_err(|e| e.to_string())
    }
    fn resolve(&self, name: &str) -> Result<Option<knarr_image::Image>, String> {
        self.0.resolve(name).map_err(|e| e.to_string())
    }
    fn watch_dir(&self) -> Option<PathBuf> {
        Some(self.0.names_dir())
    }
    fn list(&self) -> Result<Vec<knarr_image::Image>, String> {
        self.0.list().map_err(|e| e.to_string())
    }
    fn remove(&self, name: &str, used: &[PathBuf]) -> Result<(), String> {
        self.0.remove_keeping(name, used).map_err(|e| e.to_string())
    }
}

pub(crate) type Engine = Arc<dyn ContainerEngine>;
