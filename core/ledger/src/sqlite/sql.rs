//! Scripts of multi-row statements.
//!
//! Each call to the connection's thread costs tens of microseconds, so a script sends all its statements, with all
//! their rows, in one call. A statement holds its rows as a list in the middle of its text, padded with NULLs to a
//! power of two: so the scripts in use have few texts, and stay prepared.

use std::{
    fmt::Write as _,
    sync::{Arc, OnceLock},
};

use futures_util::TryStreamExt;
use sqlx::{
    Arguments, AssertSqlSafe, Either, Encode, Executor, Sqlite, SqliteConnection, Type,
    sqlite::{SqliteArguments, SqliteRow},
};

use crate::bind::Bind;

/// 2⁸ rows of up to 30 values stay below SQLite's limit of 32 766 parameters of a statement.
const MAX_POWER: usize = 8;

/// A statement with a list of rows (or of values, as rows of one) in the middle.
///
/// It must ignore rows of NULLs, and be independent of the division of its rows into calls.
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

    fn form(&self, power: usize) -> &str {
        self.forms[power].get_or_init(|| {
            let row = match self.width {
                1 => "?".to_owned(),
                width => format!("({})", vec!["?"; width].join(",")),
            };
            format!("{}{}{};\n", self.head, vec![row.as_str(); 1 << power].join(","), self.tail).into()
        })
    }
}

/// Failure of a script.
pub(super) struct ScriptError {
    pub(super) error: sqlx::Error,
    /// True if the `COMMIT` failed.
    pub(super) at_commit: bool,
}

/// A sequence of statements.
pub(super) struct Script<'a> {
    parts: Vec<Part<'a>>,
    begin: bool,
    commit: bool,
}

struct Part<'a> {
    /// Stage; parts of an earlier one complete before those of a later one begin.
    stage: u8,
    statement: &'static Rows,
    rows: usize,
    bind_next: Box<dyn FnMut(&mut Args) + Send + 'a>,
    found: Vec<SqliteRow>,
}

impl<'a> Script<'a> {
    pub(super) const fn new() -> Self {
        Self { parts: Vec::new(), begin: false, commit: false }
    }

    /// Starts a transaction before the first statement.
    pub(super) const fn begin(mut self) -> Self {
        self.begin = true;
        self
    }

    /// Commits the transaction after the last statement.
    pub(super) const fn commit(mut self) -> Self {
        self.commit = true;
        self
    }

    /// Adds `statement` over `rows`, unless there are none; `bind` pushes the values of one row.
    pub(super) fn add<T>(
        &mut self,
        stage: u8,
        statement: &'static Rows,
        rows: impl IntoIterator<Item = T, IntoIter: ExactSizeIterator + Send + 'a>,
        mut bind: impl FnMut(&mut Args, T) + Send + 'a,
    ) {
        let mut rows = rows.into_iter();
        if rows.len() > 0 {
            let count = rows.len();
            let bind_next = Box::new(move |args: &mut Args| match rows.next() {
                Some(row) => bind(args, row),
                None => unreachable!("the iterator told its exact length"),
            });
            self.parts.push(Part { stage, statement, rows: count, bind_next, found: Vec::new() });
        }
    }

    /// Runs all statements and returns the rows of each.
    pub(super) async fn run(mut self, connection: &mut SqliteConnection) -> Result<Found, ScriptError> {
        self.parts.sort_by_key(|part| part.stage);
        let mut rest = self.parts.as_mut_slice();
        if rest.iter().all(|part| part.rows <= 1 << MAX_POWER) {
            run_parts(connection, rest, self.begin, self.commit).await?;
        } else {
            let mut begin = self.begin;
            while let Some(first) = rest.first() {
                let stage = first.stage;
                let (now, later) = rest.split_at_mut(rest.partition_point(|part| part.stage == stage));
                while now.iter().any(|part| part.rows > 0) {
                    let last = later.is_empty() && now.iter().all(|part| part.rows <= 1 << MAX_POWER);
                    run_parts(connection, now, begin, self.commit && last).await?;
                    begin = false;
                }
                rest = later;
            }
        }
        Ok(Found(self.parts.into_iter().map(|part| (part.statement, part.found)).collect()))
    }
}

/// Rows returned by a script.
pub(super) struct Found(Vec<(&'static Rows, Vec<SqliteRow>)>);

impl Found {
    /// Rows of `statement`; none if it was not part of the script.
    pub(super) fn rows_of(&self, statement: &'static Rows) -> &[SqliteRow] {
        self.0.iter().find(|(of, _)| std::ptr::eq(*of, statement)).map_or(&[], |(_, rows)| rows)
    }
}

/// One call: up to 2⁸ remaining rows of every part.
async fn run_parts(
    connection: &mut SqliteConnection,
    parts: &mut [Part<'_>],
    begin: bool,
    commit: bool,
) -> Result<(), ScriptError> {
    let most = parts.iter().map(|part| part.rows).max().unwrap_or_default().clamp(1, 1 << MAX_POWER);
    let power = most.next_power_of_two().ilog2() as usize;
    let mut text = String::new();
    let mut args = Args(SqliteArguments::default());
    // For each statement of the text, the part that its rows belong to.
    let mut owners = Vec::new();
    if begin {
        text.push_str("BEGIN IMMEDIATE;\n");
        owners.push(None);
    }
    for (index, part) in parts.iter_mut().enumerate().filter(|(_, part)| part.rows > 0) {
        let count = part.rows.min(1 << power);
        let width = part.statement.width;
        text.push_str(part.statement.form(power));
        owners.push(Some(index));
        args.0.reserve(width << power, 0);
        let values_before = args.0.len();
        for _ in 0..count {
            (part.bind_next)(&mut args);
        }
        debug_assert_eq!(args.0.len() - values_before, count * width, "{}", part.statement.head);
        for _ in count * width..width << power {
            args.push(None::<i64>);
        }
        part.rows -= count;
    }
    if commit {
        let _ = write!(text, "COMMIT");
        owners.push(None);
    }
    // Consists of literals and question marks only.
    let mut results = connection.fetch_many(sqlx::query_with(AssertSqlSafe(text), args.0));
    let mut done = 0;
    loop {
        match results.try_next().await {
            Ok(Some(Either::Left(_))) => done += 1,
            Ok(Some(Either::Right(row))) => {
                if let Some(part) = owners.get(done).copied().flatten() {
                    parts[part].found.push(row);
                }
            }
            // A worker that stops early ends the stream without an error.
            Ok(None) if done == owners.len() => return Ok(()),
            Ok(None) => return Err(ScriptError { error: sqlx::Error::WorkerCrashed, at_commit: commit }),
            Err(error) => return Err(ScriptError { error, at_commit: commit && done + 1 >= owners.len() }),
        }
    }
}

/// Values of a statement, in order.
pub(super) struct Args(SqliteArguments);

impl Args {
    fn push<'q, T: Encode<'q, Sqlite> + Type<Sqlite>>(&mut self, value: T) {
        if let Err(error) = self.0.add(value) {
            unreachable!("numbers, text and blobs always have an encoding: {error}")
        }
    }
}

impl Bind for Args {
    fn int(&mut self, value: Option<i64>) {
        self.push(value);
    }

    fn text(&mut self, value: Option<String>) {
        self.push(value);
    }

    fn blob(&mut self, value: Option<Vec<u8>>) {
        self.push(value);
    }
}
