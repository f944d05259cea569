//! TLS without I/O: bytes of the wire in, plain bytes out, and back.
//!
//! ```text
//! socket --> handle_input --> plain requests     Tls: certificate and key, reloadable
//! socket <-- poll_output  <-- write(answers)     Session: one connection, by the Tls of its begin
//! ```
//!
//! A session buffers at most [`OUTPUT_MAX`] bytes of what was written, and one record of what was
//! received; the plain bytes go to the caller at once, and are never more than came in.
//!
//! TLS 1.2 and 1.3, by rustls on ring; no ALPN, no early data, no renegotiation.
//!
//! Not here: sockets (`socket`), timeouts, and whose a certificate is (`users`).

use std::io::{BufRead, Write};
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use bytes::BufMut;
use rustls::crypto::{CryptoProvider, ring};
use rustls::pki_types::pem::{self, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{CertificateError, RootCertStore, ServerConfig, ServerConnection};

use crate::private::{self, FileError};

/// Bytes that were written and not polled, after which [`Session::write`] takes no more.
pub const OUTPUT_MAX: usize = 64 << 10;

/// The first byte of every TLS connection: a handshake record.
const HANDSHAKE: u8 = 0x16;

/// Where the certificates are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsFiles {
    /// The server's certificate, and those between it and a root, in PEM.
    pub cert: PathBuf,
    /// Its private key in PEM; others must not be able to read it.
    pub key: PathBuf,
    /// Roots that sign clients' certificates, in PEM. Without them clients are not asked for one.
    pub client_ca: Option<PathBuf>,
    /// Whether a client without a certificate is refused.
    pub client_required: bool,
}

/// What new connections begin with.
#[derive(Debug)]
pub struct Tls {
    files: TlsFiles,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads the files.
    ///
    /// # Errors
    /// [`FileError`] says which file cannot be used, and why.
    pub fn load(files: TlsFiles) -> Result<Self, FileError> {
        let config = RwLock::new(load(&files)?);
        Ok(Self { files, config })
    }

    /// Reads the files again, for connections that begin from now on.
    ///
    /// # Errors
    /// [`FileError`]; then the certificates of before stay in use.
    pub fn reload(&self) -> Result<(), FileError> {
        let config = load(&self.files)?;
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
        Ok(())
    }

    /// A new connection's.
    #[must_use]
    pub fn session(&self) -> Session {
        let config = self.config.read().unwrap_or_else(PoisonError::into_inner).clone();
        let mut connection = ServerConnection::new(config).expect("load() made one of it too");
        connection.set_buffer_limit(Some(OUTPUT_MAX));
        Session { connection, begun: false, closing: false, peer_closed: false }
    }
}

fn load(files: &TlsFiles) -> Result<Arc<ServerConfig>, FileError> {
    let provider = Arc::new(ring::default_provider());
    let chain = certificates(&files.cert)?;
    let key = key(&files.key)?;
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has the ciphers of both versions");
    let builder = match &files.client_ca {
        None => builder.with_no_client_auth(),
        Some(path) => builder.with_client_cert_verifier(verifier(files, path, provider)?),
    };
    let config = builder.with_single_cert(chain, key).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            let why = format!("it is not the key of {}; give the pair", files.cert.display());
            FileError::new(&files.key, why)
        }
        error => FileError::new(&files.cert, format!("it cannot be used: {error}")),
    })?;
    let config = Arc::new(config);
    let made = ServerConnection::new(Arc::clone(&config));
    made.map_err(|error| FileError::new(&files.cert, format!("it cannot be used: {error}")))?;
    Ok(config)
}

type ClientVerifier = Arc<dyn rustls::server::danger::ClientCertVerifier>;

fn verifier(
    files: &TlsFiles,
    path: &Path,
    provider: Arc<CryptoProvider>,
) -> Result<ClientVerifier, FileError> {
    let mut roots = RootCertStore::empty();
    for root in certificates(path)? {
        let added = roots.add(root);
        added.map_err(|error| FileError::new(path, format!("it has a bad root: {error}")))?;
    }
    let builder = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
    let builder = if files.client_required { builder } else { builder.allow_unauthenticated() };
    builder.build().map_err(|error| FileError::new(path, format!("it cannot be used: {error}")))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, FileError> {
    let bytes = private::read(path)?;
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(&bytes).collect();
    let found = found.map_err(|error| FileError::new(path, format!("it is no PEM: {error}")))?;
    if found.is_empty() {
        let why = "it has no \"BEGIN CERTIFICATE\"; give certificates in PEM";
        return Err(FileError::new(path, why));
    }
    Ok(found)
}

fn key(path: &Path) -> Result<PrivateKeyDer<'static>, FileError> {
    let bytes = private::read_private(path)?;
    PrivateKeyDer::from_pem_slice(&bytes).map_err(|error| {
        let locked = bytes.windows(9).any(|word| word == b"ENCRYPTED");
        let why = match error {
            pem::Error::NoItemsFound if locked => {
                "its key is encrypted; decrypt it: openssl pkey -in FILE -out KEY".to_owned()
            }
            pem::Error::NoItemsFound => {
                "it has no private key; give one in PEM (PKCS #8, PKCS #1 or SEC 1)".to_owned()
            }
            error => format!("it is no PEM: {error}"),
        };
        FileError::new(path, why)
    })
}

/// Why a connection ends.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum TlsError {
    /// The client speaks without TLS, or another protocol.
    #[error(
        "the client does not speak TLS here: its first byte is {0:#04x}; it must connect by TLS"
    )]
    NotTls(u8),
    /// The client was asked for a certificate and gave none.
    #[error("the client gave no certificate, and tls_client_required asks for one")]
    NoCertificate,
    /// The client's certificate is not from one of our roots.
    #[error("the client's certificate is not signed by a root in tls_client_ca")]
    UnknownIssuer,
    /// Everything else, by its protocol.
    #[error("TLS failed: {0}")]
    Protocol(rustls::Error),
}

impl TlsError {
    /// What a client that does not speak TLS can read, to be sent as it is.
    #[must_use]
    pub fn plain_answer(&self) -> Option<&'static [u8]> {
        matches!(self, Self::NotTls(_)).then_some(b"-ERR this port speaks TLS only\r\n")
    }
}

impl From<rustls::Error> for TlsError {
    fn from(error: rustls::Error) -> Self {
        match error {
            rustls::Error::NoCertificatesPresented => Self::NoCertificate,
            rustls::Error::InvalidCertificate(CertificateError::UnknownIssuer) => {
                Self::UnknownIssuer
            }
            error => Self::Protocol(error),
        }
    }
}

/// One connection.
///
/// The host calls [`Session::handle_input`] with what it received, then [`Session::poll_output`]
/// and sends that, whatever the first returned: a failure is told to the peer too. It writes
/// answers with [`Session::write`] and polls again.
#[derive(Debug)]
pub struct Session {
    connection: ServerConnection,
    /// Whether a byte came.
    begun: bool,
    /// Whether we said that we send no more.
    closing: bool,
    /// Whether the peer said so.
    peer_closed: bool,
}

impl Session {
    /// Takes bytes of the wire, and appends to `plain` what was in them: over a connection never
    /// more than came in. Bytes after the peer's end are dropped.
    ///
    /// # Errors
    /// [`TlsError`]: poll and send the output, which tells the peer, then close the connection.
    pub fn handle_input(
        &mut self,
        mut bytes: &[u8],
        plain: &mut impl BufMut,
    ) -> Result<(), TlsError> {
        if let Some(first) = bytes.first().filter(|_| !self.begun) {
            if *first != HANDSHAKE {
                return Err(TlsError::NotTls(*first));
            }
            self.begun = true;
        }
        while !bytes.is_empty() && !self.peer_closed {
            // Refused if more waits inside than one message: the peer's doing, so no panic.
            let read = self.connection.read_tls(&mut bytes);
            read.map_err(|error| rustls::Error::General(error.to_string()))?;
            let state = self.connection.process_new_packets();
            self.take_plain(plain);
            self.peer_closed = state?.peer_has_closed();
        }
        Ok(())
    }

    fn take_plain(&mut self, plain: &mut impl BufMut) {
        let mut reader = self.connection.reader();
        // An error says that there is nothing now, or that the peer is gone: neither gives bytes.
        while let Ok(chunk) = reader.fill_buf() {
            let length = chunk.len();
            if length == 0 {
                break;
            }
            plain.put_slice(chunk);
            reader.consume(length);
        }
    }

    /// Takes bytes to be sent, and says how many: fewer than given once [`OUTPUT_MAX`] wait to be
    /// polled, or, before the handshake is done, to be encrypted.
    ///
    /// # Panics
    /// If [`Session::close_notify`] was called.
    #[must_use = "what was not taken must be written again after poll_output"]
    pub fn write(&mut self, plain: &[u8]) -> usize {
        assert!(!self.closing, "nothing is written after the end");
        self.connection.writer().write(plain).expect("writing into memory")
    }

    /// Appends to `out` what is to be sent, and says how many bytes.
    pub fn poll_output(&mut self, out: &mut impl BufMut) -> usize {
        let mut out = out.writer();
        let mut count = 0;
        while self.connection.wants_write() {
            count += self.connection.write_tls(&mut out).expect("writing into memory");
        }
        count
    }

    /// Whether there is something to poll.
    #[must_use]
    pub fn wants_output(&self) -> bool {
        self.connection.wants_write()
    }

    /// Whether the peer is not yet known: nothing plain has come or gone.
    #[must_use]
    pub fn is_handshaking(&self) -> bool {
        self.connection.is_handshaking()
    }

    /// Whether the peer said that it sends no more. An end of the stream without that may have been
    /// made by somebody else on the way.
    #[must_use]
    pub fn is_peer_closed(&self) -> bool {
        self.peer_closed
    }

    /// The client's certificate, if it gave one: checked against the roots, and known to be the
    /// client's once the handshake is done.
    #[must_use]
    pub fn peer_certificate(&self) -> Option<&CertificateDer<'static>> {
        let known = !self.connection.is_handshaking();
        self.connection.peer_certificates().filter(|_| known)?.first()
    }

    /// Says to the peer, with the next output, that nothing more is sent.
    pub fn close_notify(&mut self) {
        if !self.closing {
            self.closing = true;
            self.connection.send_close_notify();
        }
    }
}

#[cfg(test)]
mod tests;
