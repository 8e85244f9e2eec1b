//! What the libraries below the static program can do in theory and never do in it. Their own functions of these names bring
//! 440 KiB with them: scanf for every kind of number, message catalogues, the loader, wide characters, the unwinder and all
//! that reads debugging information, and each comparison of strings in six variants for as many processors. What is here
//! answers as they would.
//!
//! To be read again with another glibc than 2.36: `ld.lld --why-extract` tells who asks for what.

#![expect(unsafe_code, reason = "they take the place of functions of the C library")]

use std::ffi::{c_char, c_int, c_void};
use std::ptr::{null, null_mut};

// SAFETY, of all whose comments say nothing else: each has the parameters and the result of the function whose name it has,
// touches no memory, and gives an answer that each caller has to expect. No other function of that name is linked.

/// Finds nothing. glibc itself is the only caller: for the offset of a `TZ` (times are in UTC here), and for the stack of
/// the first thread in `/proc/self/maps`. std asks for that to say "stack overflow" before such a thread ends the
/// process; the page below the stack ends it without these words. More arguments than these are passed and ignored, as
/// the calling conventions of Linux allow.
#[unsafe(no_mangle)]
extern "C" fn __isoc99_sscanf(_text: *const c_char, _format: *const c_char) -> c_int {
    0
}

/// The message itself: there is no locale but C, for nobody calls setlocale(3).
#[unsafe(no_mangle)]
extern "C" fn __dcgettext(_domain: *const c_char, message: *const c_char, _category: c_int) -> *mut c_char {
    message.cast_mut()
}

/// The same.
#[unsafe(no_mangle)]
extern "C" fn dcgettext(_domain: *const c_char, message: *const c_char, _category: c_int) -> *mut c_char {
    message.cast_mut()
}

/// No symbol: a static program has no table of them. std asks for those that older C libraries lack.
#[unsafe(no_mangle)]
extern "C" fn dlsym(_library: *mut c_void, _name: *const c_char) -> *mut c_void {
    null_mut()
}

/// No library: one of the device is made for the C library of the device. glibc asks for modules of `nsswitch.conf`
/// besides those that are built in, for character sets, and for names that are not ASCII.
#[unsafe(no_mangle)]
extern "C" fn __libc_dlopen_mode(_name: *const c_char, _mode: c_int) -> *mut c_void {
    null_mut()
}

/// No symbol of no library.
#[unsafe(no_mangle)]
extern "C" fn __libc_dlsym(_library: *mut c_void, _name: *const c_char) -> *mut c_void {
    null_mut()
}

/// The same, of a version.
#[unsafe(no_mangle)]
extern "C" fn __libc_dlvsym(_library: *mut c_void, _name: *const c_char, _version: *const c_char) -> *mut c_void {
    null_mut()
}

/// Nothing was opened.
#[unsafe(no_mangle)]
extern "C" fn __libc_dlclose(_library: *mut c_void) -> c_int {
    0
}

/// Says what does not hold within glibc, and ends the process. Its own can also write to a stream of wide characters.
#[unsafe(no_mangle)]
extern "C" fn __assert_fail(
    assertion: *const c_char,
    _file: *const c_char,
    _line: std::ffi::c_uint,
    _function: *const c_char,
) -> ! {
    // SAFETY: the macro assert(3) gives a constant text; write(2) only reads it.
    unsafe {
        libc::write(libc::STDERR_FILENO, assertion.cast(), libc::strlen(assertion));
    }
    std::process::abort()
}

/// Says nothing on a stream, be it of bytes or of wide characters: glibc would complain of its own files there, like
/// `/etc/host.conf`. More arguments than these are passed and ignored.
#[unsafe(no_mangle)]
extern "C" fn __fxprintf(_stream: *mut c_void, _format: *const c_char) -> c_int {
    0
}

/// The same.
#[unsafe(no_mangle)]
extern "C" fn __fxprintf_nocancel(_stream: *mut c_void, _format: *const c_char) -> c_int {
    0
}

/// The same.
#[unsafe(no_mangle)]
extern "C" fn __vfxprintf(
    _stream: *mut c_void,
    _format: *const c_char,
    _arguments: *mut c_void,
    _mode: std::ffi::c_uint,
) -> c_int {
    0
}

/// No name that is not ASCII becomes one here: whoever calls getaddrinfo(3) has asked with such a one only, and without
/// `AI_IDN`.
#[unsafe(no_mangle)]
extern "C" fn __idna_to_dns_encoding(_name: *const c_char, _result: *mut *mut c_char) -> c_int {
    libc::EAI_NONAME
}

/// Nor the other way, for which `AI_CANONIDN` would ask.
#[unsafe(no_mangle)]
extern "C" fn __idna_from_dns_encoding(_name: *const c_char, _result: *mut *mut c_char) -> c_int {
    libc::EAI_NONAME
}

// ---- unwinding ----
//
// The tables that it reads are not in the program, so that nothing could be found. A panic aborts.

/// `_URC_END_OF_STACK` of the Itanium C++ ABI, "Exception Handling", 1.3.1.
const END_OF_STACK: c_int = 5;
/// `_UA_CLEANUP_PHASE`, `_UA_FORCE_UNWIND` and `_UA_END_OF_STACK`, the same, 1.5.1 and 1.3.2.
const LAST_CALL: c_int = 2 | 8 | 16;

/// No frame: a backtrace is empty.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Backtrace(_each: *const c_void, _argument: *mut c_void) -> c_int {
    END_OF_STACK
}

/// No frame, and so there is no place in it.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_GetIP(_context: *mut c_void) -> usize {
    0
}

/// The same.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_GetIPInfo(_context: *mut c_void, _is_before: *mut c_int) -> usize {
    0
}

/// The same.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_GetCFA(_context: *mut c_void) -> usize {
    0
}

/// The same.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_GetRegionStart(_context: *mut c_void) -> usize {
    0
}

/// The same.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_GetTextRelBase(_context: *mut c_void) -> usize {
    0
}

/// The same.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_GetDataRelBase(_context: *mut c_void) -> usize {
    0
}

/// No table that says what to do with a frame.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_GetLanguageSpecificData(_context: *mut c_void) -> *mut c_void {
    null_mut()
}

/// There is no frame that it could change.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_SetGR(_context: *mut c_void, _register: c_int, _value: usize) {}

/// The same.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_SetIP(_context: *mut c_void, _value: usize) {}

/// No function around any place.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_FindEnclosingFunction(_place: *mut c_void) -> *mut c_void {
    null_mut()
}

/// What pthread_exit(3) and a canceled thread come to: there is no frame to clean up, and `stop`, which glibc gives, ends the
/// thread.
#[unsafe(no_mangle)]
unsafe extern "C" fn _Unwind_ForcedUnwind(
    exception: *mut c_void,
    stop: unsafe extern "C" fn(c_int, c_int, u64, *mut c_void, *mut c_void, *mut c_void) -> c_int,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: as the ABI has it, `stop` is called with what it was given, and on the last call asks for nothing of a frame.
    unsafe { stop(1, LAST_CALL, 0, exception, null_mut(), argument) }
}

/// Nobody throws.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_RaiseException(_exception: *mut c_void) -> c_int {
    END_OF_STACK
}

/// Nobody comes to a frame that would go on to throw.
#[unsafe(no_mangle)]
extern "C" fn _Unwind_Resume(_exception: *mut c_void) -> ! {
    std::process::abort()
}

/// No frame asks whether it is to be cleaned up.
#[unsafe(no_mangle)]
extern "C" fn __gcc_personality_v0() -> c_int {
    END_OF_STACK
}

// ---- strings ----
//
// SAFETY, of all of these: as with the functions whose names they have, the caller gives strings that end with a NUL (but
// for the first `most` bytes where there is such a parameter), and room for what is written. They are read and written up
// to there and no further. Locales are all C. FTP and the files of the resolver ask them for some bytes at a time.

/// The difference between the first bytes that differ; 0 where there are none among the first `most` or before the end.
unsafe fn difference(left: *const c_char, right: *const c_char, most: usize, form: impl Fn(u8) -> u8) -> c_int {
    for at in 0..most {
        // SAFETY: no earlier byte was the end of either.
        let (left, right) = unsafe { (left.add(at).cast::<u8>().read(), right.add(at).cast::<u8>().read()) };
        if form(left) != form(right) || left == 0 {
            return c_int::from(form(left)) - c_int::from(form(right));
        }
    }
    0
}

fn lower(byte: u8) -> u8 {
    byte.to_ascii_lowercase()
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strncmp(left: *const c_char, right: *const c_char, most: usize) -> c_int {
    unsafe { difference(left, right, most, |byte| byte) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strcasecmp(left: *const c_char, right: *const c_char) -> c_int {
    unsafe { difference(left, right, usize::MAX, lower) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __strcasecmp(left: *const c_char, right: *const c_char) -> c_int {
    unsafe { difference(left, right, usize::MAX, lower) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strcasecmp_l(left: *const c_char, right: *const c_char, _locale: *mut c_void) -> c_int {
    unsafe { difference(left, right, usize::MAX, lower) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __strcasecmp_l(left: *const c_char, right: *const c_char, _locale: *mut c_void) -> c_int {
    unsafe { difference(left, right, usize::MAX, lower) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strncasecmp(left: *const c_char, right: *const c_char, most: usize) -> c_int {
    unsafe { difference(left, right, most, lower) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __strncasecmp(left: *const c_char, right: *const c_char, most: usize) -> c_int {
    unsafe { difference(left, right, most, lower) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strncasecmp_l(
    left: *const c_char,
    right: *const c_char,
    most: usize,
    _locale: *mut c_void,
) -> c_int {
    unsafe { difference(left, right, most, lower) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __strncasecmp_l(
    left: *const c_char,
    right: *const c_char,
    most: usize,
    _locale: *mut c_void,
) -> c_int {
    unsafe { difference(left, right, most, lower) }
}

/// Copies a string with its end; gives the place of that end.
unsafe fn copied(to: *mut c_char, from: *const c_char) -> *mut c_char {
    for at in 0.. {
        // SAFETY: no earlier byte was the end.
        let end = unsafe {
            let byte = from.add(at).read();
            to.add(at).write(byte);
            (byte == 0).then(|| to.add(at))
        };
        if let Some(end) = end {
            return end;
        }
    }
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn strcpy(to: *mut c_char, from: *const c_char) -> *mut c_char {
    unsafe { copied(to, from) };
    to
}

#[unsafe(no_mangle)]
unsafe extern "C" fn stpcpy(to: *mut c_char, from: *const c_char) -> *mut c_char {
    unsafe { copied(to, from) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn __stpcpy(to: *mut c_char, from: *const c_char) -> *mut c_char {
    unsafe { copied(to, from) }
}

/// What is shorter is filled up with zeros.
#[unsafe(no_mangle)]
unsafe extern "C" fn strncpy(to: *mut c_char, from: *const c_char, most: usize) -> *mut c_char {
    let mut is_over = false;
    for at in 0..most {
        // SAFETY: no earlier byte of `from` was the end, else it is not read.
        unsafe {
            let byte = if is_over { 0 } else { from.add(at).read() };
            is_over = byte == 0;
            to.add(at).write(byte);
        }
    }
    to
}

/// The first place of `wanted` in a text.
#[unsafe(no_mangle)]
unsafe extern "C" fn strstr(text: *const c_char, wanted: *const c_char) -> *mut c_char {
    unsafe {
        let wanted_bytes = libc::strlen(wanted);
        let mut at = text;
        loop {
            if difference(at, wanted, wanted_bytes, |byte| byte) == 0 {
                return at.cast_mut();
            }
            if at.read() == 0 {
                return null::<c_char>().cast_mut();
            }
            at = at.add(1);
        }
    }
}
