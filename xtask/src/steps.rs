//! Runs steps one after the other, counts the results, and prints a summary at the end.

use std::io::{self, BufRead as _, BufReader, Write as _};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};

/// Numbers of checks: tests where a step runs tests, the step itself elsewhere.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    /// Checks that held.
    pub(crate) passed: u64,
    /// Checks that failed.
    pub(crate) failed: u64,
    /// Checks that could not be made.
    pub(crate) skipped: u64,
}

impl Tally {
    /// One check that held.
    pub(crate) const PASSED: Self = Self { passed: 1, failed: 0, skipped: 0 };

    const fn add(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

/// Result of a step without an error.
pub(crate) enum Done {
    /// Everything held.
    Passed,
    /// Everything held; the note is printed in the summary.
    Noted(String),
    /// It ran tests, with these results.
    Counted(Tally),
    /// It could not run here, for this reason.
    Skipped(String),
}

/// Results of the steps so far.
#[derive(Debug)]
pub(crate) struct Steps {
    only: Vec<String>,
    is_long: bool,
    left: Vec<String>,
    results: Vec<(String, Duration, Tally, Option<String>)>,
}

impl Steps {
    /// Runs only steps whose name contains one of `only`. If it is empty, all, but long ones only if `is_long`.
    pub(crate) const fn new(only: Vec<String>, is_long: bool) -> Self {
        Self { only, is_long, left: Vec::new(), results: Vec::new() }
    }

    /// As [`Self::run`], for a step that takes too long for every change.
    pub(crate) fn run_long(&mut self, name: &str, step: impl FnOnce() -> Result<Done>) -> Result<()> {
        if self.only.is_empty() && !self.is_long {
            self.left.push(name.to_owned());
            return Ok(());
        }
        self.run(name, step)
    }

    /// Runs a step, and continues if it fails.
    pub(crate) fn run(&mut self, name: &str, step: impl FnOnce() -> Result<Done>) -> Result<()> {
        if !self.only.is_empty() && !self.only.iter().any(|part| name.contains(part.as_str())) {
            return Ok(());
        }
        say(&format!("\n=== {name}"))?;
        let started = Instant::now();
        let (tally, note) = match step() {
            Ok(Done::Passed) => (Tally::PASSED, None),
            Ok(Done::Noted(note)) => (Tally::PASSED, Some(note)),
            Ok(Done::Counted(tally)) => (tally, None),
            Ok(Done::Skipped(why)) => (Tally { skipped: 1, ..Tally::default() }, Some(format!("skipped: {why}"))),
            Err(error) => (Tally { failed: 1, ..Tally::default() }, Some(format!("{error:#}"))),
        };
        let took = started.elapsed();
        if let Some(note) = &note {
            say(&format!("{name}: {note}"))?;
        }
        self.results.push((name.to_owned(), took, tally, note));
        Ok(())
    }

    /// Prints the results; the last line is `N passed, N failed`.
    ///
    /// # Errors
    /// If something failed, or nothing ran.
    pub(crate) fn finish(self) -> Result<()> {
        let mut total = Tally::default();
        say("\n=== summary")?;
        for (name, took, tally, note) in &self.results {
            total.add(*tally);
            let Tally { passed, failed, skipped } = *tally;
            let mark = if failed > 0 {
                "FAIL"
            } else if passed == 0 {
                "skip"
            } else {
                "ok"
            };
            let mut line = format!("{mark:4} {name:28} {:6.1} s  {passed:5} passed", took.as_secs_f64());
            for (count, what) in [(failed, "failed"), (skipped, "skipped")] {
                if count > 0 {
                    line += &format!(", {count} {what}");
                }
            }
            if let Some(note) = note.as_deref().and_then(|note| note.lines().next()) {
                line += &format!("  ({note})");
            }
            say(&line)?;
        }
        if !self.left.is_empty() {
            say(&format!("left to `cargo xtask test --long`: {}", self.left.join(", ")))?;
        }
        let skipped = if total.skipped > 0 { format!(", {} skipped", total.skipped) } else { String::new() };
        say(&format!("\n{} passed, {} failed{skipped}", total.passed, total.failed))?;
        // The closing line is sufficient: no error text after it.
        if total.failed > 0 || total.passed == 0 {
            std::process::exit(1);
        }
        Ok(())
    }
}

/// Program that reports test results.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Harness {
    /// Every test program, by `test result: …`.
    Libtest,
    /// nextest, once for all tests. It also repeats the output of failed test programs, which must not count again.
    Nextest,
    /// pytest, by its closing line `3 passed, 1 failed in 2.50s`.
    Pytest,
}

/// Runs a test command, passes its output on, and adds up the results that it reports.
///
/// # Errors
/// If it fails without reporting a failed test: it did not compile, or a test program died.
pub(crate) fn run_tests(harness: Harness, command: &mut Command) -> Result<Done> {
    let shown = shown(command);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("cannot start cargo")?;
    let stdout = child.stdout.take().context("no output")?;
    let stderr = child.stderr.take().context("no output")?;
    let errors = std::thread::spawn(move || count(harness, stderr));
    let mut tally = count(harness, stdout)?;
    tally.add(errors.join().expect("a thread that only reads")?);
    let status = child.wait()?;
    if !status.success() && tally.failed == 0 {
        tally.failed = 1;
        say(&format!("`{shown}` failed without a failed test: {status}"))?;
    }
    ensure!(tally.passed + tally.failed > 0, "`{shown}` ran no test");
    Ok(Done::Counted(tally))
}

fn count(harness: Harness, output: impl io::Read) -> Result<Tally> {
    let mut tally = Tally::default();
    for line in BufReader::new(output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        say(&line)?;
        tally.add(results(harness, &line));
    }
    Ok(tally)
}

/// Test results in a line of output; zero for most lines.
fn results(harness: Harness, line: &str) -> Tally {
    let line = line.trim();
    let report = match harness {
        Harness::Libtest => line.strip_prefix("test result: "),
        Harness::Nextest if line.starts_with("Summary [") => line.split_once(" run: ").map(|(_, report)| report),
        Harness::Nextest => None,
        // Its closing line is unlike any other, and begins with a number (or, unless `-q`, with `=====`).
        Harness::Pytest => {
            let line = line.trim_matches('=').trim();
            let is_closing = line.starts_with(|c: char| c.is_ascii_digit()) && line.contains(" in ");
            is_closing.then_some(line)
        }
    };
    let Some(report) = report else { return Tally::default() };
    // `ok. 3 passed; 0 failed; 1 ignored; …`, or `3 passed (1 slow), 1 failed, 2 skipped`.
    let words: Vec<&str> = report.split_whitespace().map(|word| word.trim_matches(|c| ".,;()".contains(c))).collect();
    let mut tally = Tally::default();
    for pair in words.windows(2) {
        let Ok(count) = pair[0].parse::<u64>() else { continue };
        match pair[1] {
            "passed" => tally.passed += count,
            "failed" | "timed" | "exec" | "error" | "errors" => tally.failed += count,
            "ignored" | "skipped" => tally.skipped += count,
            _ => {}
        }
    }
    tally
}

/// A command as a person would type it.
pub(crate) fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// Prints a line.
pub(crate) fn say(line: &str) -> Result<()> {
    writeln!(io::stdout(), "{line}").context("cannot print")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(harness: Harness, line: &str, passed: u64, failed: u64, skipped: u64) {
        assert_eq!(results(harness, line), Tally { passed, failed, skipped });
    }

    #[test]
    fn libtest_is_understood() {
        let line = "test result: ok. 3 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.00s";
        check(Harness::Libtest, line, 3, 0, 1);
        check(
            Harness::Libtest,
            "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 4 filtered out",
            3,
            2,
            0,
        );
        check(Harness::Libtest, "running 3 tests", 0, 0, 0);
    }

    #[test]
    fn nextest_is_understood_once() {
        let line = "     Summary [  12.345s] 11 tests run: 9 passed (1 slow, 1 flaky), 2 failed, 5 skipped";
        check(Harness::Nextest, line, 9, 2, 5);
        check(
            Harness::Nextest,
            "     Summary [ 0.1s] 3/9 tests run: 1 passed, 1 failed, 1 timed out, 0 skipped",
            1,
            2,
            0,
        );
        check(Harness::Nextest, "test result: FAILED. 0 passed; 1 failed; 0 ignored; 0 measured", 0, 0, 0);
    }

    #[test]
    fn pytest_is_understood() {
        check(Harness::Pytest, "12 passed in 3.45s", 12, 0, 0);
        check(Harness::Pytest, "1 failed, 2 passed, 3 skipped, 1 error in 61.20s (0:01:01)", 2, 2, 3);
        check(Harness::Pytest, "===== 2 passed, 1 warning in 0.10s =====", 2, 0, 0);
        check(Harness::Pytest, "FAILED tests/test_x.py::test_a - assert 1 passed", 0, 0, 0);
        check(Harness::Pytest, "2 passed", 0, 0, 0);
    }
}
