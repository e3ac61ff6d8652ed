//! TLS to the database.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::{ClientConfig, RootCertStore};
use rustls_platform_verifier::BuilderVerifierExt as _;
use tokio_postgres_rustls::MakeRustlsConnect;

/// Why TLS cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The file with the certificate of the authority cannot be used.
    #[error("{path} has no certificate that can be used")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The certificates of the system cannot be used.
    #[error("the certificates of the system cannot be used")]
    System(#[from] rustls::Error),
}

/// TLS with a server whose certificate must be for its name, from an authority that is in this file, or else one that the
/// system trusts.
pub(super) fn connector(authority: Option<&Path>) -> Result<MakeRustlsConnect, TlsError> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()?;
    let builder = match authority {
        None => builder.with_platform_verifier()?,
        Some(path) => builder.with_root_certificates(
            roots(path).map_err(|source| TlsError::Authority { path: path.to_owned(), source })?,
        ),
    };
    Ok(MakeRustlsConnect::new(builder.with_no_client_auth()))
}

fn roots(path: &Path) -> Result<RootCertStore, Box<dyn std::error::Error + Send + Sync>> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(path)? {
        roots.add(certificate?)?;
    }
    if roots.is_empty() { Err("it has none".into()) } else { Ok(roots) }
}
