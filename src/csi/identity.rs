//! The service Identity: asks neither store nor mount, so an outage restarts nobody.

use super::Service;
use crate::rpc::csi::plugin_capability::{self, Service as Offered, VolumeExpansion, service, volume_expansion};
use crate::rpc::csi::{
    GetPluginCapabilitiesRequest, GetPluginCapabilitiesResponse, GetPluginInfoRequest, GetPluginInfoResponse, PluginCapability,
    ProbeRequest, ProbeResponse,
};
use std::collections::BTreeMap;
use tonic::Status;

impl Service {
    pub(super) async fn get_plugin_info(self, _: GetPluginInfoRequest) -> Result<GetPluginInfoResponse, Status> {
        Ok(GetPluginInfoResponse { name: self.name, vendor_version: env!("CARGO_PKG_VERSION").to_owned(), manifest: BTreeMap::new() })
    }

    pub(super) async fn get_plugin_capabilities(self, _: GetPluginCapabilitiesRequest) -> Result<GetPluginCapabilitiesResponse, Status> {
        let controller = plugin_capability::Type::Service(Offered { r#type: service::Type::ControllerService.into() });
        let grows = plugin_capability::Type::VolumeExpansion(VolumeExpansion { r#type: volume_expansion::Type::Online.into() });
        let all = if self.decides { vec![controller, grows] } else { vec![grows] };
        let capabilities = all.into_iter().map(|kind| PluginCapability { r#type: Some(kind) }).collect();
        Ok(GetPluginCapabilitiesResponse { capabilities })
    }

    pub(super) async fn probe(self, _: ProbeRequest) -> Result<ProbeResponse, Status> {
        Ok(ProbeResponse { ready: Some(true) })
    }
}
