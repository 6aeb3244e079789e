//! Rows found for a commit, read into its working set.

use std::collections::HashMap;

use alloy_primitives::U256;

use super::{
    LedgerError,
    apply::WorkingSet,
    needs::SpentKey,
    rows::{Cells, Row},
};
use crate::request::LaneId;

/// Kind of rows, each with the keys by which it was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Table {
    /// Requests with their payloads.
    Answers,
    /// Idempotency keys with their requests.
    Keys,
    /// Requests without payloads.
    Requests,
    /// Requests to be cancelled, with their batches.
    Bound,
    /// Sequences with the requests that hold them.
    Holders,
    /// Lanes with their highest nonces.
    Lanes,
    /// Batches with the indices of their newest attempts.
    Batches,
    /// Attempts with their batches.
    Attempts,
    /// Spendings of budgets.
    Budgets,
}

impl Table {
    /// Name of a row in errors.
    const fn row(self) -> &'static str {
        match self {
            Self::Answers | Self::Requests => "request",
            Self::Keys => "idempotency key",
            Self::Bound => "batch of a request",
            Self::Holders => "sequence of a request",
            Self::Lanes => "lane",
            Self::Batches => "batch",
            Self::Attempts => "attempt",
            Self::Budgets => "sum of spendings",
        }
    }
}

impl WorkingSet {
    /// Reads the rows found of `table`.
    pub(super) fn read<R: Row>(&mut self, table: Table, rows: &[R]) -> Result<(), LedgerError> {
        for row in rows {
            let mut cells = Cells::of(table.row(), row);
            match table {
                Table::Answers | Table::Requests => {
                    let (mut record, events) = cells.request()?;
                    if table == Table::Answers {
                        cells.payload(&mut record)?;
                    }
                    if !self.holds_request(record.id) {
                        self.load_request(record, events);
                    }
                }
                Table::Keys => self.load_key((cells.text()?, cells.text()?), cells.fixed()?, cells.request_id()?),
                Table::Bound => self.load_bound(cells.request_id()?, cells.batch_id()?),
                Table::Holders => {
                    let sequence = (cells.u64()?, cells.fixed()?, cells.fixed()?, cells.u64()?);
                    self.load_holder(sequence, cells.request_id()?);
                }
                Table::Lanes => {
                    let lane = LaneId { chain_id: cells.u64()?, sender: cells.fixed()? };
                    if let Some(nonce) = cells.optional_u64()? {
                        self.load_highest_nonce(lane, nonce);
                    }
                }
                Table::Batches => {
                    let (seq, record) = cells.batch()?;
                    if !self.holds_batch(record.id) {
                        self.load_batch(record, seq, cells.u32()?);
                    }
                }
                Table::Attempts => self.load_attempt(cells.fixed()?, cells.batch_id()?),
                Table::Budgets => {
                    let key = (cells.text()?, cells.u64()?, cells.u64()?);
                    let (reserved, spent) = (cells.decimal::<U256>()?, cells.decimal()?);
                    self.load_budget(key, reserved.saturating_add(spent));
                }
            }
        }
        Ok(())
    }
}

/// Adds stored sums of (reserved, spent) wei to `sums`.
pub(super) fn read_spent<R: Row>(sums: &mut HashMap<SpentKey, (U256, U256)>, rows: &[R]) -> Result<(), LedgerError> {
    for row in rows {
        let mut cells = Cells::of("sum of spendings", row);
        let key = (cells.u64()?, cells.text()?, cells.u64()?);
        sums.insert(key, (cells.decimal()?, cells.decimal()?));
    }
    Ok(())
}
