//! An allocator that counts what each thread takes and holds.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

pub(crate) struct Counting;

#[derive(Clone, Copy, Default)]
struct Taken {
    calls: usize,
    bytes: usize,
    most: usize,
}

thread_local! {
    static TAKEN: Cell<Taken> = const { Cell::new(Taken { calls: 0, bytes: 0, most: 0 }) };
}

#[expect(unsafe_code, reason = "an allocator is unsafe by its nature")]
// SAFETY: every call is handed on to the system's allocator as it came; only numbers are kept beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size(), 0);
        // SAFETY: the caller keeps to the rules of this very method.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(0, layout.size());
        // SAFETY: as above.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // Both blocks exist while the bytes are moved.
        note(size, 0);
        note(0, layout.size());
        // SAFETY: as above.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

fn note(more: usize, less: usize) {
    // The counter is gone while a thread ends; what is taken then is nobody's business here.
    let _ = TAKEN.try_with(|taken| {
        let mut now = taken.get();
        now.calls += usize::from(more > 0);
        now.bytes = (now.bytes + more).saturating_sub(less);
        now.most = now.most.max(now.bytes);
        taken.set(now);
    });
}

/// Calls to the allocator, and the most bytes held at once, during a call, which may measure parts of itself.
pub(crate) fn measure<T>(call: impl FnOnce() -> T) -> (T, usize, usize) {
    let before = TAKEN.replace(Taken::default());
    let answer = call();
    let taken = TAKEN.get();
    TAKEN.set(Taken {
        calls: before.calls + taken.calls,
        bytes: before.bytes + taken.bytes,
        most: before.most.max(before.bytes + taken.most),
    });
    (answer, taken.calls, taken.most)
}
