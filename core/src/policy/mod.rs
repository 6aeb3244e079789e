//! Who may spend what? Allowlists, caps and budgets per tenant, as pure decisions.

mod budget;
mod tenant;

pub use budget::{Budget, BudgetBook, BudgetError};
pub use tenant::{KindName, PolicyDenial, TargetRule, TenantPolicy};
