//! Configuration: precedence, every error at once, suggestions, hidden secrets, generated files.

use std::{collections::BTreeMap, time::Duration};

use slackwater_relayer::config::{Config, ConfigErrors, Origin, Sources, example, json_schema, reference};

const MINIMAL: &str = r#"
[server]
allow_anonymous = true
[[chain]]
preset = "anvil"
rpc = [{ url = "http://user:hunter2@127.0.0.1:8545/v3/deadbeef" }]
signers = ["env:SOME_KEY"]
"#;

fn load(text: &str, env: &[(&str, &str)], flags: &[(&str, &str)]) -> Result<Config, ConfigErrors> {
    let env: BTreeMap<_, _> = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let mut sources = Sources { env, ..Sources::default() };
    for (key, value) in flags {
        sources = sources.flag("--set", key, Some((*value).to_owned()));
    }
    sources.load_text(Some(("test.toml".to_owned(), text.to_owned())))
}

#[track_caller]
fn refused(text: &str, env: &[(&str, &str)], expected: &[&str]) {
    let errors = load(text, env, &[]).unwrap_err();
    let told = errors.to_string();
    for part in expected {
        assert!(told.contains(part), "{part:?} is missing in: {told}");
    }
    assert_eq!(errors.0.len(), expected.len(), "{told}");
}

#[test]
fn defaults_below_preset_below_file_below_environment_below_flags() {
    let origin =
        |config: &Config, key: &str| config.entries.iter().find(|entry| entry.key == key).unwrap().origin.clone();
    let key = "chain.0.max_batch";

    let config = load(MINIMAL, &[], &[]).unwrap();
    assert_eq!(config.chains[0].tuning.max_batch, 100);
    assert_eq!(origin(&config, key), Origin::Default);
    assert_eq!(origin(&config, "chain.0.spec.block_time_ms"), Origin::Preset("anvil".to_owned()));
    assert_eq!(config.chains[0].tuning.guard, Duration::from_millis(2_500), "follows the preset's block time");

    let file = format!("{MINIMAL}max_batch = 50\nspec = {{ block_time_ms = 2000 }}\n");
    let config = load(&file, &[], &[]).unwrap();
    assert_eq!(config.chains[0].tuning.max_batch, 50);
    assert_eq!(origin(&config, key), Origin::File { name: "test.toml".into(), line: 8 });
    assert_eq!(config.chains[0].spec.block_time_ms, 2_000, "the file is above the preset");
    assert_eq!(config.chains[0].tuning.guard, Duration::from_millis(4_500));

    let env = [("SLACKWATER_CHAIN_0_MAX_BATCH", "40"), ("SLACKWATER_SERVER_LISTEN", "127.0.0.1:1")];
    let config = load(&file, &env, &[]).unwrap();
    assert_eq!(config.chains[0].tuning.max_batch, 40);
    assert_eq!(origin(&config, key), Origin::Env("SLACKWATER_CHAIN_0_MAX_BATCH".to_owned()));
    assert_eq!(config.listen.port(), 1);

    let config = load(&file, &env, &[(key, "30")]).unwrap();
    assert_eq!(config.chains[0].tuning.max_batch, 30);
    assert_eq!(origin(&config, key), Origin::Flag("--set".to_owned()));
}

#[test]
fn a_configuration_can_come_from_the_environment_alone() {
    let env = [
        ("SLACKWATER_CHAIN_0_PRESET", "anvil"),
        ("SLACKWATER_CHAIN_0_RPC_0_URL", "http://127.0.0.1:8545"),
        ("SLACKWATER_CHAIN_0_SIGNERS", "env:A,env:B"),
        ("SLACKWATER_TENANT_0_ID", "shop"),
        ("SLACKWATER_TENANT_0_API_KEYS", "sha256:0000000000000000000000000000000000000000000000000000000000000000"),
        ("SLACKWATER_TENANT_0_KINDS", "forward,call"),
        ("SLACKWATER_TENANT_0_BUDGET_LIMIT_WEI", "100000000000000000000000"),
        // What is referred to is no key; other programs' variables with our prefix are known.
        ("SLACKWATER_URL", "x"),
    ];
    let config = load("", &env, &[]).unwrap();
    assert_eq!(config.chains[0].signers.len(), 2);
    let policy = &config.tenants[0].policy;
    assert_eq!(policy.kinds.len(), 2);
    assert_eq!(policy.budget.as_ref().unwrap().limit_wei.to_string(), "100000000000000000000000");
}

#[test]
fn unknown_keys_are_errors_with_a_suggestion() {
    refused(
        &format!("{MINIMAL}max_bach = 1\n"),
        &[],
        &["test.toml:8: `chain.0.max_bach` is not a key; did you mean `max_batch`?"],
    );
    refused(&MINIMAL.replace("[server]", "[server]\nlistn = \"x\""), &[], &["did you mean `listen`?"]);
    refused(&format!("{MINIMAL}[sever]\nlisten = \"x\"\n"), &[], &["`sever` is not a key; did you mean `server`?"]);
    refused(&format!("default_within_ms = 5\n{MINIMAL}"), &[], &["there is a `request.default_within_ms`"]);
    refused(
        MINIMAL,
        &[("SLACKWATER_SERVER_LISTN", "x")],
        &["$SLACKWATER_SERVER_LISTN: is no configuration key; did you mean SLACKWATER_SERVER_LISTEN?"],
    );
    refused(&MINIMAL.replace("\"anvil\"", "\"anvill\""), &[], &["anvil"]);
    let wrong = load(MINIMAL, &[], &[("server.lissten", "x")]).unwrap_err();
    assert!(wrong.to_string().contains("did you mean `server.listen`?"), "{wrong}");
    // A secret's own name is no misspelt key.
    assert!(
        load(&MINIMAL.replace("SOME_KEY", "SLACKWATER_KEY_OF_MINE"), &[("SLACKWATER_KEY_OF_MINE", "x")], &[]).is_ok()
    );
}

#[test]
fn every_error_is_reported_with_place_value_and_range() {
    let text = r#"
[server]
listen = "nowhere"
max_batch_items = 0
metrics = "opn"
body_timeout_ms = "long"
[log]
level = "inffo"
[request]
default_within_ms = 2000
max_within_ms = 1000
[[chain]]
preset = "anvil"
rpc = [{ url = "ws://127.0.0.1:1" }]
signers = ["ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80", "inline:ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80"]
forwarders = [{ address = "0x12" }, {}]
patience_percentile = 101
[[tenant]]
id = "Shop"
api_keys = ["sw_shop_secretsecret"]
[tenant.targets.one]
"#;
    let errors = load(text, &[], &[]).unwrap_err();
    let told = errors.to_string();
    for part in [
        "test.toml:3: `server.listen` = nowhere: is not an address with port",
        "test.toml:4: `server.max_batch_items` = 0: allowed is 1 to 10000",
        "test.toml:5: `server.metrics` = \"opn\": must be one of open, operator, off; did you mean \"open\"?",
        "test.toml:6: `server.body_timeout_ms` = \"long\": expected integer",
        "`log.level` = inffo: \"inffo\" is no level",
        "`request.default_within_ms` = 2000: is above `request.max_within_ms` = 1000",
        "test.toml:14: `chain.0.rpc.0.url` is neither",
        "`chain.0.signers.0` not a reference",
        "`chain.0.signers.1` a secret must not stand in the configuration",
        "`chain.0.forwarders.0.address` = 0x12",
        "`chain.0.forwarders.1.address` is missing",
        "`chain.0.patience_percentile` = 101: allowed is 0 to 100",
        "`tenant.0.id` = \"Shop\"",
        "`tenant.0.api_keys.0` is not a hash",
        "`tenant.0.targets.one`",
    ] {
        assert!(told.contains(part), "{part:?} is missing in: {told}");
    }
    assert_eq!(errors.0.len(), 15, "{told}");
    assert!(!told.contains("ac0974") && !told.contains("secretsecret"), "{told}");
}

#[test]
fn syntax_errors_name_the_line() {
    refused("[server]\nlisten = \n", &[], &["test.toml:2", "`chain` is missing"]);
}

#[test]
fn money_is_not_open_to_the_network() {
    refused(&MINIMAL.replace("[server]", "[server]\nlisten = \"0.0.0.0:1\""), &[], &["could spend your money"]);
    refused(&MINIMAL.replace("allow_anonymous = true", ""), &[], &["nobody could call"]);
}

#[test]
fn secrets_are_never_shown() {
    let config = load(MINIMAL, &[], &[]).unwrap();
    let shown = format!("{config:?} {:?}", config.entries);
    assert!(!shown.contains("hunter2") && !shown.contains("deadbeef"), "{shown}");
    let url = &config.entries.iter().find(|entry| entry.key == "chain.0.rpc.0.url").unwrap().value;
    assert_eq!(url, "http://127.0.0.1:8545/…");
    let signer = &config.entries.iter().find(|entry| entry.key == "chain.0.signers.0").unwrap().value;
    assert_eq!(signer, "env:SOME_KEY", "a reference is no secret");
    // What is missing is named, all of it.
    let errors = config.resolve().unwrap_err();
    assert!(errors.to_string().contains("`chain.0.signers.0` environment variable SOME_KEY is not set"), "{errors}");
    // Resolved secrets hide as well.
    let sources = Sources { allow_inline_secrets: true, ..Sources::default() };
    let key = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    let text = MINIMAL.replace("env:SOME_KEY", &format!("inline:{key}"));
    let config = sources.load_text(Some(("dev".to_owned(), text))).unwrap();
    let resolved = config.resolve().unwrap();
    let shown = format!("{config:?} {resolved:?}");
    assert!(!shown.contains("ac0974") && !shown.contains("hunter2"), "{shown}");
    assert_eq!(resolved.chains[0].signers[0].address().to_string(), "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266");
}

#[test]
fn the_spec_of_a_chain_can_be_overridden_and_is_checked() {
    let config = load(
        &format!("{MINIMAL}chain_id = 1337\nname = \"my-chain\"\nspec = {{ finality = {{ kind = \"safe_tag\" }} }}\n"),
        &[],
        &[],
    )
    .unwrap();
    assert_eq!((config.chains[0].spec.chain_id, config.chains[0].spec.name.as_str()), (1_337, "my-chain"));
    refused(&format!("{MINIMAL}spec = {{ blocktime_ms = 1 }}\n"), &[], &["blocktime_ms"]);
    refused(&format!("{MINIMAL}spec = {{ block_time_ms = 0 }}\n"), &[], &["block_time_ms = 0 is outside"]);
    refused(&MINIMAL.replace("preset = \"anvil\"", "chain_id = 8453"), &[], &["write preset = \"base\""]);
}

#[test]
fn the_example_is_valid_and_up_to_date() {
    let sources = Sources::default();
    let config = sources.load_text(Some(("example".to_owned(), example()))).unwrap();
    assert_eq!(config.chains[0].spec.name, "base");
    // A commented-out default must be the default: with all of them in force nothing changes.
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/slackwater.example.toml");
    let committed = std::fs::read_to_string(path).unwrap_or_default();
    assert_eq!(committed, example(), "run `slackwater config example > relayer-bin/slackwater.example.toml`");
}

#[test]
fn the_reference_page_is_up_to_date() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/configuration.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    let (begin, end) = ("<!-- begin: slackwater config reference -->\n", "<!-- end -->");
    let between = page.split_once(begin).and_then(|(_, rest)| rest.split_once(end)).map_or("", |(between, _)| between);
    assert_eq!(between, reference(), "put the output of `slackwater config reference` between the markers in {path}");
}

#[test]
fn the_schema_has_a_text_for_every_key() {
    fn walk(path: &str, schema: &serde_json::Value) {
        for (key, sub) in schema["properties"].as_object().into_iter().flatten() {
            assert!(sub["description"].is_string(), "{path}.{key} has no description");
            walk(&format!("{path}.{key}"), sub);
            walk(&format!("{path}.{key}"), &sub["items"]);
        }
    }
    walk("", &json_schema());
}

/// A minimal configuration with these lines about the ledger.
fn with_ledger(lines: &str) -> String {
    format!("[ledger]\n{lines}\n{MINIMAL}")
}

#[test]
fn a_shared_ledger_is_configured_by_its_url() {
    assert!(load(MINIMAL, &[], &[]).unwrap().shared.is_none());
    let url = "url = \"postgres://relayer@db.example.org:5433/money?sslmode=verify-full\"";
    let config = load(&with_ledger(url), &[], &[]).unwrap();
    let shared = config.shared.as_ref().expect("a shared ledger");
    assert_eq!(shared.schema, "slackwater");
    assert_eq!(shared.cluster.lease, Duration::from_secs(5));
    assert!(shared.idle_timeout < shared.cluster.lease);
    let postgres = shared.resolve().unwrap();
    assert_eq!(postgres.place(), "postgres://db.example.org:5433/money");
    assert!(postgres.is_private());
    let short = load(&with_ledger("url = \"env:DB\"\nlease_ms = 1000\ninstance = \"a\""), &[], &[]).unwrap();
    let shared = short.shared.expect("a shared ledger");
    assert_eq!((shared.idle_timeout, shared.cluster.instance.as_str()), (Duration::from_millis(500), "a"));
}

#[test]
fn a_shared_ledger_is_checked_and_its_password_hidden() {
    refused(&with_ledger("url = \"mysql://me:hunter2@host/db\""), &[], &["neither a postgres:// URL nor a reference"]);
    for url in ["postgres://me:hunter2@host/db", "postgres://me@host/db?password=hunter2"] {
        let text = with_ledger(&format!("url = {url:?}"));
        refused(&text, &[], &["a password must not stand in the configuration"]);
        assert!(!format!("{:?}", load(&text, &[], &[])).contains("hunter2"));
    }
    refused(&with_ledger("url = \"env:DB\"\nschema = \"a; DROP\""), &[], &["is no name of a schema"]);
    refused(
        &with_ledger("url = \"env:DB\"\nlease_ms = 1000\nidle_timeout_ms = 1000"),
        &[],
        &["is not below `ledger.lease_ms` = 1000"],
    );
    let odd = "[[tenant]]\nid = \"default\"\nbudget = { limit_wei = 1, period_s = 60 }\n";
    refused(&format!("{}{odd}", with_ledger("url = \"env:DB\"")), &[], &["is not a multiple of 3600"]);
}

#[test]
fn websockets_of_nodes() {
    let of = |ws_url: &str, more: &str| {
        let rpc = format!("rpc = [{{ url = \"http://127.0.0.1:8545\", ws_url = \"{ws_url}\" }}]");
        let lines: Vec<_> =
            MINIMAL.lines().map(|line| if line.starts_with("rpc") { rpc.as_str() } else { line }).collect();
        format!("{}\n{more}\n", lines.join("\n"))
    };
    let config = load(&of("wss://user:hunter2@127.0.0.1:8546/v3/deadbeef", ""), &[], &[]).unwrap();
    assert!(config.chains[0].endpoints[0].ws_url.is_some());
    let entry = config.entries.iter().find(|entry| entry.key == "chain.0.rpc.0.ws_url").unwrap();
    assert_eq!(entry.value, "wss://127.0.0.1:8546/…");
    assert!(!format!("{config:?}").contains("hunter2") && !format!("{config:?}").contains("deadbeef"));
    assert!(load(MINIMAL, &[], &[]).unwrap().chains[0].endpoints[0].ws_url.is_none());
    for wrong in ["https://hunter2@host", "hunter2", "wss://", "keystore:a,password=env:HUNTER2"] {
        refused(&of(wrong, ""), &[], &["is neither a WebSocket URL nor a reference (hidden)"]);
        assert!(!load(&of(wrong, ""), &[], &[]).unwrap_err().to_string().contains("hunter2"));
    }
    // The other way round.
    let swapped = MINIMAL.replace("http://", "ws://");
    refused(&swapped, &[], &["a WebSocket URL belongs in ws_url"]);
    // Where it says where it is, that must be a WebSocket too.
    let missing = load(&of("env:SLACKWATER_TEST_SURELY_NOT_SET", ""), &[], &[]).unwrap().resolve().unwrap_err();
    assert!(missing.to_string().contains("`chain.0.rpc.0.ws_url`"), "{missing}");
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "https://hunter2@host").unwrap();
    let wrong = load(&of(&format!("file:{}", file.path().display()), ""), &[], &[]).unwrap().resolve().unwrap_err();
    assert!(wrong.to_string().contains("not a ws:// or wss:// URL"), "{wrong}");
    assert!(!wrong.to_string().contains("hunter2"));
}

#[test]
fn polls_beside_a_subscription_are_not_more_frequent() {
    let tuning = |more: &str| load(&format!("{MINIMAL}{more}\n"), &[], &[]).unwrap().chains[0].tuning.clone();
    assert_eq!(tuning("").subscribed_poll_interval, Duration::from_secs(1), "anvil's block time");
    assert_eq!(tuning("poll_interval_ms = 500").subscribed_poll_interval, Duration::from_secs(2));
    assert_eq!(tuning("subscribed_poll_interval_ms = 9000").subscribed_poll_interval, Duration::from_secs(9));
    let text = format!("{MINIMAL}poll_interval_ms = 500\nsubscribed_poll_interval_ms = 499\n");
    refused(&text, &[], &["499 is below poll_interval_ms = 500"]);
}
