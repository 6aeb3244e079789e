//! Multi-row statements: every column of the rows is one array, so a statement has one text and one round trip for any
//! number of rows.

use std::sync::OnceLock;

use sqlx::{
    Arguments, AssertSqlSafe, Executor, PgConnection,
    postgres::{PgArguments, PgRow},
};

use crate::bind::Bind;

/// A statement with a list of rows in the middle.
pub(super) struct Rows {
    head: &'static str,
    /// Types of the columns: `n` for integers, `t` for text, `b` for bytes.
    types: &'static str,
    tail: &'static str,
    text: OnceLock<String>,
}

impl Rows {
    /// `head UNNEST($1::…, $2::…) tail`.
    pub(super) const fn new(head: &'static str, types: &'static str, tail: &'static str) -> Self {
        Self { head, types, tail, text: OnceLock::new() }
    }

    fn text(&self) -> &str {
        self.text.get_or_init(|| {
            let arrays: Vec<String> = (1..)
                .zip(self.types.chars())
                .map(|(index, kind)| {
                    let name = match kind {
                        'n' => "BIGINT",
                        't' => "TEXT",
                        'b' => "BYTEA",
                        other => unreachable!("`{other}` is no type of a column"),
                    };
                    format!("${index}::{name}[]")
                })
                .collect();
            format!("{}UNNEST({}){}", self.head, arrays.join(", "), self.tail)
        })
    }

    /// Runs it over `rows` and returns the resulting rows; does nothing without rows.
    pub(super) async fn run<T>(
        &self,
        connection: &mut PgConnection,
        rows: impl IntoIterator<Item = T>,
        mut bind: impl FnMut(&mut Columns, T),
    ) -> Result<Vec<PgRow>, sqlx::Error> {
        let mut columns = Columns::new(self.types);
        for row in rows {
            bind(&mut columns, row);
            columns.end_row();
        }
        if columns.rows == 0 {
            return Ok(Vec::new());
        }
        // Consists of literals and numbers only.
        connection.fetch_all(sqlx::query_with(AssertSqlSafe(self.text().to_owned()), columns.arguments())).await
    }
}

enum Column {
    Int(Vec<Option<i64>>),
    Text(Vec<Option<String>>),
    Blob(Vec<Option<Vec<u8>>>),
}

/// Rows in columnar form.
pub(super) struct Columns {
    columns: Vec<Column>,
    next: usize,
    rows: usize,
}

impl Columns {
    fn new(types: &str) -> Self {
        let column = |kind| match kind {
            'n' => Column::Int(Vec::new()),
            't' => Column::Text(Vec::new()),
            _ => Column::Blob(Vec::new()),
        };
        Self { columns: types.chars().map(column).collect(), next: 0, rows: 0 }
    }

    fn end_row(&mut self) {
        assert_eq!(self.next, self.columns.len(), "a row has a value for every column");
        self.next = 0;
        self.rows += 1;
    }

    fn column(&mut self) -> &mut Column {
        self.next += 1;
        &mut self.columns[self.next - 1]
    }

    fn arguments(self) -> PgArguments {
        let mut arguments = PgArguments::default();
        for column in self.columns {
            let added = match column {
                Column::Int(values) => arguments.add(values),
                Column::Text(values) => arguments.add(values),
                Column::Blob(values) => arguments.add(values),
            };
            if let Err(error) = added {
                unreachable!("arrays of numbers, text and bytes always have an encoding: {error}")
            }
        }
        arguments
    }
}

impl Bind for Columns {
    fn int(&mut self, value: Option<i64>) {
        match self.column() {
            Column::Int(values) => values.push(value),
            Column::Text(_) | Column::Blob(_) => unreachable!("a number in a column of another type"),
        }
    }

    fn text(&mut self, value: Option<String>) {
        // PostgreSQL's text holds every character but this one; the text of a contract's error may contain it.
        let value = value.map(|text| if text.contains('\0') { text.replace('\0', "\u{fffd}") } else { text });
        match self.column() {
            Column::Text(values) => values.push(value),
            Column::Int(_) | Column::Blob(_) => unreachable!("text in a column of another type"),
        }
    }

    fn blob(&mut self, value: Option<Vec<u8>>) {
        match self.column() {
            Column::Blob(values) => values.push(value),
            Column::Int(_) | Column::Text(_) => unreachable!("bytes in a column of another type"),
        }
    }
}
