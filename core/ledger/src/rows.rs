//! Records of rows. Columns are read by position, in the order of the column lists here, which are the same in every
//! database.

use std::collections::BTreeMap;

use alloy_primitives::{Address, B256, U256};

use crate::{
    AccountRow, AttemptKind, AttemptRecord, BatchMember, BatchRecord, BatchState, CostRow, DecisionRow, EventRecord,
    FaultKind, LedgerError, MarginRow, OpenByKey, RequestRecord, SpentRow, StorageFault,
    chain::Fees,
    request::{BatchId, LaneId, Reason, RequestId, Status, TargetRecord, settlement::CostAccount},
    time::Timestamp,
};

/// A row of a database. Unsigned numbers are stored as the signed ones with the same bits, amounts as decimal text.
pub trait Row {
    /// The integer in this column.
    fn int(&self, column: usize) -> Result<Option<i64>, sqlx::Error>;
    /// The text in this column.
    fn text(&self, column: usize) -> Result<Option<&str>, sqlx::Error>;
    /// The bytes in this column.
    fn blob(&self, column: usize) -> Result<Option<&[u8]>, sqlx::Error>;
}

/// Error of a failed statement other than `COMMIT`: its transaction is rolled back.
pub(super) fn storage_error(error: &sqlx::Error) -> LedgerError {
    match error {
        sqlx::Error::PoolClosed => LedgerError::Closed,
        // The loaded rows contradict the stored ones.
        sqlx::Error::Database(database) if !matches!(database.kind(), sqlx::error::ErrorKind::Other) => {
            LedgerError::Damaged { what: "ledger", detail: error.to_string() }
        }
        _ => LedgerError::Storage(StorageFault::new(kind_of(error), error.to_string())),
    }
}

/// Kind of fault by the database's error code.
fn kind_of(error: &sqlx::Error) -> FaultKind {
    match error {
        sqlx::Error::Database(database) => {
            let code = database.code().unwrap_or_default();
            match database.try_downcast_ref::<sqlx::sqlite::SqliteError>() {
                Some(_) => sqlite_kind(&code),
                None => postgres_kind(&code),
            }
        }
        sqlx::Error::Io(_) | sqlx::Error::Tls(_) | sqlx::Error::Protocol(_) | sqlx::Error::PoolTimedOut => {
            FaultKind::Unreachable
        }
        _ => FaultKind::Other,
    }
}

/// SQLite's result codes, extended or not: <https://sqlite.org/rescode.html>.
fn sqlite_kind(code: &str) -> FaultKind {
    match code.parse::<i32>().map(|code| code & 0xff) {
        Ok(5 | 6) => FaultKind::Busy,
        Ok(8) => FaultKind::ReadOnly,
        Ok(10) => FaultKind::Io,
        Ok(11 | 26) => FaultKind::Corrupt,
        Ok(13) => FaultKind::Full,
        Ok(14) => FaultKind::Unreachable,
        _ => FaultKind::Other,
    }
}

/// PostgreSQL's SQLSTATEs: its manual, appendix A.
fn postgres_kind(code: &str) -> FaultKind {
    match code {
        "53100" => FaultKind::Full,
        "25006" => FaultKind::ReadOnly,
        "55P03" | "57014" | "25P03" => FaultKind::Busy,
        "58030" => FaultKind::Io,
        "XX001" | "XX002" => FaultKind::Corrupt,
        code if code.starts_with("08") || code.starts_with("57P") || code == "53300" => FaultKind::Unreachable,
        _ => FaultKind::Other,
    }
}

/// Columns read by [`Cells::request`], of `requests AS r`.
macro_rules! request_columns {
    () => {
        "r.seq, r.id, r.tenant, r.chain_id, r.kind, r.forwarder, r.signer, r.signer_nonce, r.target, r.status, \
         r.reason, r.deadline_ms, coalesce(r.valid_until_ms, r.deadline_ms), r.late_at_ms, r.accepted_at_ms, r.updated_at_ms, r.batch_sender, r.batch_nonce, r.reserved_wei, \
         r.ceiling_wei_per_gas, r.cost_wei, r.gas_used, r.tx_hash, r.block_number, r.batch_failures, r.submitted_by, r.price_percent, r.events"
    };
}
/// Columns read by [`Cells::payload`], of `payloads AS p`.
macro_rules! payload_columns {
    () => {
        "p.payload, p.promise_signature, p.quote"
    };
}
/// Columns read by [`Cells::batch`], of `batches AS b`.
macro_rules! batch_columns {
    () => {
        "b.seq, b.chain_id, b.sender, b.nonce, b.state, b.recipient, b.value_wei, b.gas_limit, b.deadline_ms, \
         b.ceiling_wei_per_gas, b.trigger, b.created_at_ms, b.included_hash, b.block_number, b.block_hash, \
         b.gas_used, b.cost_wei"
    };
}
/// An amount of wei (decimal text or NULL), zero-padded to 81 digits: every 256-bit number has fewer.
macro_rules! padded_wei {
    ($column:literal) => {
        concat!(
            "substr('000000000000000000000000000000000000000000000000000000000000000000000000000000000' || coalesce(",
            $column,
            ", ''), length(coalesce(",
            $column,
            ", '')) + 1, 81)"
        )
    };
}
/// Amount counted by budgets for `requests AS r`, padded: the larger of cost and price.
macro_rules! counted_wei {
    () => {
        concat!(
            "CASE WHEN ",
            padded_wei!("r.price_wei"),
            " > ",
            padded_wei!("r.cost_wei"),
            " THEN ",
            padded_wei!("r.price_wei"),
            " ELSE ",
            padded_wei!("r.cost_wei"),
            " END"
        )
    };
}
/// Columns read by [`Cells::wei_sum`]: sums of nine-digit groups of such amounts, which overflow no database.
macro_rules! wei_sums {
    ($padded:literal) => {
        concat!(
            wei_sums!($padded, "1"),
            wei_sums!($padded, "10"),
            wei_sums!($padded, "19"),
            wei_sums!($padded, "28"),
            wei_sums!($padded, "37"),
            wei_sums!($padded, "46"),
            wei_sums!($padded, "55"),
            wei_sums!($padded, "64"),
            wei_sums!($padded, "73")
        )
    };
    ($padded:literal, $from:literal) => {
        concat!(", CAST(sum(CAST(substr(", $padded, ", ", $from, ", 9) AS BIGINT)) AS BIGINT)")
    };
}
pub(super) use {batch_columns, counted_wei, padded_wei, payload_columns, request_columns, wei_sums};

/// The cells of a row, from left to right.
pub(super) struct Cells<'r> {
    what: &'static str,
    row: &'r dyn Row,
    next: usize,
}

impl<'r> Cells<'r> {
    /// A reader of `row` as (part of) a record of kind `what`.
    pub(super) const fn of(what: &'static str, row: &'r dyn Row) -> Self {
        Self { what, row, next: 0 }
    }

    fn damaged(&self, detail: impl std::fmt::Display) -> LedgerError {
        let Self { what, next, .. } = *self;
        LedgerError::Damaged { what, detail: format!("column {}: {detail}", next - 1) }
    }

    fn cell<T>(
        &mut self,
        read: impl FnOnce(&'r dyn Row, usize) -> Result<Option<T>, sqlx::Error>,
    ) -> Result<Option<T>, LedgerError> {
        self.next += 1;
        read(self.row, self.next - 1).map_err(|error| match error {
            sqlx::Error::ColumnDecode { source, .. } => self.damaged(source),
            error => storage_error(&error),
        })
    }

    fn present<T>(&self, cell: Option<T>) -> Result<T, LedgerError> {
        cell.ok_or_else(|| self.damaged("is NULL"))
    }

    fn int(&mut self) -> Result<i64, LedgerError> {
        let cell = self.cell(|row, column| row.int(column))?;
        self.present(cell)
    }

    fn str(&mut self) -> Result<&'r str, LedgerError> {
        let cell = self.optional_str()?;
        self.present(cell)
    }

    fn optional_str(&mut self) -> Result<Option<&'r str>, LedgerError> {
        self.cell(|row, column| row.text(column))
    }

    fn optional_bytes(&mut self) -> Result<Option<&'r [u8]>, LedgerError> {
        self.cell(|row, column| row.blob(column))
    }

    pub(super) fn u64(&mut self) -> Result<u64, LedgerError> {
        self.int().map(i64::cast_unsigned)
    }

    pub(super) fn optional_u64(&mut self) -> Result<Option<u64>, LedgerError> {
        Ok(self.cell(|row, column| row.int(column))?.map(i64::cast_unsigned))
    }

    pub(super) fn u32(&mut self) -> Result<u32, LedgerError> {
        let value = self.int()?;
        u32::try_from(value).map_err(|error| self.damaged(error))
    }

    pub(super) fn text(&mut self) -> Result<String, LedgerError> {
        self.str().map(str::to_owned)
    }

    pub(super) fn optional_text(&mut self) -> Result<Option<String>, LedgerError> {
        Ok(self.optional_str()?.map(str::to_owned))
    }

    pub(super) fn blob(&mut self) -> Result<Vec<u8>, LedgerError> {
        let cell = self.optional_bytes()?;
        self.present(cell).map(<[u8]>::to_vec)
    }

    /// A blob of a fixed length: hash, address.
    pub(super) fn fixed<T: TryFrom<&'r [u8], Error: std::fmt::Display>>(&mut self) -> Result<T, LedgerError> {
        let cell = self.optional_fixed()?;
        self.present(cell)
    }

    pub(super) fn optional_fixed<T: TryFrom<&'r [u8], Error: std::fmt::Display>>(
        &mut self,
    ) -> Result<Option<T>, LedgerError> {
        let bytes = self.optional_bytes()?;
        bytes.map(|bytes| T::try_from(bytes).map_err(|error| self.damaged(error))).transpose()
    }

    pub(super) fn decimal<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self) -> Result<T, LedgerError> {
        let cell = self.optional_decimal()?;
        self.present(cell)
    }

    fn optional_decimal<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self) -> Result<Option<T>, LedgerError> {
        let text = self.optional_str()?;
        text.map(|text| text.parse().map_err(|error| self.damaged(error))).transpose()
    }

    /// A value stored as its code.
    fn code<T>(&mut self, from_code: impl FnOnce(u8) -> Option<T>) -> Result<T, LedgerError> {
        let code = self.int()?;
        u8::try_from(code).ok().and_then(from_code).ok_or_else(|| self.damaged(format_args!("unknown code {code}")))
    }

    pub(super) fn status(&mut self) -> Result<Status, LedgerError> {
        self.code(Status::from_code)
    }

    fn reason(&mut self) -> Result<Option<Reason>, LedgerError> {
        let name = self.optional_str()?;
        name.map(|name| Reason::from_name(name).ok_or_else(|| self.damaged(format_args!("unknown reason `{name}`"))))
            .transpose()
    }

    pub(super) fn instant(&mut self) -> Result<Timestamp, LedgerError> {
        self.u64().map(Timestamp)
    }

    /// The nullable (sender, nonce) of a batch on `chain_id`.
    fn batch_on(&mut self, chain_id: u64) -> Result<Option<BatchId>, LedgerError> {
        let sender = self.optional_fixed()?;
        let nonce = self.optional_u64()?;
        Ok(sender.zip(nonce).map(|(sender, nonce)| BatchId { lane: LaneId { chain_id, sender }, nonce }))
    }

    /// An open request with the key that submitted it.
    pub(super) fn open_by_key(&mut self) -> Result<OpenByKey, LedgerError> {
        Ok(OpenByKey {
            key: self.text()?,
            id: self.request_id()?,
            chain_id: self.u64()?,
            accepted_at: self.instant()?,
            reserved_wei: self.decimal()?,
        })
    }

    /// A sum of wei, by nine digits each, the highest first.
    pub(super) fn wei_sum(&mut self) -> Result<U256, LedgerError> {
        let mut sum = U256::ZERO;
        for _ in 0..9 {
            sum = sum.saturating_mul(U256::from(1_000_000_000)).saturating_add(U256::from(self.u64()?));
        }
        Ok(sum)
    }

    /// Amount counted by budgets for an ended request.
    pub(super) fn cost(&mut self) -> Result<CostRow, LedgerError> {
        Ok(CostRow {
            seq: self.u64()?,
            chain_id: self.u64()?,
            signer: self.optional_fixed()?,
            target: self.fixed()?,
            counted_wei: {
                let cost: U256 = self.decimal()?;
                self.optional_decimal::<U256>()?.map_or(cost, |price| price.max(cost))
            },
        })
    }

    pub(super) fn batch_id(&mut self) -> Result<BatchId, LedgerError> {
        let chain_id = self.u64()?;
        Ok(BatchId { lane: LaneId { chain_id, sender: self.fixed()? }, nonce: self.u64()? })
    }

    pub(super) fn request_id(&mut self) -> Result<RequestId, LedgerError> {
        self.fixed().map(RequestId)
    }

    pub(super) fn batch_member(&mut self) -> Result<BatchMember, LedgerError> {
        Ok(BatchMember { id: self.request_id()?, own_gas: self.optional_u64()? })
    }

    /// A request without its payload, and its number of events.
    pub(super) fn request(&mut self) -> Result<(RequestRecord, u32), LedgerError> {
        let seq = self.u64()?;
        let id = self.request_id()?;
        let tenant = self.text()?;
        let chain_id = self.u64()?;
        let kind = self.text()?;
        let sequence = {
            let (forwarder, signer) = (self.optional_fixed::<Address>()?, self.optional_fixed::<Address>()?);
            let nonce = self.optional_u64()?;
            forwarder.zip(signer).zip(nonce).map(|((forwarder, signer), nonce)| (forwarder, signer, nonce))
        };
        let record = RequestRecord {
            seq,
            id,
            tenant,
            chain_id,
            kind,
            sequence,
            target: self.fixed()?,
            status: self.status()?,
            reason: self.reason()?,
            deadline: self.instant()?,
            valid_until: self.instant()?,
            late_at: self.optional_u64()?.map(Timestamp),
            accepted_at: self.instant()?,
            updated_at: self.instant()?,
            batch: self.batch_on(chain_id)?,
            reserved_wei: self.decimal()?,
            ceiling_wei_per_gas: self.decimal()?,
            cost_wei: self.optional_decimal()?,
            gas_used: self.optional_u64()?,
            tx_hash: self.optional_fixed()?,
            block_number: self.optional_u64()?,
            batch_failures: self.u32()?,
            submitted_by: self.optional_text()?,
            price_percent: self.u32()?,
            payload: Vec::new(),
            promise_signature: alloy_primitives::Bytes::new(),
            quote: String::new(),
        };
        Ok((record, self.u32()?))
    }

    /// The payload of `record`.
    pub(super) fn payload(&mut self, record: &mut RequestRecord) -> Result<(), LedgerError> {
        record.payload = self.blob()?;
        record.promise_signature = self.blob()?.into();
        record.quote = self.text()?;
        Ok(())
    }

    /// A batch with its row number in storage.
    pub(super) fn batch(&mut self) -> Result<(u64, BatchRecord), LedgerError> {
        let seq = self.u64()?;
        let mut record = BatchRecord {
            id: self.batch_id()?,
            state: self.code(BatchState::from_code)?,
            to: self.fixed()?,
            value: self.decimal::<U256>()?,
            gas_limit: self.u64()?,
            deadline: self.instant()?,
            ceiling_wei_per_gas: self.decimal()?,
            trigger: self.text()?,
            created_at: self.instant()?,
            included_hash: self.optional_fixed()?,
            block: None,
            gas_used: None,
            cost_wei: None,
        };
        let block_number = self.optional_u64()?;
        record.block = block_number.zip(self.optional_fixed::<B256>()?);
        record.gas_used = self.optional_u64()?;
        record.cost_wei = self.optional_decimal()?;
        Ok((seq, record))
    }

    /// An attempt of `batch`: `idx, kind, max_fee_wei_per_gas, max_priority_fee_wei_per_gas, hash, raw, created_at_ms`.
    pub(super) fn attempt(&mut self, batch: BatchId) -> Result<AttemptRecord, LedgerError> {
        Ok(AttemptRecord {
            batch,
            index: self.u32()?,
            kind: self.code(attempt_kind)?,
            fees: Fees { max_fee_per_gas: self.decimal()?, max_priority_fee_per_gas: self.decimal()? },
            hash: self.fixed()?,
            raw: self.blob()?.into(),
            created_at: self.instant()?,
        })
    }

    /// An event: all columns of `events` but `request`.
    pub(super) fn event(&mut self) -> Result<EventRecord, LedgerError> {
        let seq = self.u64()?;
        let request_seq = self.u32()?;
        let request_id = self.request_id()?;
        let tenant = self.text()?;
        let chain_id = self.u64()?;
        Ok(EventRecord {
            seq,
            request_id,
            request_seq,
            tenant,
            chain_id,
            status: self.status()?,
            reason: self.reason()?,
            detail: self.optional_str()?.map(str::to_owned),
            batch: self.batch_on(chain_id)?,
            tx_hash: self.optional_fixed()?,
            block_number: self.optional_u64()?,
            at_ms: self.u64()?,
        })
    }

    /// All columns of `targets` but `chain_id`.
    pub(super) fn target(&mut self) -> Result<TargetRecord, LedgerError> {
        Ok(TargetRecord {
            target: self.fixed()?,
            clean_runs: self.u64()?,
            surprises: self.u32()?,
            suspect_until: self.instant()?,
            shown_by: self.optional_fixed()?,
            seen_at: self.instant()?,
        })
    }

    /// All columns of `decisions`.
    pub(super) fn decision(&mut self) -> Result<DecisionRow, LedgerError> {
        Ok(DecisionRow {
            seq: self.u64()?,
            at_ms: self.u64()?,
            prev: self.fixed()?,
            hash: self.fixed()?,
            body: self.text()?,
        })
    }
}

const fn attempt_kind(code: u8) -> Option<AttemptKind> {
    match code {
        0 => Some(AttemptKind::Payload),
        1 => Some(AttemptKind::Cancel),
        _ => None,
    }
}

/// Sums of `tenant, chain_id, reserved_wei, spent_wei` by tenant and chain, in that order.
pub(super) fn sum_spent<'r>(rows: impl Iterator<Item = &'r dyn Row>) -> Result<Vec<SpentRow>, LedgerError> {
    let mut sums: BTreeMap<(String, u64), SpentRow> = BTreeMap::new();
    for row in rows {
        let mut cells = Cells::of("sum of spendings", row);
        let (tenant, chain_id) = (cells.text()?, cells.u64()?);
        let (reserved_wei, spent_wei) = (cells.decimal()?, cells.decimal()?);
        let sum = sums.entry((tenant.clone(), chain_id)).or_insert_with(|| SpentRow {
            tenant,
            chain_id,
            reserved_wei: U256::ZERO,
            spent_wei: U256::ZERO,
        });
        sum.reserved_wei = sum.reserved_wei.saturating_add(reserved_wei);
        sum.spent_wei = sum.spent_wei.saturating_add(spent_wei);
    }
    // A sum of zero is treated as absent.
    let is_something = |sum: &SpentRow| !(sum.reserved_wei.is_zero() && sum.spent_wei.is_zero());
    Ok(sums.into_values().filter(is_something).collect())
}

/// Sums of `tenant, chain_id`, [`wei_sums`] of cost and of price, by the first two, in that order.
pub(super) fn sum_margins<'r>(rows: impl Iterator<Item = &'r dyn Row>) -> Result<Vec<MarginRow>, LedgerError> {
    let mut sums = Margins::default();
    for row in rows {
        let mut cells = Cells::of("price", row);
        sums.add(cells.text()?, cells.u64()?, cells.wei_sum()?, cells.wei_sum()?);
    }
    Ok(sums.rows())
}

/// Sums of the differences between prices and costs, by tenant and chain.
#[derive(Debug, Default)]
pub(super) struct Margins(BTreeMap<(String, u64), (U256, U256)>);

impl Margins {
    pub(super) fn add(&mut self, tenant: String, chain_id: u64, cost_wei: U256, price_wei: U256) {
        let (margin, rebate) = self.0.entry((tenant, chain_id)).or_default();
        *margin = margin.saturating_add(price_wei.saturating_sub(cost_wei));
        *rebate = rebate.saturating_add(cost_wei.saturating_sub(price_wei));
    }

    pub(super) fn rows(self) -> Vec<MarginRow> {
        let row =
            |((tenant, chain_id), (margin_wei, rebate_wei))| MarginRow { tenant, chain_id, margin_wei, rebate_wei };
        self.0.into_iter().map(row).collect()
    }
}

/// Sums of `chain_id, account, tenant, wei` by the first three, in that order.
pub(super) fn sum_accounts<'r>(rows: impl Iterator<Item = &'r dyn Row>) -> Result<Vec<AccountRow>, LedgerError> {
    let mut sums: BTreeMap<(u64, CostAccount, String), U256> = BTreeMap::new();
    for row in rows {
        let mut cells = Cells::of("account", row);
        let (chain_id, name, tenant) = (cells.u64()?, cells.text()?, cells.text()?);
        let account = CostAccount::from_name(&name)
            .ok_or_else(|| LedgerError::Damaged { what: "account", detail: format!("`{name}` is no account") })?;
        let wei: U256 = cells.decimal()?;
        let sum = sums.entry((chain_id, account, tenant)).or_default();
        *sum = sum.saturating_add(wei);
    }
    let row = |((chain_id, account, tenant), wei): ((u64, CostAccount, String), U256)| AccountRow {
        chain_id,
        account,
        tenant: Some(tenant).filter(|tenant| !tenant.is_empty()),
        wei,
    };
    Ok(sums.into_iter().map(row).collect())
}
