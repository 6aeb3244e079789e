//! Withdrawals.

use std::{collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, U256};
use tokio::sync::oneshot;

use crate::{
    policy::{OpenLimits, TenantPolicy},
    relay::{
        CancelError, admission::tenants::Tenants, clock, nodes::simulate::tests::request,
        start::assemble::tests::service,
    },
    request::vehicle::Company,
    schedule::{QueuedRequest, Refusals},
};

#[tokio::test]
async fn what_has_become_another_tenants_is_not_withdrawn() {
    let policies = ["shop", "bank"].map(|id| (id.to_owned(), TenantPolicy::new(id)));
    let tenants = Arc::new(Tenants::new(BTreeMap::from(policies), OpenLimits::default(), false));
    let ledger = tempfile::tempdir().unwrap();
    let (mut service, mut journal) = service(&ledger.path().join("ledger.db"), &tenants).await;
    let request = request(1, 0, Address::repeat_byte(0xaa));
    let id = request.id();
    service.sender.queue.push(QueuedRequest {
        tenant: tenants.get("bank").unwrap().name.clone(),
        seq: 2,
        accepted_at: clock::now(),
        gas: 100_000,
        bytes: 100,
        ceiling_wei_per_gas: 1,
        first_ceiling_wei_per_gas: 1,
        reserved_wei: U256::ZERO,
        spent_wei: U256::ZERO,
        price_percent: 100,
        company: Company::Named,
        simulations: 0,
        batch_failures: 0,
        due: request.deadline(),
        is_late: false,
        refusals: Refusals::default(),
        request,
    });
    let (reply, mut answer) = oneshot::channel();
    service.cancel(clock::now(), "shop", id, reply);
    assert!(matches!(answer.try_recv(), Ok(Err(CancelError::Unknown(unknown))) if unknown == id));
    assert!(service.sender.queue.is_waiting(id) && journal.try_recv().is_err());
    let (reply, _answer) = oneshot::channel();
    service.cancel(clock::now(), "bank", id, reply);
    assert!(!service.sender.queue.is_waiting(id) && journal.try_recv().is_ok());
}
