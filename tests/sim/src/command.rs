//! The command `simulate`: runs schedules by their seeds, shrinks the first that fails, and says how to see it again.

use std::{
    io::{IsTerminal, Write},
    process::ExitCode,
    time::{Duration, Instant},
};

use crate::{Options, Outcome, run, shrink};

const USAGE: &str = "\
simulate [--seeds N] [--from N]            run many schedules
simulate --seed N [--verbose]              run one, and tell what happens
  --nodes N            how many nodes (50)
  --hours N            how long things go wrong (3)
  --without A,B,…      leave items of the schedule out
  --every-heartbeat    deliver every heartbeat of every node
  --go-on              go on after a failure, and count them by rule
  --bugs               look for each deliberate fault (built with the feature seeded-bugs)
  --bug NAME           run with this deliberate fault (the same)";

#[derive(Default)]
struct Asked {
    options: Options,
    seed: Option<u64>,
    seeds: u64,
    from: u64,
    go_on: bool,
    bugs: bool,
    bug: Option<String>,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked { seeds: 1_000, ..Asked::default() };
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or_else(|| format!("{word}: needs a number"))?;
            value.parse::<u64>().map_err(|_| format!("{word}: {value:?} is not a number"))
        };
        match word.as_str() {
            "--seed" => asked.seed = Some(number()?),
            "--seeds" => asked.seeds = number()?,
            "--from" => asked.from = number()?,
            "--nodes" => asked.options.nodes = number()?.clamp(1, 1_000) as usize,
            "--hours" => asked.options.hours = number()?.clamp(1, 24 * 30) as i64,
            "--verbose" => asked.options.verbose = true,
            "--every-heartbeat" => asked.options.every_heartbeat = true,
            "--bugs" => asked.bugs = true,
            "--bug" => asked.bug = words.next(),
            "--go-on" => asked.go_on = true,
            "--without" => {
                let list = words.next().unwrap_or_default();
                let items = list.split(',').filter(|item| !item.is_empty()).map(str::parse);
                asked.options.without = items
                    .collect::<Result<_, _>>()
                    .map_err(|_| format!("--without: {list:?} is not a list"))?;
            }
            _ => return Err(format!("{word}: unknown\n{USAGE}")),
        }
    }
    Ok(asked)
}

/// Runs what was asked for.
pub fn run_command(words: impl Iterator<Item = String>) -> ExitCode {
    let asked = match parse(words) {
        Ok(asked) => asked,
        Err(why) => {
            eprintln!("simulate: {why}");
            return ExitCode::from(64);
        }
    };
    if asked.bugs || asked.bug.is_some() {
        return with_bugs(&asked);
    }
    match asked.seed {
        Some(seed) => one(seed, &asked.options),
        None => many(&asked),
    }
}

#[cfg(feature = "seeded-bugs")]
fn with_bugs(asked: &Asked) -> ExitCode {
    use nodemend_domain::bugs;
    if let Some(name) = &asked.bug {
        let Some((bug, _)) = bugs::ALL.iter().find(|(known, _)| known == name) else {
            eprintln!("simulate: --bug: {name:?} is none that is known");
            return ExitCode::from(64);
        };
        bugs::seed(Some(bug));
        return match asked.seed {
            Some(seed) => one(seed, &asked.options),
            None => many(asked),
        };
    }
    let hunts = crate::bugs::hunt(asked.from, asked.seeds, &asked.options);
    print!("{}", crate::bugs::table(&hunts));
    let missed = hunts.iter().filter(|hunt| hunt.found.is_none()).count();
    println!("\n{} deliberate faults, {missed} not found within {} schedules", hunts.len(), asked.seeds);
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

#[cfg(not(feature = "seeded-bugs"))]
fn with_bugs(_: &Asked) -> ExitCode {
    eprintln!("simulate: --bugs: built without them; use cargo run --features seeded-bugs");
    ExitCode::from(64)
}

fn one(seed: u64, options: &Options) -> ExitCode {
    let outcome = run(seed, options);
    for line in &outcome.story {
        println!("{line}");
    }
    for wrong in &outcome.wrongs {
        println!("{wrong}");
    }
    println!(
        "seed {seed}: {} calls, {} taken, {} wrong",
        outcome.calls,
        outcome.accepted,
        outcome.wrongs.len()
    );
    if outcome.wrongs.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

#[allow(clippy::disallowed_methods, reason = "how long it takes is what is measured")]
fn many(asked: &Asked) -> ExitCode {
    let began = Instant::now();
    let (mut calls, mut failed, mut told) = (0, 0_u64, began);
    let (mut invocations, mut operations) = (0, 0);
    let mut slowest = (Duration::ZERO, asked.from);
    let mut rules: std::collections::BTreeMap<&'static str, (u64, u64)> = std::collections::BTreeMap::new();
    let terminal = std::io::stderr().is_terminal();
    for (done, seed) in (asked.from..asked.from + asked.seeds).enumerate() {
        let start = Instant::now();
        let outcome = run(seed, &asked.options);
        slowest = slowest.max((start.elapsed(), seed));
        calls += outcome.calls;
        invocations += outcome.invocations;
        operations += outcome.operations;
        if let Some(wrong) = outcome.wrongs.first() {
            failed += 1;
            rules.entry(wrong.rule).or_insert((0, seed)).0 += 1;
            if !asked.go_on {
                explain(seed, &asked.options, &outcome);
                return ExitCode::from(1);
            }
        }
        let every = if terminal { Duration::from_millis(200) } else { Duration::from_secs(10) };
        if told.elapsed() >= every {
            told = Instant::now();
            progress(done as u64 + 1, asked.seeds, began.elapsed(), failed, terminal);
        }
    }
    let took = began.elapsed().as_secs_f64();
    if terminal {
        eprint!("\r\x1b[K");
    }
    for (rule, (count, seed)) in &rules {
        println!("{count:>7} × {rule}, first by seed {seed}");
    }
    let cpu = cpu_seconds().unwrap_or(took);
    println!(
        "{} schedules of {} nodes and {} h from seed {}: {failed} wrong, {calls} calls in {invocations} \
         invocations of {operations} reads and writes; {took:.1} s, {:.0} a core-second; \
         the slowest took {:.0?} (seed {})",
        asked.seeds,
        asked.options.nodes,
        asked.options.hours,
        asked.from,
        asked.seeds as f64 / cpu,
        slowest.0,
        slowest.1
    );
    if failed == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// How long this process has had a core, where the kernel says so: others may want it too.
fn cpu_seconds() -> Option<f64> {
    let stat = std::fs::read_to_string("/proc/self/stat").ok()?;
    let fields: Vec<&str> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    let ticks = |place: usize| fields.get(place)?.parse::<f64>().ok();
    // In hundredths of a second, whatever the kernel's own tick.
    Some((ticks(11)? + ticks(12)?) / 100.0).filter(|seconds| *seconds > 0.0)
}

fn progress(done: u64, of: u64, took: Duration, failed: u64, terminal: bool) {
    let rate = done as f64 / took.as_secs_f64();
    let left = (of - done) as f64 / rate;
    let line = format!("{done} of {of}, {rate:.0} a second, {left:.0} s left, {failed} wrong");
    if terminal {
        eprint!("\r\x1b[K{line}");
        let _ = std::io::stderr().flush();
    } else {
        eprintln!("{line}");
    }
}

/// Shrinks what failed, and tells it.
fn explain(seed: u64, options: &Options, outcome: &Outcome) {
    let Some(wrong) = outcome.wrongs.first() else { return };
    eprintln!("\nseed {seed} fails, and is shrunk: {wrong}");
    let least = shrink(seed, options, wrong.rule);
    let told = run(seed, &Options { verbose: true, ..least.clone() });
    for line in &told.story {
        println!("{line}");
    }
    for wrong in &told.wrongs {
        println!("{wrong}");
    }
    let without: Vec<String> = least.without.iter().map(ToString::to_string).collect();
    let without =
        if without.is_empty() { String::new() } else { format!(" --without {}", without.join(",")) };
    println!(
        "again: simulate --seed {seed} --nodes {} --hours {}{without} --verbose",
        options.nodes, options.hours
    );
}
