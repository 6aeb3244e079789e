//! Configuration: precedence, every error at once, suggestions, hidden secrets, generated files.

use std::{collections::BTreeMap, time::Duration};

use slackwater_relayer::config::{Config, ConfigErrors, Origin, Sources, example, json_schema, reference};

const MINIMAL: &str = r#"tenant = [{ id = "default", open = true }]
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
    assert_eq!(config.chains[0].tuning.batch.max_batch, 100);
    assert_eq!(origin(&config, key), Origin::Default);
    assert_eq!(origin(&config, "chain.0.spec.block_time_ms"), Origin::Preset("anvil".to_owned()));
    assert_eq!(
        config.chains[0].tuning.admission.min_slack,
        Duration::from_millis(2_500),
        "follows the preset's block time"
    );

    let file = format!("{MINIMAL}max_batch = 50\nspec = {{ block_time_ms = 2000 }}\n");
    let config = load(&file, &[], &[]).unwrap();
    assert_eq!(config.chains[0].tuning.batch.max_batch, 50);
    assert_eq!(origin(&config, key), Origin::File { name: "test.toml".into(), line: 8 });
    assert_eq!(config.chains[0].spec.block_time_ms, 2_000, "the file is above the preset");
    assert_eq!(config.chains[0].tuning.admission.min_slack, Duration::from_millis(4_500));

    let env = [("SLACKWATER_CHAIN_0_MAX_BATCH", "40"), ("SLACKWATER_SERVER_LISTEN", "127.0.0.1:1")];
    let config = load(&file, &env, &[]).unwrap();
    assert_eq!(config.chains[0].tuning.batch.max_batch, 40);
    assert_eq!(origin(&config, key), Origin::Env("SLACKWATER_CHAIN_0_MAX_BATCH".to_owned()));
    assert_eq!(config.listen.port(), 1);

    let config = load(&file, &env, &[(key, "30")]).unwrap();
    assert_eq!(config.chains[0].tuning.batch.max_batch, 30);
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
        ("SLACKWATER_TENANT_0_TARGETS", "{ 31337 = { 0x2222222222222222222222222222222222222222 = [] } }"),
        ("SLACKWATER_TENANT_0_BUDGET_LIMIT_WEI", "100000000000000000000000"),
        // Variables named by references are not configuration keys; other programs' variables with our prefix are
        // known.
        ("SLACKWATER_URL", "x"),
    ];
    let config = load("", &env, &[]).unwrap();
    assert_eq!(config.chains[0].signers.len(), 2);
    let policy = &config.tenants[0].policy;
    assert_eq!(policy.kinds.len(), 2);
    assert_eq!(policy.budget.as_ref().unwrap().limit_wei.to_string(), "100000000000000000000000");
}

/// Kubernetes gives every container the address of each Service of its namespace: one named `slackwater` must not stop
/// the relayer.
#[test]
fn variables_that_kubernetes_makes_for_a_service_are_no_keys() {
    let of_service = [
        ("SLACKWATER_PORT", "tcp://10.96.0.7:7700"),
        ("SLACKWATER_PORT_7700_TCP", "tcp://10.96.0.7:7700"),
        ("SLACKWATER_PORT_7700_TCP_ADDR", "10.96.0.7"),
        ("SLACKWATER_PORT_7700_TCP_PORT", "7700"),
        ("SLACKWATER_PORT_7700_TCP_PROTO", "tcp"),
        ("SLACKWATER_PORT_7701_UDP_ADDR", "10.96.0.7"),
        ("SLACKWATER_SERVICE_HOST", "10.96.0.7"),
        ("SLACKWATER_SERVICE_PORT", "7700"),
        ("SLACKWATER_SERVICE_PORT_HTTP_API", "7700"),
    ];
    let config = load(MINIMAL, &of_service, &[]).unwrap();
    assert_eq!(config.of_services, of_service.map(|(name, _)| name));
    assert!(!config.entries.iter().any(|entry| matches!(entry.origin, Origin::Env(_))));
    for (name, value) in [
        ("SLACKWATER_PORT", "7700"),
        ("SLACKWATER_PORT_7700", "tcp://10.96.0.7:7700"),
        ("SLACKWATER_PORT_HTTP_TCP", "tcp://10.96.0.7:7700"),
        ("SLACKWATER_PORT_7700_TCP_NAME", "x"),
        ("SLACKWATER_SERVICE_PORT_", "7700"),
        ("SLACKWATER_SERVICE_HOSTS", "x"),
        ("SLACKWATER_SERVICE", "x"),
    ] {
        refused(MINIMAL, &[(name, value)], &[&format!("${name}: is no configuration key")]);
    }
}

/// A setting without effect is an error: otherwise a replaced key would go on signing.
#[test]
fn what_cannot_be_laid_over_a_value_is_an_error() {
    let expected = "`chain.0.signers.0.key` can't be set: `chain.0.signers.0` is a text (test.toml:7); write";
    refused(MINIMAL, &[("SLACKWATER_CHAIN_0_SIGNERS_0_KEY", "env:NEW")], &[expected]);
    let errors = load(MINIMAL, &[], &[("chain.0.signers.0.key", "env:NEW")]).unwrap_err().to_string();
    assert!(
        errors.contains("--set: `chain.0.signers.0.key`") && errors.contains("is a text (test.toml:7)"),
        "{errors}"
    );
    let table = MINIMAL.replace("\"env:SOME_KEY\"", "{ key = \"env:SOME_KEY\" }");
    for text in [&table, MINIMAL] {
        let key = if *text == table { "chain.0.signers.0.key" } else { "chain.0.signers.0" };
        let config = load(text, &[], &[(key, "env:NEW")]).unwrap();
        assert_eq!(format!("{:?}", config.chains[0].signers[0].key), format!("{:?}", config_key("env:NEW")));
    }
    // Between two layers too, and with a list where a table should be.
    let env = [("SLACKWATER_CHAIN_0_SIGNERS", "env:A,env:B"), ("SLACKWATER_CHAIN_0_SIGNERS_1_KEY", "env:NEW")];
    refused(MINIMAL, &env, &["`chain.0.signers.1` is a text ($SLACKWATER_CHAIN_0_SIGNERS)"]);
    let text = format!("page_key = []\n{MINIMAL}");
    let errors = load(&text, &[("SLACKWATER_PAGE_KEY_BURST_PER_IP", "5")], &[]).unwrap_err().to_string();
    assert!(errors.contains("`page_key` is a list (test.toml:1)"), "{errors}");
}

fn config_key(reference: &str) -> slackwater_relayer::config::SecretRef {
    let text = MINIMAL.replace("env:SOME_KEY", reference);
    load(&text, &[], &[]).unwrap().chains[0].signers[0].key.clone()
}

/// A tenant, or a chain, that is closed by an empty table is noticed and reported.
#[test]
fn an_empty_table_of_names_is_a_value() {
    const HASH: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let shop = |targets: &str| {
        let text =
            MINIMAL.replace("tenant = [{ id = \"default\", open = true }]", "").replace("allow_anonymous = true", "");
        format!("{text}[log]\n[[tenant]]\nid = \"shop\"\napi_keys = [\"{HASH}\"]\nopen = true\n{targets}\n")
    };
    let shown = |targets: &str| {
        let config = load(&shop(targets), &[], &[]).unwrap();
        let ours = config.entries.into_iter().filter(|entry| entry.key.starts_with("tenant.0.targets"));
        ours.map(|entry| (entry.key, entry.value)).collect::<Vec<_>>()
    };
    assert_eq!(shown(""), []);
    assert_eq!(shown("targets = {}"), [("tenant.0.targets".to_owned(), "{}".to_owned())]);
    assert_eq!(shown("targets = { 31337 = {} }"), [("tenant.0.targets.31337".to_owned(), "{}".to_owned())]);
    // An empty table of keys of ours sets nothing.
    let config = load(&shop(""), &[], &[]).unwrap();
    assert!(!config.entries.iter().any(|entry| entry.key == "log" || entry.value == "{}"));
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
    // The variable of a secret is no misspelt key.
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
        "test.toml:6: `server.body_timeout_ms` = (a text of 4 characters): expected integer",
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
    refused(&MINIMAL.replace("allow_anonymous = true", ""), &[], &["the tenant could not call"]);
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
    // All missing secrets are named.
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
    // A commented-out default must be the default: setting all of them changes nothing.
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
    format!("{MINIMAL}[ledger]\n{lines}\n")
}

#[test]
fn a_shared_ledger_is_configured_by_its_url() {
    assert!(load(MINIMAL, &[], &[]).unwrap().shared.is_none());
    let url = "url = \"postgres://relayer@db.example.org:5433/money?sslmode=verify-full\"";
    let config = load(&with_ledger(url), &[], &[]).unwrap();
    let shared = config.shared.as_ref().expect("a shared ledger");
    assert_eq!(shared.schema, "slackwater");
    assert_eq!(shared.cluster.lease, Duration::from_secs(5));
    assert!(shared.timeouts.idle < shared.cluster.lease);
    let postgres = shared.resolve().unwrap();
    assert_eq!(postgres.place(), "postgres://db.example.org:5433/money");
    assert!(postgres.is_private());
    let short = load(&with_ledger("url = \"env:DB\"\nlease_ms = 1000\ninstance = \"a\""), &[], &[]).unwrap();
    let shared = short.shared.expect("a shared ledger");
    assert_eq!((shared.timeouts.idle, shared.cluster.instance.as_str()), (Duration::from_millis(500), "a"));
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
    let odd = with_ledger("url = \"env:DB\"").replace("open = true", "budget = { limit_wei = 1, period_s = 60 }");
    refused(&odd, &[], &["is not a multiple of 3600"]);
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
    // The reverse.
    let swapped = MINIMAL.replace("http://", "ws://");
    refused(&swapped, &[], &["a WebSocket URL belongs in ws_url"]);
    // A URL given by reference must be a WebSocket URL too.
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
    assert_eq!(tuning("").heads.subscribed_poll_interval, Duration::from_secs(1), "anvil's block time");
    assert_eq!(tuning("poll_interval_ms = 500").heads.subscribed_poll_interval, Duration::from_secs(2));
    assert_eq!(tuning("subscribed_poll_interval_ms = 9000").heads.subscribed_poll_interval, Duration::from_secs(9));
    let text = format!("{MINIMAL}poll_interval_ms = 500\nsubscribed_poll_interval_ms = 499\n");
    refused(&text, &[], &["499 is below poll_interval_ms = 500"]);
}

/// Secrets in every form in which they get pasted, each with [`NEEDLE`] in it.
#[test]
fn an_old_name_of_a_key_is_still_read() {
    let slack = |more: &str, env: &[(&str, &str)]| {
        let config = load(&format!("{MINIMAL}{more}\n"), env, &[]).unwrap();
        let entry = config.entries.iter().find(|entry| entry.key == "chain.0.min_slack_ms").unwrap();
        assert_eq!(entry.value, config.chains[0].tuning.admission.min_slack.as_millis().to_string());
        (entry.value.clone(), entry.origin.to_string())
    };
    let told = |value: &str, origin: &str| (value.to_owned(), origin.to_owned());
    assert_eq!(slack("guard_ms = 7000", &[]), told("7000", "test.toml:8"));
    assert_eq!(
        slack("min_slack_ms = 7000", &[("SLACKWATER_CHAIN_0_GUARD_MS", "8000")]),
        told("8000", "$SLACKWATER_CHAIN_0_GUARD_MS"),
        "the environment is above the file, by whatever name"
    );
    let config = load(MINIMAL, &[], &[("chain.0.guard_ms", "9000")]).unwrap();
    assert_eq!(config.chains[0].tuning.admission.min_slack, Duration::from_secs(9));
    refused(
        &format!("{MINIMAL}guard_ms = 3600001\n"),
        &[],
        &["test.toml:8: `chain.0.min_slack_ms` = 3600001: allowed"],
    );
    let both = format!("{MINIMAL}guard_ms = 1\nmin_slack_ms = 2\n");
    refused(&both, &[], &["`chain.0.guard_ms` is not a key; `min_slack_ms` is there too, its new name"]);
}

#[test]
fn every_wrong_key_of_a_chain_is_told() {
    let wrong = "max_fee_ceiling_wei_per_gas = \"twenty\"\n\
                 tip_ceiling_wei_per_gas = \"340282366920938463463374607431768211456\"\n\
                 forecast_blocks = [1, 1001]\nmax_batch_gas = 20999\ntip_target_permille = 1000\n\
                 unsimulated = \"sent\"\nurgent_within_ms = 2000\nguard_time_ceiling_ms = 1000\nguard_time_floor_ms = 0\n";
    refused(
        &format!("{MINIMAL}{wrong}"),
        &[],
        &[
            "`chain.0.max_fee_ceiling_wei_per_gas` is not a decimal integer",
            "`chain.0.tip_ceiling_wei_per_gas` is too large",
            "`chain.0.forecast_blocks.1` = 1001: allowed is 1 to 1000",
            "`chain.0.max_batch_gas` = 20999: allowed is from 21000",
            "`chain.0.tip_target_permille` = 1000: allowed is 1 to 999",
            "`chain.0.unsimulated` = \"sent\": must be one of hold, send; did you mean \"send\"?",
            "test.toml:14: `chain.0.urgent_within_ms` 2000 is above guard_time_ceiling_ms = 1000",
        ],
    );
}

/// Secrets in every form in which one pastes them, each with [`NEEDLE`] in it.
const SECRETS: &[&str] = &[
    "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "sw_shop_ac0974bec39a17e3",
    "https://eth.example.org/v2/ac0974bec39a17e3",
    "postgres://relay:ac0974bec39a17e3@db.example.org/money",
    "postgres://relay:ac0974bec39a17e3/2@db.example.org/money",
    "env:ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "env:AC0974BEC39A17E36BA4A6B4D238FF944BACB478CBED5EFCAE784D7BF4F2FF80",
    "file:ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "inline:ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80",
    "keystore:a.json,password=ac0974bec39a17e3",
];

/// Part of each secret that must never be shown, in upper or lower case.
const NEEDLE: &str = "ac0974";

/// Every path of the schema, those of tables and lists included; list items have index 0.
fn all_paths(schema: &serde_json::Value, path: &str, out: &mut Vec<String>) {
    if !path.is_empty() {
        out.push(path.to_owned());
    }
    let below = |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") };
    for (key, sub) in schema["properties"].as_object().into_iter().flatten() {
        all_paths(sub, &below(key), out);
    }
    if schema["items"].is_object() {
        all_paths(&schema["items"], &below("0"), out);
    }
    for option in schema["anyOf"].as_array().into_iter().flatten() {
        if option["properties"].is_object() || option["items"].is_object() {
            let at = out.len();
            all_paths(option, path, out);
            out.remove(at);
        }
    }
}

/// Puts `value` at `path`, replacing any value that blocks it.
fn put(root: &mut toml::Value, path: &str, value: toml::Value) {
    let mut at = root;
    for part in path.split('.') {
        at = match part.parse::<usize>() {
            Ok(_) => {
                if at.as_array().is_none_or(Vec::is_empty) {
                    *at = toml::Value::Array(vec![toml::Value::Table(toml::Table::new())]);
                }
                &mut at.as_array_mut().unwrap()[0]
            }
            Err(_) => {
                if !at.is_table() {
                    *at = toml::Value::Table(toml::Table::new());
                }
                at.as_table_mut().unwrap().entry(part).or_insert(toml::Value::Boolean(true))
            }
        };
    }
    *at = value;
}

/// All messages about a configuration.
fn everything_told(loaded: Result<Config, ConfigErrors>) -> String {
    match loaded {
        Err(errors) => format!("{errors} {errors:?}"),
        Ok(config) => {
            let resolved = config.resolve().map(|_| ());
            let told = resolved.as_ref().err().map(ToString::to_string);
            format!("{config:?} {:?} {resolved:?} {told:?}", config.entries)
        }
    }
}

#[test]
fn no_message_shows_a_secret_wherever_and_however_it_was_written() {
    let mut paths = Vec::new();
    all_paths(&json_schema(), "", &mut paths);
    assert!(paths.len() > 150 && paths.contains(&"chain.0.rpc.0.url".to_owned()), "{paths:?}");
    let base: toml::Value = toml::from_str(MINIMAL).unwrap();
    for (turn, path) in paths.iter().enumerate() {
        // At the places of secrets, lists and tables, each in every form and from every source; elsewhere the forms and
        // sources take turns.
        let is_likely = ["url", "key", "signers", "rpc", "ledger", "identity", "tenant", "chain", "forwarders"]
            .iter()
            .any(|part| path.trim_end_matches(".0").ends_with(part));
        for (index, secret) in SECRETS.iter().enumerate() {
            let text = toml::Value::String((*secret).to_owned());
            let table: toml::Table = [("x".to_owned(), text.clone())].into_iter().collect();
            let key: toml::Table = [((*secret).to_owned(), text.clone())].into_iter().collect();
            let forms = [
                text.clone(),
                toml::Value::Array(vec![text]),
                toml::Value::Table(table.clone()),
                toml::Value::Table(key),
                toml::Value::Array(vec![toml::Value::Table(table)]),
            ];
            let is_turn = is_likely || index == turn % SECRETS.len();
            for form in forms.into_iter().take(if is_turn { usize::MAX } else { 1 }) {
                let written = form.as_str().map_or_else(|| form.to_string(), str::to_owned);
                let mut tree = base.clone();
                put(&mut tree, path, form);
                let variable = format!("SLACKWATER_{}", path.replace('.', "_").to_uppercase());
                let mut all = vec![everything_told(load(&toml::to_string(&tree).unwrap(), &[], &[]))];
                if is_turn {
                    all.push(everything_told(load(MINIMAL, &[(&variable, &written)], &[])));
                    all.push(everything_told(load(MINIMAL, &[], &[(path, &written)])));
                }
                for told in all {
                    assert!(!told.to_lowercase().contains(NEEDLE), "{path} = {written}: {told}");
                }
            }
        }
    }
}

#[test]
fn broken_toml_shows_nothing_of_what_stands_there() {
    let key = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    for text in [
        format!("signers = [\"{key}"),
        format!("signers = {key}"),
        format!("signers = 0x{key}"),
        format!("signers = [0x{key}]"),
        key.to_owned(),
        format!("{key} = "),
        format!("{key} = 1\n{key} = 2"),
        format!("[{key}\n"),
        format!("[[{key}]]\n[{key}]"),
        format!("a = '{key}\n"),
        format!("a = \"\\{key}\""),
        format!("a = {{ {key} = }}"),
    ] {
        let told = everything_told(load(&text, &[], &[]));
        assert!(!told.contains(NEEDLE), "{text}: {told}");
    }
    let told = everything_told(load(MINIMAL, &[("SLACKWATER_CHAIN_0_RPC", key)], &[(key, "1"), ("x", key)]));
    assert!(!told.contains(NEEDLE), "{told}");
}

#[test]
fn a_tenant_must_say_what_it_may() {
    let with = |tenant: &str| MINIMAL.replace("id = \"default\", open = true", &format!("id = \"default\"{tenant}"));
    let named = "targets = { \"31337\" = { \"0x2222222222222222222222222222222222222222\" = [] } }";
    let star = "targets = { \"31337\" = { \"*\" = [] } }";
    refused(&with(""), &[], &["`tenant.0.targets` anybody who may ask could spend without limit"]);
    refused(&with(&format!(", {star}")), &[], &["could spend without limit"]);
    for good in
        [", budget = { limit_wei = 1 }", &format!(", {named}"), &format!(", {star}, budget = {{ limit_wei = 1 }}")]
    {
        assert!(load(&with(good), &[], &[]).is_ok(), "{good}");
    }
    // Calls are sent from the relayer's own account.
    let call = ", kinds = [\"call\"], ";
    refused(&with(&format!("{call}open = true")), &[], &["its targets must be named"]);
    refused(&with(&format!("{call}budget = {{ limit_wei = 1 }}, {star}")), &[], &["lets it call any contract"]);
    assert!(load(&with(&format!("{call}{named}")), &[], &[]).is_ok());
    assert!(load(&with(&format!("{call}{star}, open = true")), &[], &[]).is_ok());
    // Callers without key need a tenant with a policy for them.
    let nobody = MINIMAL.replace("tenant = [{ id = \"default\", open = true }]", "");
    refused(&nobody, &[], &["callers without key are the tenant `default`"]);
    let policy = &load(&with(&format!(", {named}")), &[], &[]).unwrap().tenants[0].policy;
    assert!(policy.names(31_337, "0x2222222222222222222222222222222222222222".parse().unwrap()));
}

#[test]
fn calls_of_several_tenants_are_bound_to_signers() {
    let hash = "sha256:0000000000000000000000000000000000000000000000000000000000000000";
    let tenant = |id: &str, kind: &str| {
        format!(
            "{{ id = \"{id}\", api_keys = [\"{hash}\"], kinds = [\"{kind}\"], \
             targets = {{ \"31337\" = {{ \"0x2222222222222222222222222222222222222222\" = [] }} }} }}"
        )
    };
    let key = |byte: &str| byte.repeat(32);
    let with = |signers: &str| {
        let tenants = format!("tenant = [{}, {}]", tenant("shop", "call"), tenant("bank", "forward"));
        MINIMAL
            .replace("tenant = [{ id = \"default\", open = true }]", &tenants)
            .replace("allow_anonymous = true", "")
            .replace("[\"env:SOME_KEY\"]", signers)
    };
    let resolve = |signers: &str| {
        let sources = Sources { allow_inline_secrets: true, ..Sources::default() };
        let config = sources.load_text(Some(("test.toml".to_owned(), with(signers)))).unwrap();
        config.resolve().map(|resolved| resolved.chains[0].callers.clone())
    };
    let bare = format!("[\"inline:{}\"]", key("11"));
    let told = resolve(&bare).unwrap_err().to_string();
    assert!(
        told.contains("`chain.0.signers` tenant `shop` may make calls here, but no signer is bound to it"),
        "{told}"
    );
    let bound = format!("[\"inline:{}\", {{ key = \"inline:{}\", tenants = [\"shop\"] }}]", key("11"), key("22"));
    let callers = resolve(&bound).unwrap();
    assert_eq!(callers.len(), 1);
    assert!(callers.values().all(|tenants| tenants.contains("shop")));
    refused(&with("[{ key = \"env:A\", tenants = [\"nobody\"] }]"), &[], &["is no tenant"]);
    refused(&with("[{ tenants = [\"shop\"] }]"), &[], &["`chain.0.signers.0.key` is missing"]);
    // Set by environment variable, in both forms.
    let config =
        load(&with("[]"), &[("SLACKWATER_CHAIN_0_SIGNERS", "[{ key = \"env:A\", tenants = [\"shop\"] }]")], &[]);
    assert_eq!(config.unwrap().chains[0].signers[0].tenants, ["shop"]);
    let config = load(&with("[]"), &[("SLACKWATER_CHAIN_0_SIGNERS", "env:A,env:B")], &[]);
    assert_eq!(config.unwrap().chains[0].signers.len(), 2);
}

#[test]
fn clear_text_to_another_machine_must_be_wanted() {
    let with = |rpc: &str| MINIMAL.replace("{ url = \"http://user:hunter2@127.0.0.1:8545/v3/deadbeef\" }", rpc);
    refused(&with("{ url = \"http://node.example.org:8545\" }"), &[], &["`chain.0.rpc.0.url` goes in clear text"]);
    refused(
        &with("{ url = \"https://node.example.org\", ws_url = \"ws://node.example.org\" }"),
        &[],
        &["`chain.0.rpc.0.ws_url` goes in clear text"],
    );
    assert!(load(&with("{ url = \"http://node.example.org:8545\", insecure = true }"), &[], &[]).is_ok());
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "http://node.example.org:8545").unwrap();
    let by_reference = |more: &str| {
        let rpc = format!("{{ url = \"file:{}\"{more} }}", file.path().display());
        load(&with(&rpc), &[], &[]).unwrap().resolve().unwrap_err().to_string()
    };
    assert!(by_reference("").contains("`chain.0.rpc.0.url` goes in clear text"));
    assert!(!by_reference(", insecure = true").contains("clear text"));
}

#[test]
fn a_database_on_another_machine_is_checked_unless_that_is_not_wanted() {
    for (url, is_refused) in [
        ("postgres://relay@db.example.org/money", true),
        ("postgres://relay@db.example.org/money?sslmode=require", true),
        ("postgres://relay@db.example.org/money?sslmode=verify-ca", false),
        ("postgres://relay@127.0.0.1/money", false),
    ] {
        let of = |more: &str| {
            load(&with_ledger(&format!("url = {url:?}{more}")), &[], &[]).unwrap().shared.unwrap().resolve()
        };
        assert_eq!(of("").is_err(), is_refused, "{url}");
        assert!(of("\ninsecure = true").is_ok());
    }
}
