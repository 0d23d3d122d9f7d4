//! TLS to backends: whom they are certified by.

use std::path::Path;

#[cfg(feature = "tls")]
use std::sync::Arc;

use oneflight::Fingerprint;

use super::super::body::BoxError;
use super::failure::Untrusted;

/// The certificates by which backends are known: those of the web, or those in a file.
#[derive(Clone)]
pub(in super::super) struct Trust {
    /// The digest of what was in the file.
    roots: Option<Fingerprint>,
    #[cfg(feature = "tls")]
    pub(super) connector: tokio_rustls::TlsConnector,
}

/// Two whose files hold the same are the same.
impl PartialEq for Trust {
    fn eq(&self, other: &Self) -> bool {
        self.roots == other.roots
    }
}

impl std::fmt::Debug for Trust {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Trust")
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

impl Trust {
    #[cfg(not(feature = "tls"))]
    pub(in super::super) fn read(roots: Option<&Path>) -> Result<Self, String> {
        match roots {
            None => Ok(Self { roots: None }),
            Some(_) => Err("this program was built without the feature `tls`".to_owned()),
        }
    }

    /// Reads the file, if there is one.
    #[cfg(feature = "tls")]
    pub(in super::super) fn read(roots: Option<&Path>) -> Result<Self, String> {
        use tokio_rustls::rustls::crypto::ring::default_provider;
        use tokio_rustls::rustls::pki_types::CertificateDer;
        use tokio_rustls::rustls::pki_types::pem::PemObject;
        use tokio_rustls::rustls::{ClientConfig, RootCertStore};

        let mut digest = None;
        let mut known = RootCertStore::empty();
        match roots {
            None => known.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Some(path) => {
                let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
                let text = std::fs::read(path).map_err(|error| wrong(&error))?;
                digest = Some(Fingerprint::of(&text));
                for certificate in CertificateDer::pem_slice_iter(&text) {
                    let certificate = certificate.map_err(|error| wrong(&error))?;
                    known.add(certificate).map_err(|error| wrong(&error))?;
                }
                if known.is_empty() {
                    return Err(wrong(&"there is no certificate in it"));
                }
            }
        }
        let config = ClientConfig::builder_with_provider(Arc::new(default_provider()))
            .with_safe_default_protocol_versions()
            .map_err(|error| error.to_string())?;
        let mut config = config.with_root_certificates(known).with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self {
            roots: digest,
            connector: tokio_rustls::TlsConnector::from(Arc::new(config)),
        })
    }
}

/// Returns what is wrong with the other end, if that is why there is no connection.
#[cfg(not(feature = "tls"))]
pub(super) fn doubted(_: &BoxError) -> Option<Untrusted> {
    None
}

/// Returns what is wrong with the other end, if that is why there is no connection.
#[cfg(feature = "tls")]
pub(super) fn doubted(error: &BoxError) -> Option<Untrusted> {
    use tokio_rustls::rustls::{CertificateError, Error};

    let error = error
        .downcast_ref::<std::io::Error>()?
        .get_ref()?
        .downcast_ref::<Error>()?;
    Some(match error {
        Error::InvalidCertificate(wrong) => match wrong {
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Untrusted::Name,
            CertificateError::UnknownIssuer => Untrusted::Issuer,
            CertificateError::Expired
            | CertificateError::ExpiredContext { .. }
            | CertificateError::NotValidYet
            | CertificateError::NotValidYetContext { .. } => Untrusted::Time,
            _ => Untrusted::Other,
        },
        _ => Untrusted::Other,
    })
}
