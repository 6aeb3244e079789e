//! Spending policy: allowlists, caps and budgets per tenant, as pure decisions.

mod budget;
mod claim;
mod open;
mod pause;
mod tenant;

pub use crate::request::KindName;
pub use budget::{Budget, BudgetBook, BudgetError, BudgetShare, BudgetShares};
pub use claim::{Claim, LineKey};
pub use open::{OpenBook, OpenError, OpenLimits};
pub use pause::{PauseNote, PauseScope, Pauses};
pub use tenant::{PolicyDenial, TargetRule, TenantPolicy};
