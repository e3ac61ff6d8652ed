//! The journal's rows and the database's, key by key.

use std::io;
use std::iter::Peekable;

use super::super::engine::{EngineError, Write};
use super::JournalError;

/// A key, what the journal says of it, and what the database says.
pub(super) type Row = (Vec<u8>, Option<Vec<u8>>, Option<Vec<u8>>);

/// Two sources in the order of their keys as one. The first error ends it.
pub(super) struct SideBySide<A: Iterator, B: Iterator> {
    ours: Peekable<A>,
    theirs: Peekable<B>,
}

impl<A, B> SideBySide<A, B>
where
    A: Iterator<Item = io::Result<Write>>,
    B: Iterator<Item = Result<(Vec<u8>, Vec<u8>), EngineError>>,
{
    pub(super) fn of(ours: A, theirs: B) -> Self {
        Self { ours: ours.peekable(), theirs: theirs.peekable() }
    }

    fn row(&mut self) -> Result<Option<Row>, JournalError> {
        if let Some(Err(error)) = self.ours.next_if(Result::is_err) {
            return Err(error.into());
        }
        if let Some(Err(error)) = self.theirs.next_if(Result::is_err) {
            return Err(error.into());
        }
        let next = (self.ours.peek(), self.theirs.peek());
        let key = match next {
            (Some(Ok((ours, _))), Some(Ok((theirs, _)))) => ours.min(theirs),
            (Some(Ok((key, _))), _) | (_, Some(Ok((key, _)))) => key,
            _ => return Ok(None),
        };
        let key = key.clone();
        let ours = self.ours.next_if(|row| row.as_ref().is_ok_and(|(k, _)| *k == key)).transpose()?;
        let theirs = self.theirs.next_if(|row| row.as_ref().is_ok_and(|(k, _)| *k == key)).transpose()?;
        Ok(Some((key, ours.and_then(|(_, value)| value), theirs.map(|(_, value)| value))))
    }
}

impl<A, B> Iterator for SideBySide<A, B>
where
    A: Iterator<Item = io::Result<Write>>,
    B: Iterator<Item = Result<(Vec<u8>, Vec<u8>), EngineError>>,
{
    type Item = Result<Row, JournalError>;

    fn next(&mut self) -> Option<Self::Item> {
        self.row().transpose()
    }
}
