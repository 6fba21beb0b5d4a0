//! A worker thread: takes orders one by one and tells the scheduler how they go.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};

use super::event::Progress;
use super::execute::{Done, Fault, Order, Workshop};
use super::executor::Executor;
use crate::pipeline::model::CellId;

/// What a worker tells the scheduler.
pub(super) enum Message<T> {
    Waiting(CellId),
    Started(CellId, Arc<T>),
    Progress(CellId, Progress),
    Ended(CellId, Result<Done, Fault>),
}

/// Executes orders until there are none to come.
pub(super) fn work<E: Executor>(
    workshop: &Workshop<'_, E>,
    inbox: &Mutex<mpsc::Receiver<Order>>,
    sender: &mpsc::Sender<Message<E::Ticket>>,
    interrupts: &AtomicUsize,
) {
    // The scheduler outlives its workers and takes every message: a send cannot fail while anybody cares.
    let tell = |message| drop(sender.send(message));
    loop {
        let order = inbox.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(order) = order else { return };
        let id = order.cell;
        let result = workshop.execute(
            &order,
            &mut || tell(Message::Waiting(id)),
            &mut |ticket| tell(Message::Started(id, ticket)),
            &mut |progress| tell(Message::Progress(id, progress)),
            &|| interrupts.load(Ordering::Relaxed) > 0,
        );
        tell(Message::Ended(id, result));
    }
}
