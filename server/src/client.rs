//! A small blocking client: one connection, one command at a time.
//!
//! ```text
//! connect -> (TLS) -> HELLO 3 [AUTH user password] -> call(words) -> Answer | Refused
//! ```
//!
//! Invariants:
//! - A connection on which something went wrong is not used again: what came back may belong to
//!   another command.
//! - An answer that is an error is [`ClientError::Refused`], never an [`Answer`].
//!
//! Not here: what commands mean (`cli`), and the server's side of the protocol.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use redis_protocol::resp3::decode::complete::decode;
use redis_protocol::resp3::types::OwnedFrame;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, ClientConnection, RootCertStore, StreamOwned};

/// How long connecting may take.
const CONNECT_WAIT: Duration = Duration::from_secs(10);
/// How long an answer may take. No command waits longer than a fraction of it by itself.
const ANSWER_WAIT: Duration = Duration::from_secs(60);
/// Bytes that are read from the connection at once.
const CHUNK_SIZE: usize = 64 << 10;

/// Where the certificates of this machine's authorities are, on common systems.
const SYSTEM_ROOTS: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Which server, and as whom.
#[derive(Clone, Default)]
pub struct Connect {
    /// `host:port`.
    pub server: String,
    /// The user's name; with a password alone it is `default`.
    pub user: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// How to encrypt, if at all.
    pub tls: Option<Tls>,
}

/// How a connection is encrypted.
#[derive(Clone, Debug, Default)]
pub struct Tls {
    /// Certificates of the authorities that are believed; without them those of this machine.
    pub ca: Option<PathBuf>,
    /// The client's certificate and its key.
    pub own: Option<(PathBuf, PathBuf)>,
}

impl fmt::Debug for Connect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Never the password.
        f.debug_struct("Connect").field("server", &self.server).finish_non_exhaustive()
    }
}

/// What a server answered.
#[derive(Clone, Debug, PartialEq)]
pub enum Answer {
    /// Nothing.
    Nil,
    /// A number.
    Int(i64),
    /// A number that is not whole.
    Double(f64),
    /// Text, or any bytes.
    Bytes(Vec<u8>),
    /// Several answers.
    Array(Vec<Answer>),
    /// Pairs, sorted by their keys.
    Map(Vec<(String, Answer)>),
}

/// A command had no answer, or one that is an error.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// The server refused it; the text begins with the error's word.
    Refused(String),
    /// The connection failed. If a command was under way, its outcome is unknown.
    Io {
        /// What was tried.
        what: String,
        /// How it failed.
        source: io::Error,
    },
    /// The certificates or keys cannot be used.
    Tls(String),
    /// What came back is no answer to what was asked.
    Protocol(String),
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text) => f.write_str(text),
            Self::Io { what, source } => write!(f, "{what}: {source}"),
            Self::Tls(why) => f.write_str(why),
            Self::Protocol(what) => write!(f, "this is no oncelog server, or another one: {what}"),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Io { source, .. } => Some(source),
            Self::Refused(_) | Self::Tls(_) | Self::Protocol(_) => None,
        }
    }
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
}

impl Stream {
    fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(stream) => stream.read(bytes),
            Self::Tls(stream) => stream.read(bytes),
        }
    }

    fn send(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Plain(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
        }
    }
}

/// A connection to a server.
pub struct Client {
    stream: Stream,
    server: String,
    /// What came and was not taken yet.
    bytes: Vec<u8>,
    /// Something went wrong.
    broken: bool,
}

impl Client {
    /// Connects, and says who is there.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn connect(to: &Connect) -> Result<Self, ClientError> {
        let stream = open(&to.server)?;
        let stream = match &to.tls {
            None => Stream::Plain(stream),
            Some(tls) => Stream::Tls(Box::new(encrypt(stream, &to.server, tls)?)),
        };
        let server = to.server.clone();
        let mut client = Self { stream, server, bytes: Vec::new(), broken: false };
        let mut hello = vec!["HELLO", "3"];
        if to.user.is_some() || to.password.is_some() {
            let user = to.user.as_deref().unwrap_or("default");
            hello.extend(["AUTH", user, to.password.as_deref().unwrap_or_default()]);
        }
        client.call(&hello)?;
        Ok(client)
    }

    /// Sends a command and waits for its answer.
    ///
    /// # Errors
    /// [`ClientError`]
    pub fn call<W: AsRef<[u8]>>(&mut self, words: &[W]) -> Result<Answer, ClientError> {
        if self.broken {
            let source = io::Error::other("the connection failed before");
            return Err(ClientError::Io { what: self.server.clone(), source });
        }
        let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
        for word in words.iter().map(AsRef::as_ref) {
            bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
            bytes.extend_from_slice(word);
            bytes.extend_from_slice(b"\r\n");
        }
        self.broken = true;
        let sent = self.stream.send(&bytes);
        let what = |source| ClientError::Io { what: format!("{} went away", self.server), source };
        sent.map_err(what)?;
        loop {
            match self.next_frame()? {
                // Nobody asked for it with this command.
                OwnedFrame::Push { .. } => {}
                frame => {
                    self.broken = false;
                    return answer(frame);
                }
            }
        }
    }

    fn next_frame(&mut self) -> Result<OwnedFrame, ClientError> {
        let mut chunk = vec![0; CHUNK_SIZE];
        loop {
            let decoded = decode(&self.bytes);
            let decoded = decoded.map_err(|error| ClientError::Protocol(error.to_string()))?;
            if let Some((frame, len)) = decoded {
                self.bytes.drain(..len);
                return Ok(frame);
            }
            let read = loop {
                match self.stream.read(&mut chunk) {
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                    read => break read,
                }
            };
            let fail = |source| {
                let unknown = "did not answer; what was asked may have been done, or not";
                ClientError::Io { what: format!("{} {unknown}", self.server), source }
            };
            match read.map_err(fail)? {
                0 => return Err(fail(io::ErrorKind::UnexpectedEof.into())),
                len => self.bytes.extend_from_slice(&chunk[..len]),
            }
        }
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("server", &self.server).finish_non_exhaustive()
    }
}

impl Answer {
    /// A number, however it was written.
    #[must_use]
    pub fn number(&self) -> Option<u64> {
        match self {
            Self::Int(number) => u64::try_from(*number).ok(),
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok()?.parse().ok(),
            _ => None,
        }
    }

    /// Text.
    #[must_use]
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Bytes(bytes) => std::str::from_utf8(bytes).ok(),
            _ => None,
        }
    }

    /// Several answers.
    #[must_use]
    pub fn array(&self) -> Option<&[Self]> {
        match self {
            Self::Array(all) => Some(all),
            _ => None,
        }
    }

    /// The value of a key.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&Self> {
        match self {
            Self::Map(pairs) => pairs.iter().find(|(have, _)| have == key).map(|(_, value)| value),
            _ => None,
        }
    }
}

fn answer(frame: OwnedFrame) -> Result<Answer, ClientError> {
    let many =
        |frames: Vec<OwnedFrame>| frames.into_iter().map(answer).collect::<Result<Vec<_>, _>>();
    Ok(match frame {
        OwnedFrame::SimpleError { data, .. } => return Err(ClientError::Refused(data)),
        OwnedFrame::BlobError { data, .. } => {
            let text = String::from_utf8_lossy(&data).into_owned();
            return Err(ClientError::Refused(text));
        }
        OwnedFrame::Null => Answer::Nil,
        OwnedFrame::Number { data, .. } => Answer::Int(data),
        OwnedFrame::Boolean { data, .. } => Answer::Int(data.into()),
        OwnedFrame::Double { data, .. } => Answer::Double(data),
        OwnedFrame::BlobString { data, .. }
        | OwnedFrame::SimpleString { data, .. }
        | OwnedFrame::BigNumber { data, .. }
        | OwnedFrame::VerbatimString { data, .. } => Answer::Bytes(data),
        OwnedFrame::Array { data, .. } => Answer::Array(many(data)?),
        OwnedFrame::Set { data, .. } => Answer::Array(many(data.into_iter().collect())?),
        OwnedFrame::Map { data, .. } => {
            let mut pairs = Vec::new();
            for (key, value) in data {
                let key = answer(key)?;
                let key = match (&key, key.text()) {
                    (_, Some(text)) => text.to_owned(),
                    (Answer::Int(number), None) => number.to_string(),
                    _ => return Err(ClientError::Protocol("a key that is no text".to_owned())),
                };
                pairs.push((key, answer(value)?));
            }
            pairs.sort_unstable_by(|a, b| a.0.cmp(&b.0));
            Answer::Map(pairs)
        }
        other => return Err(ClientError::Protocol(format!("an answer like {other:?}"))),
    })
}

fn open(server: &str) -> Result<TcpStream, ClientError> {
    let fail = |source| ClientError::Io { what: format!("cannot connect to {server}"), source };
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in server.to_socket_addrs().map_err(fail)? {
        match TcpStream::connect_timeout(&address, CONNECT_WAIT) {
            Err(error) => failed = error,
            Ok(stream) => {
                stream.set_nodelay(true).map_err(fail)?;
                stream.set_read_timeout(Some(ANSWER_WAIT)).map_err(fail)?;
                stream.set_write_timeout(Some(ANSWER_WAIT)).map_err(fail)?;
                return Ok(stream);
            }
        }
    }
    Err(fail(failed))
}

fn encrypt(
    stream: TcpStream,
    server: &str,
    tls: &Tls,
) -> Result<StreamOwned<ClientConnection, TcpStream>, ClientError> {
    let wrong = |error: rustls::Error| ClientError::Tls(format!("TLS: {error}"));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(wrong)?
        .with_root_certificates(roots(tls.ca.as_deref())?);
    let config = match &tls.own {
        None => config.with_no_client_auth(),
        Some((certificate, key)) => {
            let chain = certificates(certificate)?;
            let key = PrivateKeyDer::from_pem_file(key).map_err(pem(key))?;
            config.with_client_auth_cert(chain, key).map_err(wrong)?
        }
    };
    let host = server.rsplit_once(':').map_or(server, |(host, _)| host);
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let name = ServerName::try_from(host).map_err(|error| {
        ClientError::Tls(format!("{server} is no name for a certificate: {error}"))
    })?;
    let connection = ClientConnection::new(Arc::new(config), name).map_err(wrong)?;
    Ok(StreamOwned::new(connection, stream))
}

fn roots(ca: Option<&Path>) -> Result<RootCertStore, ClientError> {
    let mut roots = RootCertStore::empty();
    let system = SYSTEM_ROOTS.iter().map(Path::new).find(|path| path.exists());
    let Some(path) = ca.or(system) else {
        let why = "this machine's certificates of authorities were not found; give them";
        return Err(ClientError::Tls(why.to_owned()));
    };
    for certificate in certificates(path)? {
        let added = roots.add(certificate);
        // One of many that cannot be used is none that is needed.
        if let (Err(error), true) = (added, ca.is_some()) {
            return Err(ClientError::Tls(format!("{}: {error}", path.display())));
        }
    }
    Ok(roots)
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, ClientError> {
    let read = CertificateDer::pem_file_iter(path).and_then(Iterator::collect::<Result<Vec<_>, _>>);
    let read = read.map_err(pem(path))?;
    if read.is_empty() {
        return Err(ClientError::Tls(format!("{} holds no certificate", path.display())));
    }
    Ok(read)
}

fn pem(path: &Path) -> impl Fn(rustls::pki_types::pem::Error) -> ClientError {
    let path = path.display().to_string();
    move |error| ClientError::Tls(format!("cannot read {path}: {error}"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;
    use std::thread;

    use super::*;

    /// A server that gives these answers, in pieces of `cut` bytes, and what it was sent.
    fn talk(
        answers: &'static [u8],
        cut: usize,
        words: &[&[u8]],
    ) -> (Result<Answer, String>, Vec<u8>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let server = listener.local_addr().unwrap().to_string();
        let served = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut sent = Vec::new();
            let mut chunk = [0; 1024];
            let hello = b"*2\r\n$5\r\nHELLO\r\n$1\r\n3\r\n";
            while sent.len() < hello.len() {
                let len = stream.read(&mut chunk).unwrap();
                sent.extend_from_slice(&chunk[..len]);
            }
            stream.write_all(b"%1\r\n$6\r\nserver\r\n$7\r\noncelog\r\n").unwrap();
            let mut command = Vec::new();
            while !command.ends_with(b"end\r\n") {
                let len = stream.read(&mut chunk).unwrap();
                command.extend_from_slice(&chunk[..len]);
            }
            for piece in answers.chunks(cut) {
                stream.write_all(piece).unwrap();
            }
            command
        });
        let to = Connect { server, ..Connect::default() };
        let mut client = Client::connect(&to).unwrap();
        let answer = client.call(words).map_err(|error| error.to_string());
        drop(client);
        (answer, served.join().unwrap())
    }

    #[test]
    fn commands_are_arrays_of_bulk_strings_and_answers_come_in_any_pieces() {
        let all = b">2\r\n+follow\r\n+x\r\n*3\r\n:7\r\n$4\r\na\r\nb\r\n%1\r\n+k\r\n_\r\n";
        for cut in 1..=all.len() {
            let (answer, sent) = talk(all, cut, &[b"READ", b"\xff\r\n", b"end"]);
            let pair = ("k".to_owned(), Answer::Nil);
            let bytes = Answer::Bytes(b"a\r\nb".to_vec());
            let expected = Answer::Array(vec![Answer::Int(7), bytes, Answer::Map(vec![pair])]);
            assert_eq!(answer, Ok(expected), "cut into pieces of {cut}");
            assert_eq!(sent, b"*3\r\n$4\r\nREAD\r\n$3\r\n\xff\r\n\r\n$3\r\nend\r\n");
        }
    }

    #[test]
    fn an_error_is_a_refusal_and_a_connection_that_ends_says_what_is_unknown() {
        let (answer, _) = talk(b"-NOLOG there is no log\r\n", 5, &[b"end"]);
        assert_eq!(answer, Err("NOLOG there is no log".to_owned()));
        let (answer, _) = talk(b"$100\r\nhalf", 3, &[b"end"]);
        assert!(answer.unwrap_err().contains("may have been done, or not"));
        let (answer, _) = talk(b"HTTP/1.1 400 Bad Request\r\n", 100, &[b"end"]);
        assert!(answer.unwrap_err().contains("no oncelog server"));
    }
}
