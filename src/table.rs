//! Turns rows into a table whose columns stand under each other.

use std::io::{self, Write};

use anstyle::{Effects, Style};
use clap::ValueEnum;

/// How a command prints what it found.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// Tables for people.
    Text,
    /// JSON for programs.
    Json,
}

const DIM: Style = Style::new().effects(Effects::DIMMED);

/// Writes a head and its rows, each after `indent`. What nodes say of themselves must not repaint the terminal.
pub(crate) fn write<const N: usize>(
    out: &mut impl Write,
    indent: &str,
    head: [&str; N],
    rows: &[[String; N]],
) -> io::Result<()> {
    let head = head.map(str::to_owned);
    let mut widths = [0; N];
    for row in rows.iter().chain([&head]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for (row, style) in [(&head, DIM)].into_iter().chain(rows.iter().map(|row| (row, Style::new()))) {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{:width$}", plain(cell))).collect();
        writeln!(out, "{indent}{style}{}{style:#}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

/// One line without control characters, as long as it was.
pub(crate) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other_and_nothing_repaints_the_terminal() {
        let mut out = anstream::StripStream::new(Vec::new());
        let rows = [["a".to_owned(), "\u{1b}[2Jxx".to_owned()], ["ähm".to_owned(), String::new()]];
        write(&mut out, "  ", ["n", "what"], &rows).expect("written");
        assert_eq!(String::from_utf8(out.into_inner()).expect("text"), "  n    what\n  a     [2Jxx\n  ähm\n");
    }
}
