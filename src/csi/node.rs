//! The service Node.

use super::controller::signed;
use super::{Service, status, valid};
use crate::node::{Node, Usage};
use crate::rpc::csi::node_service_capability::{self, Rpc, rpc};
use crate::rpc::csi::volume_usage::Unit;
use crate::rpc::csi::{
    NodeExpandVolumeRequest, NodeExpandVolumeResponse, NodeGetCapabilitiesRequest, NodeGetCapabilitiesResponse, NodeGetInfoRequest,
    NodeGetInfoResponse, NodeGetVolumeStatsRequest, NodeGetVolumeStatsResponse, NodePublishVolumeRequest, NodePublishVolumeResponse,
    NodeServiceCapability, NodeStageVolumeRequest, NodeStageVolumeResponse, NodeUnpublishVolumeRequest, NodeUnpublishVolumeResponse,
    NodeUnstageVolumeRequest, NodeUnstageVolumeResponse, VolumeUsage,
};
use std::path::Path;
use std::sync::Arc;
use tonic::Status;

const CAPABILITIES: [rpc::Type; 5] = [
    rpc::Type::StageUnstageVolume,
    rpc::Type::GetVolumeStats,
    rpc::Type::ExpandVolume,
    rpc::Type::SingleNodeMultiWriter,
    rpc::Type::VolumeMountGroup,
];

impl Service {
    fn node(&self) -> Result<&Arc<Node>, Status> {
        self.node.as_ref().ok_or_else(|| Status::unimplemented("this process is not of a node (--node)"))
    }

    pub(super) async fn node_get_capabilities(self, _: NodeGetCapabilitiesRequest) -> Result<NodeGetCapabilitiesResponse, Status> {
        let offered = |kind: rpc::Type| node_service_capability::Type::Rpc(Rpc { r#type: kind.into() });
        let capabilities = CAPABILITIES.map(|kind| NodeServiceCapability { r#type: Some(offered(kind)) });
        Ok(NodeGetCapabilitiesResponse { capabilities: capabilities.into() })
    }

    pub(super) async fn node_get_info(self, _: NodeGetInfoRequest) -> Result<NodeGetInfoResponse, Status> {
        Ok(NodeGetInfoResponse { node_id: self.node()?.id().to_owned(), ..NodeGetInfoResponse::default() })
    }

    pub(super) async fn node_stage_volume(self, asked: NodeStageVolumeRequest) -> Result<NodeStageVolumeResponse, Status> {
        let handle = valid::handle(&asked.volume_id)?;
        let staging = valid::place(&asked.staging_target_path, "staging_target_path")?;
        let access = valid::access(asked.volume_capability.as_ref())?;
        let handle = valid::known(handle)?;
        self.node()?.stage(&handle, &staging, &access).await.map_err(|problem| status::of(&problem))?;
        Ok(NodeStageVolumeResponse {})
    }

    pub(super) async fn node_unstage_volume(self, asked: NodeUnstageVolumeRequest) -> Result<NodeUnstageVolumeResponse, Status> {
        let handle = valid::handle(&asked.volume_id)?;
        valid::place(&asked.staging_target_path, "staging_target_path")?;
        if let Some(handle) = handle {
            self.node()?.unstage(&handle).await.map_err(|problem| status::of(&problem))?;
        }
        Ok(NodeUnstageVolumeResponse {})
    }

    pub(super) async fn node_publish_volume(self, asked: NodePublishVolumeRequest) -> Result<NodePublishVolumeResponse, Status> {
        let handle = valid::handle(&asked.volume_id)?;
        let target = valid::place(&asked.target_path, "target_path")?;
        let access = valid::access(asked.volume_capability.as_ref())?;
        if asked.staging_target_path.is_empty() {
            return Err(Status::failed_precondition("staging_target_path is missing: a volume is staged first"));
        }
        let staging = valid::place(&asked.staging_target_path, "staging_target_path")?;
        let handle = valid::known(handle)?;
        let published = self.node()?.publish(&handle, &staging, &target, asked.readonly, &access).await;
        published.map_err(|problem| status::of(&problem))?;
        Ok(NodePublishVolumeResponse {})
    }

    pub(super) async fn node_unpublish_volume(self, asked: NodeUnpublishVolumeRequest) -> Result<NodeUnpublishVolumeResponse, Status> {
        let handle = valid::handle(&asked.volume_id)?;
        let target = valid::place(&asked.target_path, "target_path")?;
        if let Some(handle) = handle {
            self.node()?.unpublish(&handle, &target).await.map_err(|problem| status::of(&problem))?;
        }
        Ok(NodeUnpublishVolumeResponse {})
    }

    pub(super) async fn node_get_volume_stats(self, asked: NodeGetVolumeStatsRequest) -> Result<NodeGetVolumeStatsResponse, Status> {
        let handle = valid::handle(&asked.volume_id)?;
        if asked.volume_path.is_empty() {
            return Err(Status::invalid_argument("volume_path is missing"));
        }
        let handle = valid::known(handle)?;
        let usage = self.node()?.usage(&handle, Path::new(&asked.volume_path)).await.map_err(|problem| status::of(&problem))?;
        let Usage { bytes, bytes_max, inodes } = usage;
        let space = VolumeUsage {
            available: signed(bytes_max.saturating_sub(bytes)),
            total: signed(bytes_max),
            used: signed(bytes),
            unit: Unit::Bytes.into(),
        };
        let count = VolumeUsage { used: signed(inodes), unit: Unit::Inodes.into(), ..VolumeUsage::default() };
        Ok(NodeGetVolumeStatsResponse { usage: vec![space, count], volume_condition: None })
    }

    pub(super) async fn node_expand_volume(self, asked: NodeExpandVolumeRequest) -> Result<NodeExpandVolumeResponse, Status> {
        let handle = valid::handle(&asked.volume_id)?;
        if asked.volume_path.is_empty() {
            return Err(Status::invalid_argument("volume_path is missing"));
        }
        valid::range(asked.capacity_range)?;
        let handle = valid::known(handle)?;
        let capacity = self.node()?.expand(&handle, Path::new(&asked.volume_path)).await.map_err(|problem| status::of(&problem))?;
        Ok(NodeExpandVolumeResponse { capacity_bytes: signed(capacity) })
    }
}
