//! Fee history as CSV: one row per block, or per step of a sub-sampled series.
//!
//! The first line names the columns; their order is free, unknown ones are ignored, an empty cell is a value that the source
//! does not have.
//!
//! | column | meaning |
//! |---|---|
//! | `chain` | name; the same in every row |
//! | `block_number`, `timestamp` | height; Unix seconds |
//! | `base_fee_wei` | base fee per gas; see [`PRICE_COLUMNS`] for what may stand in for it |
//! | `gas_used`, `gas_limit` | from the header |
//! | `gas_used_ratio`, `ratio_kind` | their quotient; `actual`, `reported` (by `eth_feeHistory`) or `implied` (solved from two base fees) |
//! | `tip_min_wei`, `tip_avg_wei`, `tip_max_wei`, `reward_wei` | effective priority fees; `reward_wei` is one percentile |

mod number;
#[cfg(test)]
mod tests;

use std::{fmt::Write as _, time::Duration};

use self::number::{Scale, parse_amount, parse_ratio, parse_whole};
use super::{FeePoint, Tips, Utilisation};
use crate::BlockTimestamp;

/// Most rows of one file: about a year and a half of 12-second blocks.
pub const MAX_ROWS: usize = 4_000_000;
/// Longest line, bytes.
pub const MAX_LINE_BYTES: usize = 16_384;
/// Most columns.
pub const MAX_COLUMNS: usize = 256;
/// A timestamp at or above this is in milliseconds (it would be the year 5138 in seconds).
const SECONDS_BELOW: u64 = 100_000_000_000;
/// Rows over which gaps are counted to find the step; a longer file is sampled from its start.
const MAX_GAPS: usize = 200_000;

/// Possible price columns, the best first: the base fee; in series of gas prices the closest substitute, which is the
/// lowest price paid, then the close of an oracle's candle, then averages.
pub const PRICE_COLUMNS: [&str; 11] = [
    "base_fee_wei",
    "base_fee_gwei",
    "min_gas_price_wei",
    "close_wei",
    "close_gwei",
    "median_gas_price_wei",
    "avg_gas_price_wei",
    "gas_price_wei",
    "median_gas_price_gwei",
    "avg_gas_price_gwei",
    "gas_price_gwei",
];

/// The columns that [`write_row`] fills, as a header line without line end.
pub const HEADER: &str = "chain,block_number,timestamp,base_fee_wei,gas_used,gas_limit,gas_used_ratio,ratio_kind,tip_min_wei,\
                          tip_avg_wei,tip_max_wei,reward_wei";

/// Errors of a fee history file. Lines count from 1, the header included.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum CsvError {
    /// Nothing, or only a header.
    #[error("no rows")]
    Empty,
    /// No column is a price, or the wanted one is missing.
    #[error("line 1: no column {wanted}; there are {found}")]
    NoPriceColumn {
        /// Accepted columns.
        wanted: String,
        /// Columns of the file.
        found: String,
    },
    /// The price column is empty in every row: a file of gas only.
    #[error("column {column} is empty in all {rows} rows")]
    NoPrices {
        /// The price column.
        column: String,
        /// Number of rows of the file.
        rows: usize,
    },
    /// Neither heights nor times: the rows have no order.
    #[error("line {line}: block_number and timestamp are both empty or missing")]
    NoPlace {
        /// Line number.
        line: usize,
    },
    /// A cell does not match its column's type.
    #[error("line {line}, column {column}: {text:?} is not {expected}")]
    Cell {
        /// Line number.
        line: usize,
        /// Name of the column.
        column: String,
        /// Text of the cell, shortened.
        text: String,
        /// Expected content.
        expected: &'static str,
    },
    /// A row with more or fewer cells than the header.
    #[error("line {line}: {got} cells, the header has {expected}")]
    Cells {
        /// Line number.
        line: usize,
        /// Number of cells of the row.
        got: usize,
        /// Number of cells of the header.
        expected: usize,
    },
    /// A row that is not after the one before it.
    #[error("line {line}, column {column}: {got} does not come after {last}")]
    Order {
        /// Line number.
        line: usize,
        /// `block_number` or `timestamp`.
        column: &'static str,
        /// Value of this row.
        got: u64,
        /// Value of the row before.
        last: u64,
    },
    /// Rows of two chains.
    #[error("line {line}, column chain: {got:?} in a file of {expected:?}")]
    Chain {
        /// Line number.
        line: usize,
        /// Name in this row.
        got: String,
        /// Name in the first row.
        expected: String,
    },
    /// A column is named twice.
    #[error("line 1: column {column} is there twice")]
    Twice {
        /// Its name.
        column: String,
    },
    /// Larger than any supported input.
    #[error("line {line}: {what} above the limit of {limit}")]
    TooLarge {
        /// Line number.
        line: usize,
        /// The unit that is exceeded.
        what: &'static str,
        /// The limit.
        limit: usize,
    },
}

/// Unit of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cadence {
    /// Every block.
    Blocks,
    /// Every k-th block, k > 1.
    EveryBlocks(u64),
    /// A step of time, without heights.
    Every(Duration),
}

/// A parsed fee history.
#[derive(Debug, Clone, PartialEq)]
pub struct FeeTable {
    /// The chain's name; `None` if the file does not give it.
    pub chain: Option<String>,
    /// The column used as the price.
    pub price_column: String,
    /// Unit of one row.
    pub cadence: Cadence,
    /// Ascending. In a series without heights, numbers count steps of time from 0.
    pub points: Vec<FeePoint>,
    /// Number of rows left out because they have no price.
    pub without_price: usize,
}

impl FeeTable {
    /// True if rows are blocks, rather than steps of a series.
    pub const fn is_blocks(&self) -> bool {
        matches!(self.cadence, Cadence::Blocks)
    }

    /// Difference between the numbers of two consecutive rows.
    pub const fn stride(&self) -> u64 {
        match self.cadence {
            Cadence::EveryBlocks(stride) => stride,
            Cadence::Blocks | Cadence::Every(_) => 1,
        }
    }

    /// Time between two rows by their timestamps: the mean for blocks and every k-th block, gaps accounted for, and the
    /// usual gap for steps of time. `None` without timestamps.
    pub fn measured_step(&self) -> Option<Duration> {
        if let Cadence::Every(step) = self.cadence {
            return Some(step);
        }
        let timed = |point: &&FeePoint| point.timestamp.is_some();
        let (first, last) = (self.points.iter().find(timed)?, self.points.iter().rfind(timed)?);
        let seconds = last.timestamp?.0.checked_sub(first.timestamp?.0)?;
        let steps = (last.number - first.number) / self.stride();
        let ms = u128::from(seconds) * 1_000 / u128::from(steps.max(1));
        (ms > 0).then(|| Duration::from_millis(u64::try_from(ms).unwrap_or(u64::MAX)))
    }
}

/// Options of reading a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CsvOptions {
    /// The price column; `None`: the first of [`PRICE_COLUMNS`] in the file.
    pub price_column: Option<String>,
}

struct Columns {
    count: usize,
    chain: Option<usize>,
    number: Option<usize>,
    timestamp: Option<usize>,
    price: usize,
    price_name: String,
    scale: Scale,
    gas_used: Option<usize>,
    gas_limit: Option<usize>,
    ratio: Option<usize>,
    ratio_kind: Option<usize>,
    tips: [Option<usize>; 4],
}

fn cells(line: &str) -> impl Iterator<Item = &str> {
    line.split(',').map(|cell| cell.trim().trim_matches('"'))
}

impl Columns {
    fn read(line: &str, options: &CsvOptions) -> Result<Self, CsvError> {
        let names: Vec<&str> = cells(line).collect();
        if names.len() > MAX_COLUMNS {
            return Err(CsvError::TooLarge { line: 1, what: "columns", limit: MAX_COLUMNS });
        }
        for (index, name) in names.iter().enumerate() {
            if !name.is_empty() && names[..index].contains(name) {
                return Err(CsvError::Twice { column: (*name).to_owned() });
            }
        }
        let at = |name: &str| names.iter().position(|found| *found == name);
        let wanted: Vec<&str> = match &options.price_column {
            Some(name) => vec![name],
            None => PRICE_COLUMNS.to_vec(),
        };
        let price = wanted.iter().find_map(|name| at(name)).ok_or_else(|| CsvError::NoPriceColumn {
            wanted: wanted.join(" or "),
            found: number::shorten(&names.join(", ")),
        })?;
        let price_name = names[price].to_owned();
        let scale = if price_name.ends_with("_gwei") { Scale::Gwei } else { Scale::Wei };
        Ok(Self {
            count: names.len(),
            chain: at("chain"),
            number: at("block_number"),
            timestamp: at("timestamp"),
            price,
            price_name,
            scale,
            gas_used: at("gas_used"),
            gas_limit: at("gas_limit"),
            ratio: at("gas_used_ratio"),
            ratio_kind: at("ratio_kind"),
            tips: ["tip_min_wei", "reward_wei", "tip_avg_wei", "tip_max_wei"].map(at),
        })
    }
}

/// One row, before its number is known.
struct Row {
    line: usize,
    number: Option<u64>,
    point: FeePoint,
    /// True if the header determines the next base fee, but the file's columns can't compute it.
    fills_next: bool,
}

/// Reads a fee history.
///
/// If a row is a block without header gas, its `next_base_fee` is taken from the row of the next block: the header,
/// which the file does not have, determined it. With header gas or a reported ratio it stays open, since it can be
/// computed.
///
/// Amounts may be decimal or have an exponent (`13.5e9`); a fraction of a wei is rounded half up.
///
/// # Errors
/// [`CsvError`], with line and column.
pub fn parse(text: &str, options: &CsvOptions) -> Result<FeeTable, CsvError> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut lines = text.lines().enumerate().map(|(index, line)| (index + 1, line));
    let (_, header) = lines.next().ok_or(CsvError::Empty)?;
    if header.len() > MAX_LINE_BYTES {
        return Err(CsvError::TooLarge { line: 1, what: "bytes", limit: MAX_LINE_BYTES });
    }
    let columns = Columns::read(header, options)?;
    let mut chain: Option<String> = None;
    let mut rows: Vec<Row> = Vec::new();
    let mut total = 0;
    for (line, text) in lines {
        if text.trim().is_empty() {
            continue;
        }
        total += 1;
        if total > MAX_ROWS {
            return Err(CsvError::TooLarge { line, what: "rows", limit: MAX_ROWS });
        }
        if let Some(row) = read_row(line, text, &columns, &mut chain)? {
            check_order(rows.last(), &row)?;
            rows.push(row);
        }
    }
    if total == 0 {
        return Err(CsvError::Empty);
    }
    if rows.is_empty() {
        return Err(CsvError::NoPrices { column: columns.price_name, rows: total });
    }
    let without_price = total - rows.len();
    let (cadence, points) = place(rows)?;
    Ok(FeeTable { chain, price_column: columns.price_name, cadence, points, without_price })
}

fn read_row(line: usize, text: &str, columns: &Columns, chain: &mut Option<String>) -> Result<Option<Row>, CsvError> {
    if text.len() > MAX_LINE_BYTES {
        return Err(CsvError::TooLarge { line, what: "bytes", limit: MAX_LINE_BYTES });
    }
    let row: Vec<&str> = cells(text).collect();
    if row.len() != columns.count {
        return Err(CsvError::Cells { line, got: row.len(), expected: columns.count });
    }
    let cell = |at: Option<usize>| at.map(|at| row[at]).filter(|cell| !cell.is_empty());
    let wrong = |column: &str, text: &str, expected| CsvError::Cell {
        line,
        column: column.to_owned(),
        text: number::shorten(text),
        expected,
    };
    let whole = |at: Option<usize>, column: &str| {
        let parse = |text| parse_whole(text).ok_or_else(|| wrong(column, text, "a whole number below 2^64"));
        cell(at).map(parse).transpose()
    };
    let amount = |at: Option<usize>, column: &str, scale| {
        let parse = |text| parse_amount(text, scale).ok_or_else(|| wrong(column, text, "a price from 0 to 2^128 wei"));
        cell(at).map(parse).transpose()
    };
    if let Some(name) = cell(columns.chain) {
        match chain {
            None => *chain = Some(number::shorten(name)),
            Some(expected) if expected != name => {
                let (got, expected) = (number::shorten(name), expected.clone());
                return Err(CsvError::Chain { line, got, expected });
            }
            Some(_) => {}
        }
    }
    let number = whole(columns.number, "block_number")?;
    let timestamp = whole(columns.timestamp, "timestamp")?;
    if let Some(seconds) = timestamp.filter(|seconds| *seconds >= SECONDS_BELOW) {
        return Err(wrong("timestamp", &seconds.to_string(), "Unix seconds (milliseconds?)"));
    }
    if number.is_none() && timestamp.is_none() {
        return Err(CsvError::NoPlace { line });
    }
    let price = amount(Some(columns.price), &columns.price_name, columns.scale)?;
    let gas = whole(columns.gas_used, "gas_used")?.zip(whole(columns.gas_limit, "gas_limit")?);
    if let Some((used, limit)) = gas.filter(|(used, limit)| used > limit) {
        return Err(wrong(
            "gas_used",
            &used.to_string(),
            if limit == 0 { "0 like gas_limit" } else { "within gas_limit" },
        ));
    }
    let parse = |text| parse_ratio(text).ok_or_else(|| wrong("gas_used_ratio", text, "a number from 0 to 1"));
    let ratio = cell(columns.ratio).map(parse).transpose()?;
    let is_implied = cell(columns.ratio_kind) == Some("implied");
    let utilisation = match gas.filter(|(_, limit)| *limit > 0) {
        Some((used, limit)) => Some(Utilisation::Gas { used, limit }),
        None => ratio.map(Utilisation::Ratio),
    };
    let tip = |index: usize, column: &str| amount(columns.tips[index], column, Scale::Wei);
    let tips = Tips {
        min: tip(0, "tip_min_wei")?,
        typical: tip(1, "reward_wei")?,
        mean: tip(2, "tip_avg_wei")?,
        max: tip(3, "tip_max_wei")?,
    };
    let Some(base_fee) = price else { return Ok(None) };
    let can_compute = match utilisation {
        Some(Utilisation::Gas { .. }) => true,
        Some(Utilisation::Ratio(_)) => !is_implied,
        None => false,
    };
    let is_base_fee = columns.price_name.starts_with("base_fee");
    let point = FeePoint {
        number: number.unwrap_or(0),
        timestamp: timestamp.map(BlockTimestamp),
        base_fee,
        utilisation,
        tips,
        next_base_fee: None,
    };
    Ok(Some(Row { line, number, point, fills_next: is_base_fee && !can_compute }))
}

fn check_order(last: Option<&Row>, row: &Row) -> Result<(), CsvError> {
    let Some(last) = last else { return Ok(()) };
    let (line, time) = (row.line, |row: &Row| row.point.timestamp.map(|at| at.0));
    match (last.number, row.number) {
        (Some(last), Some(got)) if got <= last => {
            return Err(CsvError::Order { line, column: "block_number", got, last });
        }
        (Some(_), None) | (None, Some(_)) => {
            let expected = "there in every row or in none";
            return Err(CsvError::Cell { line, column: "block_number".to_owned(), text: String::new(), expected });
        }
        _ => {}
    }
    if let (Some(last), Some(got)) = (time(last), time(row)) {
        // Blocks of chains with more than one block a second share a timestamp; steps of time do not.
        let is_ordered = if row.number.is_some() { got >= last } else { got > last };
        if !is_ordered {
            return Err(CsvError::Order { line, column: "timestamp", got, last });
        }
    }
    Ok(())
}

/// The most frequent of some gaps, the smallest if there are several; 1 if there are none.
fn usual(gaps: impl Iterator<Item = u64>) -> u64 {
    let mut gaps: Vec<u64> = gaps.take(MAX_GAPS).collect();
    gaps.sort_unstable();
    let mut best = (0, 1);
    for run in gaps.chunk_by(|a, b| a == b) {
        if run.len() > best.0 {
            best = (run.len(), run[0]);
        }
    }
    best.1
}

/// Determines the cadence, the numbers of rows without heights, and the next base fees that the following row gives.
fn place(mut rows: Vec<Row>) -> Result<(Cadence, Vec<FeePoint>), CsvError> {
    let has_numbers = rows.first().is_some_and(|row| row.number.is_some());
    let cadence = if has_numbers {
        match usual(rows.windows(2).map(|pair| pair[1].point.number - pair[0].point.number)) {
            1 => Cadence::Blocks,
            stride => Cadence::EveryBlocks(stride),
        }
    } else {
        let time = |row: &Row| row.point.timestamp.map(|at| at.0).ok_or(CsvError::NoPlace { line: row.line });
        let mut gaps = Vec::with_capacity(rows.len());
        for pair in rows.windows(2) {
            gaps.push(time(&pair[1])?.saturating_sub(time(&pair[0])?));
        }
        let mut sorted = gaps.clone();
        sorted.sort_unstable();
        // The middle one: an hourly file of an oracle is rarely exact to the second.
        let step = sorted.get(sorted.len() / 2).copied().unwrap_or(1).max(1);
        let mut number = 0;
        for (row, gap) in rows.iter_mut().skip(1).zip(gaps) {
            number += ((gap + step / 2) / step).max(1);
            row.point.number = number;
        }
        Cadence::Every(Duration::from_secs(step))
    };
    if cadence == Cadence::Blocks {
        for index in 1..rows.len() {
            let next = rows[index].point;
            let row = &mut rows[index - 1];
            if row.fills_next && next.number == row.point.number + 1 {
                row.point.next_base_fee = Some(next.base_fee);
            }
        }
    }
    Ok((cadence, rows.into_iter().map(|row| row.point).collect()))
}

/// Appends `point` as a row of [`HEADER`]'s columns, with a line end.
pub fn write_row(out: &mut String, chain: &str, point: &FeePoint) {
    let cell = |value: Option<u128>| value.map(|value| value.to_string()).unwrap_or_default();
    let (used, limit) = match point.utilisation {
        Some(Utilisation::Gas { used, limit }) => (Some(u128::from(used)), Some(u128::from(limit))),
        _ => (None, None),
    };
    let ratio = point.utilisation.and_then(Utilisation::ratio).map(|ratio| ratio.to_string()).unwrap_or_default();
    let kind = match point.utilisation.filter(|_| !ratio.is_empty()) {
        Some(Utilisation::Gas { .. }) => "actual",
        Some(Utilisation::Ratio(_)) => "reported",
        None => "",
    };
    // Writing to a String does not fail.
    let _ = writeln!(
        out,
        "{chain},{},{},{},{},{},{ratio},{kind},{},{},{},{}",
        point.number,
        cell(point.timestamp.map(|at| u128::from(at.0))),
        point.base_fee,
        cell(used),
        cell(limit),
        cell(point.tips.min),
        cell(point.tips.mean),
        cell(point.tips.max),
        cell(point.tips.typical),
    );
}
