//! The worker in processes that are killed between any two steps (a write, what WeCom does for a call, the
//! receipt of an answer), and with a store that takes no writes for a while.
//!
//! Each process has a runtime of its own, which is dropped when it is killed. Writes are made by the test.

use std::pin::pin;

use futures_util::FutureExt as _;
use tokio::runtime::Runtime;

use super::super::super::scripted::Scripted;
use super::super::super::world::context;
use super::*;
use crate::clock::ManualClock;
use crate::domain::authorization::AuthorizationState;
use crate::store::embedded::engine::Memory;
use crate::store::embedded::{EmbeddedStore, ManualWriter, Settings};
use crate::store::{Appended, StoreError};

/// What outlives a process.
struct Machine {
    memory: Memory,
    clock: Arc<ManualClock>,
    wecom: Arc<Wecom>,
    nonces: Nonces,
}

struct Process<'a> {
    machine: &'a Machine,
    runtime: Runtime,
    writer: ManualWriter,
    context: Context,
    stop: CancellationToken,
}

impl Machine {
    fn new() -> Self {
        let clock = Arc::new(ManualClock::new(T0));
        Self { memory: Memory::default(), clock, wecom: Arc::default(), nonces: nonces() }
    }

    fn start(&self) -> Process<'_> {
        let runtime =
            tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        let (store, writer) = {
            let _guard = runtime.enter();
            EmbeddedStore::with_manual_writer(self.memory.clone(), Settings::default(), [7; 16]).unwrap()
        };
        let platform = Arc::new(Scripted(std::sync::Mutex::new(Script::new(0, 0))));
        let context = context(Arc::new(store), self.clock.clone(), platform, one_app());
        Process { machine: self, writer, context, stop: CancellationToken::new(), runtime }
    }
}

impl Process<'_> {
    /// Stores a message of the suite.
    fn receive(&mut self, event: SuiteEvent) {
        let (store, writer) = (self.context.store.clone(), &mut self.writer);
        let arrival = arrival(event, self.machine.clock.now());
        let appended = self.runtime.block_on(async {
            let mut append = pin!(store.append(arrival));
            loop {
                tokio::select! {
                    biased;
                    appended = &mut append => return appended.unwrap(),
                    true = writer.has_work() => writer.commit(),
                }
            }
        });
        assert!(matches!(appended, Appended::New(_)));
        self.context.wake.suites.notify_one();
    }

    fn scan(&mut self, code: &str) {
        self.machine.wecom.issue(code, &brand());
        self.receive(code_event(code, CodeKind::Create, self.machine.clock.now()));
    }

    /// Starts the worker, after what the assembly does.
    fn work(&self) {
        let (context, nonces) = (self.context.clone(), self.machine.nonces.clone());
        let platform = wecom::platform(&self.machine.wecom);
        let stop = self.stop.clone();
        self.runtime.spawn(async move {
            while load(&*context.store, &context.apps, T0).await == Err(StoreError::Stalled) {}
            run(context, platform, nonces, stop).await;
        });
    }

    /// Lets every task go on as far as it can.
    fn turn(&self) {
        self.runtime.block_on(async {
            for _ in 0..30 {
                tokio::task::yield_now().await;
            }
        });
    }

    /// Lets a second pass.
    fn second(&self) {
        self.machine.clock.advance_ms(SECOND_MS);
        self.runtime.block_on(tokio::time::advance(SECOND));
        self.turn();
    }

    /// Whether there is a write to be made.
    fn has_work(&mut self) -> bool {
        self.writer.has_work().now_or_never() == Some(true)
    }

    /// Runs for some seconds, or until the process is killed.
    fn run_for(&mut self, seconds: u32) {
        let steps = &self.machine.wecom.steps;
        for _ in 0..seconds {
            self.turn();
            while self.has_work() {
                if !steps.make() {
                    return;
                }
                self.writer.commit();
                if !steps.make() {
                    return;
                }
                self.turn();
            }
            if steps.is_over() {
                return;
            }
            self.second();
        }
    }

    fn records(&self) -> SuiteRecords {
        self.runtime.block_on(self.context.store.suite(&suite())).unwrap()
    }

    /// Whether the app is served, and its permissions are read.
    fn is_complete(&self) -> bool {
        let records = self.records();
        let [authorization] = records.authorizations.as_slice() else { return false };
        let agent = authorization.agent.as_ref();
        authorization.state() == AuthorizationState::Active
            && agent.is_some_and(|agent| agent.may_read_customers == Some(true))
            && self.context.apps.corp_of(&app()) == Some(brand())
            && self.context.apps.can_call(&app())
            && records.exchanges.iter().all(|(_, exchange)| exchange.end.is_some())
    }
}

/// A process that is killed after `steps` steps. Returns whether it got that far.
fn killed(machine: &Machine, steps: u32, loses_answer: bool) -> bool {
    let mut process = machine.start();
    process.receive(ticket_event(1, T0));
    process.scan("first");
    machine.wecom.state().loses_answer = loses_answer;
    machine.wecom.steps.set(Some(steps));
    process.work();
    process.run_for(30);
    machine.wecom.steps.is_over()
}

#[test]
fn a_process_killed_between_any_two_steps_leaves_one_authorisation_or_a_code_known_to_be_lost() {
    for loses_answer in [false, true] {
        let (mut steps, mut lost) = (0, 0);
        loop {
            let machine = Machine::new();
            let was_killed = killed(&machine, steps, loses_answer);
            machine.wecom.steps.set(None);
            let tries = machine.wecom.count("permanent_code");
            let mut process = machine.start();
            let was_granted = !process.records().authorizations.is_empty();
            process.work();
            process.run_for(30);
            if was_granted {
                assert_eq!(machine.wecom.count("permanent_code"), tries, "asked again, killed after {steps}");
            }
            if !process.is_complete() {
                lost += 1;
                let records = process.records();
                let ends: Vec<_> = records.exchanges.iter().map(|(_, exchange)| exchange.end).collect();
                assert!(
                    matches!(ends[..], [Some(ExchangeEnd::Lost { .. })]),
                    "killed after {steps}: {ends:?}"
                );
                // Of a code that is used up already, the refusal may be lost too.
                let tries = machine.wecom.count("permanent_code");
                assert!(tries == 2 || loses_answer && tries == 3, "killed after {steps}: {tries}");
                process.scan("second");
                process.run_for(30);
            }
            assert!(process.is_complete(), "killed after {steps}: {:?}", process.records());
            assert_eq!(process.records().authorizations.len(), 1);
            if !was_killed {
                break;
            }
            steps += 1;
        }
        // Before the answer was received, and before it was stored.
        assert!(steps > 10 && if loses_answer { lost > 2 } else { lost == 2 }, "{steps} {lost}");
    }
}

#[test]
fn a_permanent_code_that_the_store_does_not_take_is_kept_and_stored_later_without_another_call() {
    let machine = Machine::new();
    let mut process = machine.start();
    process.receive(ticket_event(1, T0));
    process.scan("code");
    process.work();
    // The try is recorded, the code exchanged, and from then on nothing is written.
    loop {
        process.turn();
        if machine.wecom.count("permanent_code") > 0 {
            break;
        }
        if process.has_work() {
            process.writer.commit();
        } else {
            process.second();
        }
    }
    for _ in 0..120 {
        process.second();
    }
    assert_eq!(process.records().authorizations, []);
    assert_eq!(machine.wecom.count("permanent_code"), 1);
    process.run_for(30);
    assert!(process.is_complete());
    let [authorization] = process.records().authorizations.try_into().unwrap();
    assert_eq!((authorization.codes, machine.wecom.count("permanent_code")), (1, 1));
}
