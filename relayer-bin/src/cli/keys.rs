//! `keys`: encrypted key files and API keys.

use std::{
    fs,
    io::Write,
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use alloy_primitives::{Address, hex};
use clap::{Args, Subcommand};
use serde_json::{Value, json};
use slackwater::LocalSigner;
use zeroize::Zeroizing;

use super::error::CliError;
use crate::{
    config::{Secret, SecretRef, SecretText},
    http::auth::{KeyHash, new_key},
    keystore,
};

/// Shortest password that is accepted without a warning.
const PASSWORD_LEN: usize = 12;

#[derive(Debug, Args)]
pub(super) struct KeysArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Make a new account key in an encrypted file.
    New {
        #[command(flatten)]
        store: Store,
    },
    /// Put an existing account key into an encrypted file.
    Import {
        /// Reference to the existing key: `env:NAME` or `file:PATH`.
        #[arg(long, value_name = "REF")]
        key: String,
        #[command(flatten)]
        store: Store,
    },
    /// List the encrypted files of a directory with their addresses.
    List {
        /// The directory.
        #[arg(long, value_name = "DIR", default_value = "keys")]
        dir: PathBuf,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Make an API key for a tenant: the key, once, and its hash for the configuration.
    Api {
        /// The tenant's id.
        #[arg(long, value_name = "ID")]
        tenant: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

#[derive(Debug, Args)]
struct Store {
    /// Directory of the key files.
    #[arg(long, value_name = "DIR", default_value = "keys")]
    dir: PathBuf,
    /// Name of the file; otherwise the address.
    #[arg(long)]
    name: Option<String>,
    /// Reference to the password: `env:NAME` or `file:PATH`.
    #[arg(long, value_name = "REF", default_value = "env:SLACKWATER_KEYSTORE_PASSWORD")]
    password: String,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: KeysArgs) -> Result<(), CliError> {
    match args.what {
        What::New { store } => {
            // A few random values are not valid keys; the next attempt is.
            for _ in 0..8 {
                let mut key = Zeroizing::new([0u8; 32]);
                getrandom::fill(key.as_mut_slice())
                    .map_err(|error| CliError::failed(format!("no randomness: {error}")))?;
                if let Ok(signer) = LocalSigner::from_bytes(&key) {
                    return save(&store, &key, signer.address());
                }
            }
            Err(CliError::failed("the system's randomness is broken"))
        }
        What::Import { key, store } => {
            let secret = resolve("--key", &key)?;
            let fail = |problem: String| CliError::usage(format!("--key: {problem}"));
            let signer = LocalSigner::from_hex(secret.expose()).map_err(|error| fail(error.to_string()))?;
            let mut bytes = Zeroizing::new([0u8; 32]);
            let digits = secret.expose().trim_start_matches("0x");
            hex::decode_to_slice(digits, bytes.as_mut_slice()).map_err(|error| fail(error.to_string()))?;
            save(&store, &bytes, signer.address())
        }
        What::List { dir, json } => list(&dir, json),
        What::Api { tenant, json } => api(&tenant, json),
    }
}

fn resolve(flag: &str, text: &str) -> Result<Secret, CliError> {
    let fail = |problem: String| CliError::usage(format!("{flag}: {problem}"));
    let reference = SecretRef::parse(text).map_err(|error| fail(error.to_string()))?;
    if reference.is_inline() {
        let problem = "inline: leaves the secret in the shell's history and in the list of processes";
        return Err(fail(format!("{problem}; write env:NAME or file:PATH")));
    }
    reference.resolve().map_err(|error| fail(error.to_string()))
}

/// Creates a directory that only its owner may read. An existing one keeps its mode: it may be shared on purpose, and
/// the files in it are the owner's.
pub(super) fn private_dir(path: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path)
}

fn save(store: &Store, key: &[u8; 32], address: Address) -> Result<(), CliError> {
    let password = resolve("--password", &store.password)?;
    let name = store.name.clone().unwrap_or_else(|| format!("{address:#x}.json"));
    if Path::new(&name).components().count() != 1 {
        return Err(CliError::usage("--name must be a file name, not a path"));
    }
    if password.expose().chars().count() < PASSWORD_LEN {
        eprintln!(
            "slackwater: the password has fewer than {PASSWORD_LEN} characters: whoever gets the file can guess it"
        );
    }
    private_dir(&store.dir)?;
    let document = keystore::encrypt(key, address, password.expose())
        .map_err(|error| CliError::failed(format!("can't encrypt the key: {error}")))?;
    let path = store.dir.join(&name);
    let mut file = fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(&path)
        .map_err(|error| CliError::failed(format!("can't create {}: {error}", path.display())))?;
    file.write_all(document.to_string().as_bytes())?;
    file.sync_all()?;
    let password = SecretText(store.password.clone());
    let reference = format!("keystore:{},password={}", path.display(), password.shown());
    if store.json {
        println!("{}", json!({ "address": address, "file": path, "reference": reference }));
    } else {
        println!("address    {address}");
        println!("file       {}", path.display());
        println!("reference  {reference}");
        println!(
            "Put the reference into `signers` or `identity.key`. Without the password the key is lost: back up both."
        );
    }
    Ok(())
}

fn list(dir: &Path, is_json: bool) -> Result<(), CliError> {
    let mut found = Vec::new();
    let entries =
        fs::read_dir(dir).map_err(|error| CliError::usage(format!("can't read {}: {error}", dir.display())))?;
    for entry in entries {
        let path = entry?.path();
        let Some(document) = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()) else {
            continue;
        };
        if document.get("crypto").is_none() {
            continue;
        }
        let address = document["address"].as_str().map(|text| format!("0x{}", text.trim_start_matches("0x")));
        let address = address.and_then(|text| text.parse::<Address>().ok());
        found.push((path, address));
    }
    found.sort();
    if is_json {
        let rows: Vec<_> = found.iter().map(|(path, address)| json!({ "file": path, "address": address })).collect();
        println!("{}", Value::Array(rows));
    } else {
        for (path, address) in &found {
            let address = address.map_or_else(|| "address not stored".to_owned(), |address| address.to_string());
            println!("{address}  {}", path.display());
        }
    }
    Ok(())
}

fn api(tenant: &str, is_json: bool) -> Result<(), CliError> {
    let is_name = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_';
    if tenant.is_empty() || tenant.len() > 64 || !tenant.bytes().all(is_name) {
        return Err(CliError::usage("--tenant: 1 to 64 of a-z, 0-9, '-' and '_'"));
    }
    let key = new_key(tenant).map_err(|error| CliError::failed(format!("no randomness: {error}")))?;
    let hash = KeyHash::of(&key);
    if is_json {
        println!("{}", json!({ "tenant": tenant, "key": key.as_str(), "hash": hash.to_string() }));
    } else {
        println!("key   {}", key.as_str());
        println!("hash  {hash}\n");
        println!("The key is shown only now: give it to the tenant. The hash belongs into the configuration:\n");
        println!("[[tenant]]\nid = \"{tenant}\"\napi_keys = [\"{hash}\"]");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_saved_key_opens_again_and_only_its_owner_reads_it() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let password = dir.path().join("password");
        fs::write(&password, "correct horse").unwrap();
        let reference = format!("file:{}", password.display());
        let store = Store {
            dir: dir.path().join("keys"),
            name: Some("lane.json".to_owned()),
            password: reference.clone(),
            json: true,
        };
        let signer = LocalSigner::from_bytes(&[7; 32]).unwrap();
        save(&store, &[7; 32], signer.address()).unwrap();
        let path = store.dir.join("lane.json");
        assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(fs::metadata(&store.dir).unwrap().permissions().mode() & 0o777, 0o700);
        let opened = SecretRef::parse(&format!("keystore:{},password={reference}", path.display())).unwrap().resolve();
        assert_eq!(opened.unwrap().expose(), hex::encode([7; 32]));
        assert!(save(&store, &[7; 32], signer.address()).is_err(), "never overwritten");
        assert_eq!(fs::read_dir(&store.dir).unwrap().count(), 1, "nothing left over");
        fs::write(&password, "wrong").unwrap();
        let wrong = SecretRef::parse(&format!("keystore:{},password={reference}", path.display())).unwrap().resolve();
        assert!(wrong.is_err());
    }
}
