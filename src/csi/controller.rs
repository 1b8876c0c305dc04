//! The service Controller.

use super::snapshot::origin;
use super::{CLONE_MAX, DECISION_MAX, Service, status, valid};
use crate::controller::{Claimed, Create, Problem};
use crate::rpc::csi::controller_service_capability::{self, Rpc, rpc};
use crate::rpc::csi::validate_volume_capabilities_response::Confirmed;
use crate::rpc::csi::{
    ControllerExpandVolumeRequest, ControllerExpandVolumeResponse, ControllerGetCapabilitiesRequest, ControllerGetCapabilitiesResponse,
    ControllerServiceCapability, CreateVolumeRequest, CreateVolumeResponse, DeleteVolumeRequest, DeleteVolumeResponse,
    ValidateVolumeCapabilitiesRequest, ValidateVolumeCapabilitiesResponse, Volume,
};
use std::collections::BTreeMap;
use std::time::Duration;
use tonic::Status;

/// In a volume's context: what the volume is called, for people.
const IDENTITY: &str = "identity";
const CAPABILITIES: [rpc::Type; 7] = [
    rpc::Type::CreateDeleteVolume,
    rpc::Type::ExpandVolume,
    rpc::Type::SingleNodeMultiWriter,
    rpc::Type::CreateDeleteSnapshot,
    rpc::Type::ListSnapshots,
    rpc::Type::GetSnapshot,
    rpc::Type::CloneVolume,
];

impl Service {
    pub(super) async fn controller_get_capabilities(
        self,
        _: ControllerGetCapabilitiesRequest,
    ) -> Result<ControllerGetCapabilitiesResponse, Status> {
        let offered = |kind: rpc::Type| controller_service_capability::Type::Rpc(Rpc { r#type: kind.into() });
        let capabilities = CAPABILITIES.map(|kind| ControllerServiceCapability { r#type: Some(offered(kind)) });
        Ok(ControllerGetCapabilitiesResponse { capabilities: capabilities.into() })
    }

    pub(super) async fn create_volume(self, asked: CreateVolumeRequest) -> Result<CreateVolumeResponse, Status> {
        valid::text(&asked.name, "name")?;
        valid::every_access(&asked.volume_capabilities)?;
        if !asked.mutable_parameters.is_empty() {
            return Err(Status::invalid_argument("mutable_parameters: a VolumeAttributesClass changes nothing here yet"));
        }
        let (range, origin) = (valid::range(asked.capacity_range)?, origin(asked.volume_content_source.as_ref())?);
        let max = if origin.is_some() { CLONE_MAX } else { DECISION_MAX };
        let create = Create { name: asked.name, parameters: asked.parameters, range, origin };
        let Claimed { handle, identity, capacity } = within(max, self.controller.create(&create)).await?;
        let volume = Volume {
            capacity_bytes: signed(capacity),
            volume_id: handle.to_string(),
            volume_context: BTreeMap::from([(IDENTITY.to_owned(), identity.to_string())]),
            content_source: asked.volume_content_source,
            ..Volume::default()
        };
        Ok(CreateVolumeResponse { volume: Some(volume) })
    }

    pub(super) async fn delete_volume(self, asked: DeleteVolumeRequest) -> Result<DeleteVolumeResponse, Status> {
        if let Some(handle) = valid::handle(&asked.volume_id)? {
            decided(self.controller.delete(&handle)).await?;
        }
        Ok(DeleteVolumeResponse {})
    }

    pub(super) async fn validate_volume_capabilities(
        self,
        asked: ValidateVolumeCapabilitiesRequest,
    ) -> Result<ValidateVolumeCapabilitiesResponse, Status> {
        let handle = valid::handle(&asked.volume_id)?;
        if asked.volume_capabilities.is_empty() {
            return Err(Status::invalid_argument("volume_capabilities are missing"));
        }
        let handle = valid::known(handle)?;
        let find = async { self.controller.find(&handle).await.map_err(Problem::from) };
        let claimed = decided(find).await?.ok_or_else(|| Status::not_found(format!("there is no volume {handle}")))?;
        let context = asked.volume_context.get(IDENTITY).is_none_or(|identity| identity == claimed.identity.as_str());
        let able = valid::every_access(&asked.volume_capabilities).map_err(|status| status.message().to_owned());
        let unable = match (able, context, asked.mutable_parameters.is_empty()) {
            (Err(why), _, _) => why,
            (_, false, _) => "the volume_context is another volume's".to_owned(),
            (_, _, false) => "there are no mutable_parameters here".to_owned(),
            (Ok(()), true, true) => {
                let confirmed = Confirmed {
                    volume_context: asked.volume_context,
                    volume_capabilities: asked.volume_capabilities,
                    parameters: asked.parameters,
                    mutable_parameters: BTreeMap::new(),
                };
                return Ok(ValidateVolumeCapabilitiesResponse { confirmed: Some(confirmed), message: String::new() });
            }
        };
        Ok(ValidateVolumeCapabilitiesResponse { confirmed: None, message: unable })
    }

    pub(super) async fn controller_expand_volume(
        self,
        asked: ControllerExpandVolumeRequest,
    ) -> Result<ControllerExpandVolumeResponse, Status> {
        let handle = valid::handle(&asked.volume_id)?;
        if asked.capacity_range.is_none() {
            return Err(Status::invalid_argument("capacity_range is missing"));
        }
        let range = valid::range(asked.capacity_range)?;
        if let Some(capability) = &asked.volume_capability {
            valid::access(Some(capability))?;
        }
        let handle = valid::known(handle)?;
        let capacity = decided(self.controller.expand(&handle, range)).await?;
        Ok(ControllerExpandVolumeResponse { capacity_bytes: signed(capacity), node_expansion_required: true })
    }
}

/// A decision, within bounds. One that is given up on is made again from what the store has of it.
pub(super) async fn decided<T>(work: impl Future<Output = Result<T, Problem>>) -> Result<T, Status> {
    within(DECISION_MAX, work).await
}

async fn within<T>(max: Duration, work: impl Future<Output = Result<T, Problem>>) -> Result<T, Status> {
    match tokio::time::timeout(max, work).await {
        Ok(done) => done.map_err(|problem| status::of(&problem)),
        Err(_) => Err(Status::unavailable(format!("the store did not answer within {} s: nothing is decided", max.as_secs()))),
    }
}

pub(super) fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}
