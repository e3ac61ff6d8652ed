//! Files, headings, anchors and links: those of the two languages correspond, and every link leads somewhere.

use std::path::{Component, Path, PathBuf};

use crate::markdown::{Document, documents, repository};

/// The largest README, in bytes: one page.
const README_BYTES_MAX: usize = 10 << 10;

/// The pairs of English and Chinese documents.
fn pairs() -> Vec<(Document, Document)> {
    let english = documents().into_iter().filter_map(|document| {
        let path = &document.path;
        let chinese = match path.strip_prefix("docs") {
            Ok(name) => Path::new("docs/zh").join(name),
            Err(_) => path.with_extension("zh-CN.md"),
        };
        let is_english = !path.starts_with("docs/zh") && !path.to_str()?.ends_with(".zh-CN.md");
        is_english.then(|| (Document::read(&chinese), document))
    });
    english.map(|(chinese, english)| (english, chinese)).collect()
}

#[test]
fn the_readme_is_one_page_in_either_language() {
    for name in ["README.md", "README.zh-CN.md"] {
        let bytes = Document::read(Path::new(name)).text.len();
        assert!(bytes <= README_BYTES_MAX, "{name} has {bytes} bytes");
    }
}

#[test]
fn english_and_chinese_documents_have_the_same_files_headings_and_anchors() {
    let pairs = pairs();
    assert_eq!(documents().len(), 2 * pairs.len(), "a Chinese document has no English counterpart");
    let mut differences = Vec::new();
    for (english, chinese) in &pairs {
        let name = chinese.path.display();
        let (ours, theirs) = (english.headings(), chinese.headings());
        if ours.len() != theirs.len() {
            differences.push(format!("{name}: {} headings instead of {}", theirs.len(), ours.len()));
        }
        for (ours, theirs) in ours.iter().zip(&theirs).skip(1) {
            let anchor = theirs.anchor.clone().unwrap_or_else(|| theirs.slug());
            if (ours.level, ours.slug()) != (theirs.level, anchor) {
                differences
                    .push(format!("{name}: {} is not {}, or lacks its anchor", theirs.text, ours.text));
            }
        }
        let blocks = |document: &Document| -> Vec<String> {
            document.blocks().into_iter().map(|block| block.language).collect()
        };
        if blocks(english) != blocks(chinese) {
            differences.push(format!("{name}: other blocks than in English"));
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

#[test]
fn every_link_leads_to_a_file_and_an_anchor_that_exist() {
    let mut broken = Vec::new();
    for document in documents() {
        for (line, text) in document.prose() {
            for link in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
                if link.contains("://") || link.starts_with("mailto:") {
                    continue;
                }
                let (file, fragment) = link.split_once('#').unwrap_or((link, ""));
                let target = match file {
                    "" => document.path.clone(),
                    file => normalised(&document.path.parent().unwrap().join(file)),
                };
                let exists = repository().join(&target).exists();
                let leads = exists
                    && (fragment.is_empty()
                        || Document::read(&target).anchors().iter().any(|anchor| anchor == fragment));
                if !leads {
                    broken.push(format!("{}:{line}: {link}", document.path.display()));
                }
            }
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

/// The path without `..`.
fn normalised(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut path, component| {
        if component == Component::ParentDir {
            path.pop();
        } else {
            path.push(component);
        }
        path
    })
}
