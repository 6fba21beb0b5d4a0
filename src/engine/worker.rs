//! A worker thread: executes cells one by one and reports to the scheduler.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use super::event::Failure;
use super::execute::{Done, Fault, Order, Workshop};
use super::executor::{Executor, Sign, Usage};
use crate::pipeline::model::CellId;

/// What a worker reports to the scheduler.
pub(super) enum Message<T> {
    Waiting(CellId),
    Started(CellId, Arc<T>),
    Shows(CellId, Sign),
    Ended(CellId, Result<Done, Fault>),
}

/// Executes cells until the channel is closed.
pub(super) fn work<E: Executor>(
    workshop: &Workshop<'_, E>,
    inbox: &Mutex<mpsc::Receiver<Order>>,
    sender: &mpsc::Sender<Message<E::Ticket>>,
    stop: &AtomicBool,
) {
    // The scheduler outlives its workers and takes every message: a send cannot fail while it matters.
    let report = |message| drop(sender.send(message));
    loop {
        let order = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(order) = order else { return };
        let id = order.cell;
        // The scheduler waits for the end of every cell: a bug of the program must not keep it waiting.
        let result = catch_unwind(AssertUnwindSafe(|| {
            workshop.execute(
                &order,
                &mut || report(Message::Waiting(id)),
                &mut |ticket| report(Message::Started(id, ticket)),
                &mut |sign| report(Message::Shows(id, sign)),
                &|| stop.load(Ordering::Relaxed),
            )
        }));
        let broke = |_| Err(Fault::Failed(Failure::plain("met a bug in meanfield, reported above"), Usage::default()));
        let result = result.unwrap_or_else(broke);
        report(Message::Ended(id, result));
    }
}
