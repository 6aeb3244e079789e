//! Records from rows. Columns are read by position, in the order of the column lists here.

use alloy_primitives::{Address, B256, U256};
use sqlx::{Decode, Row, Sqlite, Type, sqlite::SqliteRow};

use super::storage_error;
use crate::{
    chain::Fees,
    ledger::{
        AttemptKind, AttemptRecord, BatchRecord, BatchState, DecisionRow, EventRecord, LedgerError, RequestRecord,
    },
    request::{BatchId, LaneId, Reason, RequestId, Status},
    time::Timestamp,
};

/// Columns that [`Cells::request`] reads, of `requests AS r`.
macro_rules! request_columns {
    () => {
        "r.seq, r.id, r.tenant, r.chain_id, r.kind, r.forwarder, r.signer, r.signer_nonce, r.target, r.status, \
         r.reason, r.deadline_ms, r.accepted_at_ms, r.updated_at_ms, r.batch_sender, r.batch_nonce, r.reserved_wei, \
         r.ceiling_wei_per_gas, r.cost_wei, r.gas_used, r.tx_hash, r.block_number, r.batch_failures, r.events"
    };
}
/// Columns that [`Cells::payload`] reads, of `payloads AS p`.
macro_rules! payload_columns {
    () => {
        "p.payload, p.promise_signature, p.quote"
    };
}
/// Columns that [`Cells::batch`] reads, of `batches AS b`.
macro_rules! batch_columns {
    () => {
        "b.seq, b.chain_id, b.sender, b.nonce, b.state, b.recipient, b.value_wei, b.gas_limit, b.deadline_ms, \
         b.ceiling_wei_per_gas, b.trigger, b.created_at_ms, b.included_hash, b.block_number, b.block_hash, \
         b.gas_used, b.cost_wei"
    };
}
pub(super) use {batch_columns, payload_columns, request_columns};

/// The cells of a row, from left to right.
pub(super) struct Cells<'r> {
    what: &'static str,
    row: &'r SqliteRow,
    next: usize,
}

impl<'r> Cells<'r> {
    /// Reads `row` as (part of) `what`.
    pub(super) const fn of(what: &'static str, row: &'r SqliteRow) -> Self {
        Self { what, row, next: 0 }
    }

    fn damaged(&self, detail: impl std::fmt::Display) -> LedgerError {
        let Self { what, next, .. } = *self;
        LedgerError::Damaged { what, detail: format!("column {}: {detail}", next - 1) }
    }

    fn cell<T: Decode<'r, Sqlite> + Type<Sqlite>>(&mut self) -> Result<T, LedgerError> {
        self.next += 1;
        self.row.try_get(self.next - 1).map_err(|error| match error {
            sqlx::Error::ColumnDecode { source, .. } => self.damaged(source),
            error => storage_error(&error),
        })
    }

    pub(super) fn u64(&mut self) -> Result<u64, LedgerError> {
        self.cell().map(i64::cast_unsigned)
    }

    pub(super) fn optional_u64(&mut self) -> Result<Option<u64>, LedgerError> {
        Ok(self.cell::<Option<i64>>()?.map(i64::cast_unsigned))
    }

    pub(super) fn u32(&mut self) -> Result<u32, LedgerError> {
        let value = self.cell::<i64>()?;
        u32::try_from(value).map_err(|error| self.damaged(error))
    }

    pub(super) fn text(&mut self) -> Result<String, LedgerError> {
        self.cell()
    }

    pub(super) fn blob(&mut self) -> Result<Vec<u8>, LedgerError> {
        self.cell()
    }

    /// A blob of a fixed length: hash, address.
    pub(super) fn fixed<T: TryFrom<&'r [u8], Error: std::fmt::Display>>(&mut self) -> Result<T, LedgerError> {
        let bytes = self.cell::<&[u8]>()?;
        T::try_from(bytes).map_err(|error| self.damaged(error))
    }

    pub(super) fn optional_fixed<T: TryFrom<&'r [u8], Error: std::fmt::Display>>(
        &mut self,
    ) -> Result<Option<T>, LedgerError> {
        let bytes = self.cell::<Option<&[u8]>>()?;
        bytes.map(|bytes| T::try_from(bytes).map_err(|error| self.damaged(error))).transpose()
    }

    pub(super) fn decimal<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self) -> Result<T, LedgerError> {
        let text = self.cell::<&str>()?;
        text.parse().map_err(|error| self.damaged(error))
    }

    fn optional_decimal<T: std::str::FromStr<Err: std::fmt::Display>>(&mut self) -> Result<Option<T>, LedgerError> {
        let text = self.cell::<Option<&str>>()?;
        text.map(|text| text.parse().map_err(|error| self.damaged(error))).transpose()
    }

    /// A value stored as its code.
    fn code<T>(&mut self, from_code: impl FnOnce(u8) -> Option<T>) -> Result<T, LedgerError> {
        let code = self.cell::<i64>()?;
        u8::try_from(code).ok().and_then(from_code).ok_or_else(|| self.damaged(format_args!("unknown code {code}")))
    }

    pub(super) fn status(&mut self) -> Result<Status, LedgerError> {
        self.code(Status::from_code)
    }

    fn reason(&mut self) -> Result<Option<Reason>, LedgerError> {
        let name = self.cell::<Option<&str>>()?;
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

    pub(super) fn batch_id(&mut self) -> Result<BatchId, LedgerError> {
        let chain_id = self.u64()?;
        Ok(BatchId { lane: LaneId { chain_id, sender: self.fixed()? }, nonce: self.u64()? })
    }

    pub(super) fn request_id(&mut self) -> Result<RequestId, LedgerError> {
        self.fixed().map(RequestId)
    }

    /// A request without its payload, and the number of its events.
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

    /// A batch and its number in storage.
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
            detail: self.cell()?,
            batch: self.batch_on(chain_id)?,
            tx_hash: self.optional_fixed()?,
            block_number: self.optional_u64()?,
            at_ms: self.u64()?,
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
