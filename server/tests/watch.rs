//! Watching over HTTP: figures that a real parser reads, health, bounds, and no name that breaks
//! out of its place.
//!
//! Not here: the page in a browser (`browser`).

mod watching;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use oncelog_server::front::Refused;
use oncelog_server::watch::Stage;
use watching::{Answer, Server};

/// The value of a sample in a text of figures.
fn value(text: &str, sample: &str) -> f64 {
    let found = text.lines().find_map(|line| line.strip_prefix(sample)?.strip_prefix(' '));
    found.unwrap_or_else(|| panic!("no {sample} in\n{text}")).parse().unwrap()
}

/// Figures are kept for a second: asks until they say what is expected.
fn figures_until(server: &Server, holds: impl Fn(&str) -> bool) -> String {
    let begin = Instant::now();
    loop {
        let answer = server.get("/metrics");
        assert_eq!(answer.status, 200);
        if holds(&answer.body) {
            return answer.body;
        }
        assert!(begin.elapsed() < Duration::from_secs(60), "never came:\n{}", answer.body);
        std::thread::yield_now();
    }
}

#[test]
fn figures_rise_with_appends_and_with_what_the_front_end_counts() {
    let server = Server::start(|_| {});
    let log = server.engine.create_log("shop/orders").wait().unwrap();
    log.append_batch(["one", "two"]).wait().unwrap();
    let processor = server.engine.processor("shop/billing").source("shop/orders").open();
    drop(processor.wait().unwrap());
    server.front.accepted();
    server.front.request(1);
    server.front.answered(1, 40);
    server.front.refused(Refused::Limit);

    let answer = server.get("/metrics");
    let kind = "content-type: application/openmetrics-text; version=1.0.0; charset=utf-8";
    assert!(answer.head.contains(kind), "{}", answer.head);
    let text = figures_until(&server, |text| value(text, "oncelog_append_records_total") == 2.0);
    assert_eq!(value(&text, "oncelog_append_bytes_total"), 6.0);
    assert_eq!(value(&text, "oncelog_append_latency_seconds_count"), 1.0);
    assert_eq!(value(&text, "oncelog_append_latency_seconds_bucket{le=\"+Inf\"}"), 1.0);
    assert_eq!(value(&text, "oncelog_log_records{log=\"shop/orders\"}"), 2.0);
    assert_eq!(value(&text, "oncelog_processor_lag{processor=\"shop/billing\"}"), 2.0);
    assert_eq!(value(&text, "oncelog_append_refused_total{reason=\"no_space\"}"), 0.0);
    assert_eq!(value(&text, "oncelog_segments_active"), 1.0);
    assert_eq!(value(&text, "oncelog_connections_total"), 1.0);
    assert_eq!(value(&text, "oncelog_connections_refused_total{reason=\"limit\"}"), 1.0);
    let latency = "oncelog_request_latency_seconds_bucket";
    assert_eq!(value(&text, &format!("{latency}{{le=\"0.000032\",verb=\"APPEND\"}}")), 0.0);
    assert_eq!(value(&text, &format!("{latency}{{le=\"0.000064\",verb=\"APPEND\"}}")), 1.0);
    // An entry of one block is in the range that ends with one block.
    assert!(value(&text, "oncelog_entry_size_bytes_bucket{le=\"4096.0\"}") >= 1.0, "{text}");

    log.append("three").wait().unwrap();
    figures_until(&server, |text| value(text, "oncelog_append_records_total") == 3.0);
}

/// A Python that has the parser of the Prometheus project, where one can be had.
fn parser() -> Option<PathBuf> {
    let venv = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("prometheus-client");
    let (python, done) = (venv.join("bin/python"), venv.join("done"));
    if done.exists() {
        return Some(python);
    }
    let run = |command: &mut Command| {
        let quiet = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        quiet.status().is_ok_and(|status| status.success())
    };
    let pip = ["-m", "pip", "install", "-q", "--timeout", "10", "--retries", "0"];
    let got = run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv))
        && run(Command::new(&python).args(pip).arg("prometheus_client>=0.20"));
    (got && std::fs::write(done, "").is_ok()).then_some(python)
}

#[test]
fn a_strict_parser_reads_every_figure() {
    let server = Server::start(|_| {});
    for name in ["a", "b/c"] {
        server.engine.create_log(name).wait().unwrap().append("x").wait().unwrap();
    }
    drop(server.engine.processor("b/p").source("b/c").open().wait().unwrap());
    server.front.request(0);
    server.front.answered(0, 5_000_000_000);
    let both = |text: &str| text.contains("{log=\"b/c\"} 1.0") && text.contains("verb=\"PING\"");
    let text = figures_until(&server, both);
    assert!(text.ends_with("# EOF\n"));
    let Some(python) = parser() else {
        println!("skipped: no Python with prometheus_client (python3 -m venv, pip and network)");
        return;
    };
    let program = "import sys\n\
        from prometheus_client.openmetrics.parser import text_string_to_metric_families as read\n\
        for family in read(sys.stdin.read()):\n    \
            print(family.name, family.type, len(family.samples))\n";
    let mut child = Command::new(python)
        .args(["-c", program])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{text}");
    let read = String::from_utf8(output.stdout).unwrap();
    let types = text.lines().filter(|line| line.starts_with("# TYPE ")).count();
    assert_eq!(read.lines().count(), types);
    for family in
        ["append_latency_seconds histogram", "append_bytes counter 1", "log_records gauge 2"]
    {
        assert!(read.contains(&format!("oncelog_{family}")), "{family} in\n{read}");
    }
}

#[test]
fn the_document_lists_what_is_told_and_nothing_else() {
    let server = Server::start(|_| {});
    server.engine.create_log("a").wait().unwrap();
    drop(server.engine.processor("a").source("a").open().wait().unwrap());
    server.front.request(0);
    server.front.answered(0, 1);
    let text = figures_until(&server, |text| text.contains("log=\"a\""));
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../docs/metrics.md");
    let document = std::fs::read_to_string(path).unwrap();
    let rows = document.lines().filter_map(|line| line.strip_prefix("| ")?.split_once("| `"));
    let names = rows.filter_map(|(_, rest)| rest.split('`').next());
    let names = names.filter(|name| name.starts_with("oncelog_"));
    let listed: BTreeSet<_> = names.map(str::to_owned).collect();
    let metrics = server.engine.metrics().wait().unwrap();
    let engine: BTreeSet<_> = metrics.total.fields().map(|field| field.name).collect();
    let types = text.lines().filter_map(|line| line.strip_prefix("# TYPE oncelog_"));
    let own = types.filter_map(|line| {
        let (name, kind) = line.split_once(' ').unwrap();
        let bare = name.strip_suffix("_seconds").unwrap_or(name);
        let bare_bytes = bare.strip_suffix("_bytes").unwrap_or(bare);
        // The engine's own names stand in the lists of the engine.
        if [name, bare, bare_bytes].iter().any(|name| engine.contains(name)) {
            return None;
        }
        let end = match kind {
            "counter" => "_total",
            "info" => "_info",
            _ => "",
        };
        Some(format!("oncelog_{name}{end}"))
    });
    let told: BTreeSet<_> = own.collect();
    let missing: Vec<_> = told.difference(&listed).collect();
    let unknown: Vec<_> = listed.difference(&told).collect();
    assert!(missing.is_empty() && unknown.is_empty(), "add {missing:?}, remove {unknown:?}");
}

#[test]
fn names_beyond_the_limit_are_summed_and_said_so() {
    let server = Server::start(|watched| watched.names_max = 2);
    for name in ["a", "b", "c", "d"] {
        let log = server.engine.create_log(name).wait().unwrap();
        log.append_batch(["x", "y", "z"]).wait().unwrap();
        drop(server.engine.processor(name).source(name).open().wait().unwrap());
    }
    let text = figures_until(&server, |text| {
        text.contains("oncelog_logs_summed 2.0") && text.contains("processor=\"*\"")
    });
    assert_eq!(value(&text, "oncelog_names_max"), 2.0);
    assert_eq!(value(&text, "oncelog_log_append_records_total{log=\"b\"}"), 3.0);
    assert!(!text.contains("log=\"c\""), "{text}");
    let values = |name: &str| {
        let lines = text.lines().filter(|line| line.starts_with(&format!("oncelog_{name}{{")));
        let pair = |line: &str| {
            let (label, value) = line.split_once("} ").unwrap();
            (label.split('"').nth(1).unwrap().to_owned(), value.parse::<f64>().unwrap())
        };
        lines.map(pair).collect::<BTreeMap<_, _>>()
    };
    let expected = [("*", 6.0), ("a", 3.0), ("b", 3.0)];
    let expected: BTreeMap<_, _> = expected.map(|(name, of)| (name.to_owned(), of)).into();
    for name in ["log_records", "log_append_records_total", "processor_lag"] {
        assert_eq!(values(name), expected, "{name}");
    }
}

#[test]
fn health_ends_when_the_engine_stops_and_readiness_with_the_stage() {
    let server = Server::start(|_| {});
    assert_eq!((server.get("/healthz").status, server.get("/readyz").status), (200, 200));
    for (stage, said) in
        [(Stage::Starting, "it is starting\n"), (Stage::Stopping, "it is stopping\n")]
    {
        server.state.set(stage);
        let answer = server.get("/readyz");
        assert_eq!((answer.status, answer.body.as_str()), (503, said));
        assert_eq!(server.get("/healthz").status, 200, "it lives");
    }
    server.state.set(Stage::Ready);
    server.engine.close().wait().unwrap();
    let text = figures_until(&server, |text| text.contains("oncelog_stopped 1.0"));
    assert_eq!(value(&text, "oncelog_connections_total"), 0.0, "the front end's are still told");
    for path in ["/healthz", "/readyz"] {
        let answer = server.get(path);
        assert_eq!(answer.status, 503, "{path}");
        assert!(answer.body.contains("closed"), "{}", answer.body);
    }
    let page = server.get("/");
    assert!(page.status == 200 && page.body.contains(">stopped<"), "{}", page.body);
    assert!(page.body.contains("not known"), "no figure of before stands there: {}", page.body);
}

#[test]
fn a_flood_of_scrapes_asks_the_engine_next_to_nothing() {
    let server = Server::start(|_| {});
    let asked = |server: &Server| server.engine.metrics().wait().unwrap().total.turn_requests.sum();
    drop(server.get("/metrics"));
    let (begin, before) = (Instant::now(), asked(&server));
    let scrapes = 400;
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..scrapes / 8).for_each(|_| drop(server.get("/metrics"))));
        }
    });
    let (seconds, asked) = (begin.elapsed().as_secs() + 2, asked(&server) - before);
    // Two shards, each asked some five things at most twice a second.
    assert!(asked <= 20 * seconds, "{asked} requests in {seconds} s for {scrapes} scrapes");
}

#[test]
fn no_more_than_the_allowed_connections_are_served_at_a_time() {
    let server = Server::start(|watched| watched.limits.connections = 3);
    let mut idle: Vec<_> = (0..3).map(|_| server.connect()).collect();
    // They are served, and stay.
    for stream in &mut idle {
        write!(stream, "GET /healthz HTTP/1.1\r\nHost: it\r\n\r\n").unwrap();
        assert_eq!(stream.read(&mut [0; 4096]).unwrap().min(1), 1);
    }
    let mut waiting = server.connect();
    write!(waiting, "GET /healthz HTTP/1.1\r\nHost: it\r\nConnection: close\r\n\r\n").unwrap();
    waiting.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    let error = waiting.read(&mut [0; 1]).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut), "{error}");
    drop(idle.pop());
    waiting.set_read_timeout(None).unwrap();
    assert_eq!(Answer::read(&mut waiting).status, 200);
}

#[test]
fn who_sends_a_head_slowly_or_nothing_at_all_is_cut_off() {
    let server = Server::start(|watched| {
        watched.limits.head_patience = Duration::from_millis(150);
    });
    for sent in ["", "GET /met", "GET / HTTP/1.1\r\nHost: it\r\n"] {
        let mut stream = server.connect();
        stream.write_all(sent.as_bytes()).unwrap();
        let mut rest = Vec::new();
        // It ends by itself, long before this patience does.
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.read_to_end(&mut rest).unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 200"), "{sent:?}");
    }
    // The same where an answer was given before.
    let mut stream = server.connect();
    write!(stream, "GET /healthz HTTP/1.1\r\nHost: it\r\n\r\n").unwrap();
    assert_eq!(Answer::read(&mut stream).status, 200);
}

#[test]
fn who_does_not_read_is_cut_off() {
    let server = Server::start(|watched| watched.limits.life = Duration::from_millis(150));
    for n in 0..150 {
        server.engine.create_log(format!("log/{n}")).wait().unwrap();
    }
    let mut stream = server.connect();
    stream.set_write_timeout(Some(Duration::from_secs(60))).unwrap();
    // More and more answers, which no buffer holds in the end.
    let request = "GET /metrics HTTP/1.1\r\nHost: it\r\n\r\n".repeat(100);
    let error = loop {
        if let Err(error) = stream.write_all(request.as_bytes()) {
            break error;
        }
    };
    assert!(matches!(error.kind(), ErrorKind::ConnectionReset | ErrorKind::BrokenPipe), "{error}");
}

#[test]
fn nothing_from_outside_gets_out_of_its_place_in_the_page() {
    let server = Server::start(|_| {});
    server.engine.create_log("shop/orders").wait().unwrap();
    let page = server.get("/?prefix=%22%3E%3Cscript%3Ealert(1)%3C/script%3E&after=%3Cb%3E");
    assert_eq!(page.status, 200);
    assert!(page.body.contains("value=\"&quot;&gt;&lt;script&gt;alert(1)&lt;/script&gt;\""));
    assert!(!page.body.contains("<script>alert"), "{}", page.body);
    assert_eq!(page.body.matches("<script>").count(), 1);
    // The directory's name, which the page tells, has characters of HTML in it.
    assert!(page.body.contains("a&amp;&lt;b&gt;&quot;") && !page.body.contains("<b>"));
    let policy = page.head.lines().find_map(|line| line.strip_prefix("content-security-policy: "));
    let policy = policy.expect("a policy");
    assert!(policy.contains("default-src 'none'") && !policy.contains("unsafe"), "{policy}");
    for header in ["x-content-type-options: nosniff", "cache-control: no-store"] {
        assert!(page.head.contains(header), "{}", page.head);
    }
    assert_eq!(server.get(&format!("/?prefix={}", "x".repeat(256))).status, 400);
}

#[test]
fn pages_of_logs_follow_each_other_without_gaps() {
    let server = Server::start(|_| {});
    for n in 0..150 {
        server.engine.create_log(format!("log/{n:03}")).wait().unwrap();
    }
    server.engine.create_log("other").wait().unwrap();
    let cells = |page: &str| {
        let cells = page.split("<td class=\"name-cell\">log/").skip(1);
        cells.map(|cell| cell.split('<').next().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let first = server.get("/?prefix=log").body;
    assert!(first.contains("href=\"?prefix=log&amp;after=log/099\""), "{first}");
    let second = server.get("/?prefix=log&after=log/099").body;
    assert!(!second.contains(">next 100<") && second.contains(">first page<"));
    let all: Vec<_> = [cells(&first), cells(&second)].concat();
    assert_eq!(all, (0..150).map(|n| format!("{n:03}")).collect::<Vec<_>>());
    assert!(server.get("/?prefix=none").body.contains("There is no log whose name begins so."));
}

#[test]
fn other_paths_methods_and_large_heads_are_refused_and_head_has_no_body() {
    let server = Server::start(|_| {});
    assert_eq!(server.get("/status").status, 404);
    let refused = server.ask("POST /metrics HTTP/1.1\r\nContent-Length: 1000000");
    assert_eq!(refused.status, 405);
    assert!(refused.head.contains("allow: get, head"), "{}", refused.head);
    let head = server.ask("HEAD / HTTP/1.1");
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    assert!(head.head.contains("content-length: "), "{}", head.head);
    let mut stream = server.connect();
    let large = format!("GET / HTTP/1.1\r\nX: {}\r\n\r\n", "y".repeat(9 << 10));
    // The connection may end before all was taken, and with it the answer be lost.
    let (_, mut answer) = (stream.write_all(large.as_bytes()), Vec::new());
    let ended = stream.read_to_end(&mut answer);
    assert!(answer.starts_with(b"HTTP/1.1 431") || ended.is_err(), "{answer:?}");
    let browser = server.ask("GET /metrics HTTP/1.1\r\nAccept: text/html,*/*");
    assert!(browser.head.contains("content-type: text/plain"), "{}", browser.head);
}

#[test]
fn stopping_lets_go_of_the_engine_and_of_the_port() {
    let server = Server::start(|_| {});
    let mut open = server.connect();
    write!(open, "GET /healthz HTTP/1.1\r\nHost: it\r\n\r\n").unwrap();
    assert!(open.read(&mut [0; 4096]).unwrap() > 0);
    let address = server.address();
    server.handle.stop();
    assert_eq!(open.read(&mut [0; 4096]).unwrap(), 0, "an idle connection ends");
    std::net::TcpListener::bind(address).unwrap();
}
