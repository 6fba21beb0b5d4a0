//! A worker thread: takes orders one by one and tells the scheduler how they go.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use super::event::Failure;
use super::execute::{Done, Fault, Order, Workshop};
use super::executor::{Executor, Sign, Usage};
use crate::pipeline::model::CellId;

/// What a worker tells the scheduler.
pub(super) enum Message<T> {
    Waiting(CellId),
    Started(CellId, Arc<T>),
    Shows(CellId, Sign),
    Ended(CellId, Result<Done, Fault>),
}

/// Executes orders until there are none to come.
pub(super) fn work<E: Executor>(
    workshop: &Workshop<'_, E>,
    inbox: &Mutex<mpsc::Receiver<Order>>,
    sender: &mpsc::Sender<Message<E::Ticket>>,
    stop: &AtomicBool,
) {
    // The scheduler outlives its workers and takes every message: a send cannot fail while anybody cares.
    let tell = |message| drop(sender.send(message));
    loop {
        let order = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(order) = order else { return };
        let id = order.cell;
        // The scheduler waits for the end of every order: a fault of the program itself must not keep it waiting.
        let result = catch_unwind(AssertUnwindSafe(|| {
            workshop.execute(
                &order,
                &mut || tell(Message::Waiting(id)),
                &mut |ticket| tell(Message::Started(id, ticket)),
                &mut |sign| tell(Message::Shows(id, sign)),
                &|| stop.load(Ordering::Relaxed),
            )
        }));
        let broke = |_| Err(Fault::Failed(Failure::plain("met a bug in meanfield, told above"), Usage::default()));
        let result = result.unwrap_or_else(broke);
        tell(Message::Ended(id, result));
    }
}
