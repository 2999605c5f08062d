//! The command `simulate`: runs schedules by their seeds, shrinks the first that fails, and prints how to repeat it.

use std::process::ExitCode;

use crate::{
    Options, Outcome,
    campaign::{Campaign, run_campaign},
    run, shrink,
};

const USAGE: &str = "\
simulate [--seeds N] [--from N]            run many schedules
simulate --seed N [--verbose]              run one; --verbose prints what happens
  --threads N          how many at once (as many as there are processors)
  --nodes N            how many nodes (50)
  --hours N            for how many hours things fail (3)
  --without A,B,…      leave items of the schedule out
  --verification off   make calls without verifying faults, and count the calls on healthy nodes
  --every-heartbeat    deliver every heartbeat of every node
  --go-on              continue after a violation: print each seed, and count them by rule
  --no-shrink          print the first violation in one line, and nothing else

Exit codes: 0 no violation, 1 a violation, 64 wrong usage";

#[derive(Default)]
struct Arguments {
    campaign: Campaign,
    seed: Option<u64>,
    help: bool,
    no_shrink: bool,
}

fn parse(mut args: impl Iterator<Item = String>) -> Result<Arguments, String> {
    let mut arguments = Arguments::default();
    let Campaign { options, seeds, from, threads, go_on, .. } = &mut arguments.campaign;
    while let Some(arg) = args.next() {
        let mut number = || {
            let value = args.next().ok_or_else(|| format!("{arg} needs a number"))?;
            value.parse::<u64>().map_err(|_| format!("{arg}: {value:?} is not a number"))
        };
        match arg.as_str() {
            "--seed" => arguments.seed = Some(number()?),
            "--seeds" => *seeds = number()?,
            "--from" => *from = number()?,
            "--threads" => *threads = number()?.clamp(1, 1_000) as usize,
            "--nodes" => options.nodes = number()?.clamp(1, 1_000) as usize,
            "--hours" => options.hours = number()?.clamp(1, 24 * 30) as i64,
            "--help" | "-h" => arguments.help = true,
            "--verbose" => options.verbose = true,
            "--verification" => match args.next().as_deref() {
                Some("on") => options.verification = true,
                Some("off") => (options.verification, *go_on) = (false, true),
                _ => return Err(format!("{arg}: on or off\n{USAGE}")),
            },
            "--every-heartbeat" => options.every_heartbeat = true,
            "--go-on" => *go_on = true,
            "--no-shrink" => arguments.no_shrink = true,
            "--without" => {
                let list = args.next().unwrap_or_default();
                let items = list.split(',').filter(|item| !item.is_empty()).map(str::parse);
                options.without = items
                    .collect::<Result<_, _>>()
                    .map_err(|_| format!("--without: {list:?} is not a list of numbers"))?;
            }
            _ => return Err(format!("{arg}: unknown\n{USAGE}")),
        }
    }
    Ok(arguments)
}

/// Runs the command with the arguments after its name.
pub fn run_command(args: impl Iterator<Item = String>) -> ExitCode {
    let arguments = match parse(args) {
        Ok(arguments) => arguments,
        Err(why) => {
            eprintln!("simulate: {why}");
            return ExitCode::from(64);
        }
    };
    if arguments.help {
        println!("{USAGE}");
        return ExitCode::SUCCESS;
    }
    match arguments.seed {
        Some(seed) => one(seed, &arguments.campaign.options),
        None => many(&arguments.campaign, !arguments.no_shrink),
    }
}

fn one(seed: u64, options: &Options) -> ExitCode {
    let outcome = run(seed, options);
    print_outcome(&outcome);
    println!(
        "seed {seed}: {} calls, {} accepted, {} violations",
        outcome.calls,
        outcome.accepted,
        outcome.violations.len()
    );
    if outcome.violations.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(1) }
}

fn print_outcome(outcome: &Outcome) {
    for line in &outcome.trace {
        println!("{line}");
    }
    for violation in &outcome.violations {
        println!("{violation}");
    }
}

fn many(campaign: &Campaign, shrinks: bool) -> ExitCode {
    let report = run_campaign(campaign);
    match &report.totals.first {
        Some((seed, outcome)) if !campaign.go_on => explain(*seed, &campaign.options, outcome, shrinks),
        _ => println!("{report}"),
    }
    if report.totals.first.is_none() || !campaign.options.verification {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(1)
    }
}

/// Prints a schedule that fails, and shrinks it first.
fn explain(seed: u64, options: &Options, outcome: &Outcome, shrinks: bool) {
    let Some(violation) = outcome.violations.first() else { return };
    println!("violation: seed {seed}: {}", violation.rule);
    if !shrinks {
        return;
    }
    eprintln!("shrinking seed {seed}: {violation}");
    let breaks_the_same_rule =
        |outcome: &Outcome| outcome.violations.first().is_some_and(|one| one.rule == violation.rule);
    let least = shrink(seed, options, breaks_the_same_rule);
    print_outcome(&run(seed, &Options { verbose: true, ..least.clone() }));
    let without: Vec<String> = least.without.iter().map(ToString::to_string).collect();
    let without =
        if without.is_empty() { String::new() } else { format!(" --without {}", without.join(",")) };
    println!(
        "to repeat: simulate --seed {seed} --nodes {} --hours {}{without} --verbose",
        options.nodes, options.hours
    );
}
