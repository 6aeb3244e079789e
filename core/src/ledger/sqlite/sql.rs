//! Statements over many rows. Each call to the connection's thread costs tens of microseconds, so rows travel together:
//! in chunks of powers of two, so that a statement's text has only a few forms and all of them stay prepared.

use std::sync::{Arc, OnceLock};

use sqlx::{
    Arguments, AssertSqlSafe, Encode, Executor, Sqlite, SqliteConnection, Type,
    sqlite::{SqliteArguments, SqliteRow},
};

use super::storage_error;
use crate::ledger::LedgerError;

/// 2⁸ rows of up to 30 values stay below SQLite's limit of 32 766 parameters.
const MAX_POWER: usize = 8;

/// A statement with a list of rows (or of values, as rows of one) in the middle.
pub(super) struct Rows {
    head: &'static str,
    width: usize,
    tail: &'static str,
    forms: [OnceLock<Arc<str>>; MAX_POWER + 1],
}

impl Rows {
    /// `head (?,?),(?,?) tail` with `width` values per row.
    pub(super) const fn new(head: &'static str, width: usize, tail: &'static str) -> Self {
        Self { head, width, tail, forms: [const { OnceLock::new() }; MAX_POWER + 1] }
    }

    fn form(&self, power: usize) -> AssertSqlSafe<Arc<str>> {
        // Made of literals and question marks only.
        AssertSqlSafe(Arc::clone(self.forms[power].get_or_init(|| {
            let row = match self.width {
                1 => "?".to_owned(),
                width => format!("({})", vec!["?"; width].join(",")),
            };
            format!("{}{}{}", self.head, vec![row.as_str(); 1 << power].join(","), self.tail).into()
        })))
    }

    /// Runs the statement for all `rows`, largest chunks first; `bind` pushes the `width` values of one row.
    pub(super) async fn execute<T>(
        &self,
        connection: &mut SqliteConnection,
        rows: impl ExactSizeIterator<Item = T>,
        mut bind: impl FnMut(&mut Args, T),
    ) -> Result<(), LedgerError> {
        let mut rows = rows;
        while rows.len() > 0 {
            let power = (rows.len().ilog2() as usize).min(MAX_POWER);
            let mut args = Args::with_capacity(self.width << power);
            for row in rows.by_ref().take(1 << power) {
                bind(&mut args, row);
            }
            debug_assert_eq!(args.0.len(), self.width << power, "{}", self.head);
            let query = sqlx::query_with(self.form(power), args.0);
            connection.execute(query).await.map_err(|error| storage_error(&error))?;
        }
        Ok(())
    }

    /// Runs the statement as a look-up for all `keys`. The last chunk is filled up by repeating its last key, so the
    /// statement must not care about repetitions.
    pub(super) async fn fetch<T>(
        &self,
        connection: &mut SqliteConnection,
        keys: &[T],
        mut bind: impl FnMut(&mut Args, &T),
    ) -> Result<Vec<SqliteRow>, LedgerError> {
        let mut found = Vec::new();
        for chunk in keys.chunks(1 << MAX_POWER) {
            let power = chunk.len().next_power_of_two().ilog2() as usize;
            let mut args = Args::with_capacity(self.width << power);
            for key in chunk {
                bind(&mut args, key);
            }
            for _ in chunk.len()..1 << power {
                bind(&mut args, &chunk[chunk.len() - 1]);
            }
            let query = sqlx::query_with(self.form(power), args.0);
            found.extend(connection.fetch_all(query).await.map_err(|error| storage_error(&error))?);
        }
        Ok(found)
    }
}

/// Values of a statement, in order.
pub(super) struct Args(pub(super) SqliteArguments);

impl Args {
    pub(super) fn with_capacity(values: usize) -> Self {
        let mut args = SqliteArguments::default();
        args.reserve(values, 0);
        Self(args)
    }

    pub(super) fn push<'q, T: Encode<'q, Sqlite> + Type<Sqlite>>(&mut self, value: T) {
        if let Err(error) = self.0.add(value) {
            unreachable!("numbers, text and blobs always have an encoding: {error}")
        }
    }

    /// An unsigned number, stored as the signed one with the same bits.
    pub(super) fn push_u64(&mut self, value: u64) {
        self.push(value.cast_signed());
    }

    pub(super) fn push_blob(&mut self, value: impl AsRef<[u8]>) {
        self.push(value.as_ref());
    }

    pub(super) fn push_optional_blob(&mut self, value: Option<impl AsRef<[u8]>>) {
        self.push(value.map(|value| value.as_ref().to_vec()));
    }

    /// A number beyond 64 bits, as decimal text.
    pub(super) fn push_decimal(&mut self, value: impl ToString) {
        self.push(value.to_string());
    }
}
