//! The page in a real browser: what it shows, and that its script keeps it fresh.
//!
//! Not here: what the server answers (`watch`).

mod watching;

use std::process::{Command, Stdio};

use watching::Server;

/// What the document is like after so many milliseconds, where there is a Chromium.
fn document(address: &str, after_ms: u32) -> Option<String> {
    let profile = tempfile::tempdir().unwrap();
    let run = |program: &str| {
        Command::new(program)
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic"])
            .args(["--no-first-run", "--disable-background-networking", "--disable-sync"])
            .args(["--disable-component-update", "--dump-dom"])
            .arg(format!("--user-data-dir={}", profile.path().display()))
            .arg(format!("--virtual-time-budget={after_ms}"))
            .arg(address)
            .stdin(Stdio::null())
            .stderr(Stdio::null())
            .output()
    };
    let browsers = ["chromium", "chromium-browser", "google-chrome"];
    let output = browsers.iter().find_map(|program| run(program).ok())?;
    assert!(output.status.success(), "the browser failed: {}", output.status);
    Some(String::from_utf8(output.stdout).unwrap())
}

#[test]
fn the_page_shows_a_log_and_its_script_updates_it() {
    let server = Server::start(|_| {});
    let log = server.engine.create_log("shop/orders").wait().unwrap();
    log.append_batch(["one", "two", "three"]).wait().unwrap();
    drop(server.engine.processor("shop/billing").source("shop/orders").open().wait().unwrap());
    let address = format!("http://{}/?prefix=shop", server.address());
    let Some(shown) = document(&address, 9_000) else {
        println!("skipped: there is no chromium");
        return;
    };
    assert!(shown.contains("shop/orders") && shown.contains("shop/billing"), "{shown}");
    // Not what came over the wire: what a script put there that the policy let run.
    let updates = shown.split("data-updates=\"").nth(1).and_then(|rest| rest.split('"').next());
    let updates: u32 = updates.unwrap_or_else(|| panic!("no updates in {shown}")).parse().unwrap();
    assert!(updates >= 2, "{updates}");
    assert!(shown.contains(">live, every 2 s<"), "{shown}");
    assert!(!server.get("/?prefix=shop").body.contains("data-updates=\""));
}

#[test]
fn a_page_whose_server_went_away_says_so() {
    let server = Server::start(|_| {});
    // The listener stops behind the first answer, which is the page.
    let address = server.address();
    let proxy = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let front = proxy.local_addr().unwrap();
    let page = server.get("/");
    assert!(page.status == 200 && address != front);
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut stream, _) = proxy.accept().unwrap();
        drop(proxy);
        let _ = stream.read(&mut [0; 4096]);
        let head = "HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nConnection: close\r\n";
        write!(stream, "{head}Content-Length: {}\r\n\r\n{}", page.body.len(), page.body).unwrap();
    });
    let Some(shown) = document(&format!("http://{front}/"), 5_000) else {
        println!("skipped: there is no chromium");
        return;
    };
    assert!(shown.contains("no answer since") && shown.contains("class=\"lost\""), "{shown}");
}
