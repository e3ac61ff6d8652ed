//! The content of a simulated disk: sparse blocks, copy-on-write.

use std::sync::Arc;

const BLOCK_BYTES: usize = 4096;
type Block = [u8; BLOCK_BYTES];
static ZEROES: Block = [0; BLOCK_BYTES];

/// The content of a disk. A clone shares every block with the original until one of them writes to it.
#[derive(Clone)]
pub struct Blocks(Vec<Option<Arc<Block>>>);

impl Blocks {
    /// A disk of this size, filled with zeroes.
    pub fn of_mib(size_mib: usize) -> Self {
        Self(vec![None; (size_mib << 20) / BLOCK_BYTES])
    }

    pub fn bytes(&self) -> u64 {
        (self.0.len() * BLOCK_BYTES) as u64
    }

    /// Up to `count` bytes from offset `at`; fewer at the end of the disk.
    pub fn read(&self, at: u64, count: usize) -> Vec<u8> {
        let at = usize::try_from(at.min(self.bytes())).unwrap();
        let mut bytes = vec![0; count.min(self.0.len() * BLOCK_BYTES - at)];
        for (block, within, range) in block_ranges(at, bytes.len()) {
            if let Some(content) = &self.0[block] {
                bytes[range.clone()].copy_from_slice(&content[within..within + range.len()]);
            }
        }
        bytes
    }

    /// Writes `bytes` at offset `at`. Returns whether they fit.
    pub fn write(&mut self, at: u64, bytes: &[u8]) -> bool {
        if at + bytes.len() as u64 > self.bytes() {
            return false;
        }
        for (block, within, range) in block_ranges(usize::try_from(at).unwrap(), bytes.len()) {
            let part = &bytes[range];
            if part == ZEROES {
                self.0[block] = None;
            } else {
                let content = self.0[block].get_or_insert_with(|| Arc::new(ZEROES));
                Arc::make_mut(content)[within..within + part.len()].copy_from_slice(part);
            }
        }
        true
    }
}

/// Splits a range of the disk at block boundaries: block number, offset in the block, part of the range.
fn block_ranges(at: usize, count: usize) -> impl Iterator<Item = (usize, usize, std::ops::Range<usize>)> {
    let mut done = 0;
    std::iter::from_fn(move || {
        let (block, within) = ((at + done) / BLOCK_BYTES, (at + done) % BLOCK_BYTES);
        let length = (BLOCK_BYTES - within).min(count - done);
        let range = done..done + length;
        done += length;
        (length > 0).then_some((block, within, range))
    })
}

#[test]
fn writes_are_read_back_and_a_clone_keeps_its_content() {
    let mut disk = Blocks::of_mib(1);
    assert!(disk.write(4_000, &[7; 5_000]));
    let before = disk.clone();
    assert!(disk.write(4_096, &[0; 4_096]));
    assert!(!disk.write(disk.bytes() - 1, &[1, 2]));
    assert_eq!(before.read(3_999, 5_002), [vec![0], vec![7; 5_000], vec![0]].concat());
    assert_eq!(disk.read(4_000, 5_000), [vec![7; 96], vec![0; 4_096], vec![7; 808]].concat());
    assert_eq!(disk.read(disk.bytes() - 3, 10).len(), 3);
}
