//! Spending policy: allowlists, caps and budgets per tenant, as pure decisions.

mod budget;
mod open;
mod pause;
mod tenant;

pub use budget::{Budget, BudgetBook, BudgetError, BudgetShare, BudgetShares};
pub use open::{Claim, LineKey, OpenBook, OpenError, OpenLimits};
pub use pause::{PauseNote, PauseScope, Pauses};
pub use tenant::{KindName, PolicyDenial, TargetRule, TenantPolicy};
