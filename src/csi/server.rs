//! gRPC on a Unix socket: which method is which.

use super::Service;
use crate::telemetry::Acceptor;
use crate::types::{Fault, FaultKind};
use futures::future::BoxFuture;
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message;
use std::convert::Infallible;
use std::io::ErrorKind;
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::Semaphore;
use tonic::body::Body;
use tonic::codegen::http;
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Connections at once: a kubelet and a few sidecars have one each.
const CONNECTIONS_MAX: usize = 32;
/// Requests at once, whosever: more wait.
const CALLS_MAX: usize = 128;
/// Of a request: maps of 4 KiB and a capability.
const BYTES_MAX: usize = 256 << 10;

/// A listening socket. Dropped, it is gone.
#[derive(Debug)]
pub struct Server {
    path: PathBuf,
    listener: UnixListener,
}

impl Server {
    /// Listens at `unix:///path/to/csi.sock`. A socket that nobody listens at any more is replaced.
    ///
    /// # Errors
    /// [`FaultKind::Invalid`]: that is no such endpoint; [`FaultKind::Busy`]: somebody listens there.
    pub async fn listen(endpoint: &str) -> Result<Self, Fault> {
        let path = socket_of(endpoint)?;
        let cannot = |error| Fault::with(FaultKind::Local, format!("cannot listen at {}", path.display()), error);
        if std::fs::symlink_metadata(&path).is_ok_and(|there| there.file_type().is_socket()) {
            if UnixStream::connect(&path).await.is_ok() {
                return Err(Fault::new(FaultKind::Busy, format!("somebody listens at {} already", path.display())));
            }
            std::fs::remove_file(&path).map_err(cannot)?;
        }
        let listener = UnixListener::bind(&path).map_err(cannot)?;
        Ok(Self { path, listener })
    }
}

/// The path in an endpoint.
pub(super) fn socket_of(endpoint: &str) -> Result<PathBuf, Fault> {
    let path = endpoint.strip_prefix("unix://").map(Path::new).filter(|path| path.is_absolute());
    let path = path.filter(|path| path.extension().is_some_and(|extension| extension == "sock"));
    path.map(Path::to_owned).ok_or_else(|| {
        let why = format!("`{}` is no endpoint: it is unix:// and an absolute path that ends in .sock", endpoint.escape_debug());
        Fault::new(FaultKind::Invalid, why)
    })
}

impl Drop for Server {
    fn drop(&mut self) {
        match std::fs::remove_file(&self.path) {
            Err(error) if error.kind() != ErrorKind::NotFound => tracing::warn!(%error, "the socket is left behind"),
            _ => {}
        }
    }
}

/// Answers until `end`; then takes nothing more, and waits for what is being carried out.
pub async fn serve(server: Server, service: Service, end: impl Future<Output = ()>) {
    let calls = Arc::new(Semaphore::new(CALLS_MAX));
    let taking = async {
        let mut connections = Acceptor::new(Arc::new(Semaphore::new(CONNECTIONS_MAX)), "the CSI socket");
        while let Some((slot, (stream, _))) = connections.next(|| server.listener.accept()).await {
            let (service, calls) = (service.clone(), Arc::clone(&calls));
            tokio::spawn(async move {
                let _slot = slot;
                let answer = service_fn(move |request| {
                    let (service, calls) = (service.clone(), Arc::clone(&calls));
                    async move { Ok::<_, Infallible>(service.answer(calls, request).await) }
                });
                if let Err(error) = http2::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), answer).await {
                    tracing::debug!(%error, "a CSI connection ended");
                }
            });
        }
    };
    tokio::select! {
        () = taking => {}
        () = end => {}
    }
    let all = u32::try_from(CALLS_MAX).unwrap_or(u32::MAX);
    let _ = calls.acquire_many(all).await;
}

/// Names each method with the function that answers it.
macro_rules! methods {
    ($service:ident, $calls:ident, $request:ident, $($path:literal => $method:ident $(if $allowed:expr)?),* $(,)?) => {
        match $request.uri().path() {
            $($path $(if $allowed)? => {
                unary($path, $calls, $request, Box::new(move |asked| Box::pin($service.$method(asked))))
            })*
            _ => {
                let why = "this driver does not have that method, or this process not that role";
                Box::pin(std::future::ready(Status::unimplemented(why).into_http()))
            }
        }
    };
}

impl Service {
    fn answer(self, calls: Arc<Semaphore>, request: http::Request<Incoming>) -> BoxFuture<'static, http::Response<Body>> {
        let (decides, serves) = (self.decides, self.node.is_some());
        methods!(self, calls, request,
            "/csi.v1.Identity/GetPluginInfo" => get_plugin_info,
            "/csi.v1.Identity/GetPluginCapabilities" => get_plugin_capabilities,
            "/csi.v1.Identity/Probe" => probe,
            "/csi.v1.Controller/ControllerGetCapabilities" => controller_get_capabilities if decides,
            "/csi.v1.Controller/CreateVolume" => create_volume if decides,
            "/csi.v1.Controller/DeleteVolume" => delete_volume if decides,
            "/csi.v1.Controller/ValidateVolumeCapabilities" => validate_volume_capabilities if decides,
            "/csi.v1.Controller/ControllerExpandVolume" => controller_expand_volume if decides,
            "/csi.v1.Controller/CreateSnapshot" => create_snapshot if decides,
            "/csi.v1.Controller/DeleteSnapshot" => delete_snapshot if decides,
            "/csi.v1.Controller/ListSnapshots" => list_snapshots if decides,
            "/csi.v1.Controller/GetSnapshot" => get_snapshot if decides,
            "/csi.v1.Node/NodeGetCapabilities" => node_get_capabilities if serves,
            "/csi.v1.Node/NodeGetInfo" => node_get_info if serves,
            "/csi.v1.Node/NodeStageVolume" => node_stage_volume if serves,
            "/csi.v1.Node/NodeUnstageVolume" => node_unstage_volume if serves,
            "/csi.v1.Node/NodePublishVolume" => node_publish_volume if serves,
            "/csi.v1.Node/NodeUnpublishVolume" => node_unpublish_volume if serves,
            "/csi.v1.Node/NodeGetVolumeStats" => node_get_volume_stats if serves,
            "/csi.v1.Node/NodeExpandVolume" => node_expand_volume if serves,
        )
    }
}

type Answer<A> = BoxFuture<'static, Result<A, Status>>;

type Work<Q, A> = Box<dyn FnOnce(Q) -> Answer<A> + Send>;

/// One method, as tonic wants it.
struct Call<Q, A> {
    method: &'static str,
    calls: Arc<Semaphore>,
    work: Option<Work<Q, A>>,
}

impl<Q, A: Send + 'static> UnaryService<Q> for Call<Q, A> {
    type Response = A;
    type Future = BoxFuture<'static, Result<Response<A>, Status>>;

    fn call(&mut self, request: Request<Q>) -> Self::Future {
        let (method, calls) = (self.method, Arc::clone(&self.calls));
        let Some(work) = self.work.take().map(|work| work(request.into_inner())) else {
            return Box::pin(std::future::ready(Err(Status::internal("one request was answered twice"))));
        };
        // To its end, whether or not anybody waits for it.
        let task = tokio::spawn(async move {
            let _permit = calls.acquire_owned().await;
            let answer = work.await;
            match &answer {
                Ok(_) => tracing::debug!(method, "done"),
                Err(status) => tracing::warn!(method, code = ?status.code(), why = status.message(), "not done"),
            }
            answer
        });
        Box::pin(async move {
            let answer = task.await.map_err(|error| Status::internal(format!("the request's task ended: {error}")))?;
            answer.map(Response::new)
        })
    }
}

fn unary<Q, A>(
    method: &'static str,
    calls: Arc<Semaphore>,
    request: http::Request<Incoming>,
    work: Work<Q, A>,
) -> BoxFuture<'static, http::Response<Body>>
where
    Q: Message + Default + Send + 'static,
    A: Message + Default + Send + 'static,
{
    Box::pin(async move {
        let call = Call { method, calls, work: Some(work) };
        Grpc::new(ProstCodec::<A, Q>::default()).max_decoding_message_size(BYTES_MAX).unary(call, request).await
    })
}
