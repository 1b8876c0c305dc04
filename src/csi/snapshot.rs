//! The service Controller: snapshots.

use super::controller::{decided, signed};
use super::{Service, valid};
use crate::controller::{self, Listing, Origin};
use crate::rpc::csi::list_snapshots_response::Entry;
use crate::rpc::csi::volume_content_source::Type;
use crate::rpc::csi::{
    CreateSnapshotRequest, CreateSnapshotResponse, DeleteSnapshotRequest, DeleteSnapshotResponse, GetSnapshotRequest, GetSnapshotResponse,
    ListSnapshotsRequest, ListSnapshotsResponse, Snapshot, VolumeContentSource,
};
use prost_types::Timestamp;
use std::collections::BTreeMap;
use tonic::Status;

/// What the snapshotter adds with `--extra-create-metadata`; nothing of it is needed.
const PASSED_OVER: &str = "csi.storage.k8s.io/volumesnapshot";

impl Service {
    pub(super) async fn create_snapshot(self, asked: CreateSnapshotRequest) -> Result<CreateSnapshotResponse, Status> {
        valid::name(&asked.name, "name")?;
        let source = valid::handle_in(&asked.source_volume_id, "source_volume_id")?;
        check_parameters(&asked.parameters)?;
        let source = valid::known(source)?;
        let made = decided(self.controller.create_snapshot(&asked.name, &source)).await?;
        Ok(CreateSnapshotResponse { snapshot: Some(wire(made)) })
    }

    pub(super) async fn delete_snapshot(self, asked: DeleteSnapshotRequest) -> Result<DeleteSnapshotResponse, Status> {
        let id = valid::present(&asked.snapshot_id, "snapshot_id")?;
        decided(self.controller.delete_snapshot(id)).await?;
        Ok(DeleteSnapshotResponse {})
    }

    pub(super) async fn get_snapshot(self, asked: GetSnapshotRequest) -> Result<GetSnapshotResponse, Status> {
        let id = valid::present(&asked.snapshot_id, "snapshot_id")?;
        let found = decided(self.controller.snapshot(id)).await?;
        let found = found.ok_or_else(|| Status::not_found(format!("there is no snapshot {}", id.escape_debug())))?;
        Ok(GetSnapshotResponse { snapshot: Some(wire(found)) })
    }

    pub(super) async fn list_snapshots(self, asked: ListSnapshotsRequest) -> Result<ListSnapshotsResponse, Status> {
        let max = usize::try_from(asked.max_entries).map_err(|_| Status::invalid_argument("max_entries is less than nothing"))?;
        let given = |text: String| Some(text).filter(|text| !text.is_empty());
        let (id, source) = (given(asked.snapshot_id), given(asked.source_volume_id));
        let listing = Listing { id, source, max, after: asked.starting_token };
        let (found, next_token) = decided(self.controller.list_snapshots(&listing)).await?;
        let entries = found.into_iter().map(|snapshot| Entry { snapshot: Some(wire(snapshot)) }).collect();
        Ok(ListSnapshotsResponse { entries, next_token })
    }
}

/// What a new volume is to begin with.
pub(super) fn origin(source: Option<&VolumeContentSource>) -> Result<Option<Origin>, Status> {
    let Some(source) = source else { return Ok(None) };
    let origin = match &source.r#type {
        Some(Type::Snapshot(of)) => Origin::Snapshot(valid::present(&of.snapshot_id, "volume_content_source.snapshot_id")?.to_owned()),
        Some(Type::Volume(of)) => Origin::Volume(valid::present(&of.volume_id, "volume_content_source.volume_id")?.to_owned()),
        None => return Err(Status::invalid_argument("volume_content_source is neither a snapshot nor a volume")),
    };
    Ok(Some(origin))
}

fn check_parameters(parameters: &BTreeMap<String, String>) -> Result<(), Status> {
    match parameters.keys().find(|key| !key.starts_with(PASSED_OVER)) {
        Some(key) => Err(Status::invalid_argument(format!("a snapshot class has no parameters; this one has `{}`", key.escape_debug()))),
        None => Ok(()),
    }
}

/// Every snapshot names a commit that is stored.
fn wire(snapshot: controller::Snapshot) -> Snapshot {
    let nanos = i32::try_from(snapshot.cut.rem_euclid(1_000_000_000)).unwrap_or(0);
    Snapshot {
        size_bytes: signed(snapshot.bytes),
        snapshot_id: snapshot.id,
        source_volume_id: snapshot.source.to_string(),
        creation_time: Some(Timestamp { seconds: snapshot.cut.div_euclid(1_000_000_000), nanos }),
        ready_to_use: true,
        group_snapshot_id: String::new(),
    }
}
