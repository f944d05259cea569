//! `openssl s_client`: TLS as another library speaks it, certificates, and their reload.
//!
//! Not here: TLS without sockets (`tls`).

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::sys::signal::Signal;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, SanType};
use tempfile::TempDir;

use crate::common::{Server, program, run, run_well, until};
use crate::{oncelog, users_file};

/// A root, and what it has signed, as files.
struct Certificates {
    issuer: CertifiedIssuer<'static, KeyPair>,
    dir: TempDir,
}

impl Certificates {
    fn new() -> Self {
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, "the root");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().expect("a key");
        let issuer = CertifiedIssuer::self_signed(params, key).expect("a certificate");
        let certificates = Self { issuer, dir: tempfile::tempdir().expect("a directory") };
        write(&certificates.path("root.pem"), &certificates.issuer.pem(), 0o644);
        certificates
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Signs one and writes `FILE.pem` and `FILE.key`.
    fn sign(&self, file: &str, name: &str) {
        let mut params = CertificateParams::new(vec![]).expect("parameters");
        params.distinguished_name.push(DnType::CommonName, name);
        params.subject_alt_names.push(SanType::IpAddress([127, 0, 0, 1].into()));
        let key = KeyPair::generate().expect("a key");
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        write(&self.path(&format!("{file}.pem")), &certificate.pem(), 0o644);
        write(&self.path(&format!("{file}.key")), &key.serialize_pem(), 0o600);
    }

    fn text(&self, name: &str) -> String {
        self.path(name).to_str().expect("UTF-8").to_owned()
    }
}

fn write(path: &Path, text: &str, mode: u32) {
    fs::write(path, text).expect("a file");
    fs::set_permissions(path, PermissionsExt::from_mode(mode)).expect("its mode");
}

/// `s_client` that trusts the root and nothing else. It tells the names of the server's chain, too.
fn s_client(openssl: &Path, server: &Server, certificates: &Certificates) -> Command {
    let mut command = Command::new(openssl);
    let address = format!("127.0.0.1:{}", server.port);
    command.args(["s_client", "-quiet", "-verify_return_error", "-verify_ip", "127.0.0.1"]);
    command.args(["-connect", &address, "-CAfile", &certificates.text("root.pem")]);
    command
}

#[test]
fn openssl_speaks_tls_and_sees_a_new_certificate_after_sighup() {
    let Some(openssl) = program("openssl") else { return };
    let certificates = Certificates::new();
    certificates.sign("server", "the first");
    let (cert, key) = (certificates.text("server.pem"), certificates.text("server.key"));
    let server = Server::start(&["--tls-cert", &cert, "--tls-key", &key]);
    let ask = |args: &[&str], input: &str| {
        let mut client = s_client(&openssl, &server, &certificates);
        run_well(client.args(args), input.as_bytes())
    };
    for version in ["-tls1_2", "-tls1_3"] {
        let told = ask(&[version], "PING\r\nCREATE safe IFABSENT\nAPPEND safe secret\r\nQUIT\r\n");
        assert!(told.contains("CN = the first") && told.contains("+PONG"), "{told}");
        assert!(told.contains("\n+OK"), "{told}");
    }
    let told = ask(&[], "READ safe FROM earliest\r\nQUIT\r\n");
    assert_eq!(told.matches("secret").count(), 2, "{told}");
    // Who does not speak TLS is told so, and older versions are refused.
    let (told, _) = run(
        Command::new(program("nc").unwrap_or("nc".into())).args([
            "-N",
            "127.0.0.1",
            &server.port.to_string(),
        ]),
        b"PING\r\n",
    );
    assert!(told.contains("TLS"), "{told}");
    let mut old = s_client(&openssl, &server, &certificates);
    let (told, is_well) = run(old.args(["-tls1_1", "-cipher", "ALL:@SECLEVEL=0"]), b"");
    assert!(!is_well, "{told}");

    // What cannot be used changes nothing; what can is used for new connections.
    write(&certificates.path("server.pem"), "no certificate", 0o644);
    server.signal(Signal::SIGHUP);
    until("the server refuses it", || server.log().contains("stay as they were").then_some(()));
    assert!(ask(&[], "PING\r\nQUIT\r\n").contains("CN = the first"));
    certificates.sign("server", "the second");
    server.signal(Signal::SIGHUP);
    until("the new certificate is there", || {
        ask(&[], "PING\r\nQUIT\r\n").contains("CN = the second").then_some(())
    });
}

#[test]
fn client_certificates_are_users_and_users_are_reloaded() {
    let Some(openssl) = program("openssl") else { return };
    let (certificates, stranger) = (Certificates::new(), Certificates::new());
    certificates.sign("server", "the server");
    certificates.sign("billing", "billing");
    certificates.sign("nobody", "nobody's");
    stranger.sign("other", "of another root");
    let dir = tempfile::tempdir().expect("a directory");
    let users = users_file(dir.path(), "reader", "secret", "");
    let path = certificates.text("root.pem");
    let (cert, key) = (certificates.text("server.pem"), certificates.text("server.key"));
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &path];
    let with_users = ["--users", users.to_str().expect("UTF-8")];
    let server = Server::start_in(dir, &[&tls[..], &with_users[..]].concat());
    let ask = |owner: Option<(&Certificates, &str)>, input: &str| {
        let mut client = s_client(&openssl, &server, &certificates);
        if let Some((certificates, name)) = owner {
            client.args(["-cert", &certificates.text(&format!("{name}.pem"))]);
            client.args(["-key", &certificates.text(&format!("{name}.key"))]);
        }
        run(&mut client, input.as_bytes()).0
    };
    let who = "CLIENT INFO\r\nQUIT\r\n";
    let billing = Some((&certificates, "billing"));
    assert!(ask(None, who).contains("-NOAUTH"));
    assert!(ask(None, "AUTH reader secret\r\nCLIENT INFO\r\nQUIT\r\n").contains("user=reader"));
    assert!(ask(Some((&certificates, "nobody")), who).contains("-NOAUTH"));
    assert!(ask(billing, who).contains("-NOAUTH"), "its user is not there yet");
    let told = ask(Some((&stranger, "other")), who);
    assert!(!told.contains("NOAUTH") && told.contains("alert"), "{told}");

    let mut add = oncelog();
    add.args(["user", "add"])
        .arg(&users)
        .args(["billing", "--prefix", "bills/", "--allow", "admin"]);
    add.args(["--no-password", "--certificate", &certificates.text("billing.pem")]);
    run_well(&mut add, b"");
    server.signal(Signal::SIGHUP);
    until("the new user is there", || ask(billing, who).contains("user=billing").then_some(()));
    let told = ask(billing, "CREATE bills/2026\r\nCREATE others\r\nQUIT\r\n");
    assert!(told.contains(":1") && told.contains("-NOPERM"), "{told}");
}

#[test]
fn a_client_without_a_certificate_is_refused_where_one_is_required() {
    let Some(openssl) = program("openssl") else { return };
    let certificates = Certificates::new();
    certificates.sign("server", "the server");
    certificates.sign("client", "the client");
    let [root, cert, key] =
        ["root.pem", "server.pem", "server.key"].map(|name| certificates.text(name));
    let tls = ["--tls-cert", &cert, "--tls-key", &key, "--tls-client-ca", &root];
    let server = Server::start(&[&tls[..], &["--tls-client-required"]].concat());
    let mut without = s_client(&openssl, &server, &certificates);
    let (told, _) = run(&mut without, b"PING\r\nQUIT\r\n");
    assert!(!told.contains("PONG") && told.contains("certificate required"), "{told}");
    let mut with = s_client(&openssl, &server, &certificates);
    with.args(["-cert", &certificates.text("client.pem")]);
    let told = run_well(with.args(["-key", &certificates.text("client.key")]), b"PING\r\nQUIT\r\n");
    assert!(told.contains("+PONG"), "{told}");
}
