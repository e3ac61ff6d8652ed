//! Opening a store in a database that is ready: its first commit is made, and what writes and follows is started.

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex};

use tokio::sync::{Semaphore, mpsc};

use super::backend::Shared;
use super::database::{AskedFirst, Begun, Database, NewCommit, Session, Trouble};
use super::following;
use super::known::Known;
use super::leases::{Leases, Telling};
use super::state::{State, lock};
use super::writer::Writer;
use crate::clock::Clock;
use crate::store::business::audit;
use crate::store::row_store::{Backend as _, Limits, RowStore};
use crate::store::rows::keys;
use crate::store::rows::records::{decode, encode};
use crate::store::rows::source::Batch;
use crate::store::rows::txn::Meta;
use crate::store::rows::view::Damaged;
use crate::store::rows::work_queue::WorkQueues;
use crate::store::{Counts, StoreError};

/// Transactions that wait for the writer.
const WAITING_MAX: usize = 4_096;

/// What a store is opened with.
pub(in crate::store) struct Opening {
    pub(in crate::store) database: Arc<dyn Database>,
    /// Reads at a time, each of which has a connection.
    pub(in crate::store) reads: usize,
    pub(in crate::store) limits: Limits,
    /// The clock of this machine.
    pub(in crate::store) machine: Arc<dyn Clock>,
    /// The id of a store that is new.
    pub(in crate::store) store_id: [u8; 16],
}

/// Why a store was not opened.
pub(in crate::store) enum NotOpened {
    Database(Trouble),
    /// The counters of the store cannot be read.
    Content(StoreError),
}

impl From<Trouble> for NotOpened {
    fn from(trouble: Trouble) -> Self {
        Self::Database(trouble)
    }
}

impl RowStore<Shared> {
    /// Opens a store.
    pub(in crate::store) async fn open_in(
        opening: Opening,
        leases: impl FnOnce(Arc<State>, Telling) -> Box<dyn Leases>,
    ) -> Result<Self, NotOpened> {
        let Opening { database, reads, limits, machine, store_id } = opening;
        let connection = database.open().await?;
        let (seq, meta) = first_commit(&*connection, store_id).await?;
        let meta: Meta = decode(&keys::meta(), &meta).map_err(NotOpened::Content)?;
        if !connection.rows([keys::moving()].into_iter(), BTreeSet::new()).await?.is_empty() {
            return Err(NotOpened::Content(StoreError::Damaged(keys::UNFINISHED_MOVE.to_owned())));
        }
        let queues = Arc::new(WorkQueues::default());
        let state = Arc::new(State::new(meta.store_id, queues.clone(), machine));
        state.set_counts(meta.counts);
        *lock(&state.followed) = seq;
        let (jobs, inbox) = mpsc::channel(WAITING_MAX);
        let leases = leases(state.clone(), Telling { state: state.clone(), jobs: jobs.downgrade() });
        leases.read_clock().await.map_err(|error| match error {
            StoreError::Unavailable(reason) => NotOpened::Database(Trouble { reason, is_refusal: false }),
            error => NotOpened::Content(error),
        })?;
        let writer =
            Writer { database: database.clone(), state: state.clone(), connection: Some(connection), meta };
        let writing = tokio::spawn(watched("the writer", writer.serve(inbox), state.clone()));
        let follow = following::follow(database.clone(), state.clone());
        let notify = following::notify(database.clone(), state.clone());
        let following = vec![
            tokio::spawn(watched("what follows other replicas", follow, state.clone())).abort_handle(),
            tokio::spawn(notify).abort_handle(),
        ];
        let backend = Shared {
            database,
            state,
            jobs: Mutex::new(Some(jobs)),
            writing: tokio::sync::Mutex::new(Some(writing)),
            reading: Mutex::default(),
            reads: Semaphore::new(reads),
            damaged: Damaged::default(),
            leases,
            following: Mutex::new(following),
        };
        Ok(Self::new(backend, limits, queues))
    }
}

impl RowStore<Shared> {
    /// The disagreements in this store, as text; empty if there are none.
    ///
    /// # Errors
    /// When it cannot be read.
    pub async fn audit(&self) -> Result<Vec<String>, StoreError> {
        let counts = self.backend().counts();
        self.backend().read(|view| audit::complaints(view, counts)).await
    }
}

/// Runs a task; if it panics, the store has failed, so that another replica takes over.
async fn watched(name: &'static str, task: impl Future<Output = ()> + Send + 'static, state: Arc<State>) {
    // Aborted with this.
    let task = tokio_util::task::AbortOnDropHandle::new(tokio::spawn(task));
    if task.await.is_err_and(|error| error.is_panic()) {
        state.failure.send_replace(Some(format!("{name} panicked")));
    }
}

/// The number of the newest commit and the counters after it, encoded; makes the first commit of a new store.
async fn first_commit(connection: &dyn Session, store_id: [u8; 16]) -> Result<(i64, Vec<u8>), Trouble> {
    let nothing = Known::nothing([0; 16]);
    if let Begun { head: Some(head), .. } =
        connection.begin_commit(AskedFirst::default(), nothing.take_wanted()).await?
    {
        connection.roll_back().await?;
        return Ok(head);
    }
    let meta = Meta { store_id, counts: Counts::default(), sheets: 0, forgotten_at: None };
    let encoded = encode(&keys::meta(), &meta).unwrap_or_default();
    let first = NewCommit { seq: 1, id: rand::random(), meta: &encoded, told: None };
    connection.commit(first, &Batch::new(), &nothing).await?;
    Ok((1, encoded))
}
