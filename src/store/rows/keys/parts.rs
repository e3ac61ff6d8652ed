//! Reading keys back.

use crate::domain::ids::{AppName, ChatId, ContactKey, CorpId, ExternalUserid};
use crate::domain::time::Timestamp;
use crate::store::StoreError;

/// Reads keys back, part by part.
pub(crate) struct Parts<'a>(pub(crate) &'a [u8]);

impl<'a> Parts<'a> {
    pub(crate) fn of(key: &'a [u8]) -> Self {
        Self(key.get(1..).unwrap_or_default())
    }

    pub(crate) fn instant(&mut self) -> Result<Timestamp, StoreError> {
        Ok(Timestamp::from_millis(i64::try_from(self.number()?).map_err(|_| damaged())?))
    }

    pub(crate) fn number(&mut self) -> Result<u64, StoreError> {
        let (number, rest) = self.0.split_first_chunk::<8>().ok_or_else(damaged)?;
        self.0 = rest;
        Ok(u64::from_be_bytes(*number))
    }

    pub(crate) fn id(&mut self) -> Result<&'a str, StoreError> {
        let end = self.0.iter().position(|byte| *byte == 0).ok_or_else(damaged)?;
        let (id, rest) = self.0.split_at(end);
        self.0 = rest.get(1..).unwrap_or_default();
        std::str::from_utf8(id).map_err(|_| damaged())
    }

    pub(crate) fn app(&mut self) -> Result<AppName, StoreError> {
        AppName::new(self.id()?).map_err(|_| damaged())
    }

    /// App and corp.
    pub(crate) fn corp(&mut self) -> Result<(AppName, CorpId), StoreError> {
        let app = self.app()?;
        Ok((app, CorpId::new(self.id()?).map_err(|_| damaged())?))
    }

    pub(crate) fn chat_id(&mut self) -> Result<ChatId, StoreError> {
        ChatId::new(self.id()?).map_err(|_| damaged())
    }

    pub(crate) fn external_userid(&mut self) -> Result<ExternalUserid, StoreError> {
        ExternalUserid::new(self.id()?).map_err(|_| damaged())
    }

    pub(crate) fn contact(&mut self) -> Result<ContactKey, StoreError> {
        let external_userid = ExternalUserid::new(self.id()?).map_err(|_| damaged())?;
        let app = AppName::new(self.id()?).map_err(|_| damaged())?;
        let corp_id = CorpId::new(self.id()?).map_err(|_| damaged())?;
        Ok(ContactKey { app, corp_id, external_userid })
    }
}

pub(crate) fn damaged() -> StoreError {
    StoreError::Damaged("a key that does not parse".to_owned())
}
