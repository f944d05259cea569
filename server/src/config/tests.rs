//! Settings from arguments, files and defaults; and those that cannot work.
//!
//! Not here: single values (`values`).

use std::collections::BTreeSet;

use clap::{CommandFactory, Parser};

use super::*;
use crate::users::Users;

#[derive(Parser)]
struct Cli {
    #[command(flatten)]
    serve: ServeArgs,
}

fn load(words: &[&str]) -> Result<Config, ConfigError> {
    let words = ["serve"].iter().chain(words);
    Cli::try_parse_from(words).unwrap().serve.load()
}

fn parse(text: &str) -> Config {
    toml::from_str(text).unwrap()
}

/// Everything that is not by default.
const OTHER: &str = r#"
    data = "/srv/log"
    create_data = false
    shards = 3
    segment_size = "1MiB"
    inbox_size = 2000000
    tail_cache_size = "0B"
    engine_io = "plain"
    direct_io = "never"
    sync_method = "fdatasync"
    cores = [1, 0]
    spin = "10us"
    allow_network_file_system = true
    create_logs = true
    listen = ["127.0.0.1:1", "[::1]:2"]
    watch_listen = "off"
    ingest = ["127.0.0.1:3=orders/raw", "127.0.0.1:4=bills/raw"]
    transport = "io_uring"
    threads = 2
    users = "users.toml"
    tls_cert = "cert.pem"
    tls_key = "key.pem"
    tls_client_ca = "ca.pem"
    tls_client_required = true
    insecure = true
    connections_max = 10
    connections_per_address_max = 2
    request_size_max = "1MiB"
    args_max = 100
    in_flight_max = 10
    in_flight_size_max = "1MiB"
    output_size_max = "2MiB"
    read_size_max = "1MiB"
    follows_max = 3
    follow_batch_size = "64KiB"
    ingest_batch_size = "32KiB"
    memory_max = "1GB"
    handshake_timeout = "1m"
    idle_timeout = "1h"
    write_timeout = "1m"
    stop_timeout = "0s"
    log_format = "json"
    log_filter = "warn,oncelog=debug"
"#;

#[test]
fn defaults_work_and_are_those_of_the_engine_but_for_spinning() {
    let config = load(&[]).unwrap();
    assert_eq!(config, Config::default());
    assert_eq!(config.warnings(), Vec::<String>::new());
    let options = format!("{:?}", config.engine_options());
    let expected = Options::new("data").spin(std::time::Duration::ZERO);
    assert_eq!(options, format!("{expected:?}"));
    assert_eq!(config.tls_files(), None);
}

#[test]
fn what_is_printed_is_what_was_loaded() {
    let other = parse(OTHER);
    other.check().unwrap();
    for config in [Config::default(), other] {
        assert_eq!(parse(&config.to_toml().unwrap()), config);
    }
}

#[test]
fn the_example_shows_every_default_and_its_comments_can_be_used() {
    let text = Config::default().to_toml().unwrap();
    let examples = SETTINGS.iter().filter_map(|setting| {
        setting.example.map(|example| format!("{} = {example}", setting.name))
    });
    let uncommented = examples.fold(text, |text, line| {
        assert!(text.contains(&format!("# {line}\n")), "{line}");
        text.replace(&format!("# {line}\n"), &format!("{line}\n"))
    });
    parse(&uncommented).check().unwrap();
    let hint = "write it: oncelog serve --print-config > server/dist/oncelog.toml";
    assert_eq!(read("dist/oncelog.toml"), Config::default().to_toml().unwrap(), "{hint}");
}

/// The settings as a table of a document.
fn table() -> String {
    let defaults = toml::Table::try_from(Config::default()).unwrap();
    let mut text = String::from("| setting | default | what it does |\n|---|---|---|\n");
    for setting in SETTINGS {
        let default = defaults.get(setting.name).map(|value| format!("`{value}`"));
        let default = default.unwrap_or_else(|| "none".to_owned());
        let about = setting.about.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ");
        text += &format!("| `{}` | {default} | {about} |\n", setting.name);
    }
    text
}

fn read(path: &str) -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(path)).unwrap()
}

#[test]
fn the_document_has_every_setting_with_its_default() {
    let document = read("../docs/operations.md");
    assert!(document.contains(&table()), "put this table into docs/operations.md:\n{}", table());
}

#[test]
fn the_service_and_the_image_start_the_server_with_settings_there_are() {
    let unit = read("dist/oncelog.service");
    let start = unit.lines().find_map(|line| line.strip_prefix("ExecStart=")).unwrap();
    let words: Vec<&str> = start.split(' ').skip(2).collect();
    Cli::try_parse_from([&["serve"], &words[..]].concat()).unwrap();

    let image = read("dist/Containerfile").replace("\\\n", "");
    let start = image.lines().find_map(|line| line.strip_prefix("CMD ")).unwrap();
    let words: Vec<String> = serde_json::from_str(start).unwrap();
    let config = Cli::try_parse_from(words).unwrap().serve.load().unwrap();
    assert!(config.users.is_some() && config.data == Path::new("/data"));
}

#[test]
fn the_command_line_has_the_names_of_the_file() {
    let command = Cli::command();
    let arguments = command.get_arguments().filter_map(|argument| argument.get_long());
    let mut arguments: BTreeSet<String> = arguments.map(|long| long.replace('-', "_")).collect();
    for ours in ["config", "print_config"] {
        assert!(arguments.remove(ours));
    }
    let settings: BTreeSet<String> = SETTINGS.iter().map(|setting| setting.name.into()).collect();
    assert_eq!(arguments, settings);
    let other: toml::Table = toml::from_str(OTHER).unwrap();
    let missing: Vec<_> = settings.iter().filter(|name| !other.contains_key(*name)).collect();
    // Goes with no cores only.
    assert_eq!(missing, ["pin"]);
}

#[test]
fn arguments_go_before_the_file_and_the_file_before_defaults() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oncelog.toml");
    std::fs::write(&path, OTHER).unwrap();
    let file = path.to_str().unwrap();
    assert_eq!(load(&["--config", file]).unwrap(), parse(OTHER));

    // Each of the file's values, as arguments, makes the same as the file.
    let table: toml::Table = toml::from_str(OTHER).unwrap();
    let mut words = Vec::new();
    for (name, value) in &table {
        let flag = format!("--{}", name.replace('_', "-"));
        let values = value.as_array().cloned().unwrap_or_else(|| vec![value.clone()]);
        for value in values {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            words.push(format!("{flag}={text}"));
        }
    }
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    assert_eq!(load(&words).unwrap(), parse(OTHER));

    let words = ["--config", file, "--listen", "127.0.0.1:9", "--insecure=false", "--threads=5"];
    let config = load(&words).unwrap();
    assert_eq!(config.listen, ["127.0.0.1:9".parse().unwrap()]);
    assert_eq!((config.insecure, config.threads, config.shards), (false, 5, Some(3)));
    assert!(load(&["--insecure"]).unwrap().insecure);
}

#[test]
fn every_engine_option_gets_to_the_engine() {
    let options = format!("{:?}", parse(OTHER).engine_options());
    let expected = Options::new("/srv/log")
        .create(false)
        .shards(3)
        .segment_size(1 << 20)
        .inbox_size(2_000_000)
        .tail_cache_size(0)
        .io_mode(oncelog::IoMode::Plain)
        .direct_io(oncelog::DirectIo::Never)
        .sync_method(oncelog::SyncMethod::Fdatasync)
        .cores([1, 0])
        .spin(std::time::Duration::from_micros(10))
        .allow_network_file_system(true);
    assert_eq!(options, format!("{expected:?}"));
    let unpinned = parse("pin = false").engine_options();
    let expected = Options::new("data").spin(std::time::Duration::ZERO).pin(false);
    assert_eq!(format!("{unpinned:?}"), format!("{expected:?}"));
}

#[test]
fn limits_of_connections_are_those_of_the_settings_and_the_engine() {
    let dir = tempfile::tempdir().unwrap();
    let options = Options::new(dir.path()).shards(1).segment_size(1 << 20);
    let engine = options.open().unwrap();
    let info = engine.info().wait().unwrap();
    let limits = Config::default().limits(&info);
    assert_eq!(limits.request.bytes, info.batch_size_max as usize + (64 << 10));
    assert_eq!(limits.line, info.record_size_max as usize + LINE_END);
    assert_eq!(limits.lines, info.batch_size_max as usize / 4);
    let limits = parse(OTHER).limits(&info);
    assert_eq!((limits.request.bytes, limits.request.args), (1 << 20, 100));
    assert_eq!((limits.in_flight, limits.in_flight_bytes), (10, 1 << 20));
    assert_eq!((limits.output, limits.follows), (2 << 20, 3));
    assert_eq!((limits.lines, limits.request.line), (32 << 10, 64 << 10));
    engine.close().wait().unwrap();
}

#[test]
fn wrong_files_are_refused_with_the_setting() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("oncelog.toml");
    let cases = [
        ("shard = 1", "shard", "expected one of"),
        ("threads = -1", "threads", "-1"),
        ("listen = \"127.0.0.1:1\"", "listen", "sequence"),
        ("listen = [\"localhost:1\"]", "listen", "give an IP address"),
        ("memory_max = \"much\"", "memory_max", "64MiB"),
        ("memory_max = -1", "memory_max", "a size"),
        ("idle_timeout = 30", "idle_timeout", "a time"),
        ("transport = \"tcp\"", "transport", "io_uring"),
        ("ingest = [\"127.0.0.1:1=a b\"]", "ingest", "is no name"),
        ("insecure = 1", "insecure", "boolean"),
        ("threads = 1\nthreads = 2", "threads", "duplicate"),
    ];
    for (text, name, why) in cases {
        std::fs::write(&path, text).unwrap();
        let error = load(&["--config", path.to_str().unwrap()]).unwrap_err().to_string();
        assert!(error.contains(name) && error.contains(why), "{error}");
        assert!(error.contains("oncelog.toml"), "{error}");
    }
    let error = load(&["--config", "/none/oncelog.toml"]).unwrap_err().to_string();
    assert!(error.contains("/none/oncelog.toml: cannot read it"), "{error}");
}

#[test]
fn wrong_values_are_refused_with_what_is_allowed() {
    let cases = [
        ("data = \"\"", "data is empty"),
        ("shards = 0", "shards is 0; give 1 to 256"),
        ("shards = 257", "shards is 257; give 1 to 256"),
        ("segment_size = \"1KiB\"", "segment_size is 1KiB; give a multiple of 32KiB, 1MiB to 1GiB"),
        ("segment_size = \"1025KiB\"", "segment_size is 1025KiB; give a multiple of 32KiB"),
        ("inbox_size = 0", "inbox_size is 0B; give 1MiB to"),
        ("tail_cache_size = \"1PiB\"", "tail_cache_size is 1024TiB; give 0B to"),
        ("spin = \"2s\"", "spin is 2s; give 0s to 1s"),
        ("pin = false\ncores = [0]", "cores is given and pin is false"),
        ("log_filter = \"a=loud\"", "log_filter is \"a=loud\""),
        ("threads = 2000", "threads is 2000; give 0 to 1024"),
        ("connections_max = 0", "connections_max is 0; give 1 to"),
        ("connections_per_address_max = 0", "connections_per_address_max is 0; give 1 to 10000"),
        ("in_flight_size_max = 1", "in_flight_size_max is 1B; give 64KiB to 1GiB"),
        ("output_size_max = 1", "output_size_max is 1B; give 64KiB to 1GiB"),
        ("request_size_max = 1", "request_size_max is 1B; give 4KiB to 1GiB"),
        ("ingest_batch_size = 1", "ingest_batch_size is 1B; give 4KiB to 16MiB"),
        ("args_max = 1", "args_max is 1; give 16 to"),
        ("in_flight_max = 0", "in_flight_max is 0; give 1 to"),
        ("read_size_max = \"17MiB\"", "read_size_max is 17MiB; give 4KiB to 16MiB"),
        ("follows_max = 0", "follows_max is 0; give 1 to"),
        ("follow_batch_size = 1", "follow_batch_size is 1B; give 4KiB to 16MiB"),
        ("memory_max = \"11MiB\"", "memory_max is 11MiB; give at least 13MiB"),
        ("handshake_timeout = \"0s\"", "handshake_timeout is 0s; give 1s to 1day"),
        ("write_timeout = \"0s\"", "write_timeout is 0s; give 1s to 1day"),
        ("stop_timeout = \"2days\"", "stop_timeout is 2days; give 0s to 1day"),
        ("idle_timeout = \"1ms\"", "idle_timeout is 1ms; give 1s to"),
        ("listen = []", "listen is empty"),
        ("listen = [\"127.0.0.1:1\", \"127.0.0.1:1\"]", "give another port"),
        ("listen = [\"127.0.0.1:9380\"]", "watch_listen has 127.0.0.1:9380, and so has listen"),
        ("ingest = [\"127.0.0.1:6380=a\"]", "ingest has 127.0.0.1:6380, and so has listen"),
        ("tls_cert = \"a\"", "tls_cert and tls_key belong together"),
        ("tls_key = \"a\"", "tls_cert and tls_key belong together"),
        ("tls_client_ca = \"a\"", "tls_client_ca is given without tls_cert"),
        ("tls_client_required = true", "tls_client_required is true without tls_client_ca"),
    ];
    for (text, why) in cases {
        let error = parse(text).check().expect_err(text);
        assert_eq!(error.problems.len(), 1, "{error}");
        assert!(error.problems[0].contains(why), "{error}");
    }
    let error = parse("threads = 2000\nargs_max = 1").check().unwrap_err();
    assert_eq!(error.problems.len(), 2, "all are told at once");
    parse("listen = [\"127.0.0.1:0\", \"127.0.0.1:0\"]").check().unwrap();
}

#[test]
fn an_address_that_others_reach_needs_users_or_the_word_insecure() {
    let with_tls = "tls_cert = \"a\"\ntls_key = \"b\"";
    for addr in ["0.0.0.0:1", "[::]:1", "192.0.2.1:1", "[::ffff:192.0.2.1]:1"] {
        let open = format!("listen = [\"{addr}\"]\n");
        let error = parse(&open).check().unwrap_err().to_string();
        assert!(error.contains("give users") && error.contains(addr), "{error}");
        let insecure = parse(&format!("{open}insecure = true"));
        insecure.check().unwrap();
        assert_eq!(insecure.warnings().len(), 2, "{:?}", insecure.warnings());
        let users = parse(&format!("{open}users = \"users\""));
        users.check().unwrap();
        assert!(users.warnings()[0].contains("without TLS"));
        let safe = parse(&format!("{open}users = \"users\"\n{with_tls}"));
        safe.check().unwrap();
        assert!(safe.warnings().is_empty());

        // Lines of a feed say nothing of who sends them: only a certificate can.
        let feed = format!("ingest = [\"{addr}=log\"]\nusers = \"users\"\n{with_tls}\n");
        assert!(parse(&feed).check().unwrap_err().to_string().contains("client certificates"));
        parse(&format!("{feed}insecure = true")).check().unwrap();
        let certificates = "tls_client_ca = \"c\"\ntls_client_required = true";
        parse(&format!("{feed}{certificates}")).check().unwrap();
    }
    for addr in ["127.0.0.1:1", "127.9.9.9:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
        parse(&format!("listen = [\"{addr}\"]")).check().unwrap();
    }
    let watch = parse("watch_listen = \"0.0.0.0:9380\"");
    watch.check().unwrap();
    assert_eq!(watch.warnings().len(), 1);
}

#[test]
fn users_who_could_never_log_in_are_refused() {
    let path = Path::new("users");
    let sum = "0".repeat(64);
    let text = format!("[[user]]\nname = \"ann\"\ncertificate = \"{sum}\"\ngrants = []");
    let users = Users::parse(path, &text).unwrap();
    let config = parse("users = \"users.toml\"\ntls_cert = \"a\"\ntls_key = \"b\"");
    let error = config.check_users(&users).unwrap_err();
    assert!(error.path == Path::new("users.toml") && error.why.contains("tls_client_ca"));
    let config = Config { tls_client_ca: Some("c".into()), ..config };
    config.check_users(&users).unwrap();
    let nobody = Users::parse(path, "").unwrap();
    assert!(config.check_users(&nobody).unwrap_err().why.contains("oncelog user add"));
}
