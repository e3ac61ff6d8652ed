//! What holds for any bytes whatsoever. The fuzz targets under `fuzz/` try to break it, one function each; `cargo
//! test` holds it against the corpus they left, which reaches every branch they have found.
//!
//! Compiled for tests and for fuzzing only. The properties themselves are next to what they are about.

pub use crate::callback::properties::{cipher, door, envelope, forged, message, sealed};
pub use crate::store::embedded::properties::records;

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    type Property = fn(&[u8]);

    const TARGETS: [(&str, Property); 7] = [
        ("cipher", cipher),
        ("door", door),
        ("envelope", envelope),
        ("forged", forged),
        ("message", message),
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
