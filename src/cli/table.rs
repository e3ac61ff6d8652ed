//! Text for a terminal: aligned columns, instants in China time, and foreign text made safe to print.

use console::{Alignment, measure_text_width, pad_str, truncate_str};

use crate::domain::time::Timestamp;

/// Rows under a header, each column as wide as its widest cell.
pub(super) struct Table<const N: usize> {
    rows: Vec<[String; N]>,
}

impl<const N: usize> Table<N> {
    pub(super) fn new(header: [&str; N]) -> Self {
        Self { rows: vec![header.map(str::to_owned)] }
    }

    pub(super) fn push(&mut self, row: [String; N]) {
        self.rows.push(row.map(|cell| plain(&cell)));
    }

    /// The lines, header first, truncated to `columns`.
    pub(super) fn lines(&self, columns: Option<usize>) -> impl Iterator<Item = String> {
        let mut widths = [0; N];
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = measure_text_width(cell).max(*widest);
            }
        }
        self.rows.iter().map(move |row| {
            let cells = row.iter().zip(widths);
            let padded = cells.map(|(cell, width)| pad_str(cell, width, Alignment::Left, None));
            let line = padded.collect::<Vec<_>>().join("  ");
            truncate_str(line.trim_end(), columns.unwrap_or(usize::MAX), "…").into_owned()
        })
    }
}

/// `text` on one line, with control characters replaced: a terminal would obey them.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `text` with its lines kept and other control characters replaced.
pub(super) fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

/// An instant of an API answer, in China time with its offset. Other text as [`plain`].
pub(super) fn china_time(text: &str) -> String {
    text.parse::<Timestamp>().map_or_else(|_| plain(text), Timestamp::in_china)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_of_the_api_are_shown_in_china_time_with_the_offset() {
        assert_eq!(china_time("2026-11-22T01:02:03.456Z"), "2026-11-22 09:02:03 +08:00");
        assert_eq!(china_time("soon\n"), "soon ");
    }

    #[test]
    fn columns_are_aligned_in_chinese_too() {
        let mut table = Table::new(["who", "what"]);
        table.push(["应用".to_owned(), "x".to_owned()]);
        table.push(["abcdef".to_owned(), "line\nend\x1b[31m".to_owned()]);
        let lines: Vec<_> = table.lines(None).collect();
        assert_eq!(lines, ["who     what", "应用    x", "abcdef  line end [31m"]);
    }

    #[test]
    fn a_line_is_cut_to_the_terminals_width() {
        let mut table = Table::new(["a"]);
        table.push(["应用名称".to_owned()]);
        let cut = |columns| table.lines(Some(columns)).last().unwrap();
        assert_eq!([8, 7, 6, 1].map(cut), ["应用名称", "应用名…", "应用…", "…"]);
    }
}
