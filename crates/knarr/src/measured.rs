//! The API server's view of a node's agent.

use knarr_api::NodeAgent;

pub struct Agent(pub knarr_node::Node);

fn converted(used: knarr_node::Use) -> knarr_api::Use {
    knarr_api::Use {
        cpu_nano_cores: used.cpu_nano_cores,
        working_set_bytes: used.working_set_bytes,
        at: used.at,
        window: used.window,
    }
}

#[async_trait::async_trait]
impl NodeAgent for Agent {
    async fn measure(&self) -> knarr_api::NodeUse {
        let all = self.0.usage().await;
        let containers = all.containers.into_iter().map(|c| knarr_api::ContainerUse {
            namespace: c.namespace,
            pod: c.pod,
            container: c.container,
            used: converted(c.used),
        });
        knarr_api::NodeUse {
            node: all.node.map(converted),
            containers: containers.collect(),
        }
    }

    async fn get(&self, path: &str, query: &[(String, String)]) -> knarr_api::AgentAnswer {
        let answer = self.0.kubelet(path, query).await;
        knarr_api::AgentAnswer {
            status: answer.status,
            content_type: answer.content_type,
            body: answer.body,
        }
    }
}
