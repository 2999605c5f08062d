//! The command `simulate`: runs schedules by their seeds, shrinks the first that fails, and says how to see it again.

use std::process::ExitCode;

use crate::{
    Options, Outcome,
    many::{Many, many},
    run, shrink,
};

const USAGE: &str = "\
simulate [--seeds N] [--from N]            run many schedules
simulate --seed N [--verbose]              run one, and tell what happens
  --threads N          at how many at once (as many as there are processors)
  --nodes N            how many nodes (50)
  --hours N            how long things go wrong (3)
  --without A,B,…      leave items of the schedule out
  --every-heartbeat    deliver every heartbeat of every node
  --go-on              go on after a failure, and count them by rule";

#[derive(Default)]
struct Asked {
    many: Many,
    seed: Option<u64>,
    help: bool,
}

fn parse(mut words: impl Iterator<Item = String>) -> Result<Asked, String> {
    let mut asked = Asked::default();
    while let Some(word) = words.next() {
        let mut number = || {
            let value = words.next().ok_or_else(|| format!("{word}: needs a number"))?;
            value.parse::<u64>().map_err(|_| format!("{word}: {value:?} is not a number"))
        };
        match word.as_str() {
            "--seed" => asked.seed = Some(number()?),
            "--seeds" => asked.many.seeds = number()?,
            "--from" => asked.many.from = number()?,
            "--threads" => asked.many.threads = number()?.clamp(1, 1_000) as usize,
            "--nodes" => asked.many.options.nodes = number()?.clamp(1, 1_000) as usize,
            "--hours" => asked.many.options.hours = number()?.clamp(1, 24 * 30) as i64,
            "--help" | "-h" => asked.help = true,
            "--verbose" => asked.many.options.verbose = true,
            "--every-heartbeat" => asked.many.options.every_heartbeat = true,
            "--go-on" => asked.many.go_on = true,
            "--without" => {
                let list = words.next().unwrap_or_default();
                let items = list.split(',').filter(|item| !item.is_empty()).map(str::parse);
                asked.many.options.without = items
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
    if asked.help {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match asked.seed {
        Some(seed) => one(seed, &asked.many.options),
        None => all(&asked.many),
    }
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

fn all(asked: &Many) -> ExitCode {
    let told = many(asked);
    match &told.sum.first {
        Some((seed, outcome)) if !asked.go_on => explain(*seed, &asked.options, outcome),
        _ => println!("{told}"),
    }
    if told.sum.first.is_none() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

/// Shrinks what failed, and tells it.
fn explain(seed: u64, options: &Options, outcome: &Outcome) {
    let Some(wrong) = outcome.wrongs.first() else { return };
    eprintln!("\nseed {seed} fails, and is shrunk: {wrong}");
    let breaks_the_same =
        |outcome: &Outcome| outcome.wrongs.first().is_some_and(|one| one.rule == wrong.rule);
    let least = shrink(seed, options, breaks_the_same);
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
