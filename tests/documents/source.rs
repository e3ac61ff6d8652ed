//! What the tests need to know of a Rust file: its paths, those of `use` items and those in its code, without
//! what is compiled for tests only.
//!
//! Deliberately absent: macros that make modules or imports, and modules written inside a file: the code has
//! neither outside of its tests.

/// A path as a file writes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Written {
    /// Its parts; the last one is `*` for everything in a module.
    pub parts: Vec<String>,
    /// The name that a `use` item gives it; `None` for a path in the code.
    pub name: Option<String>,
}

/// A file of source code.
#[derive(Debug, Default)]
pub struct Source {
    pub paths: Vec<Written>,
    /// The modules that it declares for tests only.
    pub test_modules: Vec<String>,
}

impl Source {
    pub fn parse(text: &str) -> Self {
        let tokens = without_tests(&tokens(text));
        let mut source = Self { paths: Vec::new(), test_modules: tokens.1 };
        let tokens = tokens.0;
        let mut at = 0;
        while let Some(token) = tokens.get(at) {
            let continues = at > 0 && matches!(tokens[at - 1].as_str(), "::" | ".");
            // Not `impl Trait + use<>`.
            if token == "use" && tokens.get(at + 1).is_some_and(|next| next != "<") {
                at = use_tree(&tokens, at + 1, &[], &mut source.paths);
            } else if is_name(token) && !continues && tokens.get(at + 1).is_some_and(|next| next == "::") {
                let mut parts = vec![token.clone()];
                while tokens.get(at + 1).is_some_and(|next| next == "::")
                    && tokens.get(at + 2).is_some_and(|next| is_name(next))
                {
                    parts.push(tokens[at + 2].clone());
                    at += 2;
                }
                source.paths.push(Written { parts, name: None });
                at += 1;
            } else {
                at += 1;
            }
        }
        source
    }
}

fn is_name(token: &str) -> bool {
    token.starts_with(|first: char| first.is_alphabetic() || first == '_')
}

/// Reads a tree of a `use` item that begins at `at`. Returns where the rest begins.
fn use_tree(tokens: &[String], mut at: usize, before: &[String], found: &mut Vec<Written>) -> usize {
    let mut parts = before.to_vec();
    while let Some(token) = tokens.get(at) {
        match token.as_str() {
            "{" => {
                at += 1;
                while tokens.get(at).is_some_and(|token| token != "}") {
                    at = use_tree(tokens, at, &parts, found);
                    at += usize::from(tokens.get(at).is_some_and(|token| token == ","));
                }
                return at + 1;
            }
            "::" => at += 1,
            "as" => {
                let name = tokens.get(at + 1).cloned();
                found.push(Written { parts, name });
                return at + 2;
            }
            "self" if !parts.is_empty() => at += 1,
            "," | ";" | "}" => break,
            part => {
                parts.push(part.to_owned());
                at += 1;
            }
        }
    }
    let name = parts.last().cloned();
    found.push(Written { parts, name });
    at
}

/// The tokens without the items that are compiled for tests only, and the names of the modules among those.
fn without_tests(tokens: &[String]) -> (Vec<String>, Vec<String>) {
    const ONLY_TESTS: [&str; 7] = ["#", "[", "cfg", "(", "test", ")", "]"];
    let (mut kept, mut modules, mut at) = (Vec::new(), Vec::new(), 0);
    while at < tokens.len() {
        if !tokens[at..].iter().zip(ONLY_TESTS).all(|(token, wanted)| token == wanted) {
            kept.push(tokens[at].clone());
            at += 1;
            continue;
        }
        at += ONLY_TESTS.len();
        // Other attributes, and who sees the item.
        let mut begin = at;
        while let Some(token) = tokens.get(begin) {
            match token.as_str() {
                "#" => begin = after_brackets(tokens, begin + 1),
                "pub" => begin += 1,
                "(" => begin = after_brackets(tokens, begin),
                _ => break,
            }
        }
        let word = tokens.get(begin).map_or("", String::as_str);
        let is_item =
            ["async", "const", "enum", "fn", "impl", "mod", "static", "struct", "trait", "type", "use"];
        // A field or a statement: what it names may be named elsewhere too.
        if !is_item.contains(&word) {
            continue;
        }
        if word == "mod" {
            modules.extend(tokens.get(begin + 1).cloned());
        }
        at = begin;
        while let Some(token) = tokens.get(at) {
            match token.as_str() {
                ";" => {
                    at += 1;
                    break;
                }
                // The braces of a `use` item end with a semicolon.
                "{" if word == "use" => at = after_brackets(tokens, at),
                "{" => {
                    at = after_brackets(tokens, at);
                    break;
                }
                "(" | "[" => at = after_brackets(tokens, at),
                _ => at += 1,
            }
        }
    }
    (kept, modules)
}

/// Where the rest begins after the bracket at `at` and all up to its counterpart.
fn after_brackets(tokens: &[String], at: usize) -> usize {
    let mut depth = 0_usize;
    for (index, token) in tokens.iter().enumerate().skip(at) {
        match token.as_str() {
            "(" | "[" | "{" => depth += 1,
            ")" | "]" | "}" => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth == 0 {
            return index + 1;
        }
    }
    tokens.len()
}

/// Names, `::` and single other characters; no comments, no text, no numbers.
fn tokens(text: &str) -> Vec<String> {
    let characters: Vec<char> = text.chars().collect();
    let is_word = |at: usize| characters.get(at).is_some_and(|c| c.is_alphanumeric() || *c == '_');
    let (mut tokens, mut at) = (Vec::new(), 0);
    while let Some(first) = characters.get(at).copied() {
        let next = characters.get(at + 1).copied();
        match (first, next) {
            ('/', Some('/')) => {
                while characters.get(at).is_some_and(|c| *c != '\n') {
                    at += 1;
                }
            }
            ('/', Some('*')) => {
                while at < characters.len()
                    && !(characters[at] == '*' && characters.get(at + 1) == Some(&'/'))
                {
                    at += 1;
                }
                at += 2;
            }
            ('r', Some('"' | '#')) if raw_text_end(&characters, at).is_some() => {
                at = raw_text_end(&characters, at).unwrap();
            }
            ('"', _) => {
                at += 1;
                while characters.get(at).is_some_and(|c| *c != '"') {
                    at += if characters[at] == '\\' { 2 } else { 1 };
                }
                at += 1;
            }
            // A character, or a lifetime.
            ('\'', Some('\\')) => {
                at += 3;
                while characters.get(at).is_some_and(|c| *c != '\'') {
                    at += 1;
                }
                at += 1;
            }
            ('\'', _) => at += if characters.get(at + 2) == Some(&'\'') { 3 } else { 1 },
            (':', Some(':')) => {
                tokens.push("::".to_owned());
                at += 2;
            }
            _ if is_word(at) => {
                let begin = at;
                while is_word(at) {
                    at += 1;
                }
                let word: String = characters[begin..at].iter().collect();
                tokens.extend(Some(word).filter(|word| is_name(word)));
            }
            _ => {
                if !first.is_whitespace() {
                    tokens.push(first.to_string());
                }
                at += 1;
            }
        }
    }
    tokens
}

/// Where the rest begins after a raw text at `at`, if there is one.
fn raw_text_end(characters: &[char], at: usize) -> Option<usize> {
    let hashes = characters[at + 1..].iter().take_while(|c| **c == '#').count();
    let begin = at + 1 + hashes;
    (characters.get(begin) == Some(&'"')).then_some(())?;
    let ends = |end: &usize| {
        characters[*end] == '"'
            && characters[end + 1..].iter().take(hashes).filter(|c| **c == '#').count() == hashes
    };
    (begin + 1..characters.len()).find(ends).map(|end| end + 1 + hashes)
}

#[test]
fn paths_are_read_from_items_and_code_but_not_from_comments_text_and_tests() {
    let source = Source::parse(
        r##"
        //! super::comment::X
        use super::{a::{self, B as C}, d::*, e};
        pub(crate) use crate::f::G;
        #[cfg(test)]
        #[path = "x.rs"]
        mod only;
        #[cfg(test)]
        use super::{for_, tests};
        struct S<'a> {
            #[cfg(test)]
            pub(crate) field: &'a h::I,
        }
        fn f() -> impl Sized + use<> {
            let _ = ("super::text::X", r#"super::"raw"::X"#, 'x', '\'', b'"');
            e::j(super::k::L.m::<n::O>())
        }
        #[cfg(test)]
        mod tests {
            use super::test_only::X;
        }
        "##,
    );
    let paths: Vec<_> = source
        .paths
        .iter()
        .map(|path| (path.parts.join("::"), path.name.clone().unwrap_or_default()))
        .collect();
    let expected = [
        ("super::a", "a"),
        ("super::a::B", "C"),
        ("super::d::*", "*"),
        ("super::e", "e"),
        ("crate::f::G", "G"),
        ("h::I", ""),
        ("e::j", ""),
        ("super::k::L", ""),
        ("n::O", ""),
    ];
    assert_eq!(paths, expected.map(|(path, name)| (path.to_owned(), name.to_owned())));
    assert_eq!(source.test_modules, ["only", "tests"]);
}
