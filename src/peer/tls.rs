//! TLS 1.3 with a certificate that a process makes for itself and nobody has to trust but by its hash.

use crate::format::proof::Session;
use crate::format::seal::hash;
use crate::types::{Fault, FaultKind, Hash};
use std::sync::Arc;
use tokio_rustls::rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use tokio_rustls::rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, aws_lc_rs, verify_tls13_signature};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use tokio_rustls::rustls::server::NoServerSessionStorage;
use tokio_rustls::rustls::{
    CertificateError, ClientConfig, ConnectionCommon, DigitallySignedStruct, Error, ServerConfig, SignatureScheme, version,
};

/// In every certificate, and asked for by everybody: who is meant is told by the hash.
pub(super) const NAME: &str = "holdfast";
/// What is exported is for this alone.
const EXPORTER: &[u8] = b"EXPORTER-holdfast-v1";
const PROTOCOL: &[u8] = b"h2";

fn provider() -> Arc<CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

fn cannot(error: impl std::error::Error + Send + Sync + 'static) -> Fault {
    Fault::with(FaultKind::Local, "TLS cannot be set up for the questions of other machines (peer-listen)", error)
}

/// A new key and certificate, of this process alone: how it is shown, and its hash.
pub(super) fn identity() -> Result<(ServerConfig, Hash), Fault> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()]).map_err(cannot)?;
    let certificate = made.cert.der().clone();
    let pin = hash(&certificate);
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(provider()).with_protocol_versions(&[&version::TLS13]).map_err(cannot)?;
    let mut config = config.with_no_client_auth().with_single_cert(vec![certificate], key).map_err(cannot)?;
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    // Each question has a session of its own: nothing of one is kept for another.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok((config, pin))
}

/// Believes the certificate of this hash, and no other.
pub(super) fn pinned(pin: Hash) -> Result<ClientConfig, Fault> {
    let algorithms = provider().signature_verification_algorithms;
    let config = ClientConfig::builder_with_provider(provider()).with_protocol_versions(&[&version::TLS13]).map_err(cannot)?;
    let mut config = config.dangerous().with_custom_certificate_verifier(Arc::new(Pinned { pin, algorithms })).with_no_client_auth();
    config.alpn_protocols = vec![PROTOCOL.to_vec()];
    Ok(config)
}

/// A handshake that failed, in words where it is somebody else's certificate.
pub(super) fn told(error: std::io::Error) -> std::io::Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(Error::InvalidCertificate(_)) => std::io::Error::other("somebody else listens there: the log names another certificate"),
        _ => error,
    }
}

/// What the two ends of a session know, and nobody else.
pub(super) fn session<Data>(connection: &ConnectionCommon<Data>) -> Result<Session, Error> {
    connection.export_keying_material([0; 32], EXPORTER, None)
}

#[derive(Debug)]
struct Pinned {
    pin: Hash,
    algorithms: WebPkiSupportedAlgorithms,
}

impl ServerCertVerifier for Pinned {
    fn verify_server_cert(
        &self,
        certificate: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _name: &ServerName<'_>,
        _ocsp: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if hash(certificate) == self.pin {
            Ok(ServerCertVerified::assertion())
        } else {
            Err(Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure))
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _certificate: &CertificateDer<'_>,
        _signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Error::General("TLS 1.3 alone is spoken here".to_owned()))
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, certificate, signed, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
