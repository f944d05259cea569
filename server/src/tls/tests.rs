//! Sessions against a client of rustls, in memory.
//!
//! Not here: sockets.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use rustls::{ClientConfig, ClientConnection, SupportedProtocolVersion, version};
use tempfile::TempDir;

use super::*;

type Issuer = CertifiedIssuer<'static, KeyPair>;

fn issuer(name: &str) -> Issuer {
    let mut params = CertificateParams::new(vec![]).unwrap();
    params.distinguished_name.push(rcgen::DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

/// A certificate and its key.
fn signed(issuer: &Issuer, expires: i32) -> (rcgen::Certificate, KeyPair) {
    let mut params = CertificateParams::new(vec!["log.example".to_owned()]).unwrap();
    params.not_before = rcgen::date_time_ymd(2000, 1, 1);
    params.not_after = rcgen::date_time_ymd(expires, 1, 1);
    let key = KeyPair::generate().unwrap();
    (params.signed_by(&key, issuer).unwrap(), key)
}

fn write(path: &Path, text: &str, mode: u32) {
    std::fs::write(path, text).unwrap();
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// A server's files, and what a client trusts.
struct World {
    issuer: Issuer,
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let world = Self { issuer: issuer("ours"), dir: tempfile::tempdir().unwrap() };
        world.new_certificate();
        write(&world.dir.path().join("ca"), &world.issuer.pem(), 0o644);
        world
    }

    fn new_certificate(&self) {
        let (certificate, key) = signed(&self.issuer, 4000);
        write(&self.dir.path().join("cert"), &certificate.pem(), 0o644);
        write(&self.dir.path().join("key"), &key.serialize_pem(), 0o600);
    }

    fn files(&self, client_ca: bool, client_required: bool) -> TlsFiles {
        let path = |name| self.dir.path().join(name);
        let client_ca = client_ca.then(|| path("ca"));
        TlsFiles { cert: path("cert"), key: path("key"), client_ca, client_required }
    }

    fn tls(&self, client_ca: bool, client_required: bool) -> Tls {
        Tls::load(self.files(client_ca, client_required)).unwrap()
    }

    fn client(
        &self,
        certificate: Option<&(rcgen::Certificate, KeyPair)>,
        version: &'static SupportedProtocolVersion,
    ) -> ClientConnection {
        let mut roots = RootCertStore::empty();
        roots.add(self.issuer.der().clone()).unwrap();
        let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_protocol_versions(&[version])
            .unwrap()
            .with_root_certificates(roots);
        let config = match certificate {
            None => builder.with_no_client_auth(),
            Some((certificate, key)) => {
                let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
                builder.with_client_auth_cert(vec![certificate.der().clone()], key).unwrap()
            }
        };
        let name = "log.example".try_into().unwrap();
        ClientConnection::new(Arc::new(config), name).unwrap()
    }
}

/// Both ends of a connection.
struct Pair {
    client: ClientConnection,
    session: Session,
    /// What the server was sent, decrypted.
    plain: Vec<u8>,
    /// What the client was sent, decrypted.
    answer: Vec<u8>,
}

impl Pair {
    fn new(tls: &Tls, client: ClientConnection) -> Self {
        Self { client, session: tls.session(), plain: Vec::new(), answer: Vec::new() }
    }

    /// Bytes go to and fro until both are silent; each flight of the client comes in two parts.
    fn run(&mut self, cut: usize) -> Result<(), TlsError> {
        loop {
            let mut flight = Vec::new();
            while self.client.wants_write() {
                self.client.write_tls(&mut flight).unwrap();
            }
            let (first, second) = flight.split_at(cut.min(flight.len()));
            let taken = self.session.handle_input(first, &mut self.plain);
            let taken = taken.and_then(|()| self.session.handle_input(second, &mut self.plain));
            let mut out = Vec::new();
            self.session.poll_output(&mut out);
            self.answer_client(&out, taken.is_err());
            taken?;
            if flight.is_empty() && out.is_empty() {
                return Ok(());
            }
        }
    }

    fn answer_client(&mut self, mut bytes: &[u8], refused: bool) {
        while !bytes.is_empty() {
            self.client.read_tls(&mut bytes).unwrap();
            match self.client.process_new_packets() {
                Ok(_) => {}
                Err(rustls::Error::AlertReceived(_)) if refused => return,
                Err(error) => panic!("{error}"),
            }
            let mut chunk = [0; 4096];
            while let Ok(count @ 1..) = self.client.reader().read(&mut chunk) {
                self.answer.extend_from_slice(&chunk[..count]);
            }
        }
    }
}

/// A request and its answer over a new connection, with the client's flights cut.
fn converse(world: &World, tls: &Tls, version: &'static SupportedProtocolVersion, cut: usize) {
    let mut pair = Pair::new(tls, world.client(None, version));
    pair.client.writer().write_all(b"PING\r\n").unwrap();
    assert!(pair.session.is_handshaking());
    pair.run(cut).unwrap();
    assert!(!pair.session.is_handshaking());
    assert_eq!(pair.plain, b"PING\r\n");
    assert_eq!(pair.session.peer_certificate(), None);
    assert_eq!(pair.session.write(b"+PONG\r\n"), 7);
    pair.run(cut).unwrap();
    assert_eq!(pair.answer, b"+PONG\r\n");
}

#[test]
fn input_may_be_split_anywhere() {
    let world = World::new();
    let tls = world.tls(false, false);
    for version in [&version::TLS12, &version::TLS13] {
        // The longest flight of a client is shorter.
        for cut in 0..400 {
            converse(&world, &tls, version, cut);
        }
    }
}

#[test]
fn much_goes_both_ways_and_buffers_stay_small() {
    let world = World::new();
    let tls = world.tls(false, false);
    let mut pair = Pair::new(&tls, world.client(None, &version::TLS13));
    pair.run(0).unwrap();
    let sent: Vec<u8> = (0..3 * OUTPUT_MAX).map(|index| index as u8).collect();
    let mut left = &sent[..];
    while !left.is_empty() {
        let taken = pair.session.write(left);
        assert!(0 < taken && taken <= OUTPUT_MAX);
        left = &left[taken..];
        // Full: it says so, and forgets nothing.
        assert!(left.is_empty() || pair.session.write(left) == 0);
        pair.run(0).unwrap();
    }
    assert!(pair.answer == sent);
    let mut left = &sent[..];
    while !left.is_empty() {
        let taken = pair.client.writer().write(left).unwrap();
        left = &left[taken..];
        pair.run(20_000).unwrap();
    }
    assert!(pair.plain == sent);
}

#[test]
fn nothing_is_buffered_without_bound_before_the_handshake() {
    let world = World::new();
    let mut session = world.tls(false, false).session();
    assert_eq!(session.write(&vec![0; 2 * OUTPUT_MAX]), OUTPUT_MAX);
    assert_eq!(session.write(b"more"), 0);
}

#[test]
fn a_client_without_tls_is_told_so_in_plain() {
    let world = World::new();
    for hello in ["*1\r\n$4\r\nPING\r\n", "PING\r\n", "GET / HTTP/1.1\r\n", "\0"] {
        let mut session = world.tls(false, false).session();
        let mut plain = Vec::new();
        let error = session.handle_input(hello.as_bytes(), &mut plain).unwrap_err();
        assert_eq!(error, TlsError::NotTls(hello.as_bytes()[0]));
        assert!(error.plain_answer().unwrap().starts_with(b"-ERR"));
        assert!(plain.is_empty() && !session.wants_output());
    }
}

#[test]
fn rubbish_in_a_record_is_an_error_and_no_panic() {
    let world = World::new();
    let mut session = world.tls(false, false).session();
    let mut rubbish = vec![HANDSHAKE, 3, 1, 0x40, 0];
    rubbish.resize(100_000, 0xff);
    let error = session.handle_input(&rubbish, &mut Vec::new()).unwrap_err();
    assert!(matches!(error, TlsError::Protocol(rustls::Error::InvalidMessage(_))), "{error}");
    assert_eq!(error.plain_answer(), None);
    // It stays one.
    assert_eq!(session.handle_input(&rubbish, &mut Vec::new()), Err(error));
}

#[test]
fn a_required_certificate_is_asked_for_and_checked() {
    let world = World::new();
    let required = world.tls(true, true);
    let optional = world.tls(true, false);
    let ours = signed(&world.issuer, 4000);
    let foreign = signed(&issuer("theirs"), 4000);
    let expired = signed(&world.issuer, 2001);
    for version in [&version::TLS12, &version::TLS13] {
        let shake = |tls: &Tls, certificate| {
            let mut pair = Pair::new(tls, world.client(certificate, version));
            let done = pair.run(0);
            done.map(|()| pair.session.peer_certificate().cloned())
        };
        let der = Some(ours.0.der().clone());
        assert_eq!(shake(&required, Some(&ours)), Ok(der.clone()));
        assert_eq!(shake(&optional, Some(&ours)), Ok(der));
        assert_eq!(shake(&optional, None), Ok(None));
        assert_eq!(shake(&required, None), Err(TlsError::NoCertificate));
        for tls in [&required, &optional] {
            let error = shake(tls, Some(&expired)).unwrap_err().to_string();
            assert!(error.contains("expired"), "{error}");
            assert_eq!(shake(tls, Some(&foreign)), Err(TlsError::UnknownIssuer));
        }
    }
}

#[test]
fn ends_are_told_both_ways() {
    let world = World::new();
    let tls = world.tls(false, false);
    let mut pair = Pair::new(&tls, world.client(None, &version::TLS13));
    pair.run(0).unwrap();
    pair.client.writer().write_all(b"QUIT").unwrap();
    pair.client.send_close_notify();
    assert!(!pair.session.is_peer_closed());
    pair.run(0).unwrap();
    assert!(pair.session.is_peer_closed());
    assert_eq!(pair.plain, b"QUIT");
    // What comes after the end is dropped.
    pair.session.handle_input(b"more", &mut pair.plain).unwrap();
    assert_eq!(pair.plain, b"QUIT");
    assert_eq!(pair.session.write(b"+OK"), 3);
    pair.session.close_notify();
    pair.session.close_notify();
    pair.run(0).unwrap();
    assert_eq!(pair.answer, b"+OK");
    assert!(pair.client.process_new_packets().unwrap().peer_has_closed());
}

#[test]
fn reloaded_certificates_are_for_new_connections_and_bad_ones_are_for_none() {
    let world = World::new();
    let tls = world.tls(false, false);
    let seen = |tls: &Tls| {
        let mut pair = Pair::new(tls, world.client(None, &version::TLS13));
        pair.run(0).unwrap();
        pair.client.peer_certificates().unwrap()[0].clone().into_owned()
    };
    let first = seen(&tls);
    let mut old = Pair::new(&tls, world.client(None, &version::TLS13));
    world.new_certificate();
    assert_eq!(seen(&tls), first);
    tls.reload().unwrap();
    let second = seen(&tls);
    assert_ne!(second, first);
    old.run(0).unwrap();
    assert_eq!(old.client.peer_certificates().unwrap()[0], first);
    std::fs::write(world.dir.path().join("cert"), "").unwrap();
    tls.reload().unwrap_err();
    assert_eq!(seen(&tls), second);
}

#[test]
fn a_file_that_cannot_be_used_is_named_with_the_reason() {
    let world = World::new();
    let path = |name| world.dir.path().join(name);
    let cert = std::fs::read_to_string(path("cert")).unwrap();
    let key = std::fs::read_to_string(path("key")).unwrap();
    let other = KeyPair::generate().unwrap().serialize_pem();
    let locked = key.replace("PRIVATE", "ENCRYPTED PRIVATE");
    let cases = [
        ("cert", "", 0o644, "BEGIN CERTIFICATE"),
        ("cert", key.as_str(), 0o644, "BEGIN CERTIFICATE"),
        ("cert", "-----BEGIN CERTIFICATE-----\n%\n-----END CERTIFICATE-----\n", 0o644, "PEM"),
        ("cert", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644, "used"),
        ("key", cert.as_str(), 0o600, "no private key"),
        ("key", other.as_str(), 0o600, "is not the key of"),
        ("key", locked.as_str(), 0o600, "openssl pkey"),
        ("key", key.as_str(), 0o644, "chmod"),
        ("ca", "", 0o644, "BEGIN CERTIFICATE"),
        ("ca", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", 0o644, "root"),
    ];
    for (name, text, mode, why) in cases {
        let before = std::fs::read_to_string(path(name)).unwrap();
        write(&path(name), text, mode);
        let error = Tls::load(world.files(true, true)).unwrap_err();
        assert_eq!(error.path, path(name), "{error}");
        assert!(error.to_string().contains(why), "{error}");
        write(&path(name), &before, 0o600);
    }
    std::fs::remove_file(path("key")).unwrap();
    let error = Tls::load(world.files(false, false)).unwrap_err().to_string();
    assert!(error.contains("key: cannot open it"), "{error}");
}
