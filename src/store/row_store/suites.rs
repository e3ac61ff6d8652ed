//! [`Suites`] over rows.
//!
//! Deliberately absent: the transactions and the reads (see `suites`, `exchanges` and `authorizations`).

use std::collections::BTreeMap;

use async_trait::async_trait;

use super::{Backend, RowStore};
use crate::domain::authorization::{Agent, Authorization, Granted};
use crate::domain::ids::{AppName, CorpId};
use crate::domain::suite::{CodeId, Exchange, ExchangeEnd, ExchangeFailure, ExchangeNext};
use crate::domain::time::Timestamp;
use crate::store::business::{authorizations, exchanges, suites};
use crate::store::rows::keys;
use crate::store::rows::txn::Txn;
use crate::store::{Resealed, StoreError, SuiteRecords, Suites};

#[async_trait]
impl<B: Backend> Suites for RowStore<B> {
    async fn suite(&self, suite: &AppName) -> Result<SuiteRecords, StoreError> {
        self.backend.read(|view| suites::records(view, suite)).await
    }

    async fn bindings(&self) -> Result<BTreeMap<AppName, CorpId>, StoreError> {
        self.backend.read(suites::bindings).await
    }

    async fn bind(&self, app: &AppName, corp_id: &CorpId) -> Result<CorpId, StoreError> {
        let (app, corp_id) = (app.clone(), corp_id.clone());
        self.backend.run(move |txn| suites::bind(txn, &app, corp_id)).await
    }

    async fn begin_exchange(
        &self,
        suite: &AppName,
        id: &CodeId,
        can_ask: bool,
        now: Timestamp,
    ) -> Result<Option<(Exchange, ExchangeNext)>, StoreError> {
        let key = keys::exchange(suite, id);
        self.backend.run(move |txn| exchanges::begin(txn, key, can_ask, now)).await
    }

    async fn fail_exchange(
        &self,
        suite: &AppName,
        id: &CodeId,
        failure: ExchangeFailure,
        jitter: f64,
        now: Timestamp,
    ) -> Result<Option<ExchangeNext>, StoreError> {
        let key = keys::exchange(suite, id);
        self.backend.run(move |txn| exchanges::fail(txn, key, failure, jitter, now)).await
    }

    async fn end_exchange(&self, suite: &AppName, id: &CodeId, end: ExchangeEnd) -> Result<(), StoreError> {
        let key = keys::exchange(suite, id);
        self.backend.run(move |txn| exchanges::end(txn, key, end)).await
    }

    async fn drop_ended_exchanges(&self, suite: &AppName, before: Timestamp) -> Result<u64, StoreError> {
        // An end is final, so none of these can go on meanwhile.
        let ended = self.backend.read(|view| exchanges::ended_before(view, suite, before)).await?;
        let deleted = ended.len() as u64;
        let delete = move |txn: &mut Txn<'_>, part: Vec<_>| {
            for key in part {
                txn.delete(key);
            }
            Ok(())
        };
        self.in_parts(ended, delete).await?;
        Ok(deleted)
    }

    async fn grant(
        &self,
        suite: &AppName,
        id: &CodeId,
        granted: Granted,
        now: Timestamp,
    ) -> Result<Authorization, StoreError> {
        let (suite, id) = (suite.clone(), *id);
        self.backend.run(move |txn| authorizations::grant(txn, &suite, &id, granted, now)).await
    }

    async fn put_agent(
        &self,
        suite: &AppName,
        read: &Authorization,
        name: String,
        agent: Agent,
    ) -> Result<bool, StoreError> {
        let (suite, corp_id) = (suite.clone(), read.corp_id.clone());
        let (codes, changes) = (read.codes, read.changes);
        let change = move |known: &mut Authorization| known.read(codes, changes, name, agent);
        self.backend.run(move |txn| authorizations::change(txn, &suite, &corp_id, change)).await
    }

    async fn put_cancelled(
        &self,
        suite: &AppName,
        read: &Authorization,
        now: Timestamp,
    ) -> Result<bool, StoreError> {
        let (suite, corp_id, codes) = (suite.clone(), read.corp_id.clone(), read.codes);
        let change = move |known: &mut Authorization| known.refused(codes, now);
        self.backend.run(move |txn| authorizations::change(txn, &suite, &corp_id, change)).await
    }

    async fn reseal(&self, suite: &AppName, fresh: Vec<Resealed>) -> Result<u64, StoreError> {
        let suite = suite.clone();
        let replaced = self.in_parts(fresh, move |txn, part| suites::reseal_all(txn, &suite, part)).await?;
        Ok(replaced.into_iter().sum())
    }
}
