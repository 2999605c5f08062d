//! TLS of a server on loopback, with a certificate authority of its own: no key is stored in the repository.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use rcgen::{BasicConstraints, Certificate, CertificateParams, IsCa, Issuer, KeyPair};
use tokio_rustls::{
    TlsAcceptor,
    rustls::{ServerConfig, crypto::ring, pki_types::PrivateKeyDer},
};

/// The certificate of a server on 127.0.0.1, from a new authority.
pub struct ServerCertificate {
    /// The server's key.
    pub key: KeyPair,
    /// The server's certificate.
    pub certificate: Certificate,
    /// The certificate of the authority as EKS returns it: PEM in base64.
    pub authority: String,
}

impl ServerCertificate {
    /// Issues one.
    pub fn issue() -> Self {
        let mut authority = CertificateParams::new(Vec::new()).expect("no names");
        authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority_key = KeyPair::generate().expect("a key");
        let authority_certificate = authority.self_signed(&authority_key).expect("a certificate");
        let issuer = Issuer::new(authority, authority_key);
        let key = KeyPair::generate().expect("a key");
        let own = CertificateParams::new(vec!["127.0.0.1".to_owned()]).expect("a name");
        let certificate = own.signed_by(&key, &issuer).expect("a certificate");
        Self { key, certificate, authority: BASE64_STANDARD.encode(authority_certificate.pem()) }
    }
}

/// The server's side of TLS for 127.0.0.1, and the certificate of its authority as EKS returns it.
pub fn tls() -> (TlsAcceptor, String) {
    let ServerCertificate { key, certificate, authority } = ServerCertificate::issue();
    let key = PrivateKeyDer::try_from(key.serialize_der()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certificate.der().clone()], key)
        .expect("a certificate and its key");
    (TlsAcceptor::from(Arc::new(config)), authority)
}
