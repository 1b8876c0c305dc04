//! Work that may wait, as the engine has it on threads: a thread of its own, which runs only while its task is polled and stands still while
//! it waits. So one thread runs at a time, and the seed says which.

use futures::future::BoxFuture;
use holdfast::env::Wait;
use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::pin::Pin;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::task::{Context, Poll, Waker};
use std::thread::JoinHandle;

thread_local! {
    static HERE: RefCell<Option<Here>> = const { RefCell::new(None) };
}

/// What a strand's thread knows.
struct Here {
    turns: Receiver<Waker>,
    told: Sender<Told>,
    waker: Waker,
}

enum Told {
    Waits,
    Ended,
    Panicked(String),
}

/// Its node was killed: the thread unwinds, and nothing that it still does counts.
struct Killed;

/// Work on a thread of its own; as a future, why it panicked, if it did.
pub struct Strand {
    work: Option<Box<dyn FnOnce() + Send>>,
    running: Option<Running>,
}

struct Running {
    turns: Sender<Waker>,
    told: Receiver<Told>,
    thread: JoinHandle<()>,
}

impl Strand {
    pub fn new(work: Box<dyn FnOnce() + Send>) -> Self {
        Self { work: Some(work), running: None }
    }
}

impl Future for Strand {
    type Output = Option<String>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(work) = self.work.take() {
            self.running = Some(start(work));
        }
        let Some(running) = &self.running else { return Poll::Ready(None) };
        let told = running.turns.send(context.waker().clone()).map_or(Told::Ended, |()| running.told.recv().unwrap_or(Told::Ended));
        let panicked = match told {
            Told::Waits => return Poll::Pending,
            Told::Ended => None,
            Told::Panicked(why) => Some(why),
        };
        if let Some(running) = self.running.take() {
            let _ = running.thread.join();
        }
        Poll::Ready(panicked)
    }
}

impl Drop for Strand {
    fn drop(&mut self) {
        if let Some(Running { turns, told, thread }) = self.running.take() {
            drop(turns);
            while told.recv().is_ok() {}
            let _ = thread.join();
        }
    }
}

fn start(work: Box<dyn FnOnce() + Send>) -> Running {
    let (turns, get_turns) = channel();
    let (tell, told) = channel();
    let body = move || {
        let Ok(waker) = get_turns.recv() else { return };
        HERE.with(|here| *here.borrow_mut() = Some(Here { turns: get_turns, told: tell.clone(), waker }));
        let ended = catch_unwind(AssertUnwindSafe(work));
        HERE.with(|here| here.borrow_mut().take());
        let _ = tell.send(match ended {
            Ok(()) => Told::Ended,
            Err(payload) if payload.is::<Killed>() => Told::Ended,
            Err(payload) => Told::Panicked(format!("panicked: {}", said(&*payload))),
        });
    };
    let thread = std::thread::Builder::new().stack_size(2 << 20).spawn(body).expect("a thread for a strand");
    Running { turns, told, thread }
}

fn said(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_default()
}

/// Lets a strand wait.
pub struct OnStrand;

impl Wait for OnStrand {
    fn wait(&self, mut future: BoxFuture<'_, ()>) {
        loop {
            let waker = HERE.with(|here| here.borrow().as_ref().map(|here| here.waker.clone())).expect("only a strand waits");
            if future.as_mut().poll(&mut Context::from_waker(&waker)).is_ready() {
                return;
            }
            HERE.with(|here| {
                let mut here = here.borrow_mut();
                let here = here.as_mut().expect("only a strand waits");
                let turn = here.told.send(Told::Waits).ok().and_then(|()| here.turns.recv().ok());
                match turn {
                    Some(waker) => here.waker = waker,
                    None => resume_unwind(Box::new(Killed)),
                }
            });
        }
    }
}
