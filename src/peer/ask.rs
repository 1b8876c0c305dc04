//! Asks the holder of a volume how it stands.

use super::{Answer, BYTES_MAX, Line, METHOD, Wish, tls};
use crate::format::proof::{self, Session as Exported};
use crate::format::seal::Sealer;
use crate::rpc::{Holder, HolderAnswer, HolderQuestion};
use crate::types::Hash;
use hyper::client::conn::http2::{SendRequest, handshake};
use hyper_util::rt::{TokioExecutor, TokioIo};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::ServerName;
use tonic::body::Body;
use tonic::client::Grpc;
use tonic::codegen::{StdError, http};
use tonic_prost::ProstCodec;

/// After this it is unknown.
const PATIENCE: Duration = Duration::from_secs(5);

/// What came of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Heard {
    /// An answer, proved.
    Said(Answer),
    /// Nobody can be asked: why, for people.
    Nowhere(&'static str),
    /// Nothing is known: it is not there, is silent, or is somebody else; why, for people.
    Unknown(String),
}

/// What came of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wished {
    /// It is in use there, and this became of the wish.
    Became(Wish),
    /// Something else: as of a plain question.
    Not(Heard),
}

/// Asks the process that an `open` record names.
pub async fn ask(holder: &Holder, sealer: &Sealer) -> Heard {
    match put(holder, sealer, None).await {
        Ok(answer) => Heard::Said(answer.0),
        Err(heard) => heard,
    }
}

/// Wishes for a full commit, of an instant after the holder first heard of this wish: asked again, it is the same wish.
pub async fn wish(holder: &Holder, sealer: &Sealer, wish: [u8; 16]) -> Wished {
    match put(holder, sealer, Some(wish)).await {
        Ok((Answer::InUse, Some(became))) => Wished::Became(became),
        Ok((answer, _)) => Wished::Not(Heard::Said(answer)),
        Err(heard) => Wished::Not(heard),
    }
}

async fn put(holder: &Holder, sealer: &Sealer, wish: Option<[u8; 16]>) -> Result<(Answer, Option<Wish>), Heard> {
    if holder.address.is_empty() {
        return Err(Heard::Nowhere("it takes no questions (--peer-listen)"));
    }
    let Some((address, pin)) = holder.address.parse::<SocketAddr>().ok().zip(Hash::from_slice(&holder.certificate)) else {
        return Err(Heard::Nowhere("it takes questions in another way than this version asks"));
    };
    match tokio::time::timeout(PATIENCE, exchange(address, pin, sealer, wish)).await {
        Ok(Ok(answer)) => Ok(answer),
        Ok(Err(error)) => Err(Heard::Unknown(chain(&*error))),
        Err(_) => Err(Heard::Unknown(format!("it did not answer within {} s", PATIENCE.as_secs()))),
    }
}

fn chain(error: &(dyn std::error::Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text = format!("{text}: {error}");
        cause = error.source();
    }
    text
}

async fn exchange(address: SocketAddr, pin: Hash, sealer: &Sealer, wish: Option<[u8; 16]>) -> Result<(Answer, Option<Wish>), StdError> {
    let (stream, session) = connect(address, pin).await?;
    let question = wish.map_or_else(|| proof::ask(sealer, &session), |wish| proof::wish(sealer, &session, wish));
    let answer = converse(stream, [question]).await?;
    if !proof::is_answered(sealer, &session, &answer) {
        return Err("its answer is not proved".into());
    }
    let of_newer = || StdError::from("it answers something that this version does not know");
    let said = answer.state.try_into().ok().and_then(|state| Answer::of_wire(state, answer.dirty_bytes)).ok_or_else(of_newer)?;
    Ok((said, Wish::of_wire(&answer)))
}

/// A session with the process that has this certificate.
pub(super) async fn connect(address: SocketAddr, pin: Hash) -> Result<(TlsStream<TcpStream>, Exported), StdError> {
    let stream = TcpStream::connect(address).await?;
    let connector = TlsConnector::from(Arc::new(tls::pinned(pin)?));
    let stream = connector.connect(ServerName::try_from(tls::NAME)?, stream).await.map_err(tls::told)?;
    let session = tls::session(stream.get_ref().1)?;
    Ok((stream, session))
}

/// Asks these, one after the other; the last answer, or the first refusal.
pub(super) async fn converse(
    stream: TlsStream<TcpStream>,
    questions: impl IntoIterator<Item = HolderQuestion>,
) -> Result<HolderAnswer, StdError> {
    let (sender, connection) = handshake(TokioExecutor::new(), TokioIo::new(stream)).await?;
    let asking = async {
        let mut answer = HolderAnswer::default();
        for asked in questions {
            answer = question(sender.clone(), asked).await?;
        }
        Ok(answer)
    };
    tokio::select! {
        answer = asking => answer,
        ended = connection => Err(ended.err().map_or_else(|| "it ended the session".into(), Into::into)),
    }
}

async fn question(sender: SendRequest<Body>, asked: HolderQuestion) -> Result<HolderAnswer, StdError> {
    let origin = http::Uri::from_static("https://holdfast");
    let mut grpc = Grpc::with_origin(Line(sender), origin).max_decoding_message_size(BYTES_MAX);
    grpc.ready().await.map_err(Into::<StdError>::into)?;
    let codec = ProstCodec::<HolderQuestion, HolderAnswer>::default();
    let path = http::uri::PathAndQuery::from_static(METHOD);
    let answer = grpc.unary(tonic::Request::new(asked), path, codec).await;
    answer.map(tonic::Response::into_inner).map_err(|status| format!("it refuses to answer: {}", status.message()).into())
}
