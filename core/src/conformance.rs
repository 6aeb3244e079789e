//! Conformance tests of extension points, for the tests of those who implement them.

use alloy_primitives::{B256, keccak256};
use futures_util::future::join_all;

use crate::{AdmissionHook, AdmissionRequest, Signer, relay::checked};

/// Calls that are made at a time.
const AT_ONCE: u64 = 16;

/// Tests what a relay relies on: signatures of several digests, many of them at a time, are those of the address, which
/// stays the same.
///
/// # Errors
/// The first rule that is broken.
pub async fn signer(signer: &dyn Signer) -> Result<(), String> {
    let address = signer.address();
    let digests =
        [B256::ZERO, B256::repeat_byte(0xff)].into_iter().chain((0..AT_ONCE).map(|n| keccak256(n.to_be_bytes())));
    let digests: Vec<B256> = digests.collect();
    let signed = join_all(digests.iter().map(|digest| signer.sign(*digest))).await;
    for (digest, signed) in digests.iter().zip(signed) {
        let signature = signed.map_err(|error| format!("{digest} was not signed: {error}"))?;
        checked(address, *digest, signature).map_err(|error| format!("{digest}: {error}"))?;
    }
    if signer.address() == address { Ok(()) } else { Err("the address changed".to_owned()) }
}

/// Tests what a relay relies on: the same request gets the same answer when it is asked about again, many times at once,
/// and after a call whose future was dropped. `asked` should hold requests that are allowed and requests that are not.
///
/// # Errors
/// The first rule that is broken.
pub async fn admission_hook(hook: &dyn AdmissionHook, asked: &[AdmissionRequest]) -> Result<(), String> {
    for request in asked {
        let first = hook.admit(request).await;
        // A caller that goes away.
        let mut dropped = Box::pin(hook.admit(request));
        let _ = futures_util::poll!(&mut dropped);
        drop(dropped);
        for again in join_all((0..AT_ONCE).map(|_| hook.admit(request))).await {
            if again != first {
                return Err(format!("request {} was answered {first:?}, then {again:?}", request.id));
            }
        }
    }
    Ok(())
}
