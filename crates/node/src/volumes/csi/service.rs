//! `csi.v1.Node`, typed: what a driver on this machine is asked.
//!
//! Source: container-storage-interface `csi.proto` v1.12, kubernetes `pkg/volume/csi/csi_client.go`.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;

use super::{
    proto::{Fields, Map, Message},
    rpc::{self, Status, code},
};

/// `csiTimeout` of the kubelet.
pub(crate) const DEADLINE: Duration = Duration::from_secs(120);

/// What `NodeGetCapabilities` lists.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Abilities {
    pub stage: bool,
    pub stats: bool,
    pub expand: bool,
    pub condition: bool,
    pub single_node_multi_writer: bool,
    pub mount_group: bool,
}

/// What `NodeGetInfo` tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Info {
    pub node_id: String,
    /// 0: no limit is known
    pub volumes_max: i64,
    pub topology: Map,
}

/// How a volume is used: filesystem or block, and by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub block: bool,
    pub fs_type: String,
    pub mount_flags: Vec<String>,
    /// for drivers that apply fsGroup themselves
    pub mount_group: Option<u32>,
    /// the first of the PersistentVolume's access modes; empty for inline volumes
    pub access_mode: String,
}

impl Usage {
    fn message(&self, abilities: Abilities) -> Message {
        let kind = if self.block {
            Message::default().message(1, &Message::default())
        } else {
            let group = self.mount_group.map(|g| g.to_string()).unwrap_or_default();
            let mount = Message::default()
                .text(1, &self.fs_type)
                .texts(2, self.mount_flags.iter().map(String::as_str))
                .text(3, &group);
            Message::default().message(2, &mount)
        };
        let finer = abilities.single_node_multi_writer;
        let mode = match self.access_mode.as_str() {
            "ReadOnlyMany" => 3,
            "ReadWriteMany" => 5,
            "ReadWriteOncePod" if finer => 6,
            _ if finer => 7,
            _ => 1,
        };
        kind.message(3, &Message::default().number(1, mode))
    }
}

/// A volume on its way into a Pod.
#[derive(Debug, Clone, Default)]
pub(crate) struct Publish<'a> {
    pub volume: &'a str,
    /// what the attacher left in the VolumeAttachment
    pub publish_context: Map,
    pub staging: Option<&'a Path>,
    pub target: &'a str,
    pub usage: Usage,
    pub read_only: bool,
    pub secrets: Map,
    pub context: Map,
}

/// `volume_path`, sizes and all that `NodeExpandVolume` takes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Expand<'a> {
    pub volume: &'a str,
    pub path: &'a str,
    pub staging: Option<&'a Path>,
    pub bytes: i64,
    pub usage: Usage,
    pub secrets: Map,
}

/// A driver's endpoint.
#[derive(Debug, Clone)]
pub(crate) struct Service {
    pub socket: PathBuf,
}

impl Service {
    async fn call(&self, method: &str, request: &Message) -> Result<Bytes, Status> {
        let method = format!("/csi.v1.Node/{method}");
        rpc::call(&self.socket, &method, request, DEADLINE).await
    }

    pub(crate) async fn info(&self) -> Result<Info, Status> {
        let answer = self.call("NodeGetInfo", &Message::default()).await?;
        let mut info = Info::default();
        for (field, value) in Fields(&answer) {
            match field {
                1 => info.node_id = value.text(),
                2 => info.volumes_max = value.number(),
                3 => {
                    let segments = value.fields().filter(|(f, _)| *f == 1);
                    info.topology.extend(segments.map(|(_, v)| v.pair()));
                }
                _ => {}
            }
        }
        Ok(info)
    }

    pub(crate) async fn abilities(&self) -> Result<Abilities, Status> {
        let answer = match self.call("NodeGetCapabilities", &Message::default()).await {
            Err(status) if status.code == code::UNIMPLEMENTED => return Ok(Abilities::default()),
            other => other?,
        };
        let mut abilities = Abilities::default();
        // NodeGetCapabilitiesResponse.capabilities(1).rpc(1).type(1)
        let rpcs = Fields(&answer).filter(|(f, _)| *f == 1);
        for (_, rpc) in rpcs.flat_map(|(_, capability)| capability.fields()) {
            let kind = rpc.fields().find(|(f, _)| *f == 1);
            match kind.map_or(0, |(_, v)| v.number()) {
                1 => abilities.stage = true,
                2 => abilities.stats = true,
                3 => abilities.expand = true,
                4 => abilities.condition = true,
                5 => abilities.single_node_multi_writer = true,
                6 => abilities.mount_group = true,
                _ => {}
            }
        }
        Ok(abilities)
    }

    /// Makes the volume ready on the machine, for all its Pods. The usage's own path is not read.
    pub(crate) async fn stage(
        &self,
        what: &Publish<'_>,
        staging: &str,
        abilities: Abilities,
    ) -> Result<(), Status> {
        let request = Message::default()
            .text(1, what.volume)
            .map(2, &what.publish_context)
            .text(3, staging)
            .message(4, &what.usage.message(abilities))
            .map(5, &what.secrets)
            .map(6, &what.context);
        self.call("NodeStageVolume", &request).await.map(drop)
    }

    pub(crate) async fn unstage(&self, volume: &str, staging: &str) -> Result<(), Status> {
        let request = Message::default().text(1, volume).text(2, staging);
        self.call("NodeUnstageVolume", &request).await.map(drop)
    }

    pub(crate) async fn publish(
        &self,
        what: &Publish<'_>,
        abilities: Abilities,
    ) -> Result<(), Status> {
        let staging = what.staging.and_then(Path::to_str).unwrap_or_default();
        let request = Message::default()
            .text(1, what.volume)
            .map(2, &what.publish_context)
            .text(3, staging)
            .text(4, what.target)
            .message(5, &what.usage.message(abilities))
            .flag(6, what.read_only)
            .map(7, &what.secrets)
            .map(8, &what.context);
        self.call("NodePublishVolume", &request).await.map(drop)
    }

    pub(crate) async fn unpublish(&self, volume: &str, target: &str) -> Result<(), Status> {
        let request = Message::default().text(1, volume).text(2, target);
        self.call("NodeUnpublishVolume", &request).await.map(drop)
    }

    /// The new size in bytes, where the driver tells; else the one asked for.
    pub(crate) async fn expand(
        &self,
        what: &Expand<'_>,
        abilities: Abilities,
    ) -> Result<i64, Status> {
        let staging = what.staging.and_then(Path::to_str).unwrap_or_default();
        let request = Message::default()
            .text(1, what.volume)
            .text(2, what.path)
            .message(3, &Message::default().number(1, what.bytes))
            .text(4, staging)
            .message(5, &what.usage.message(abilities))
            .map(6, &what.secrets);
        let answer = self.call("NodeExpandVolume", &request).await?;
        let told = Fields(&answer).find(|(f, _)| *f == 1);
        let told = told.map_or(0, |(_, v)| v.number());
        Ok(if told > 0 { told } else { what.bytes })
    }
}
