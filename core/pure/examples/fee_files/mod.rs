//! Reads recorded fees: gzip CSV with a header line.

#![allow(dead_code, reason = "shared by two programs, of which one needs less")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "gwei with decimals; a float cast saturates"
)]

use std::{collections::BTreeMap, error::Error, fs::File, io::Read as _, path::Path, time::Duration};

use flate2::read::GzDecoder;
use slackwater_core::{
    BlockTimestamp,
    market::{FeePoint, Tips, Utilisation},
};

/// One file.
pub(crate) struct Series {
    pub(crate) name: String,
    /// Every block, rather than a sub-sample.
    pub(crate) is_blocks: bool,
    pub(crate) step: Duration,
    /// Difference of the numbers of two rows.
    pub(crate) stride: u64,
    pub(crate) points: Vec<FeePoint>,
}

/// Reads `path`. Where each row is a block, the base fee of the next is filled in: header and protocol determine it.
pub(crate) fn read(path: &Path) -> Result<Series, Box<dyn Error>> {
    let mut text = String::new();
    if path.extension().is_some_and(|extension| extension == "gz") {
        GzDecoder::new(File::open(path)?).read_to_string(&mut text)?;
    } else {
        File::open(path)?.read_to_string(&mut text)?;
    }
    let mut lines = text.lines();
    let head: BTreeMap<&str, usize> =
        lines.next().ok_or("no header")?.split(',').enumerate().map(|(at, name)| (name, at)).collect();
    let name = path.file_name().unwrap_or_default().to_string_lossy().split('.').next().unwrap_or("").to_owned();
    let is_blocks = name.contains("_blocks");
    let mut points = Vec::new();
    let mut chain = String::new();
    for (index, line) in lines.enumerate() {
        let cells: Vec<&str> = line.split(',').collect();
        let cell = |name: &str| head.get(name).and_then(|at| cells.get(*at)).copied().filter(|cell| !cell.is_empty());
        let gwei = |name: &str| -> Option<u128> { Some((cell(name)?.parse::<f64>().ok()? * 1e9) as u128) };
        let Some(base_fee) = cell("base_fee_wei")
            .or_else(|| cell("min_gas_price_wei"))
            .and_then(|cell| cell.parse::<u128>().ok())
            .or_else(|| gwei("low_gwei"))
        else {
            continue;
        };
        if chain.is_empty() {
            chain = cell("chain").unwrap_or_default().to_owned();
        }
        let gas = |name: &str| cell(name)?.parse::<u64>().ok();
        let utilisation = match (gas("gas_used"), gas("gas_limit")) {
            (Some(used), Some(limit)) => Some(Utilisation::Gas { used, limit }),
            _ => cell("gas_used_ratio").and_then(|cell| cell.parse().ok()).map(Utilisation::Ratio),
        };
        points.push(FeePoint {
            number: cell("block_number").and_then(|cell| cell.parse().ok()).unwrap_or(index as u64),
            timestamp: cell("timestamp").and_then(|cell| cell.parse().ok()).map(BlockTimestamp),
            base_fee,
            utilisation,
            tips: Tips::default(),
            next_base_fee: None,
        });
    }
    if is_blocks {
        for i in 1..points.len() {
            if points[i].number == points[i - 1].number + 1 {
                points[i - 1].next_base_fee = Some(points[i].base_fee);
            }
        }
    }
    let mut times: Vec<u64> =
        points.windows(2).filter_map(|pair| Some(pair[1].timestamp?.0.saturating_sub(pair[0].timestamp?.0))).collect();
    times.sort_unstable();
    let nominal = if chain == "polygon" { 2 } else { 12 };
    let step = times.get(times.len() / 2).copied().filter(|_| !is_blocks).unwrap_or(nominal).max(1);
    let stride = points.get(1).map_or(1, |second| second.number - points[0].number).max(1);
    Ok(Series { name, is_blocks, step: Duration::from_secs(step), stride, points })
}
