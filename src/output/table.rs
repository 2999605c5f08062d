//! Writes rows as a table with aligned columns. Cells are made [`printable`](super::printable) here, so callers may
//! pass text from nodes and logs as it is.

use std::io::{self, Write};

use anstyle::Style;

use super::{DIM, printable};

/// Writes the header and the rows, each line after `indent`.
pub(crate) fn write<const N: usize>(
    out: &mut impl Write,
    indent: &str,
    header: [&str; N],
    rows: &[[String; N]],
) -> io::Result<()> {
    let header = header.map(str::to_owned);
    let mut widths = [0; N];
    for row in rows.iter().chain([&header]) {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    for (row, style) in [(&header, DIM)].into_iter().chain(rows.iter().map(|row| (row, Style::new()))) {
        let cells: Vec<String> =
            row.iter().zip(widths).map(|(cell, width)| format!("{:width$}", printable(cell))).collect();
        writeln!(out, "{indent}{style}{}{style:#}", cells.join("  ").trim_end())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_aligned_and_cells_cannot_control_the_terminal() {
        let mut out = anstream::StripStream::new(Vec::new());
        let rows = [["a".to_owned(), "\u{1b}[2Jxx".to_owned()], ["ähm".to_owned(), String::new()]];
        write(&mut out, "  ", ["n", "what"], &rows).expect("written");
        assert_eq!(String::from_utf8(out.into_inner()).expect("text"), "  n    what\n  a     [2Jxx\n  ähm\n");
    }
}
