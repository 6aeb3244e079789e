//! Submissions with page keys: checked against the caps by the relay's reservation, and accounted for even if the
//! client disconnects.

use std::{sync::Arc, time::Duration};

use alloy_primitives::{Keccak256, hex};
use slackwater::Submission;
use slackwater_core::request::RequestId;

use super::{Hold, check, now};
use crate::http::{Shared, auth::Caller, peer::Network, problem::Problem, requests::submit_admitted};

type Results = Vec<Result<slackwater::Accepted, Problem>>;

/// Submits the items that the caps allow; one result for each item, in order. The call itself was already counted for
/// the first.
///
/// Runs to its end even if the page is closed: what was taken from the caps must be assigned to a request, or given
/// back.
pub(in crate::http) async fn submit(
    app: &Shared,
    caller: &Caller,
    network: Network,
    items: Vec<Result<Submission, Problem>>,
) -> Results {
    let count = items.len();
    let (app, caller) = (Arc::clone(app), caller.clone());
    let submitted = tokio::spawn(async move { submit_to_end(&app, &caller, network, items).await });
    submitted.await.unwrap_or_else(|_| vec![Err(Problem::shutting_down()); count])
}

async fn submit_to_end(
    app: &Shared,
    caller: &Caller,
    network: Network,
    items: Vec<Result<Submission, Problem>>,
) -> Results {
    let mut holds = Vec::with_capacity(items.len());
    let mut admitted = Vec::with_capacity(items.len());
    for (place, item) in items.into_iter().enumerate() {
        let item = match item {
            Ok(mut item) => {
                let paced = if place == 0 { Ok(()) } else { app.by_page_ip.take(network, app.born.elapsed()) };
                match paced.map_err(too_fast) {
                    Ok(()) => hold(app, caller, &mut item).await.map(|hold| {
                        holds.push((hold, item.chain_id));
                        item
                    }),
                    Err(problem) => Err(problem),
                }
            }
            Err(problem) => Err(problem),
        };
        admitted.push(item.map_err(|problem| app.counted(caller, problem)));
    }
    let was_admitted: Vec<bool> = admitted.iter().map(Result::is_ok).collect();
    let answers = submit_admitted(app, caller, admitted).await;
    let asked = answers.iter().zip(was_admitted).filter(|(_, was_admitted)| *was_admitted);
    for ((answer, _), (hold, chain_id)) in asked.zip(holds) {
        match (answer, hold) {
            // A request that somebody else submitted before counts there, whoever repeats its signed bytes.
            (Ok(accepted), Some((hold, _))) => {
                let record = accepted.record();
                let is_ours = record.submitted_by.as_deref() == Some(&*caller.key) && !record.status.is_terminal();
                match is_ours {
                    true => app.pages.accepted(hold, record.id, accepted.quote().max_cost_wei),
                    false => app.pages.released(&hold),
                }
            }
            // The obstacle that the assessment found a moment before is gone.
            (Ok(accepted), None) if !accepted.is_duplicate() => {
                let tenant = app.access().page_tenant(caller);
                let hold = app.pages.take(&tenant, caller, chain_id, now());
                app.pages.accepted(hold, accepted.id(), accepted.quote().max_cost_wei);
            }
            (Err(problem), Some((hold, id))) if problem.is_ambiguous() => app.pages.doubted(hold, id, now()),
            (Err(_), Some((hold, _))) => app.pages.released(&hold),
            (_, None) => {}
        }
    }
    answers
}

/// Checks that a page key may submit this, and takes it from the caps. `None` if it takes nothing: it is held already,
/// or the relay itself will refuse it.
async fn hold(app: &Shared, caller: &Caller, item: &mut Submission) -> Result<Option<(Hold, RequestId)>, Problem> {
    let (limits, tenant) = (&app.limits.page_key, app.access().page_tenant(caller));
    check(limits, &tenant, item, now())?;
    own_idempotency_key(caller, item);
    let Ok((id, quote)) = app.tenant(caller).assess(item.clone()) else { return Ok(None) };
    if app.pages.holds(&(Arc::clone(&caller.tenant), id)) {
        return Ok(None);
    }
    let needed = (item.chain_id, quote.max_cost_wei);
    match app.pages.reserve(limits, &tenant, caller, needed, now()) {
        Ok(hold) => Ok(Some((hold, id))),
        // Repeating the first answer takes nothing.
        Err(problem) => match app.relay.request(id).await? {
            Some(record) if record.tenant == *caller.tenant => Ok(None),
            _ => Err(problem),
        },
    }
}

/// Ties idempotency keys of a page to its user: nobody who reads the page's key can take, or learn about, those of
/// another user or of the server.
fn own_idempotency_key(caller: &Caller, item: &mut Submission) {
    let (Some(forward), Some(key)) = (item.kind.as_forward(), &mut item.idempotency_key) else {
        return;
    };
    let mut hasher = Keccak256::new();
    hasher.update(forward.from);
    hasher.update((caller.key.len() as u64).to_be_bytes());
    hasher.update(caller.key.as_bytes());
    hasher.update(key.as_bytes());
    *key = format!("page:{}", hex::encode(hasher.finalize()));
}

fn too_fast(wait: Duration) -> Problem {
    let what = "too many requests of this address with a page key (`page_key.rate_per_ip_per_s`)";
    Problem::new("rate_limited", what).retry_after(wait)
}

#[cfg(test)]
mod tests {
    use alloy_primitives::{Address, Bytes, U256};
    use slackwater_core::request::{Forward, Submission};

    use super::*;
    use crate::http::auth::Scopes;

    fn key_of(page: &str, from: u8, key: &str) -> Option<String> {
        let caller =
            Caller { tenant: "shop".into(), key: page.into(), scopes: Scopes::NONE, is_known: true, is_page: true };
        let forward = Forward {
            forwarder: Address::ZERO,
            from: Address::repeat_byte(from),
            to: Address::ZERO,
            value: U256::ZERO,
            gas: U256::ZERO,
            nonce: U256::ZERO,
            deadline: 0,
            data: Bytes::new(),
            signature: Bytes::new(),
        };
        let mut item = Submission::forward(1, forward).idempotency_key(key);
        own_idempotency_key(&caller, &mut item);
        item.idempotency_key
    }

    #[test]
    fn every_user_of_a_page_has_idempotency_keys_of_its_own() {
        let longest = "x".repeat(255);
        let keys = [
            key_of("web", 1, "order"),
            key_of("web", 2, "order"),
            key_of("app", 1, "order"),
            key_of("webo", 1, "rder"),
            key_of("web", 1, &longest),
            Some("order".to_owned()),
        ];
        for (place, key) in keys.iter().enumerate() {
            assert!(!keys[..place].contains(key), "{key:?}");
            assert!(key.as_ref().is_some_and(|key| key.len() <= 255));
        }
        assert_eq!(keys[0], key_of("web", 1, "order"));
    }
}
