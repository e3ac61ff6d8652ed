//! Properties that hold for any input. The fuzz targets under `fuzz/` try to break them, one function each;
//! `cargo test` checks them against the corpus the fuzzers left, which covers every branch they found.
//!
//! Compiled for tests and for fuzzing only. Each property lives next to the code it is about.

pub use crate::callback::properties::{cipher, envelope, forged};
pub use crate::http::properties::{fans, proxy_header};
pub use crate::intake::properties::message;
pub use crate::store::embedded::properties::records;

/// A query, then a body: see [`crate::callback::properties::door`].
///
/// # Panics
/// When that does not hold.
pub fn door(data: &[u8]) {
    crate::callback::properties::door(data, message);
}

/// Bytes encrypted with the right key: see [`crate::callback::properties::sealed`].
///
/// # Panics
/// When that does not hold.
pub fn sealed(data: &[u8]) {
    crate::callback::properties::sealed(data, message);
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    type Property = fn(&[u8]);

    const TARGETS: [(&str, Property); 9] = [
        ("cipher", cipher),
        ("door", door),
        ("envelope", envelope),
        ("fans", fans),
        ("forged", forged),
        ("message", message),
        ("proxy_header", proxy_header),
        ("records", records),
        ("sealed", sealed),
    ];

    fn files(folder: &Path) -> Vec<std::path::PathBuf> {
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    #[test]
    fn everything_the_fuzzer_found_still_holds() {
        let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus");
        let named: Vec<_> = TARGETS.iter().map(|(target, _)| corpus.join(target)).collect();
        assert_eq!(files(&corpus), named, "a folder for every target, and no other");
        for ((target, property), folder) in TARGETS.iter().zip(named) {
            let files = files(&folder);
            assert!(files.len() >= 10, "the corpus of {target} is lost");
            for file in files {
                let bytes = std::fs::read(&file).unwrap();
                let held = std::panic::catch_unwind(|| property(&bytes));
                assert!(held.is_ok(), "{} breaks what {target} asserts", file.display());
            }
        }
    }
}
