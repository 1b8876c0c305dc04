//! Tasks, work that may wait for the disk, and threads that wait for what tasks do. In the real world tokio runs them; a simulated one
//! decides itself who runs, one at a time.

use futures::FutureExt;
use futures::future::BoxFuture;
use std::fmt;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};
use thiserror::Error;
use tokio::runtime::Handle;
use tokio::sync::oneshot;

/// Ends a task at its next `await`.
pub type Abort = Box<dyn Fn() + Send + Sync>;

/// Runs what is started.
pub trait Tasks: Send + Sync {
    /// Starts a task.
    fn spawn(&self, task: BoxFuture<'static, ()>) -> Abort;
    /// Starts work on a thread where it may wait for the disk.
    fn block(&self, work: Box<dyn FnOnce() + Send>);
    /// For threads that are to wait for what tasks do. Called where tasks can be started.
    fn waiter(&self) -> Arc<dyn Wait>;
}

/// Lets a thread, never one that runs tasks, wait.
pub trait Wait: Send + Sync {
    /// Returns when the future has ended.
    fn wait(&self, future: BoxFuture<'_, ()>);
}

/// A task or work that was started; as a future, what it gives. Dropped, it goes on.
pub struct Task<T> {
    result: oneshot::Receiver<T>,
    abort: Abort,
}

/// A task or work ended without a result.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("it was given up, or it panicked")]
pub struct NotEnded;

impl<T: Send + 'static> Task<T> {
    pub(super) fn spawn(tasks: &dyn Tasks, future: impl Future<Output = T> + Send + 'static) -> Self {
        let (send, result) = oneshot::channel();
        // Nobody may be waiting for it any more.
        let task = async move { drop(send.send(future.await)) };
        Self { result, abort: tasks.spawn(task.boxed()) }
    }

    pub(super) fn block(tasks: &dyn Tasks, work: impl FnOnce() -> T + Send + 'static) -> Self {
        let (send, result) = oneshot::channel();
        tasks.block(Box::new(move || drop(send.send(work()))));
        Self { result, abort: Box::new(|| {}) }
    }
}

impl<T> Task<T> {
    /// Ends a task at its next `await`; work goes on to its end.
    pub fn abort(&self) {
        (self.abort)();
    }
}

impl<T> Future for Task<T> {
    type Output = Result<T, NotEnded>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        Pin::new(&mut self.result).poll(context).map_err(|_| NotEnded)
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Task")
    }
}

/// See [`Tasks::waiter`]. Cheap to clone.
#[derive(Clone)]
pub struct Waiter(pub(super) Arc<dyn Wait>);

impl Waiter {
    /// Waits for a future on this thread.
    pub fn wait<F: Future + Send>(&self, future: F) -> F::Output
    where
        F::Output: Send,
    {
        let mut future = pin!(future);
        let mut output = None;
        loop {
            self.0.wait(async { output = Some(future.as_mut().await) }.boxed());
            if let Some(output) = output {
                return output;
            }
        }
    }
}

impl fmt::Debug for Waiter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Waiter")
    }
}

/// Tokio's.
pub(super) struct Tokio;

impl Tasks for Tokio {
    fn spawn(&self, task: BoxFuture<'static, ()>) -> Abort {
        let handle = tokio::spawn(task).abort_handle();
        Box::new(move || handle.abort())
    }

    fn block(&self, work: Box<dyn FnOnce() + Send>) {
        drop(tokio::task::spawn_blocking(work));
    }

    fn waiter(&self) -> Arc<dyn Wait> {
        Arc::new(OnTokio(Handle::current()))
    }
}

struct OnTokio(Handle);

impl Wait for OnTokio {
    fn wait(&self, future: BoxFuture<'_, ()>) {
        self.0.block_on(future);
    }
}
