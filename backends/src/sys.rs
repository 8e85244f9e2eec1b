//! What the safe interface to libcurl lacks: sockets that we open, commands of our own, and callbacks that borrow. The only
//! unsafe code of this package.
#![expect(unsafe_code, reason = "libcurl is C; each use says why it is sound")]

use std::cell::UnsafeCell;
use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::os::fd::{BorrowedFd, FromRawFd, IntoRawFd, OwnedFd};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr::NonNull;
use std::rc::Rc;
use std::time::Duration;

use curl::Error;
use curl::easy::{Easy2, Handler, InfoType, List, WriteError};
use curl_sys::{CURLoption, curl_slist};

/// What libcurl tells while it performs, and what it asks for. `false` ends the transfer.
pub(crate) trait Line {
    /// Wants a connection to a port of the server. `None` where there is none.
    fn connect(&mut self, port: u16) -> Option<OwnedFd>;

    /// The server connected to our listening socket.
    fn accepted(&mut self, socket: BorrowedFd<'_>) -> bool;

    /// Sends a command, or what of it could be sent at once.
    fn sent(&mut self, command: &[u8]);

    /// A line of a reply, with its end of line.
    fn heard(&mut self, line: &[u8]) -> bool;

    /// Bytes of the data connection.
    fn received(&mut self, bytes: &[u8]) -> bool;

    /// Called between all of that, and at least about once in a second.
    fn tick(&mut self) -> bool;
}

/// What a [`Session`] is to do.
pub(crate) struct Settings<'a> {
    pub(crate) url: &'a str,
    pub(crate) user: &'a str,
    pub(crate) password: &'a str,
    /// `HOST:PORT:ADDRESS`, so that nothing is looked up.
    pub(crate) resolve: Option<&'a str>,
    pub(crate) buffer_bytes: usize,
    /// Limits that are never reached unless the callbacks are not called.
    pub(crate) backstop: Duration,
    /// Commands right before RETR, and after the transfer. One that begins with an asterisk may be refused.
    pub(crate) before: &'a [Vec<u8>],
    pub(crate) after: &'a [Vec<u8>],
    /// The server opens the data connections: one listening socket for each is opened here.
    pub(crate) active: bool,
    pub(crate) tls: Option<Tls<'a>>,
}

/// How the connections are protected, all of them and always.
pub(crate) struct Tls<'a> {
    /// Asked for by AUTH TLS; from the first byte on otherwise.
    pub(crate) explicit: bool,
    /// Certificates of the CAs that are trusted, in PEM form.
    pub(crate) roots: &'a [u8],
}

/// One transfer of libcurl.
pub(crate) struct Session {
    // Dropped first: libcurl uses what stands below until then.
    easy: Easy2<Lent>,
    slot: Rc<Slot>,
    lists: Vec<CommandList>,
}

/// Where the callbacks find whom to tell; nobody outside of [`Session::perform`]. Both cells are touched only by that call,
/// which has the session for itself, and by the callbacks, which libcurl calls on its thread and before it returns.
#[derive(Debug)]
struct Slot {
    line: UnsafeCell<Option<NonNull<dyn Line>>>,
    /// The socket for the control connection was asked for.
    listens: UnsafeCell<Listening>,
}

/// Which sockets are asked for: libcurl asks for a listening one in the same way as for a connected one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Listening {
    Never,
    /// The first one is the control connection.
    AfterFirst,
    Now,
}

impl Slot {
    /// Whom to tell.
    ///
    /// # Safety
    /// Only to be called from a callback of libcurl, and the reference must be gone when that callback returns.
    #[expect(
        clippy::mut_from_ref,
        reason = "callbacks of libcurl never nest, so that there is one at a time"
    )]
    unsafe fn line(&self) -> Option<&mut dyn Line> {
        // SAFETY: a callback runs inside of `perform`, which put the pointer there, holds the borrow it was made from, and
        // takes it away before the borrow ends. Callbacks do not nest: none of ours calls libcurl.
        unsafe { (*self.line.get()).map(|mut line| line.as_mut()) }
    }
}

/// Hands every call of libcurl on.
struct Lent {
    slot: Rc<Slot>,
}

impl Lent {
    fn line(&mut self) -> Option<&mut dyn Line> {
        // SAFETY: the methods of `Handler` are called by libcurl only, and none keeps the reference.
        unsafe { self.slot.line() }
    }
}

impl Handler for Lent {
    fn write(&mut self, data: &[u8]) -> Result<usize, WriteError> {
        let goes_on = self.line().is_some_and(|line| line.received(data));
        // Any other number than that of the bytes ends the transfer.
        Ok(if goes_on {
            data.len()
        } else {
            usize::from(data.is_empty())
        })
    }

    fn header(&mut self, data: &[u8]) -> bool {
        self.line().is_some_and(|line| line.heard(data))
    }

    fn progress(&mut self, _: f64, _: f64, _: f64, _: f64) -> bool {
        self.line().is_some_and(Line::tick)
    }

    fn debug(&mut self, kind: InfoType, data: &[u8]) {
        if let (InfoType::HeaderOut, Some(line)) = (kind, self.line()) {
            line.sent(data);
        }
    }
}

/// Commands in the form of libcurl, which does not copy them.
struct CommandList {
    first: *mut curl_slist,
}

impl CommandList {
    fn new(commands: &[Vec<u8>]) -> Result<Self, Error> {
        let mut list = Self {
            first: std::ptr::null_mut(),
        };
        for command in commands {
            let command = std::ffi::CString::new(command.as_slice())?;
            // SAFETY: the first argument is null or a list of the same making; the second is copied.
            let longer = unsafe { curl_sys::curl_slist_append(list.first, command.as_ptr()) };
            if longer.is_null() {
                return Err(Error::new(curl_sys::CURLE_OUT_OF_MEMORY));
            }
            list.first = longer;
        }
        Ok(list)
    }
}

impl Drop for CommandList {
    fn drop(&mut self) {
        // SAFETY: null, or a list that nobody else frees; the session drops its handle of libcurl first.
        unsafe { curl_sys::curl_slist_free_all(self.first) }
    }
}

/// Takes the pointer away again, however the call ends.
struct Lending<'a>(&'a Slot);

impl Drop for Lending<'_> {
    fn drop(&mut self) {
        // SAFETY: libcurl has returned, so that no callback runs.
        unsafe { *self.0.line.get() = None };
    }
}

impl Session {
    pub(crate) fn new(settings: &Settings<'_>) -> Result<Self, Error> {
        let slot = Rc::new(Slot {
            line: UnsafeCell::new(None),
            listens: UnsafeCell::new(if settings.active {
                Listening::AfterFirst
            } else {
                Listening::Never
            }),
        });
        let easy = Easy2::new(Lent { slot: Rc::clone(&slot) });
        let mut session = Self {
            easy,
            slot,
            lists: Vec::new(),
        };
        session.set_up(settings)?;
        session.give_sockets()?;
        for (option, commands) in [
            (curl_sys::CURLOPT_PREQUOTE, settings.before),
            (curl_sys::CURLOPT_POSTQUOTE, settings.after),
        ] {
            let list = CommandList::new(commands)?;
            session.set_pointer(option, list.first.cast())?;
            session.lists.push(list);
        }
        if settings.active {
            // The address of the control connection, and any port.
            session.set_text(curl_sys::CURLOPT_FTPPORT, c"-")?;
        }
        if let Some(tls) = &settings.tls {
            session.protect(tls)?;
        }
        Ok(session)
    }

    fn set_up(&mut self, settings: &Settings<'_>) -> Result<(), Error> {
        let easy = &mut self.easy;
        easy.url(settings.url)?;
        easy.username(settings.user)?;
        easy.password(settings.password)?;
        if let Some(resolve) = settings.resolve {
            let mut list = List::new();
            list.append(resolve)?;
            easy.resolve(list)?;
        }
        // An empty one keeps the environment out.
        easy.proxy("")?;
        easy.signal(false)?;
        easy.progress(true)?;
        // Tells which commands are sent.
        easy.verbose(true)?;
        easy.tcp_keepalive(true)?;
        easy.buffer_size(settings.buffer_bytes)?;
        easy.connect_timeout(settings.backstop)?;
        // SIZE is asked for among the commands before RETR. Left to itself libcurl ends a transfer at the length that it
        // heard of, or reads one out of the words of the reply to RETR.
        easy.ignore_content_length(true)?;
        let seconds = c_long::try_from(settings.backstop.as_secs().max(1)).unwrap_or(c_long::MAX / 1000);
        self.set_number(curl_sys::CURLOPT_FTP_RESPONSE_TIMEOUT, seconds)
    }

    fn give_sockets(&mut self) -> Result<(), Error> {
        let slot = Rc::as_ptr(&self.slot).cast::<c_void>();
        self.set_pointer(curl_sys::CURLOPT_OPENSOCKETDATA, slot)?;
        self.set_pointer(curl_sys::CURLOPT_SOCKOPTDATA, slot)?;
        let open: curl_sys::curl_opensocket_callback = open_socket;
        self.set_pointer(curl_sys::CURLOPT_OPENSOCKETFUNCTION, open as *const c_void)?;
        let made: SocketCallback = socket_made;
        self.set_pointer(curl_sys::CURLOPT_SOCKOPTFUNCTION, made as *const c_void)?;
        let close: CloseCallback = close_socket;
        self.set_pointer(curl_sys::CURLOPT_CLOSESOCKETFUNCTION, close as *const c_void)
    }

    fn protect(&mut self, tls: &Tls<'_>) -> Result<(), Error> {
        /// `CURLUSESSL_ALL`: control and data, or nothing is sent.
        const USE_TLS_ALWAYS: c_long = 3;
        /// `CURLFTPAUTH_TLS`: AUTH TLS comes before AUTH SSL.
        const AUTH_TLS: c_long = 2;
        self.easy.ssl_cainfo_blob(tls.roots)?;
        // The crate sets a directory of the system, whose certificates would count beside the given ones.
        self.set_pointer(curl_sys::CURLOPT_CAPATH, std::ptr::null())?;
        self.easy.ssl_verify_peer(true)?;
        self.easy.ssl_verify_host(true)?;
        self.set_number(curl_sys::CURLOPT_USE_SSL, USE_TLS_ALWAYS)?;
        if tls.explicit {
            self.set_number(curl_sys::CURLOPT_FTPSSLAUTH, AUTH_TLS)?;
        }
        Ok(())
    }

    /// Runs the transfer and tells the line of it.
    pub(crate) fn perform(&mut self, line: &mut dyn Line) -> Result<(), Error> {
        // SAFETY: only the lifetime changes. The pointer is taken away by the guard below before `line` ends, also when a
        // callback panicked, which the crate hands on here.
        let pointer = unsafe { std::mem::transmute::<NonNull<dyn Line + '_>, NonNull<dyn Line>>(NonNull::from(line)) };
        // SAFETY: libcurl does not run yet, so that no callback looks.
        unsafe { *self.slot.line.get() = Some(pointer) };
        let lending = Lending(&self.slot);
        let result = self.easy.perform();
        drop(lending);
        result
    }

    /// What the check of the server's certificate gave: 0, or an `X509_V_ERR` number of OpenSSL.
    pub(crate) fn verify_result(&self) -> c_long {
        let mut number: c_long = 0;
        // SAFETY: CURLINFO_SSL_VERIFYRESULT writes one long.
        let code = unsafe {
            curl_sys::curl_easy_getinfo(self.easy.raw(), curl_sys::CURLINFO_SSL_VERIFYRESULT, &raw mut number)
        };
        if code == curl_sys::CURLE_OK { number } else { 0 }
    }

    fn set_number(&mut self, option: CURLoption, number: c_long) -> Result<(), Error> {
        // SAFETY: the options that are set here take a long.
        check(unsafe { curl_sys::curl_easy_setopt(self.easy.raw(), option, number) })
    }

    fn set_text(&mut self, option: CURLoption, text: &CStr) -> Result<(), Error> {
        // SAFETY: the option takes a text, which libcurl copies.
        check(unsafe { curl_sys::curl_easy_setopt(self.easy.raw(), option, text.as_ptr().cast::<c_char>()) })
    }

    fn set_pointer(&mut self, option: CURLoption, pointer: *const c_void) -> Result<(), Error> {
        // SAFETY: the options that are set here take a pointer of any kind: a callback with the signature that libcurl
        // documents, the slot, or a list. The latter two live as long as this session, and longer than `easy`.
        check(unsafe { curl_sys::curl_easy_setopt(self.easy.raw(), option, pointer) })
    }
}

fn check(code: curl_sys::CURLcode) -> Result<(), Error> {
    if code == curl_sys::CURLE_OK {
        Ok(())
    } else {
        Err(Error::new(code))
    }
}

/// `curl_sockopt_callback`, and what it may return: go on, fail, or: it is connected already.
type SocketCallback = extern "C" fn(*mut c_void, curl_sys::curl_socket_t, curl_sys::curlsocktype) -> c_int;
const SOCKET_IS_FINE: c_int = 0;
const SOCKET_IS_REFUSED: c_int = 1;
const SOCKET_IS_CONNECTED: c_int = 2;

/// `curl_closesocket_callback`, which returns 0.
type CloseCallback = extern "C" fn(*mut c_void, curl_sys::curl_socket_t) -> c_int;

extern "C" fn open_socket(
    slot: *mut c_void,
    _purpose: curl_sys::curlsocktype,
    address: *mut curl_sys::curl_sockaddr,
) -> curl_sys::curl_socket_t {
    let open = || {
        // SAFETY: libcurl gives back the pointer of `give_sockets`, to a slot that lives as long as its handle, and an
        // address that is valid during the call.
        let (slot, address) = unsafe { (&*slot.cast_const().cast::<Slot>(), &*address) };
        // SAFETY: only this function touches it, and libcurl calls it on one thread at a time.
        let listens = unsafe { &mut *slot.listens.get() };
        let now = *listens;
        if now == Listening::AfterFirst {
            *listens = Listening::Now;
        }
        if now == Listening::Now {
            return listening_socket(address.family);
        }
        // SAFETY: this is a callback, and the reference ends with it.
        unsafe { slot.line() }?.connect(port(address))
    };
    catch_unwind(AssertUnwindSafe(open))
        .ok()
        .flatten()
        .map_or(curl_sys::CURL_SOCKET_BAD, IntoRawFd::into_raw_fd)
}

/// The two bytes after the family, in both kinds of internet addresses.
fn port(address: &curl_sys::curl_sockaddr) -> u16 {
    let [high, low, ..] = address.addr.sa_data;
    u16::from_be_bytes([high.to_ne_bytes()[0], low.to_ne_bytes()[0]])
}

fn listening_socket(family: c_int) -> Option<OwnedFd> {
    use rustix::net::{AddressFamily, SocketFlags, SocketType};
    let family = AddressFamily::from_raw(family.try_into().ok()?);
    rustix::net::socket_with(family, SocketType::STREAM, SocketFlags::CLOEXEC, None).ok()
}

extern "C" fn socket_made(
    slot: *mut c_void,
    socket: curl_sys::curl_socket_t,
    purpose: curl_sys::curlsocktype,
) -> c_int {
    if purpose != curl_sys::CURLSOCKTYPE_ACCEPT {
        return SOCKET_IS_CONNECTED;
    }
    let take = || {
        // SAFETY: as in `open_socket`; the socket is open while libcurl calls, and belongs to it.
        let (slot, socket) = unsafe { (&*slot.cast_const().cast::<Slot>(), BorrowedFd::borrow_raw(socket)) };
        // SAFETY: this is a callback, and the reference ends with it.
        unsafe { slot.line() }.is_some_and(|line| line.accepted(socket))
    };
    if catch_unwind(AssertUnwindSafe(take)).unwrap_or(false) {
        SOCKET_IS_FINE
    } else {
        SOCKET_IS_REFUSED
    }
}

/// Ends a connection before it is closed: a copy of its descriptor is kept, so that the server would not hear of the close
/// alone. `ProFTPD` waits ten seconds for this end of a data connection before it says that the transfer is complete.
extern "C" fn close_socket(_slot: *mut c_void, socket: curl_sys::curl_socket_t) -> c_int {
    // SAFETY: libcurl hands over a socket that it owns, and does not touch it again.
    let socket = unsafe { OwnedFd::from_raw_fd(socket) };
    // One that is gone already needs no shutdown.
    let _ = rustix::net::shutdown(&socket, rustix::net::Shutdown::Both);
    0
}
