//! Asks a driver whether it answers, as a kubelet's probe does. Neither its store nor its mounts are asked.

use super::server::socket_of;
use crate::peer::Line;
use crate::rpc::csi::{ProbeRequest, ProbeResponse};
use crate::types::{Fault, FaultKind};
use hyper::client::conn::http2::handshake;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::fmt::Display;
use tokio::net::UnixStream;
use tonic::client::Grpc;
use tonic::codegen::http;
use tonic_prost::ProstCodec;

/// Asks whoever answers at `endpoint`, and waits for the answer.
///
/// # Errors
/// [`FaultKind::Unknown`]: nobody answers, or not yes; [`FaultKind::Invalid`]: that is no endpoint.
pub async fn probe(endpoint: &str) -> Result<(), Fault> {
    let path = socket_of(endpoint)?;
    let silent = |why: &dyn Display| Fault::new(FaultKind::Unknown, format!("no driver answers at {endpoint}: {why}"));
    let stream = UnixStream::connect(&path).await.map_err(|error| silent(&error))?;
    let (line, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await.map_err(|error| silent(&error))?;
    let serving = tokio::spawn(connection);
    let mut grpc = Grpc::with_origin(Line(line), http::Uri::from_static("http://localhost"));
    grpc.ready().await.map_err(|error| silent(&error))?;
    let method = http::uri::PathAndQuery::from_static("/csi.v1.Identity/Probe");
    let codec = ProstCodec::<ProbeRequest, ProbeResponse>::default();
    let answer = grpc.unary(tonic::Request::new(ProbeRequest {}), method, codec).await;
    serving.abort();
    match answer.map_err(|status| silent(&status))?.into_inner().ready {
        Some(false) => Err(silent(&"it is not ready yet")),
        _ => Ok(()),
    }
}
