//! The command line: what it prints, and how it ends.

use std::process::{Command, Output};

use clap::CommandFactory;
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
