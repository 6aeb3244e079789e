//! Checking one request: the cost of an acceptance before anything is stored, and a comparison of signer recovery
//! libraries.

#![allow(missing_docs, reason = "criterion's macros make an undocumented function")]

use std::{collections::BTreeMap, hint::black_box, time::Duration};

use alloy_primitives::{Address, B256, keccak256};
use criterion::{Criterion, criterion_group, criterion_main};
use slackwater_benches::{
    World,
    wallet::{Account, Crowd, unix_seconds},
};
use slackwater_core::{
    Timestamp,
    request::{Submission, VerifyContext, recover, verify},
};

/// As `slackwater_core::request::recover` does it without the feature `libsecp256k1`.
fn recover_with_k256(digest: B256, signature: &[u8]) -> Option<Address> {
    use k256::ecdsa::{RecoveryId, Signature, VerifyingKey};
    let parity = signature[64] - 27;
    let signature = Signature::from_slice(&signature[..64]).ok()?;
    let key = VerifyingKey::recover_from_prehash(digest.as_slice(), &signature, RecoveryId::from_byte(parity)?).ok()?;
    Some(Address::from_slice(&keccak256(&key.to_encoded_point(false).as_bytes()[1..])[12..]))
}

fn benches(criterion: &mut Criterion) {
    let world = World::at(31_337, "Bench", Address::repeat_byte(0xf0), Address::repeat_byte(0x9b));
    let mut crowd = Crowd::new(&world, 16);
    let requests = crowd.marks(64);
    let domain = world.domain();
    let forwarders = BTreeMap::from([(world.forwarder, domain.clone())]);
    let context = VerifyContext {
        tenant: "default",
        chain_id: world.chain_id,
        forwarders: &forwarders,
        tokens: &BTreeMap::new(),
        default_within: Duration::from_secs(60),
        default_expiry: Duration::from_secs(3_600),
        max_within: Duration::from_secs(86_400),
        guard: Duration::from_secs(2),
        skew: Duration::from_secs(2),
    };
    let now = Timestamp::from_secs(unix_seconds());

    let mut group = criterion.benchmark_group("verify");
    let mut turn = 0;
    let mut next = || {
        turn = (turn + 1) % requests.len();
        &requests[turn]
    };
    group.bench_function("digest (EIP-712)", |bencher| bencher.iter(|| black_box(domain.digest(&next().forward))));
    group.bench_function("recover, libsecp256k1", |bencher| {
        bencher.iter(|| {
            let request = next();
            recover(request.id, &request.forward.signature).expect("a good signature")
        });
    });
    group.bench_function("recover, k256", |bencher| {
        bencher.iter(|| {
            let request = next();
            recover_with_k256(request.id, &request.forward.signature).expect("a good signature")
        });
    });
    let account = Account::derive("promise", 0);
    group.bench_function("sign, libsecp256k1", |bencher| bencher.iter(|| account.sign(next().id)));
    let key = k256::ecdsa::SigningKey::from_bytes(&account.secret_bytes().into()).expect("a key");
    group.bench_function("sign, k256", |bencher| {
        bencher.iter(|| key.sign_prehash_recoverable(next().id.as_slice()).expect("a signature"));
    });
    group.bench_function("whole request", |bencher| {
        bencher.iter_batched(
            || Submission::forward(world.chain_id, next().forward.clone()),
            |submission| verify(submission, &context, now).expect("a good request"),
            criterion::BatchSize::SmallInput,
        );
    });
    group.finish();
}

criterion_group!(verify_benches, benches);
criterion_main!(verify_benches);
