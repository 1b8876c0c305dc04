//! Listens, and answers who proves the data key. Strangers cost a bounded number of connections, bytes and seconds.

use super::{Answer, BYTES_MAX, METHOD, Wish, tls};
use crate::format::proof::{self, Session};
use crate::format::seal::Sealer;
use crate::rpc::{HolderAnswer, HolderQuestion};
use crate::telemetry::Acceptor;
use crate::types::{Fault, FaultKind, Hash};
use hyper::body::Incoming;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::convert::Infallible;
use std::future::Ready;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tonic::body::Body;
use tonic::codegen::{StdError, http};
use tonic::server::{Grpc, UnaryService};
use tonic::{Request, Response, Status};
use tonic_prost::ProstCodec;

/// Connections at once; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 8;
/// From the first byte to the end of a connection.
const TIME_MAX: Duration = Duration::from_secs(5);
/// HTTP/2: what the peer may send before it is told that it may send more.
const WINDOW: u32 = 1 << 14;

/// Who knows how the volume stands.
pub trait Answering: Send + Sync + std::fmt::Debug {
    /// How it stands now. Quick: it is asked on a thread that serves others too.
    fn answer(&self) -> Answer;

    /// What became of a wish for a full commit. One that was not heard before is begun to be fulfilled, beside this call; it is quick too.
    fn wished(&self, wish: [u8; 16]) -> Wish;
}

/// A process that can be asked; that ends when this is dropped.
#[derive(Debug)]
pub struct Desk {
    address: SocketAddr,
    certificate: Hash,
    known: Arc<Known>,
    task: JoinHandle<()>,
}

/// What this process learns only after it listens.
#[derive(Debug, Default)]
struct Known {
    sealer: OnceLock<Sealer>,
    who: OnceLock<Arc<dyn Answering>>,
}

impl Desk {
    /// Listens on `address` (port 0: any free one), with a certificate made for it. Nobody is answered before [`Self::holds`].
    ///
    /// # Errors
    /// The address cannot be listened on, or no certificate be made.
    pub async fn start(address: SocketAddr) -> Result<Self, Fault> {
        let cannot = |error| {
            let why = format!(
                "the questions of other machines cannot be taken on {address} (peer-listen); each mount needs a port of its own: port 0 is \
                 any free one"
            );
            Fault::with(FaultKind::Invalid, why, error)
        };
        let (config, certificate) = tls::identity()?;
        let listener = TcpListener::bind(address).await.map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let known = Arc::default();
        let task = tokio::spawn(serve(listener, config, Arc::clone(&known)));
        Ok(Self { address, certificate, known, task })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The hash of its certificate.
    #[must_use]
    pub fn certificate(&self) -> Hash {
        self.certificate
    }

    /// From now on who has this data key is answered: *in use*, until [`Self::asks`] says whom to ask. To be called before the `open` that
    /// names the certificate is put.
    pub fn holds(&self, sealer: &Sealer) {
        let _ = self.known.sealer.set(sealer.clone());
    }

    /// From now on `who` is asked.
    pub fn asks(&self, who: Arc<dyn Answering>) {
        let _ = self.known.who.set(who);
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(listener: TcpListener, config: ServerConfig, known: Arc<Known>) {
    let tls = TlsAcceptor::from(Arc::new(config));
    let mut connections = Acceptor::new(Arc::new(Semaphore::new(CONNECTIONS_MAX)), "the volume's holder");
    while let Some((slot, (stream, peer))) = connections.next(|| listener.accept()).await {
        let (tls, known) = (tls.clone(), Arc::clone(&known));
        tokio::spawn(async move {
            let _slot = slot;
            match tokio::time::timeout(TIME_MAX, converse(stream, &tls, known)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => tracing::debug!(%error, %peer, "a question was not answered"),
                Err(_) => tracing::debug!(%peer, "a question took too long"),
            }
        });
    }
}

/// One connection, to its end.
async fn converse(stream: TcpStream, tls: &TlsAcceptor, known: Arc<Known>) -> Result<(), StdError> {
    let stream = tls.accept(stream).await?;
    let session = tls::session(stream.get_ref().1)?;
    let once = Arc::new(AtomicBool::new(false));
    let service = service_fn(move |request| {
        let question = Question { known: Arc::clone(&known), session, once: Arc::clone(&once) };
        async move { Ok::<_, Infallible>(question.take(request).await) }
    });
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.max_concurrent_streams(1).max_pending_accept_reset_streams(4).max_header_list_size(4096).max_send_buf_size(1 << 14);
    http.initial_connection_window_size(WINDOW).initial_stream_window_size(WINDOW);
    Ok(http.serve_connection(TokioIo::new(stream), service).await?)
}

/// The question of one session.
struct Question {
    known: Arc<Known>,
    session: Session,
    /// It was asked: there is one question for a session, so nobody tries proofs.
    once: Arc<AtomicBool>,
}

impl Question {
    async fn take(self, request: http::Request<Incoming>) -> http::Response<Body> {
        if request.uri().path() != METHOD {
            return Status::unimplemented("another method").into_http();
        }
        if self.once.swap(true, Ordering::Relaxed) {
            return Status::resource_exhausted("one question for a session").into_http();
        }
        let codec = ProstCodec::<HolderAnswer, HolderQuestion>::default();
        Grpc::new(codec).max_decoding_message_size(BYTES_MAX).unary(self, request).await
    }

    fn respond(&self, question: &HolderQuestion) -> Result<HolderAnswer, Status> {
        let sealer = self.known.sealer.get().ok_or_else(|| Status::unavailable("not open yet"))?;
        // Of another life, or without its key: who cannot prove it is told nothing.
        if !proof::is_asked(sealer, &self.session, question) {
            return Err(Status::unauthenticated("no proof"));
        }
        let who = self.known.who.get();
        let said = who.map_or(Answer::InUse, |who| who.answer());
        let (state, dirty_bytes) = said.to_wire();
        let answer = HolderAnswer { state: state.into(), dirty_bytes, ..HolderAnswer::default() };
        let answer = match (said, <[u8; 16]>::try_from(&question.wish[..])) {
            (Answer::InUse, Ok(wish)) => who.map_or(Wish::Pending(0), |who| who.wished(wish)).to_wire(answer),
            _ => answer,
        };
        Ok(proof::proved(sealer, &self.session, answer))
    }
}

impl UnaryService<HolderQuestion> for Question {
    type Response = HolderAnswer;
    type Future = Ready<Result<Response<HolderAnswer>, Status>>;

    fn call(&mut self, request: Request<HolderQuestion>) -> Self::Future {
        std::future::ready(self.respond(request.get_ref()).map(Response::new))
    }
}
