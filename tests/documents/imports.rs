//! The files of the store form layers: each imports only from layers above its own, and no files import each
//! other in a circle of any length.
//!
//! An import counts as one of the file that defines what is imported, however many modules re-export it. Code
//! that is compiled for tests only may import everything.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::markdown::repository;
use crate::source::{Source, Written};

/// The layers of `src/store`, the uppermost first. A file belongs to the layer with the longest beginning of
/// its path. Not every one of them has to exist.
const LAYERS: [&[&str]; 16] = [
    // The traits and their types.
    &[""],
    &["rows/"],
    &["business/"],
    &["row_store/"],
    &["shared/"],
    &["postgres/"],
    &["embedded/failure.rs", "embedded/watchdog.rs"],
    &["embedded/folder/", "embedded/folder.rs"],
    &["embedded/engine/", "embedded/engine.rs"],
    &["embedded/wal/", "embedded/wal.rs"],
    &["embedded/checkpoint/", "embedded/checkpoint.rs"],
    &["embedded/database/", "embedded/database.rs"],
    &["embedded/care/", "embedded/care.rs"],
    &["embedded/fan_index.rs", "embedded/published.rs"],
    &["embedded/writer/", "embedded/writer.rs"],
    // What puts them together.
    &["embedded/"],
];

fn layer(file: &str) -> usize {
    let beginnings =
        LAYERS.iter().enumerate().flat_map(|(layer, all)| all.iter().map(move |b| (b.len(), layer, b)));
    let longest = beginnings.filter(|(.., beginning)| file.starts_with(**beginning)).max();
    longest.map(|(_, layer, _)| layer).unwrap()
}

/// Source files by path, and the modules that they are.
struct Tree {
    files: BTreeMap<String, Source>,
    /// The file of each module; a module is named by its parts.
    modules: BTreeMap<Vec<String>, String>,
}

/// The module that a file is, below the root of the tree.
fn module_of(file: &str) -> Vec<String> {
    let path = file.strip_suffix(".rs").unwrap();
    let path = path.strip_suffix("mod").map_or(path, |folder| folder.trim_end_matches('/'));
    path.split('/').filter(|part| !part.is_empty()).map(str::to_owned).collect()
}

impl Tree {
    /// `files` are texts by path below the module `crate::store`.
    fn new(files: BTreeMap<String, String>) -> Self {
        let mut files: BTreeMap<_, _> =
            files.into_iter().map(|(file, text)| (file, Source::parse(&text))).collect();
        let only_for_tests: BTreeSet<Vec<String>> = files
            .iter()
            .flat_map(|(file, source)| {
                let of_file = module_of(file);
                source
                    .test_modules
                    .iter()
                    .map(move |name| [of_file.as_slice(), std::slice::from_ref(name)].concat())
            })
            .collect();
        files.retain(|file, _| {
            let module = module_of(file);
            !(1..=module.len()).any(|length| only_for_tests.contains(&module[..length]))
        });
        let modules = files.keys().map(|file| (module_of(file), file.clone())).collect();
        Self { files, modules }
    }

    fn of_store() -> Self {
        let (root, mut files) = (repository().join("src/store"), BTreeMap::new());
        read(&root, &root, &mut files);
        assert!(files.len() > 50, "{} files", files.len());
        Self::new(files)
    }

    /// The parts of a path from the root of the tree on; `None` for one that leads elsewhere.
    fn absolute(&self, file: &str, parts: &[String]) -> Option<Vec<String>> {
        let module = module_of(file);
        match parts {
            [first, store, rest @ ..] if first == "crate" && store == "store" => Some(rest.to_vec()),
            [first, rest @ ..] if first == "self" => Some([&module, rest].concat()),
            [first, ..] if first == "super" => {
                let ups = parts.iter().take_while(|part| *part == "super").count();
                let above = module.len().checked_sub(ups)?;
                Some([&module[..above], &parts[ups..]].concat())
            }
            [first, rest @ ..] => {
                let child = [module.as_slice(), std::slice::from_ref(first)].concat();
                if self.modules.contains_key(&child) {
                    return Some([&child, rest].concat());
                }
                let import = self.import(file, first)?;
                // A name that leads to itself is that of a crate.
                (import.parts[0] != *first).then_some(())?;
                Some([&self.absolute(file, &import.parts)?, rest].concat())
            }
            [] => None,
        }
    }

    fn import(&self, file: &str, name: &str) -> Option<&Written> {
        self.files[file].paths.iter().find(|path| path.name.as_deref() == Some(name))
    }

    /// The file that defines what a path from the root of the tree leads to.
    fn definition(&self, parts: &[String]) -> Option<String> {
        let mut length = 0;
        while length < parts.len() && self.modules.contains_key(&parts[..=length]) {
            length += 1;
        }
        let file = self.modules.get(&parts[..length])?;
        let Some(name) = parts.get(length) else { return Some(file.clone()) };
        let Some(import) = self.import(file, name) else { return Some(file.clone()) };
        let target = self.absolute(file, &import.parts)?;
        if target == parts[..=length] {
            return Some(file.clone());
        }
        self.definition(&[&target, &parts[length + 1..]].concat())
    }

    /// Which files each file imports from, with a path that does.
    fn edges(&self) -> BTreeMap<&str, BTreeMap<String, String>> {
        let of_file = |(file, source): (&'_ String, &Source)| {
            let targets = source.paths.iter().filter_map(|path| {
                let target = self.definition(&self.absolute(file, &path.parts)?)?;
                (target != *file).then(|| (target, path.parts.join("::")))
            });
            targets.collect::<BTreeMap<_, _>>()
        };
        self.files.iter().map(|(file, source)| (file.as_str(), of_file((file, source)))).collect()
    }

    /// What breaks the rules, as text.
    fn complaints(&self) -> Vec<String> {
        let edges = self.edges();
        let mut complaints = Vec::new();
        for (file, targets) in &edges {
            for (target, path) in targets.iter().filter(|(target, _)| layer(target) > layer(file)) {
                complaints.push(format!("{file} imports from a lower layer: {target} ({path})"));
            }
        }
        for circle in circles(&edges) {
            let inside = circle.iter().flat_map(|file| {
                let targets = edges[file].iter().filter(|(target, _)| circle.contains(target.as_str()));
                targets.map(move |(target, path)| format!("    {file} → {target} ({path})"))
            });
            let inside: Vec<_> = inside.collect();
            complaints.push(format!("{} files import each other:\n{}", circle.len(), inside.join("\n")));
        }
        complaints
    }
}

/// The sets of files from each of which imports lead to every other.
fn circles<'a>(edges: &BTreeMap<&'a str, BTreeMap<String, String>>) -> BTreeSet<BTreeSet<&'a str>> {
    let reached = |from: &'a str| {
        let (mut reached, mut next) = (BTreeSet::new(), vec![from]);
        while let Some(file) = next.pop() {
            for target in edges[file].keys() {
                let (target, _) = edges.get_key_value(target.as_str()).unwrap();
                if reached.insert(*target) {
                    next.push(target);
                }
            }
        }
        reached
    };
    let reached: BTreeMap<_, _> = edges.keys().map(|file| (*file, reached(file))).collect();
    let in_circles = reached.iter().filter(|(file, reached)| reached.contains(*file));
    in_circles
        .map(|(file, targets)| {
            targets.iter().filter(|target| reached[*target].contains(file)).copied().collect()
        })
        .collect()
}

fn read(root: &Path, folder: &Path, files: &mut BTreeMap<String, String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            read(root, &path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let name = path.strip_prefix(root).unwrap().to_str().unwrap().to_owned();
            files.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
}

#[test]
fn each_file_of_the_store_imports_only_from_layers_above_and_none_in_a_circle() {
    let complaints = Tree::of_store().complaints();
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

fn complaints(files: &[(&str, &str)]) -> Vec<String> {
    let files = files.iter().map(|(file, text)| ((*file).to_owned(), (*text).to_owned())).collect();
    Tree::new(files).complaints()
}

#[test]
fn a_circle_is_found_however_long_and_an_import_whoever_re_exports_it() {
    let root = ("mod.rs", "pub mod embedded; mod business; mod rows; mod inbox; pub use inbox::Event;");
    let inbox = ("inbox.rs", "pub struct Event;");
    let embedded = ("embedded/mod.rs", "use crate::store::business::chats::read;");
    let rows = ("rows/mod.rs", "pub(crate) mod records;");
    let records = ("rows/records.rs", "use super::super::Event;");
    let business = ("business/mod.rs", "pub(crate) mod chats; pub(crate) mod fans; pub(crate) mod work;");
    let chats = ("business/chats.rs", "use super::fans; use crate::store::Event;");
    let fans = ("business/fans.rs", "fn f() { super::work::f() }");
    let work =
        ("business/work.rs", "use crate::domain::chats; #[cfg(test)] mod tests { use super::super::chats; }");
    let good = [root, inbox, embedded, rows, records, business, chats, fans, work];
    assert_eq!(complaints(&good), [""; 0]);
    let with = |file: (&'static str, &'static str)| {
        good.iter().map(|known| if known.0 == file.0 { file } else { *known }).collect::<Vec<_>>()
    };
    let found = complaints(&with(("business/work.rs", "use super::chats::{self};")));
    assert!(found.len() == 1 && found[0].starts_with("3 files import each other"), "{found:?}");
    let found = complaints(&with(("rows/records.rs", "use crate::store::embedded::read;")));
    assert_eq!(
        found,
        ["rows/records.rs imports from a lower layer: business/chats.rs (crate::store::embedded::read)"]
    );
    let found = complaints(&with(("business/work.rs", "use crate::store::embedded::Store;")));
    assert_eq!(found.len(), 2, "{found:?}");
    let found = complaints(&with(("inbox.rs", "use super::Counts;")));
    assert!(found.len() == 1 && found[0].contains("inbox.rs → mod.rs"), "{found:?}");
    let found =
        complaints(&with(("rows/records.rs", "use crate::store::business; fn f() { business::work::f() }")));
    assert_eq!(found.len(), 2, "{found:?}");
}
