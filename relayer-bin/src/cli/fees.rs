//! `fees record`: a chain's fee history as CSV.

use std::{
    fs::{self, File, OpenOptions},
    io::{Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::{Args, Subcommand};
use flate2::{Compression, read::MultiGzDecoder, write::GzEncoder};
use indicatif::{ProgressBar, ProgressStyle};
use slackwater_core::market::{
    FeePoint, Tips,
    csv::{Cadence, CsvOptions, HEADER, parse, write_row},
};

use super::{
    error::CliError,
    headers::{Header, NodeArgs, Reader, inconsistent},
    history::{self, MAX_BYTES},
};

/// Blocks of one batch: one `eth_feeHistory` call, and the most that an interruption loses.
const BATCH: u64 = 256;
/// Most blocks of one run that does not follow.
const MAX_BLOCKS: u64 = 10_000_000;
/// Rows at the end of a file that a reorganisation may have replaced since.
const MAX_REORG: usize = 256;
/// Interval between polls of the head.
const POLL: Duration = Duration::from_millis(500);

#[derive(Debug, Args)]
pub(super) struct FeesArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Write a chain's base fees, gas and tips to a CSV file, block by block. An interrupted recording goes on where it
    /// ended: call it again with the same file.
    Record(RecordArgs),
}

#[derive(Debug, Args)]
struct RecordArgs {
    #[command(flatten)]
    node: NodeArgs,
    /// `.csv`, or `.csv.gz` to pack it. What is there is continued, never overwritten.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    /// The last so many blocks.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=MAX_BLOCKS), conflicts_with = "from")]
    blocks: Option<u64>,
    /// First block.
    #[arg(long, value_name = "BLOCK")]
    from: Option<u64>,
    /// Last block; the newest by default.
    #[arg(long, value_name = "BLOCK", conflicts_with = "follow")]
    to: Option<u64>,
    /// Go on with new blocks, until interrupted.
    #[arg(long)]
    follow: bool,
    /// Blocks that must stand on top of one before it is written: a file takes nothing back.
    #[arg(long, value_name = "BLOCKS", default_value_t = 3)]
    depth: u64,
    /// Percentile of the tips in column `reward_wei`.
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u8).range(0..=100))]
    percentile: u8,
    /// Name in column `chain`; otherwise the preset's, or `chain-<id>`.
    #[arg(long, value_name = "NAME", value_parser = parse_name)]
    chain: Option<String>,
}

fn parse_name(text: &str) -> Result<String, String> {
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    let is_name = (1..=64).contains(&text.len()) && text.chars().all(is_plain);
    if is_name { Ok(text.to_owned()) } else { Err("write 1 to 64 letters, digits, '-' or '_'".to_owned()) }
}

pub(super) async fn run(args: FeesArgs) -> Result<(), CliError> {
    let What::Record(args) = args.what;
    record(args).await
}

async fn record(args: RecordArgs) -> Result<(), CliError> {
    if args.from.zip(args.to).is_some_and(|(from, to)| from > to) {
        return Err(CliError::usage("--from is after --to"));
    }
    if args.blocks.is_none() && args.from.is_none() && !args.follow && !args.out.exists() {
        return Err(CliError::usage("say what to record: --blocks N, --from BLOCK [--to BLOCK], or --follow"));
    }
    let reader = Reader::connect(&args.node).await?;
    let chain = args.chain.clone().unwrap_or_else(|| reader.chain.clone());
    let mut out = Out::open(&args.out, &chain)?;
    let mut last = out.agree(&reader, &chain).await?;
    let head = reader.head().await?;
    let newest = head.saturating_sub(args.depth);
    let end = args.to.unwrap_or(newest);
    if end > newest {
        let text = format!("block {end} is not {} blocks deep yet: the head is {head}", args.depth);
        return Err(CliError::usage(text));
    }
    let start = match (&last, args.from, args.blocks) {
        (Some(last), ..) => last.number() + 1,
        (None, Some(from), _) => from,
        (None, None, Some(blocks)) => (end + 1).saturating_sub(blocks),
        (None, None, None) => end,
    };
    let count = (end + 1).saturating_sub(start);
    if count > MAX_BLOCKS {
        return Err(CliError::usage(format!("{count} blocks, limit {MAX_BLOCKS}")));
    }
    let bar = ProgressBar::new(count);
    if let Ok(style) = ProgressStyle::with_template("{bar:40} {pos}/{len} blocks  {per_sec}  {eta}") {
        bar.set_style(style);
    }
    let mut next = start;
    let mut written = 0;
    let interrupt = tokio::signal::ctrl_c();
    tokio::pin!(interrupt);
    loop {
        let until = if next <= end {
            end
        } else if args.follow {
            reader.head().await?.saturating_sub(args.depth)
        } else {
            break;
        };
        if next > until {
            tokio::select! {
                () = tokio::time::sleep(POLL) => continue,
                _ = &mut interrupt => break,
            }
        }
        let to = until.min(next + BATCH - 1);
        let (points, newest) = tokio::select! {
            batch = batch(&reader, next, to, args.percentile, last.as_ref()) => batch?,
            _ = &mut interrupt => break,
        };
        out.append(&chain, &points)?;
        written += points.len();
        bar.inc(points.len() as u64);
        next = to + 1;
        last = Some(newest);
    }
    bar.finish_and_clear();
    let range = last.map_or_else(|| "no block".to_owned(), |last| format!("up to block {}", last.number()));
    println!("{}: {written} blocks of {chain} written, {range}", args.out.display());
    Ok(())
}

/// Rows of some blocks, after `parent`: headers whose hashes are linked, and tips.
async fn batch(
    reader: &Reader,
    from: u64,
    to: u64,
    percentile: u8,
    parent: Option<&Header>,
) -> Result<(Vec<FeePoint>, Header), CliError> {
    let headers = reader.headers(from, to).await?;
    let history = reader.fee_history(from, to, percentile).await?;
    let mut points = Vec::with_capacity(headers.len());
    let mut parent = parent.cloned();
    for header in headers {
        let number = header.number();
        if let Some(parent) = parent.filter(|parent| parent.hash != header.parent_hash) {
            let text = format!(
                "block {number} does not follow block {} as it was read before: the chain was reorganised, or nodes disagree. \
                 Call the command again, with a larger --depth if this is frequent",
                parent.number()
            );
            return Err(inconsistent(text));
        }
        let point = header.point()?;
        let tips = match history.iter().find(|row| row.number == number) {
            Some(row) if row.base_fee != point.base_fee => {
                let text = format!("block {number}: header and eth_feeHistory disagree about the base fee");
                return Err(inconsistent(text));
            }
            Some(row) => row.tips,
            None => Tips::default(),
        };
        points.push(FeePoint { tips, ..point });
        parent = Some(header);
    }
    let newest = parent.ok_or_else(|| inconsistent(format!("no blocks from {from} to {to}")))?;
    Ok((points, newest))
}

/// The output file. Every batch is on disk before the next is fetched; a torn end is cut off on opening.
struct Out {
    path: PathBuf,
    points: Vec<FeePoint>,
}

impl Out {
    /// Opens the file, or creates it.
    fn open(path: &Path, chain: &str) -> Result<Self, CliError> {
        let failed = |error: std::io::Error| CliError::failed(format!("{}: {error}", path.display()));
        if !path.exists() {
            write_whole(path, &format!("{HEADER}\n")).map_err(failed)?;
            return Ok(Self { path: path.to_owned(), points: Vec::new() });
        }
        let (text, is_torn) = read_torn(path).map_err(failed)?;
        let wrong = |why: String| CliError::usage(format!("{} can't be continued: {why}", path.display()));
        if !text.is_empty() && text.lines().next() != Some(HEADER) {
            return Err(wrong("its columns are not those of a recording".to_owned()));
        }
        let mut points = Vec::new();
        if text.lines().nth(1).is_some() {
            let table = parse(&text, &CsvOptions::default()).map_err(|error| wrong(error.to_string()))?;
            if table.chain.as_deref().is_some_and(|found| found != chain) {
                return Err(wrong(format!("it holds chain {}, not {chain}", table.chain.unwrap_or_default())));
            }
            if let Cadence::EveryBlocks(_) = table.cadence {
                return Err(wrong("it does not hold every block".to_owned()));
            }
            if let Some(gap) = table.points.windows(2).find(|pair| pair[1].number != pair[0].number + 1) {
                return Err(wrong(format!("block {} is missing", gap[0].number + 1)));
            }
            points = table.points;
        }
        let out = Self { path: path.to_owned(), points };
        if is_torn {
            out.rewrite(chain).map_err(failed)?;
        }
        Ok(out)
    }

    /// Cuts off rows that are no longer in the chain. Returns the header of the last row.
    async fn agree(&mut self, reader: &Reader, chain: &str) -> Result<Option<Header>, CliError> {
        let rows = self.points.len();
        while let Some(row) = self.points.last() {
            let header = reader.header(row.number).await?;
            let point = header.point()?;
            if (point.base_fee, point.timestamp, point.utilisation) == (row.base_fee, row.timestamp, row.utilisation) {
                if self.points.len() < rows {
                    let dropped = rows - self.points.len();
                    eprintln!("slackwater: {dropped} rows were reorganised away and are read anew");
                    self.rewrite(chain)?;
                }
                self.points.clear();
                return Ok(Some(header));
            }
            if rows - self.points.len() >= MAX_REORG {
                let text = format!("{}: its last {MAX_REORG} rows are not of this chain", self.path.display());
                return Err(CliError::usage(text));
            }
            self.points.pop();
        }
        if rows > 0 {
            return Err(CliError::usage(format!("{}: its rows are not of this chain", self.path.display())));
        }
        Ok(None)
    }

    fn rewrite(&self, chain: &str) -> std::io::Result<()> {
        let mut text = format!("{HEADER}\n");
        self.points.iter().for_each(|point| write_row(&mut text, chain, point));
        write_whole(&self.path, &text)
    }

    fn append(&self, chain: &str, points: &[FeePoint]) -> Result<(), CliError> {
        let mut text = String::new();
        points.iter().for_each(|point| write_row(&mut text, chain, point));
        let append = || {
            let mut file = OpenOptions::new().append(true).open(&self.path)?;
            file.write_all(&packed(&self.path, &text)?)?;
            file.sync_data()
        };
        append().map_err(|error| CliError::failed(format!("{}: {error}", self.path.display())))
    }
}

/// `text` as it is stored in the file: each call makes a gzip member of its own; readers concatenate them.
fn packed(path: &Path, text: &str) -> std::io::Result<Vec<u8>> {
    if !history::is_packed(path) {
        return Ok(text.as_bytes().to_vec());
    }
    let mut packer = GzEncoder::new(Vec::new(), Compression::default());
    packer.write_all(text.as_bytes())?;
    packer.finish()
}

/// Replaces the file atomically: a crash leaves the old one or the new one.
fn write_whole(path: &Path, text: &str) -> std::io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".recording").tempfile_in(folder)?;
    file.write_all(&packed(path, text)?)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    Ok(())
}

/// The text up to the last whole line, and true if bytes were left behind it.
fn read_torn(path: &Path) -> std::io::Result<(String, bool)> {
    let file = File::open(path)?;
    let length = fs::metadata(path)?.len();
    let mut bytes = Vec::new();
    let (read, is_broken) = if history::is_packed(path) {
        let read = MultiGzDecoder::new(file).take(MAX_BYTES).read_to_end(&mut bytes);
        // The part unpacked before the tear is in `bytes` all the same.
        (bytes.len(), read.is_err())
    } else {
        (file.take(MAX_BYTES).read_to_end(&mut bytes)?, false)
    };
    if read as u64 >= MAX_BYTES || length >= MAX_BYTES {
        return Err(std::io::Error::other(format!("more than {MAX_BYTES} bytes")));
    }
    let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let is_torn = is_broken || whole < bytes.len() || whole == 0;
    bytes.truncate(whole);
    let text = String::from_utf8(bytes).map_err(|_| std::io::Error::other("not UTF-8 text"))?;
    Ok((text, is_torn))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(number: u64) -> FeePoint {
        FeePoint {
            number,
            timestamp: None,
            base_fee: 1_000 + u128::from(number),
            utilisation: None,
            tips: Tips::default(),
            next_base_fee: None,
        }
    }

    #[test]
    fn a_torn_end_is_cut_off() {
        let dir = tempfile::tempdir().unwrap();
        for name in ["a.csv", "a.csv.gz"] {
            let path = dir.path().join(name);
            let out = Out::open(&path, "base").unwrap();
            out.append("base", &[point(1), point(2)]).unwrap();
            out.append("base", &[point(3)]).unwrap();
            let whole = fs::read(&path).unwrap();
            assert_eq!(Out::open(&path, "base").unwrap().points.len(), 3);
            for lost in [1, 5, 12] {
                fs::write(&path, &whole[..whole.len() - lost]).unwrap();
                let kept = Out::open(&path, "base").unwrap().points;
                assert_eq!(kept.iter().map(|point| point.number).collect::<Vec<_>>()[..2], [1, 2], "{name} {lost}");
                assert!(history::read(&path, None).is_ok(), "{name} is whole again");
            }
        }
    }

    #[test]
    fn other_files_are_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.csv");
        for (text, why) in [
            ("name,amount\nx,1\n".to_owned(), "columns"),
            (format!("{HEADER}\nbase,1,,5,,,,,,,,\nbase,3,,5,,,,,,,,\nbase,4,,5,,,,,,,,\n"), "block 2 is missing"),
            (format!("{HEADER}\nbase,1,,5,,,,,,,,\npolygon,2,,5,,,,,,,,\n"), "line 3"),
            (format!("{HEADER}\npolygon,2,,5,,,,,,,,\n"), "it holds chain polygon, not base"),
        ] {
            fs::write(&path, &text).unwrap();
            let error = Out::open(&path, "base").err().map(|error| error.to_string()).unwrap_or_default();
            assert!(error.contains(why), "{why}: {error}");
            assert_eq!(fs::read_to_string(&path).unwrap(), text);
        }
    }
}
