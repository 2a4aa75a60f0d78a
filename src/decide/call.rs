//! What belongs to one evaluation on one thread: the role graphs, the subject's roles, and what went wrong or decided.
//!
//! casbin's functions are plain function pointers without a context, so the context lies in a thread-local for the
//! length of one synchronous call. `snapshot` enters it, `functions` and `effect` use it.

use std::cell::{Cell, RefCell};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Once};

use super::roles::{Closure, RoleGraphs};

/// The context of one evaluation.
#[derive(Default)]
pub struct Context {
    /// The files' role graphs.
    pub graphs: Arc<RoleGraphs>,
    /// The subject's name and roles.
    pub subject: Arc<Closure>,
    /// What went wrong in a function: the evaluation's answer is then not used.
    pub failure: Option<String>,
    /// The index of the deciding row, from the effect.
    pub deciding: Option<usize>,
    /// For `explain`: which rows' matcher was true; `None` when not collected.
    pub matched: Option<Vec<bool>>,
}

thread_local! {
    static CAUGHT: Cell<bool> = const { Cell::new(false) };
    static CONTEXT: RefCell<Option<Context>> = const { RefCell::new(None) };
}

/// Removes the context also when the evaluation panics.
struct Guard;

impl Drop for Guard {
    fn drop(&mut self) {
        CONTEXT.with(|cell| {
            if let Ok(mut cell) = cell.try_borrow_mut() {
                *cell = None;
            }
        });
    }
}

/// Runs `work` with `context` and gives it back with what was noted.
pub fn enter<T>(context: Context, work: impl FnOnce() -> T) -> (T, Context) {
    let guard = Guard;
    CONTEXT.with(|cell| *cell.borrow_mut() = Some(context));
    let result = work();
    let context = CONTEXT.with(|cell| cell.borrow_mut().take()).unwrap_or_default();
    drop(guard);
    (result, context)
}

/// Runs `work`; what a panic said, when it panicked (an interpreter without limits does, on `1 / 0`). Such a panic is an
/// answer to one request and prints nothing: the process's hook is passed by for this thread and time alone.
pub fn caught<T>(work: impl FnOnce() -> T) -> Result<T, String> {
    static HOOK: Once = Once::new();
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !CAUGHT.with(Cell::get) {
                before(info);
            }
        }));
    });
    let outer = CAUGHT.replace(true);
    let result = catch_unwind(AssertUnwindSafe(work));
    CAUGHT.set(outer);
    result.map_err(|said| {
        let text = said.downcast_ref::<&str>().map(|text| (*text).to_owned());
        text.or_else(|| said.downcast_ref::<String>().cloned()).unwrap_or_default()
    })
}

/// Uses the context, when there is one.
pub fn with<T>(work: impl FnOnce(&mut Context) -> T) -> Option<T> {
    CONTEXT.with(|cell| cell.try_borrow_mut().ok().and_then(|mut context| context.as_mut().map(work)))
}

/// Notes a failure: the request is denied with it.
pub fn fail(message: impl Into<String>) {
    let message = message.into();
    with(|context| {
        context.failure.get_or_insert(message);
    });
}
