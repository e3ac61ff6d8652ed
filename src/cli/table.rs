//! Text for a person's eyes: aligned columns, and texts of others that cannot take over a terminal.

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

    /// The lines, header first, no wider than `columns`.
    pub(super) fn lines(&self, columns: Option<usize>) -> impl Iterator<Item = String> {
        let mut widths = [0; N];
        for row in &self.rows {
            for (widest, cell) in widths.iter_mut().zip(row) {
                *widest = (*widest).max(width(cell));
            }
        }
        self.rows.iter().map(move |row| {
            let mut line = String::new();
            for (cell, wanted) in row.iter().zip(widths) {
                line.push_str(cell);
                line.extend(std::iter::repeat_n(' ', wanted - width(cell) + 2));
            }
            cut(line.trim_end(), columns)
        })
    }
}

/// `text` on one line, without what a terminal would obey.
pub(super) fn plain(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// `text` with its lines, without what a terminal would obey.
pub(super) fn plain_lines(text: &str) -> String {
    text.lines().map(plain).collect::<Vec<_>>().join("\n")
}

fn cut(line: &str, columns: Option<usize>) -> String {
    let Some(columns) = columns.filter(|columns| width(line) > *columns) else {
        return line.to_owned();
    };
    let mut left = columns.saturating_sub(1);
    let mut short: String = line
        .chars()
        .take_while(|c| {
            let wide = char_width(*c);
            let fits = wide <= left;
            left = left.saturating_sub(wide);
            fits
        })
        .collect();
    short.push('…');
    short
}

fn width(text: &str) -> usize {
    text.chars().map(char_width).sum()
}

/// Chinese, Japanese and Korean characters, full-width forms and pictures take two columns.
const fn char_width(c: char) -> usize {
    match c as u32 {
        0x1100..=0x115F
        | 0x2E80..=0x303E
        | 0x3041..=0xA4CF
        | 0xAC00..=0xD7A3
        | 0xF900..=0xFAFF
        | 0xFE30..=0xFE6F
        | 0xFF00..=0xFF60
        | 0xFFE0..=0xFFE6
        | 0x1F300..=0x1FAFF
        | 0x20000..=0x3FFFD => 2,
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_stand_under_each_other_in_chinese_too() {
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
