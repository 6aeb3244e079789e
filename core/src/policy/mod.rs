//! Who may spend what? Allowlists, caps and budgets per tenant, as pure decisions.

mod budget;
mod pause;
mod tenant;

pub use budget::{Budget, BudgetBook, BudgetError};
pub use pause::{PauseNote, PauseScope, Pauses};
pub use tenant::{KindName, PolicyDenial, TargetRule, TenantPolicy};
