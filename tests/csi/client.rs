//! A driver's process, and its socket asked as a kubelet asks.

use holdfast::peer::Line;
use holdfast::rpc::csi::*;
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::path::Path;
use tokio::net::UnixStream;
use tonic::Status;
use tonic::client::Grpc;
use tonic::codegen::http;
use tonic_prost::ProstCodec;

/// Asks for one method.
async fn ask<Q, A>(socket: &Path, method: &str, question: Q) -> Result<A, Status>
where
    Q: Message + Send + Sync + 'static,
    A: Message + Default + Send + Sync + 'static,
{
    let stream = UnixStream::connect(socket).await.expect("the driver listens");
    let (line, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.expect("HTTP/2");
    let task = tokio::spawn(connection);
    let origin = http::Uri::from_static("http://localhost");
    let mut grpc = Grpc::with_origin(Line(line), origin);
    grpc.ready().await.expect("a connection");
    let path = http::uri::PathAndQuery::try_from(method).expect("a path");
    let answer = grpc.unary(tonic::Request::new(question), path, ProstCodec::<Q, A>::default()).await;
    task.abort();
    answer.map(tonic::Response::into_inner)
}

/// A question names its method and its answer.
pub(crate) trait Question: Message + Send + Sync + Sized + 'static {
    /// The path.
    const METHOD: &'static str;
    /// What comes back.
    type Answer: Message + Default + Send + Sync + 'static;

    /// Asks, and waits for the answer.
    fn ask(self, socket: &Path) -> Result<Self::Answer, Status> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        runtime.block_on(ask(socket, Self::METHOD, self))
    }
}

macro_rules! questions {
    ($($question:ident => $answer:ident $method:literal),* $(,)?) => {
        $(impl Question for $question {
            const METHOD: &'static str = $method;
            type Answer = $answer;
        })*
    };
}

questions!(
    CreateVolumeRequest => CreateVolumeResponse "/csi.v1.Controller/CreateVolume",
    DeleteVolumeRequest => DeleteVolumeResponse "/csi.v1.Controller/DeleteVolume",
    ControllerExpandVolumeRequest => ControllerExpandVolumeResponse "/csi.v1.Controller/ControllerExpandVolume",
    CreateSnapshotRequest => CreateSnapshotResponse "/csi.v1.Controller/CreateSnapshot",
    DeleteSnapshotRequest => DeleteSnapshotResponse "/csi.v1.Controller/DeleteSnapshot",
    ListSnapshotsRequest => ListSnapshotsResponse "/csi.v1.Controller/ListSnapshots",
    GetSnapshotRequest => GetSnapshotResponse "/csi.v1.Controller/GetSnapshot",
    GetPluginCapabilitiesRequest => GetPluginCapabilitiesResponse "/csi.v1.Identity/GetPluginCapabilities",
    ListVolumesRequest => ListVolumesResponse "/csi.v1.Controller/ListVolumes",
    NodeStageVolumeRequest => NodeStageVolumeResponse "/csi.v1.Node/NodeStageVolume",
    NodeUnstageVolumeRequest => NodeUnstageVolumeResponse "/csi.v1.Node/NodeUnstageVolume",
    NodePublishVolumeRequest => NodePublishVolumeResponse "/csi.v1.Node/NodePublishVolume",
    NodeUnpublishVolumeRequest => NodeUnpublishVolumeResponse "/csi.v1.Node/NodeUnpublishVolume",
    NodeGetVolumeStatsRequest => NodeGetVolumeStatsResponse "/csi.v1.Node/NodeGetVolumeStats",
    NodeExpandVolumeRequest => NodeExpandVolumeResponse "/csi.v1.Node/NodeExpandVolume",
);
