//! The HTTP client: its timeouts, its proxies, and whose certificates it trusts.

use std::path::PathBuf;
use std::time::Duration;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use super::{DownloadConfig, DownloadError};

/// The environment variable that names the certificates to trust instead of Mozilla's, as in OpenSSL: a PEM file.
/// Networks that intercept TLS have one of their own.
const TRUST: &str = "SSL_CERT_FILE";

/// Redirects that are followed, to http and https only.
const REDIRECTS: u32 = 10;

/// A client for one request. A `secure` one does not leave https.
///
/// # Errors
/// The file that `SSL_CERT_FILE` names cannot be read or holds no certificate.
pub(super) fn agent(config: &DownloadConfig, loopback: bool, secure: bool) -> Result<ureq::Agent, DownloadError> {
    let patience = Some(Duration::from_secs(config.timeout_s));
    let mut builder = ureq::Agent::config_builder()
        .http_status_as_error(false)
        .https_only(secure)
        .max_redirects(REDIRECTS)
        .timeout_connect(patience)
        .timeout_recv_response(patience)
        .timeout_per_read(patience);
    if loopback {
        // A proxy cannot reach this machine's own servers.
        builder = builder.proxy(None);
    }
    if let Some(path) = std::env::var_os(TRUST).filter(|path| !path.is_empty()) {
        builder = builder.tls_config(TlsConfig::builder().root_certs(roots(path.into())?).build());
    }
    Ok(builder.build().new_agent())
}

fn roots(path: PathBuf) -> Result<RootCerts, DownloadError> {
    let unreadable = |source| DownloadError::Local {
        operation: "read the certificates of SSL_CERT_FILE,",
        path: path.clone(),
        source,
    };
    let pem = std::fs::read(&path).map_err(unreadable)?;
    let certificates: Vec<Certificate<'static>> = parse_pem(&pem)
        .filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        })
        .collect();
    match certificates.is_empty() {
        true => Err(DownloadError::NoCertificate { path }),
        false => Ok(RootCerts::new_with_certs(&certificates)),
    }
}
