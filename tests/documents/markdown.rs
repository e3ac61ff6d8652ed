//! What the tests need to know of a Markdown file: its headings, its fenced blocks, its links.

use std::path::{Path, PathBuf};

/// A document of the repository.
pub struct Document {
    /// Its path from the top of the repository.
    pub path: PathBuf,
    pub text: String,
}

/// A fenced block.
#[derive(Debug)]
pub struct Block {
    /// The line of its opening fence, from 1.
    pub line: usize,
    /// The word after the opening fence.
    pub language: String,
    pub text: String,
    /// The last comment before it, if nothing but empty lines is between: `name: value`.
    pub marker: Option<String>,
}

/// A heading.
#[derive(Debug)]
pub struct Heading {
    pub level: usize,
    pub text: String,
    /// The anchor given on the line before, as `<a id="…"></a>`.
    pub anchor: Option<String>,
}

pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every Markdown file at the top and under `docs`.
pub fn documents() -> Vec<Document> {
    let mut paths = Vec::new();
    for folder in ["", "docs", "docs/zh"] {
        let listed = std::fs::read_dir(repository().join(folder)).unwrap_or_else(|e| panic!("{folder}: {e}"));
        let names = listed.map(|entry| PathBuf::from(entry.unwrap().file_name()));
        let documents = names.filter(|name| name.extension().is_some_and(|extension| extension == "md"));
        paths.extend(documents.map(|name| Path::new(folder).join(name)));
    }
    paths.sort();
    paths.into_iter().map(|path| Document::read(&path)).collect()
}

impl Document {
    pub fn read(path: &Path) -> Self {
        let text = std::fs::read_to_string(repository().join(path));
        Self { path: path.to_owned(), text: text.unwrap_or_else(|e| panic!("{}: {e}", path.display())) }
    }

    pub fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        let mut marker = None;
        for (line, text) in (1..).zip(self.text.lines()) {
            match (&mut open, text.strip_prefix("```")) {
                (Some(_), Some("")) => blocks.extend(open.take()),
                (Some(block), _) => {
                    block.text += text;
                    block.text.push('\n');
                }
                (None, Some(language)) => {
                    let (language, text) = (language.to_owned(), String::new());
                    open = Some(Block { line, language, text, marker: marker.take() });
                }
                (None, None) => {
                    let comment = text.strip_prefix("<!-- ").and_then(|rest| rest.strip_suffix(" -->"));
                    match comment {
                        Some(comment) => marker = Some(comment.to_owned()),
                        None if text.is_empty() => {}
                        None => marker = None,
                    }
                }
            }
        }
        assert!(open.is_none(), "{}: a block is not closed", self.path.display());
        blocks
    }

    /// The lines outside fenced blocks, with their numbers from 1.
    pub fn prose(&self) -> impl Iterator<Item = (usize, &str)> {
        let mut inside = false;
        (1..).zip(self.text.lines()).filter(move |(_, line)| {
            let is_fence = line.starts_with("```");
            inside ^= is_fence;
            !inside && !is_fence
        })
    }

    pub fn headings(&self) -> Vec<Heading> {
        let mut headings = Vec::new();
        let mut anchor = None;
        for (_, line) in self.prose() {
            let level = line.bytes().take_while(|byte| *byte == b'#').count();
            if let Some(text) = line[level..].strip_prefix(' ').filter(|_| level > 0) {
                headings.push(Heading { level, text: text.to_owned(), anchor: anchor.take() });
            } else if !line.is_empty() {
                let id = line.strip_prefix("<a id=\"").and_then(|rest| rest.strip_suffix("\"></a>"));
                anchor = id.map(str::to_owned);
            }
        }
        headings
    }

    /// Every fragment that a link may name.
    pub fn anchors(&self) -> Vec<String> {
        let mut anchors: Vec<String> = Vec::new();
        for heading in self.headings() {
            let slug = heading.slug();
            let same = anchors.iter().filter(|anchor| **anchor == slug).count();
            anchors.push(if same == 0 { slug } else { format!("{slug}-{same}") });
        }
        for (_, line) in self.prose() {
            for rest in line.split("<a id=\"").skip(1) {
                anchors.extend(rest.split('"').next().map(str::to_owned));
            }
        }
        anchors
    }
}

impl Heading {
    /// The anchor that GitHub and Gitee give it.
    pub fn slug(&self) -> String {
        let kept = self.text.to_lowercase();
        let kept = kept.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    }
}
