//! Facts in columns, for people. Pure.

use std::fmt;

/// A table whose columns are as wide as their widest cell; the last is not padded.
#[derive(Debug)]
pub struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    /// A table with these heads.
    pub fn new(heads: [&str; N]) -> Self {
        Self { rows: vec![heads.map(str::to_owned)] }
    }

    /// Adds a row.
    pub fn row(&mut self, cells: [String; N]) {
        self.rows.push(cells);
    }
}

impl<const N: usize> fmt::Display for Table<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut widths = [0; N];
        for row in &self.rows {
            for (width, cell) in widths.iter_mut().zip(row) {
                *width = cell.chars().count().max(*width);
            }
        }
        for row in &self.rows {
            let mut line = String::new();
            for (cell, width) in row.iter().zip(widths) {
                line.push_str(&format!("{cell:width$}  "));
            }
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

/// At most `max` characters of `bytes` on one line: what cannot be shown is escaped, and a cut is marked.
pub fn excerpt(bytes: &[u8], max: usize) -> String {
    // A character takes four bytes at most.
    let (shown, rest) = bytes.split_at_checked(max.saturating_mul(4)).unwrap_or((bytes, &[]));
    let text = String::from_utf8_lossy(shown);
    let mut escaped = text.chars().flat_map(|c| {
        let plain = !c.is_control();
        let (as_it_is, escape) = (plain.then_some(c), (!plain).then(|| c.escape_default()));
        as_it_is.into_iter().chain(escape.into_iter().flatten())
    });
    let mut out: String = escaped.by_ref().take(max).collect();
    if escaped.next().is_some() || !rest.is_empty() {
        out.push('…');
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_no_line_ends_in_blanks() {
        let mut table = Table::new(["#", "reason", "text"]);
        table.row(["1".into(), "é".into(), "x".into()]);
        table.row(["10".into(), "non_json".into(), String::new()]);
        assert_eq!(table.to_string(), "#   reason    text\n1   é         x\n10  non_json\n");
    }

    #[test]
    fn an_excerpt_is_one_short_line_whatever_the_bytes() {
        assert_eq!(excerpt(b"{\"a\": \"\xc3\xa9\"}", 60), "{\"a\": \"é\"}");
        assert_eq!(excerpt(b"a\n\x1b[31m\0", 60), "a\\n\\u{1b}[31m\\u{0}");
        assert_eq!(excerpt(&[b'x'; 100], 10), "xxxxxxxxxx…");
        assert_eq!(excerpt(&[0xff; 1_000_000], 10), "\u{fffd}".repeat(10) + "…");
    }
}
