//! The command line: output and exit codes.

use std::{
    io::{Read as _, Write as _},
    net::{TcpListener, TcpStream},
    process::{Command, Output},
    sync::{Arc, Mutex},
};

use alloy_primitives::{Address, B256, Bytes, U256};
use alloy_sol_types::SolCall as _;
use clap::CommandFactory;
use serde_json::{Value, json};
use slackwater_contracts::forwarder::{eip712DomainCall, eip712DomainReturn, isTrustedForwarderCall, noncesCall};
use slackwater_relayer::cli::Cli;

fn run(args: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_slackwater")).args(args).env_remove("SLACKWATER_CONFIG").output().unwrap()
}

#[track_caller]
fn check(args: &[&str], code: i32, stdout: &str, stderr: &str) -> String {
    let output = run(args);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert_eq!(output.status.code(), Some(code), "{args:?}\n{out}\n{err}");
    assert!(out.contains(stdout), "{args:?} printed {out}");
    assert!(err.contains(stderr), "{args:?} complained {err}");
    out
}

#[test]
fn exit_codes() {
    check(&["--version"], 0, "slackwater ", "");
    check(&["--help"], 0, "Exit codes:", "");
    check(&["nonsense"], 2, "", "unrecognized subcommand");
    check(&["serve", "--config", "/nowhere/x.toml"], 2, "", "can't read /nowhere/x.toml");
    check(&["serve", "--set", "server.lsten=x"], 2, "", "did you mean `server.listen`?");
    check(&["status", "--url", "http://127.0.0.1:1"], 3, "", "can't be reached");
    check(&["audit", "verify", "/nowhere/x.db"], 2, "", "there is no database");
    check(&["send", "forward", "--to", "0x12", "--sign-key", "env:X"], 2, "", "is not an address");
    check(&["keys", "new", "--password", "env:SURELY_NOT_SET"], 2, "", "SURELY_NOT_SET is not set");
    check(&["keys", "api", "--tenant", "No Name"], 2, "", "--tenant");
}

/// Keys are in the memory of the process.
#[cfg(target_os = "linux")]
#[test]
fn a_process_leaves_no_core_file_and_no_other_one_reads_its_memory() {
    use std::{os::unix::fs::MetadataExt as _, process::Stdio};
    // It waits for a password that is never written.
    let mut command = Command::new(env!("CARGO_BIN_EXE_slackwater"));
    command.args(["keys", "import", "--password", "file:/dev/stdin"]).stdin(Stdio::piped()).stdout(Stdio::null());
    let mut child = command.spawn().unwrap();
    let proc = std::path::PathBuf::from(format!("/proc/{}", child.id()));
    let limits = || std::fs::read_to_string(proc.join("limits")).unwrap();
    let is_private = || {
        let core = limits().lines().find(|line| line.starts_with("Max core file size")).unwrap().to_owned();
        // The files of a process that is not dumpable belong to root, whoever runs it.
        let words: Vec<&str> = core.split_whitespace().collect();
        words[4..6] == ["0", "0"] && std::fs::metadata(proc.join("mem")).unwrap().uid() == 0
    };
    let is_private = (0..200).any(|_| {
        std::thread::sleep(std::time::Duration::from_millis(25));
        is_private()
    });
    let found = limits();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(is_private, "{found}");
}

#[test]
fn the_configuration_commands_agree() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("slackwater.toml");
    let example = check(&["config", "example"], 0, "[[chain]]", "");
    std::fs::write(&path, example).unwrap();
    let path = path.to_str().unwrap();
    check(&["config", "check", "-c", path], 2, "", "BASE_RPC_URL is not set");
    check(&["config", "check", "--no-secrets", "-c", path], 0, "valid: 1 chains, 1 tenants", "");
    let shown = check(&["config", "show", "-c", path], 0, "preset base", "");
    assert!(shown.contains("env:RELAYER_KEY_0") && shown.contains("# default"));
    let schema: serde_json::Value = serde_json::from_str(&check(&["config", "schema"], 0, "", "")).unwrap();
    assert!(schema["properties"]["server"]["properties"]["listen"].is_object());
    check(&["config", "presets"], 0, "arbitrum-one", "");
    let rows: serde_json::Value = serde_json::from_str(&check(&["config", "presets", "--json"], 0, "", "")).unwrap();
    assert!(rows.as_array().unwrap().len() >= 8);
}

#[test]
fn keys_are_made_imported_and_listed() {
    let dir = tempfile::tempdir().unwrap();
    let (keys, password, key) = (dir.path().join("keys"), dir.path().join("password"), dir.path().join("key"));
    std::fs::write(&password, "secret words").unwrap();
    std::fs::write(&key, "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80").unwrap();
    let reference = format!("file:{}", password.display());
    let store = ["--dir", keys.to_str().unwrap(), "--password", &reference];
    let imported = format!("file:{}", key.display());
    check(
        &[&["keys", "import", "--key", &imported][..], &store].concat(),
        0,
        "0xf39Fd6e51aad88F6F4ce6aB8827279cffFb92266",
        "",
    );
    check(&[&["keys", "import", "--key", &imported][..], &store].concat(), 1, "", "can't create");
    let made = check(&[&["keys", "new", "--json"][..], &store].concat(), 0, "keystore:", "");
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    let listed = check(&["keys", "list", "--dir", keys.to_str().unwrap(), "--json"], 0, "", "");
    let listed: serde_json::Value = serde_json::from_str(&listed).unwrap();
    let addresses: Vec<_> = listed.as_array().unwrap().iter().map(|row| row["address"].clone()).collect();
    assert_eq!(addresses.len(), 2);
    assert!(addresses.contains(&made["address"]));

    let api = check(&["keys", "api", "--tenant", "shop", "--json"], 0, "", "");
    let api: serde_json::Value = serde_json::from_str(&api).unwrap();
    let hash = slackwater_relayer::http::auth::KeyHash::of(api["key"].as_str().unwrap());
    assert_eq!(api["hash"], hash.to_string());
}

#[test]
fn the_page_names_every_command() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/cli.md");
    let page = std::fs::read_to_string(path).unwrap_or_default();
    for command in Cli::command().get_subcommands() {
        let name = format!("`slackwater {}", command.get_name());
        assert!(page.contains(&name), "docs/cli.md lacks {name}");
        for sub in command.get_subcommands().filter(|sub| sub.get_name() != "help") {
            assert!(page.contains(sub.get_name()), "docs/cli.md lacks {name} {}", sub.get_name());
        }
    }
    Cli::command().debug_assert();
}

/// A relayer and a node at one address, for one forwarder. Submitted requests are kept.
struct Scripted {
    url: String,
    submitted: Arc<Mutex<Vec<Value>>>,
}

const FORWARDER: Address = Address::repeat_byte(0xF0);

impl Scripted {
    fn start(code: &str, is_trusted: bool) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let submitted = Arc::new(Mutex::new(Vec::new()));
        let (kept, code) = (submitted.clone(), format!("0x{}", code.trim().trim_start_matches("0x")));
        std::thread::spawn(move || {
            while let Ok((stream, _)) = listener.accept() {
                Self::answer(stream, &code, is_trusted, &kept);
            }
        });
        Self { url, submitted }
    }

    fn answer(mut stream: TcpStream, code: &str, is_trusted: bool, kept: &Mutex<Vec<Value>>) {
        let mut bytes = Vec::new();
        let (head, body) = loop {
            let mut chunk = [0; 4_096];
            let read = stream.read(&mut chunk).unwrap();
            assert!(read > 0, "cut off");
            bytes.extend_from_slice(&chunk[..read]);
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
            let length =
                head.lines().find_map(|line| line.to_lowercase().strip_prefix("content-length: ")?.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                break (head.to_owned(), body.to_owned());
            }
        };
        let answer = if head.starts_with("GET /v1/chains ") {
            json!({ "relayer": Address::ZERO, "chains": [{ "chainId": 31_337, "name": "anvil", "health": "healthy",
                "queued": 0, "inFlight": 0, "guardMs": 1, "guardTimeMs": 1, "inclusionsMeasured": 0,
                "forwarders": [{ "address": FORWARDER, "name": "Looks Fine" }] }] })
        } else if head.starts_with("POST /v1/requests ") {
            kept.lock().unwrap().push(serde_json::from_str(&body).unwrap());
            json!({ "id": B256::ZERO, "status": "queued" })
        } else {
            let call: Value = serde_json::from_str(&body).unwrap();
            json!({ "jsonrpc": "2.0", "id": 1, "result": Self::node(&call, code, is_trusted) })
        };
        let answer = answer.to_string();
        write!(stream, "HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{answer}", answer.len())
            .unwrap();
    }

    fn node(call: &Value, code: &str, is_trusted: bool) -> Value {
        match call["method"].as_str().unwrap() {
            "eth_chainId" => json!("0x7a69"),
            "eth_getCode" => json!(code),
            _ => {
                let data: Bytes = serde_json::from_value(call["params"][0]["data"].clone()).unwrap();
                let word = |value: u64| json!(B256::from(U256::from(value)));
                if data.starts_with(&isTrustedForwarderCall::SELECTOR) {
                    return word(is_trusted.into());
                }
                if data.starts_with(&noncesCall::SELECTOR) {
                    return word(4);
                }
                let domain = eip712DomainReturn {
                    fields: [0x0f].into(),
                    name: "Looks Fine".to_owned(),
                    version: "1".to_owned(),
                    chainId: U256::from(31_337),
                    verifyingContract: FORWARDER,
                    salt: B256::ZERO,
                    extensions: Vec::new(),
                };
                json!(Bytes::from(eip712DomainCall::abi_encode_returns(&domain)))
            }
        }
    }
}

/// The relayer chooses the forwarder; the node and the target decide whether it is genuine.
#[test]
fn nothing_is_signed_for_a_fake_forwarder() {
    let dir = tempfile::tempdir().unwrap();
    let key = dir.path().join("key");
    std::fs::write(&key, "0xac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80").unwrap();
    let key = format!("file:{}", key.display());
    let genuine = include_str!("../../../bindings/contracts/tests/fixtures/forwarder-5.7.0.deployed.hex");
    let (fake, forwarder) = ("0x60016000", FORWARDER.to_string());
    for (code, is_trusted, is_pinned, fault) in [
        (genuine, true, false, None),
        (genuine, false, false, Some("untrusted_forwarder")),
        (fake, true, false, Some("unknown_forwarder")),
        (fake, false, false, Some("untrusted_forwarder")),
        (fake, true, true, None),
        (fake, false, true, Some("untrusted_forwarder")),
    ] {
        let world = Scripted::start(code, is_trusted);
        let mut args = vec!["send", "forward", "--to", "0x0707070707070707070707070707070707070707"];
        args.extend(["--sign-key", &key, "--url", &world.url, "--rpc", &world.url, "--json"]);
        if is_pinned {
            args.extend(["--forwarder", &forwarder]);
        }
        check(&args, i32::from(fault.is_some()), "", fault.unwrap_or_default());
        let submitted = world.submitted.lock().unwrap();
        assert_eq!(submitted.len(), usize::from(fault.is_none()), "{fault:?}");
        if let Some(body) = submitted.first() {
            assert_eq!(body["forward"]["nonce"], json!("4"));
        }
    }
}

/// The commonest mistakes with secrets, as they would reach a terminal or the journal.
#[test]
fn no_command_prints_a_secret_that_was_put_in_the_wrong_place() {
    const KEY: &str = "ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80";
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("slackwater.toml");
    let chain = "[server]\nallow_anonymous = true\n[[tenant]]\nid = \"default\"\nbudget = { limit_wei = 1 }\n\
                 [[chain]]\npreset = \"anvil\"\n";
    let rpc = "rpc = [{ url = \"http://127.0.0.1:1\" }]\n";
    for text in [
        format!("{chain}{rpc}signers = \"0x{KEY}\"\n"),
        format!("{chain}{rpc}signers = [\"env:{KEY}\"]\n"),
        format!("{chain}{rpc}signers = [\"file:{KEY}\"]\n"),
        format!("{chain}{rpc}signers = [0x{KEY}]\n"),
        format!("{chain}rpc = \"https://eth.example.org/v2/{KEY}\"\nsigners = [\"env:A\"]\n"),
        format!("{chain}rpc = [\"https://eth.example.org/v2/{KEY}\"]\nsigners = [\"env:A\"]\n"),
        format!("identity = \"0x{KEY}\"\n{chain}{rpc}signers = [\"env:A\"]\n"),
        format!("ledger = \"postgres://relay:{KEY}@db\"\n{chain}{rpc}signers = [\"env:A\"]\n"),
        format!("{chain}{rpc}signers = [\"env:A\"]\n[[tenant]]\nid = \"shop\"\napi_keys = \"sw_shop_{KEY}\"\n"),
    ] {
        std::fs::write(&path, &text).unwrap();
        let path = path.to_str().unwrap();
        for args in [
            &["config", "check", "-c", path][..],
            &["config", "show", "-c", path],
            &["serve", "-c", path],
            &["doctor", "-c", path],
        ] {
            let output = run(args);
            let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
            assert!(!told.to_lowercase().contains("ac0974"), "{args:?} with\n{text}\nprinted {told}");
        }
    }
    let set = format!("chain.0.rpc=https://eth.example.org/v2/{KEY}");
    let (plain, nested) = (format!("0x{KEY}"), format!("inline:{KEY}"));
    for args in [
        &["config", "check", "--set", &set][..],
        &["config", "check", "--set", KEY],
        &["config", "check", "--set", "hunter2-ac0974"],
        &["serve", &plain],
        &["keys", &plain],
        &["keys", "import", "--key", &plain],
        &["keys", "import", "--key", &nested, "--dir", "/nowhere/keys"],
        &["send", "forward", "--to", "0x1111111111111111111111111111111111111111", "--sign-key", &plain],
    ] {
        let output = run(args);
        assert_ne!(output.status.code(), Some(0), "{args:?}");
        let told = [output.stdout, output.stderr].map(|bytes| String::from_utf8(bytes).unwrap()).concat();
        assert!(!told.contains("ac0974"), "{args:?} printed {told}");
    }
}
