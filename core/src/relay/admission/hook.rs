//! A second opinion before each acceptance.

use std::{fmt, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use alloy_primitives::U256;
use async_trait::async_trait;
use futures_util::{FutureExt as _, StreamExt as _};

use crate::{
    relay::handle::{error::SubmitError, status::Quote},
    request::{RequestId, RequestKind},
    time::Timestamp,
};

/// Most answers of a hook that one submission of many requests waits for at a time.
const AT_ONCE: usize = 64;

/// A second opinion before each acceptance: a credit check, a screening of addresses, a limit that policies can't state.
///
/// It is asked after all checks of the relay but those of limits and budgets, before anything is stored; requests of one
/// submission are asked about together, up to 64 at a time. A panic or a silence beyond its time refuses the request:
/// [`SubmitError::HookUnavailable`]. It may be asked again about the same request, which has the same id: when the caller
/// submits it again, and also after it was accepted. An answer then changes nothing.
/// [`conformance::admission_hook`](crate::conformance::admission_hook) tests an implementation.
#[async_trait]
pub trait AdmissionHook: fmt::Debug + Send + Sync + 'static {
    /// Decides on one request. The future is dropped when its time is over.
    ///
    /// # Errors
    /// [`Denied`] refuses the request.
    async fn admit(&self, asked: &AdmissionRequest) -> Result<(), Denied>;
}

/// A request that a hook is asked about.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct AdmissionRequest {
    /// The tenant that pays.
    pub tenant: Arc<str>,
    /// Id of the API key, or user, that submits, where it is known.
    pub submitted_by: Option<Arc<str>>,
    /// Content-derived identity.
    pub id: RequestId,
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Kind and content, with verified signature.
    pub kind: RequestKind,
    /// Time that the promise would name.
    pub deadline: Timestamp,
    /// Cost and price; `max_cost_wei` is what would be reserved.
    pub quote: Quote,
}

impl AdmissionRequest {
    /// A request of tenant `default` on chain 1 that costs nothing, for tests of a hook; its fields can be changed.
    pub fn sample(id: RequestId, kind: RequestKind) -> Self {
        let quote = Quote {
            base_fee_wei_per_gas: 0,
            priority_fee_wei_per_gas: 0,
            gas: 0,
            l1_data_fee_wei: U256::ZERO,
            operator_fee_wei: U256::ZERO,
            expected_cost_wei: U256::ZERO,
            max_cost_wei: U256::ZERO,
        };
        Self { tenant: "default".into(), submitted_by: None, id, chain_id: 1, kind, deadline: Timestamp(0), quote }
    }
}

/// A hook's refusal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Denied {
    reason: String,
}

impl Denied {
    /// A refusal with a reason, which the caller is shown.
    pub fn new(reason: impl Into<String>) -> Self {
        Self { reason: reason.into() }
    }
}

/// A hook, and the time that it has.
#[derive(Debug, Clone)]
pub struct HookSetup {
    pub(in crate::relay) hook: Arc<dyn AdmissionHook>,
    pub(in crate::relay) within: Duration,
}

impl HookSetup {
    /// Longest time that answers for `count` requests take.
    pub(in crate::relay) fn longest(&self, count: usize) -> Duration {
        self.within.saturating_mul(u32::try_from(count.div_ceil(AT_ONCE)).unwrap_or(u32::MAX))
    }

    /// One answer for each request, in order.
    pub(in crate::relay) async fn ask(&self, asked: Vec<AdmissionRequest>) -> Vec<Result<(), SubmitError>> {
        futures_util::stream::iter(asked).map(|asked| self.ask_one(asked)).buffered(AT_ONCE).collect().await
    }

    async fn ask_one(&self, asked: AdmissionRequest) -> Result<(), SubmitError> {
        let answer = AssertUnwindSafe(self.hook.admit(&asked)).catch_unwind();
        match tokio::time::timeout(self.within, answer).await {
            Ok(Ok(answer)) => answer.map_err(|Denied { reason }| SubmitError::Denied { reason }),
            Ok(Err(_)) => Err(SubmitError::HookUnavailable { detail: "it panicked".to_owned() }),
            Err(_) => {
                let detail = format!("no answer within {} ms", self.within.as_millis());
                Err(SubmitError::HookUnavailable { detail })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use alloy_primitives::{Address, B256, Bytes};

    use super::*;
    use crate::{conformance, request::Call};

    /// Decides by the first byte of a request's id.
    #[derive(Debug, Default)]
    struct ByFirstByte(AtomicU64);

    #[async_trait]
    impl AdmissionHook for ByFirstByte {
        async fn admit(&self, asked: &AdmissionRequest) -> Result<(), Denied> {
            match asked.id.0[0] {
                0 => Ok(()),
                1 => Err(Denied::new("on a list")),
                2 => std::future::pending().await,
                3 => panic!("the list is gone"),
                // Changes its mind.
                _ if self.0.fetch_add(1, Ordering::Relaxed).is_multiple_of(2) => Ok(()),
                _ => Err(Denied::new("this time")),
            }
        }
    }

    fn asked(first: u8) -> AdmissionRequest {
        let call = Call {
            to: Address::ZERO,
            value: U256::ZERO,
            gas: U256::from(21_000),
            data: Bytes::new(),
            any_sender: false,
            salt: String::new(),
        };
        AdmissionRequest::sample(RequestId(B256::repeat_byte(first)), call.into())
    }

    #[tokio::test(start_paused = true)]
    async fn silence_and_panics_refuse_and_harm_no_other() {
        let setup = HookSetup { hook: Arc::new(ByFirstByte::default()), within: Duration::from_secs(1) };
        let began = tokio::time::Instant::now();
        let answers = setup.ask((0..200).map(|number| asked(number % 4)).collect()).await;
        let codes: Vec<_> = answers.iter().map(|answer| answer.as_ref().err().map(SubmitError::code)).collect();
        let of_four = [None, Some("denied_by_hook"), Some("hook_unavailable"), Some("hook_unavailable")];
        assert!(codes.iter().enumerate().all(|(place, code)| *code == of_four[place % 4]), "{codes:?}");
        let silent = answers[2].as_ref().unwrap_err();
        assert!(silent.is_retryable() && !silent.is_ambiguous() && silent.to_string().contains("1000 ms"), "{silent}");
        // Together, not one after the other.
        assert!(began.elapsed() <= Duration::from_secs(5), "{:?}", began.elapsed());
    }

    #[tokio::test]
    async fn the_conformance_test_notices_a_change_of_mind() {
        let hook = ByFirstByte::default();
        conformance::admission_hook(&hook, &[asked(0), asked(1)]).await.unwrap();
        conformance::admission_hook(&hook, &[asked(9)]).await.unwrap_err();
    }
}
