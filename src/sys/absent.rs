//! What the libraries below the static program can do in theory and never do in it. Their own functions of these names bring
//! 610 KB with them: scanf for every kind of number and printf for floating-point ones, message catalogues, time zones,
//! the loader, wide characters and what converts them, the unwinder and all that reads debugging information, and each
//! comparison of strings in six variants for as many processors. What is here answers as they would.
//!
//! To be read again with another glibc than 2.36: `ld.lld --why-extract` tells who asks for what.

#![expect(unsafe_code, reason = "they take the place of functions of the C library")]
#![cfg_attr(
    test,
    expect(
        dead_code,
        non_snake_case,
        non_upper_case_globals,
        reason = "they have their names in the static program only"
    )
)]

use std::ffi::{c_char, c_int, c_void};
use std::ptr::null_mut;
use std::sync::atomic::{AtomicI32, AtomicUsize};

// SAFETY, of all whose comments say nothing else: each has the parameters and the result of the function whose name it has,
// touches no memory, and gives an answer that each caller has to expect. No other function of that name is linked.

/// Finds nothing. glibc itself is the only caller: for the offset of a `TZ` (times are in UTC here), and for the stack of
/// the first thread in `/proc/self/maps`. std asks for that to say "stack overflow" before such a thread ends the
/// process; the page below the stack ends it without these words. More arguments than these are passed and ignored, as
/// the calling conventions of Linux allow.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __isoc99_sscanf(_text: *const c_char, _format: *const c_char) -> c_int {
    0
}

/// The message itself: there is no locale but C, for nobody calls setlocale(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __dcgettext(_domain: *const c_char, message: *const c_char, _category: c_int) -> *mut c_char {
    message.cast_mut()
}

/// The same.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn dcgettext(_domain: *const c_char, message: *const c_char, _category: c_int) -> *mut c_char {
    message.cast_mut()
}

/// No symbol: a static program has no table of them. std asks for those that older C libraries lack.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn dlsym(_library: *mut c_void, _name: *const c_char) -> *mut c_void {
    null_mut()
}

/// No library: one of the device is made for the C library of the device. glibc asks for modules of `nsswitch.conf`
/// besides those that are built in, for character sets, and for names that are not ASCII.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __libc_dlopen_mode(_name: *const c_char, _mode: c_int) -> *mut c_void {
    null_mut()
}

/// No symbol of no library.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __libc_dlsym(_library: *mut c_void, _name: *const c_char) -> *mut c_void {
    null_mut()
}

/// The same, of a version.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __libc_dlvsym(_library: *mut c_void, _name: *const c_char, _version: *const c_char) -> *mut c_void {
    null_mut()
}

/// Nothing was opened.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __libc_dlclose(_library: *mut c_void) -> c_int {
    0
}

/// Says what does not hold within a C library, and where, and ends the process. Its own can also write to a stream of wide
/// characters.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __assert_fail(
    assertion: *const c_char,
    file: *const c_char,
    _line: std::ffi::c_uint,
    function: *const c_char,
) -> ! {
    let place = [file, c": ".as_ptr(), function, c": '".as_ptr(), assertion];
    let problem =
        c"' does not hold; the process ends, and goes on with what the journal has when it is started again\n";
    for text in place.into_iter().chain([problem.as_ptr()]) {
        // SAFETY: the macro assert(3) gives constant texts, or null for a function that has no name; write(2) only reads.
        unsafe {
            if !text.is_null() {
                libc::write(libc::STDERR_FILENO, text.cast(), libc::strlen(text));
            }
        }
    }
    std::process::abort()
}

/// Says nothing on a stream, be it of bytes or of wide characters: glibc would complain of its own files there, like
/// `/etc/host.conf`. More arguments than these are passed and ignored.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __fxprintf(_stream: *mut c_void, _format: *const c_char) -> c_int {
    0
}

/// The same.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __fxprintf_nocancel(_stream: *mut c_void, _format: *const c_char) -> c_int {
    0
}

/// The same.
#[cfg_attr(not(test), unsafe(no_mangle))]
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
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __idna_to_dns_encoding(_name: *const c_char, _result: *mut *mut c_char) -> c_int {
    libc::EAI_NONAME
}

/// Nor the other way, for which `AI_CANONIDN` would ask.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __idna_from_dns_encoding(_name: *const c_char, _result: *mut *mut c_char) -> c_int {
    libc::EAI_NONAME
}

// ---- printing ----

/// Prints no floating-point number: no C library here has one to print. libcurl's own printf would ask that of glibc for them.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __printf_fp(_stream: *mut c_void, _form: *const c_void, _arguments: *const *const c_void) -> c_int {
    -1
}

/// The same, in hexadecimal form.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __printf_fphex(_stream: *mut c_void, _form: *const c_void, _arguments: *const *const c_void) -> c_int {
    -1
}

/// Nor a wide character: it becomes no bytes.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __wcrtomb(_to: *mut c_char, _character: u32, _state: *mut c_void) -> usize {
    usize::MAX
}

/// Nor a string of them.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __wcsrtombs(_to: *mut c_char, _from: *mut *const u32, _room_bytes: usize, _state: *mut c_void) -> usize {
    usize::MAX
}

// ---- wide streams, and the conversions that they take ----
//
// A stream becomes wide by a call of fwide(3), by one that reads or writes wide characters, or by being opened with `,ccs=`.
// Nothing here does either. glibc asks each stream whether it is wide before it comes to one of these.

/// Gives back no buffer.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _IO_free_wbackup_area(_stream: *mut c_void) {}

/// Takes no buffer.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _IO_wsetb(_stream: *mut c_void, _begin: *mut u32, _end: *mut u32, _is_user: c_int) {}

/// Writes nothing.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _IO_wdo_write(_stream: *mut c_void, _from: *const u32, _count: usize) -> c_int {
    libc::EOF
}

/// Knows no conversion by its name.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __wcsmbs_named_conv(_copy: *mut c_void, _name: *const c_char) -> c_int {
    1
}

/// Has none to copy.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __wcsmbs_clone_conv(_copy: *mut c_void) {}

/// Has none to give back.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __gconv_release_step(_step: *mut c_void) {}

/// Data that are pointed to, and read for a wide stream only: a lock, the conversions of the locale C, and what a wide stream
/// does.
macro_rules! unread {
    ($($name:ident)*) => {$(
        #[cfg_attr(not(test), unsafe(no_mangle))]
        static $name: AtomicUsize = AtomicUsize::new(0);
    )*};
}

unread! {
    __gconv_lock __wcsmbs_gconv_fcts_c _IO_wfile_jumps _IO_wfile_jumps_mmap _IO_wfile_jumps_maybe_mmap
}

// ---- the loader ----

/// Has no paths of libraries, for there are none.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _dl_init_paths(
    _path: *const c_char,
    _source: *const c_char,
    _prepended: *const c_char,
    _mask: *const c_char,
) {
}

/// No library counts its calls.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _dl_mcount(_from: usize, _to: usize) {}

/// No stack is executable, so that none has to become it for a library.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __nptl_change_stack_perm(_thread: *mut c_void) -> c_int {
    libc::EINVAL
}

/// Where calls of functions would go that are looked up when they are called first: in libraries only.
macro_rules! unreached {
    ($($name:ident)*) => {$(
        #[cfg_attr(not(test), unsafe(no_mangle))]
        extern "C" fn $name() -> ! {
            std::process::abort()
        }
    )*};
}

unreached! {
    _dl_runtime_resolve_fxsave _dl_runtime_resolve_xsave _dl_runtime_resolve_xsavec
    _dl_runtime_profile_sse _dl_runtime_profile_avx _dl_runtime_profile_avx512
}

// ---- time zones ----
//
// libcurl asks for times in UTC only, and glibc would look for the zone of the device first.

/// Reads no file of a zone.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __tzfile_read(_name: *const c_char, _extra_bytes: usize, _extra: *mut *mut c_char) {}

/// The same, for a zone that has no name of its own.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __tzfile_default(
    _standard: *const c_char,
    _summer: *const c_char,
    _standard_offset: c_int,
    _summer_offset: c_int,
) {
}

/// Works nothing out: it is asked where a file was read.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn __tzfile_compute(
    _time: i64,
    _is_local: c_int,
    _leap_correction: *mut i64,
    _leap_hit: *mut c_int,
    _result: *mut c_void,
) {
}

/// No file was read.
#[cfg_attr(not(test), unsafe(no_mangle))]
static __use_tzfile: AtomicI32 = AtomicI32::new(0);

// ---- unwinding ----
//
// The tables that it reads are not in the program, so that nothing could be found. A panic aborts.

/// `_URC_END_OF_STACK` of the Itanium C++ ABI, "Exception Handling", 1.3.1.
const END_OF_STACK: c_int = 5;
/// `_UA_CLEANUP_PHASE`, `_UA_FORCE_UNWIND` and `_UA_END_OF_STACK`, the same, 1.5.1 and 1.3.2.
const LAST_CALL: c_int = 2 | 8 | 16;

/// No frame: a backtrace is empty.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _Unwind_Backtrace(_each: *const c_void, _argument: *mut c_void) -> c_int {
    END_OF_STACK
}

/// No frame, and so there is no place in it.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _Unwind_GetIP(_context: *mut c_void) -> usize {
    0
}

/// The same.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _Unwind_GetIPInfo(_context: *mut c_void, _is_before: *mut c_int) -> usize {
    0
}

/// The same.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _Unwind_GetCFA(_context: *mut c_void) -> usize {
    0
}

/// The same.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _Unwind_GetRegionStart(_context: *mut c_void) -> usize {
    0
}

/// The same.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _Unwind_GetTextRelBase(_context: *mut c_void) -> usize {
    0
}

/// The same.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _Unwind_GetDataRelBase(_context: *mut c_void) -> usize {
    0
}

/// No table that says what to do with a frame.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _Unwind_GetLanguageSpecificData(_context: *mut c_void) -> *mut c_void {
    null_mut()
}

/// There is no frame that it could change.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _Unwind_SetGR(_context: *mut c_void, _register: c_int, _value: usize) {}

/// The same.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _Unwind_SetIP(_context: *mut c_void, _value: usize) {}

/// No function around any place.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _Unwind_FindEnclosingFunction(_place: *mut c_void) -> *mut c_void {
    null_mut()
}

/// What `pthread_exit(3)` and a canceled thread come to: there is no frame to clean up, and `stop`, which glibc gives, ends the
/// thread.
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn _Unwind_ForcedUnwind(
    exception: *mut c_void,
    stop: unsafe extern "C" fn(c_int, c_int, u64, *mut c_void, *mut c_void, *mut c_void) -> c_int,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: as the ABI has it, `stop` is called with what it was given, and on the last call asks for nothing of a frame.
    unsafe { stop(1, LAST_CALL, 0, exception, null_mut(), argument) }
}

/// Nobody throws.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _Unwind_RaiseException(_exception: *mut c_void) -> c_int {
    END_OF_STACK
}

/// Nobody comes to a frame that would go on to throw.
#[cfg_attr(not(test), unsafe(no_mangle))]
extern "C" fn _Unwind_Resume(_exception: *mut c_void) -> ! {
    std::process::abort()
}

/// No frame asks whether it is to be cleaned up.
#[cfg_attr(not(test), unsafe(no_mangle))]
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

/// Functions that compare two strings, by all the names that are asked for.
macro_rules! comparing {
    ($($name:ident($($parameter:ident: $kind:ty),*): $most:expr, $form:expr;)*) => {$(
        #[cfg_attr(not(test), unsafe(no_mangle))]
        unsafe extern "C" fn $name(left: *const c_char, right: *const c_char $(, $parameter: $kind)*) -> c_int {
            unsafe { difference(left, right, $most, $form) }
        }
    )*};
}

comparing! {
    strncmp(most: usize): most, |byte| byte;
    strcasecmp(): usize::MAX, lower;
    __strcasecmp(): usize::MAX, lower;
    strcasecmp_l(_locale: *mut c_void): usize::MAX, lower;
    __strcasecmp_l(_locale: *mut c_void): usize::MAX, lower;
    strncasecmp(most: usize): most, lower;
    __strncasecmp(most: usize): most, lower;
    strncasecmp_l(most: usize, _locale: *mut c_void): most, lower;
    __strncasecmp_l(most: usize, _locale: *mut c_void): most, lower;
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

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn strcpy(to: *mut c_char, from: *const c_char) -> *mut c_char {
    unsafe { copied(to, from) };
    to
}

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn stpcpy(to: *mut c_char, from: *const c_char) -> *mut c_char {
    unsafe { copied(to, from) }
}

#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn __stpcpy(to: *mut c_char, from: *const c_char) -> *mut c_char {
    unsafe { copied(to, from) }
}

/// What is shorter is filled up with zeros.
#[cfg_attr(not(test), unsafe(no_mangle))]
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
#[cfg_attr(not(test), unsafe(no_mangle))]
unsafe extern "C" fn strstr(text: *const c_char, wanted: *const c_char) -> *mut c_char {
    unsafe {
        let wanted_bytes = libc::strlen(wanted);
        let mut at = text;
        loop {
            if difference(at, wanted, wanted_bytes, |byte| byte) == 0 {
                return at.cast_mut();
            }
            if at.read() == 0 {
                return null_mut();
            }
            at = at.add(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;

    use super::*;

    /// Texts of few letters, so that many are alike, begin alike, or lie within one another: all of up to four bytes.
    fn texts() -> Vec<CString> {
        let letters = [b'a', b'A', b'z', b'[', 0xC4];
        let mut texts = vec![Vec::new()];
        let mut first = 0;
        for _ in 0..4 {
            let last = texts.len();
            for number in first..last {
                let longer = letters.map(|letter| [texts[number].as_slice(), &[letter]].concat());
                texts.extend(longer);
            }
            first = last;
        }
        let texts = texts.into_iter().step_by(3);
        texts.map(|text| CString::new(text).expect("no byte is 0")).collect()
    }

    /// Bytes written over a background, of which the first are a string.
    fn written(write: impl Fn(*mut c_char) -> *mut c_char) -> ([c_char; 12], Option<usize>) {
        let mut room = [7; 12];
        let begin = room.as_mut_ptr();
        let end = write(begin);
        (room, (end as usize).checked_sub(begin as usize))
    }

    #[test]
    fn strings_are_compared_and_found_as_the_c_library_does() {
        for left in &texts() {
            for right in &texts() {
                let (one, other) = (left.as_ptr(), right.as_ptr());
                let show = format!("{left:?} {right:?}");
                // SAFETY: both end with a NUL.
                unsafe {
                    let expected = libc::strcasecmp(one, other).signum();
                    assert_eq!(strcasecmp(one, other).signum(), expected, "{show}");
                    assert_eq!(__strcasecmp_l(one, other, null_mut()).signum(), expected, "{show}");
                    assert_eq!(strstr(one, other), libc::strstr(one, other), "{show}");
                    for most in 0..6 {
                        let expected = libc::strncmp(one, other, most).signum();
                        assert_eq!(strncmp(one, other, most).signum(), expected, "{show} {most}");
                        let expected = libc::strncasecmp(one, other, most).signum();
                        assert_eq!(strncasecmp(one, other, most).signum(), expected, "{show} {most}");
                    }
                }
            }
        }
    }

    #[test]
    fn strings_are_copied_as_the_c_library_does() {
        for text in &texts() {
            let from = text.as_ptr();
            // SAFETY: the text ends with a NUL, and with it takes no more than the room.
            unsafe {
                assert_eq!(written(|to| strcpy(to, from)), written(|to| libc::strcpy(to, from)));
                assert_eq!(written(|to| stpcpy(to, from)), written(|to| libc::stpcpy(to, from)));
                for most in 0..12 {
                    let expected = written(|to| libc::strncpy(to, from, most));
                    assert_eq!(written(|to| strncpy(to, from, most)), expected, "{text:?} {most}");
                }
            }
        }
    }
}
