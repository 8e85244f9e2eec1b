//! An FTP server of our own, on sockets of the standard library: it does what it is told, also what no server should.

use std::collections::{HashMap, VecDeque};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// One file.
#[derive(Clone, Debug)]
pub(crate) struct File {
    pub(crate) content: Vec<u8>,
    /// As MDTM tells it.
    pub(crate) modified: String,
}

impl File {
    /// Of a time long ago.
    pub(crate) fn new(content: impl Into<Vec<u8>>) -> Self {
        Self {
            content: content.into(),
            modified: "20240229120000".to_owned(),
        }
    }

    pub(crate) fn modified(self, modified: &str) -> Self {
        Self {
            modified: modified.to_owned(),
            ..self
        }
    }
}

/// What the server does in place of its answer to a command.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// These bytes, and go on.
    Say(String),
    /// These bytes, and close the connection.
    SayAndClose(String),
    /// Close the control connection.
    Close,
    /// Nothing, for as long as the client stays.
    Silence,
    /// These bytes again and again, for as long as the client stays.
    SayForEver(String),
}

/// What the server does on the data connection behind RETR.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Data {
    /// All of it.
    Whole,
    /// Up to this place of the file; then the connection is closed, and 426 says so.
    CutAt(usize),
    /// Up to this place; then both connections are closed.
    DropAt(usize),
    /// Up to this place; then the data connection is closed without a word, and 226 says that it was all.
    BreakAt(usize),
    /// Up to this place; then nothing, for as long as the client stays.
    HangAt(usize),
    /// Up to this place, and 226 as though it were all.
    EndAt(usize),
    /// All of it, and so many bytes more.
    Extra(usize),
}

/// What the server does on one control connection.
#[derive(Clone, Debug)]
pub(crate) struct Script {
    /// Before the answer to the command; `""` is the greeting, `"226"` the end of a transfer. The number tells which of the
    /// commands with this name is meant, the first is 1.
    pub(crate) faults: Vec<(&'static str, usize, Fault)>,
    /// Commands that it does not know.
    pub(crate) without: Vec<&'static str>,
    pub(crate) data: Data,
    /// What SIZE says.
    pub(crate) size: Option<u64>,
    /// The address in replies to PASV.
    pub(crate) address: Option<[u8; 4]>,
    /// What the file is replaced by while it is sent.
    pub(crate) then: Option<File>,
    /// Nobody listens at the data port; in active mode it says 150 and never comes.
    pub(crate) refuses_data: bool,
    /// Who may log in.
    pub(crate) user: Option<(String, String)>,
}

impl Default for Script {
    fn default() -> Self {
        Self {
            faults: Vec::new(),
            without: vec!["MLST"],
            data: Data::Whole,
            size: None,
            address: None,
            then: None,
            refuses_data: false,
            user: None,
        }
    }
}

impl Script {
    pub(crate) fn fault(command: &'static str, fault: Fault) -> Self {
        Self::later_fault(command, 1, fault)
    }

    pub(crate) fn later_fault(command: &'static str, number: usize, fault: Fault) -> Self {
        Self {
            faults: vec![(command, number, fault)],
            ..Self::default()
        }
    }

    pub(crate) fn data(data: Data) -> Self {
        Self {
            data,
            ..Self::default()
        }
    }

    pub(crate) fn without(commands: &[&'static str]) -> Self {
        Self {
            without: commands.to_vec(),
            ..Self::default()
        }
    }
}

/// A connection, protected or not.
pub(crate) trait Wire: Read + Write + Send {
    /// Says that no more will come, where the protection has a word for that.
    fn finish(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Wire for TcpStream {}

/// Makes a protected connection of a plain one.
pub(crate) type Protect = Arc<dyn Fn(TcpStream) -> io::Result<Box<dyn Wire>> + Send + Sync>;

/// An address at which nobody listens, for as long as this lives: a connected socket has the port, so that nobody else gets
/// it.
pub(crate) struct Closed {
    pub(crate) address: SocketAddr,
    _holders: (TcpListener, TcpStream),
}

impl Closed {
    pub(crate) fn on(address: IpAddr) -> io::Result<Self> {
        let listener = TcpListener::bind((address, 0))?;
        let holder = TcpStream::connect(listener.local_addr()?)?;
        Ok(Self {
            address: holder.local_addr()?,
            _holders: (listener, holder),
        })
    }
}

/// When connections are protected.
#[derive(Clone)]
pub(crate) enum Protection {
    Never,
    Always(Protect),
    /// After AUTH TLS; data connections after PROT P.
    OnDemand(Protect),
}

#[derive(Default)]
struct State {
    files: HashMap<String, File>,
    scripts: VecDeque<Script>,
    /// All commands, those of each connection with its number before them.
    commands: Vec<String>,
    connections: usize,
    /// Connections that carried data.
    data_connections: usize,
}

/// A server that runs until the process ends.
#[derive(Clone)]
pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    state: Arc<(Mutex<State>, Condvar)>,
}

impl Server {
    pub(crate) fn start() -> Self {
        Self::start_on(IpAddr::V4(Ipv4Addr::LOCALHOST), Protection::Never)
    }

    pub(crate) fn start_on(address: IpAddr, protection: Protection) -> Self {
        let listener = TcpListener::bind((address, 0)).expect("a port of this machine is free");
        let server = Self {
            address: listener.local_addr().expect("a bound socket has an address"),
            state: Arc::default(),
        };
        let shared = server.clone();
        thread::spawn(move || {
            for stream in listener.incoming().filter_map(Result::ok) {
                let (shared, protection) = (shared.clone(), protection.clone());
                thread::spawn(move || {
                    // A client that went away is no fault of the server.
                    let _ = Session::serve(&shared, stream, protection);
                });
            }
        });
        server
    }

    /// Puts a file at a path from the root, which is also where a login begins; gives its URL.
    pub(crate) fn put(&self, path: &str, file: File) -> String {
        self.state().files.insert(path.to_owned(), file);
        self.url(path)
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("ftp://{}{path}", self.address)
    }

    /// What happens on the next control connections, in order; later ones see nothing unusual.
    pub(crate) fn script(&self, script: Script) {
        self.state().scripts.push_back(script);
    }

    /// All commands so far, each as `NUMBER VERB ARGUMENT`.
    pub(crate) fn commands(&self) -> Vec<String> {
        self.state().commands.clone()
    }

    /// Verbs of the commands of one connection, from 1 on.
    pub(crate) fn verbs(&self, connection: usize) -> Vec<String> {
        let prefix = format!("{connection} ");
        let commands = self.commands();
        let mine = commands.iter().filter_map(|command| command.strip_prefix(&prefix));
        mine.map(|command| command.split(' ').next().unwrap_or_default().to_owned())
            .collect()
    }

    pub(crate) fn connections(&self) -> usize {
        self.state().connections
    }

    pub(crate) fn data_connections(&self) -> usize {
        self.state().data_connections
    }

    /// Waits until a client has sent this command; it may have been long ago.
    pub(crate) fn wait_for(&self, verb: &str) {
        self.wait_for_times(verb, 1);
    }

    /// Waits until clients have sent this command so often.
    pub(crate) fn wait_for_times(&self, verb: &str, number: usize) {
        let mut state = self.state();
        let is_it = |command: &&String| command.split(' ').nth(1) == Some(verb);
        while state.commands.iter().filter(is_it).count() < number {
            state = self.state.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Waits until so many clients have connected.
    pub(crate) fn wait_for_connections(&self, number: usize) {
        let mut state = self.state();
        while state.connections < number {
            state = self.state.1.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change<T>(&self, change: impl FnOnce(&mut State) -> T) -> T {
        let result = change(&mut self.state());
        self.state.1.notify_all();
        result
    }
}

/// Where data connections come from.
enum DataWay {
    Passive(TcpListener),
    Active(SocketAddr),
}

/// One control connection.
struct Session<'a> {
    server: &'a Server,
    number: usize,
    script: Script,
    counts: HashMap<String, usize>,
    raw: TcpStream,
    control: BufReader<Box<dyn Wire>>,
    protection: Protection,
    protects_data: bool,
    directory: String,
    user: String,
    offset: usize,
    way: Option<DataWay>,
    closed: Option<Closed>,
}

/// Whether the session goes on.
type Goes = io::Result<bool>;

impl<'a> Session<'a> {
    fn serve(server: &'a Server, stream: TcpStream, protection: Protection) -> io::Result<()> {
        let (number, script) = server.change(|state| {
            state.connections += 1;
            (state.connections, state.scripts.pop_front().unwrap_or_default())
        });
        let raw = stream.try_clone()?;
        let (wire, protects_data): (Box<dyn Wire>, bool) = match &protection {
            Protection::Always(protect) => (protect(stream)?, true),
            _ => (Box::new(stream), false),
        };
        let mut session = Session {
            server,
            number,
            script,
            counts: HashMap::new(),
            raw,
            control: BufReader::new(wire),
            protection,
            protects_data,
            directory: "/".to_owned(),
            user: String::new(),
            offset: 0,
            way: None,
            closed: None,
        };
        session.run()
    }

    fn run(&mut self) -> io::Result<()> {
        if !self.answer("", "220 ready")? {
            return Ok(());
        }
        let mut line = Vec::new();
        loop {
            line.clear();
            if self.control.read_until(b'\n', &mut line)? == 0 {
                return Ok(());
            }
            let text = String::from_utf8_lossy(&line).trim_end().to_owned();
            let (verb, argument) = text.split_once(' ').unwrap_or((&text, ""));
            let number = self.number;
            self.server
                .change(|state| state.commands.push(format!("{number} {text}")));
            if !self.obey(&verb.to_ascii_uppercase(), argument)? {
                return Ok(());
            }
        }
    }

    /// The fault that is planned for this command now, if any.
    fn fault(&mut self, command: &str) -> Option<Fault> {
        let count = self.counts.entry(command.to_owned()).or_default();
        *count += 1;
        let mut faults = self.script.faults.iter();
        let fault = faults.find(|(name, number, _)| *name == command && number == count)?;
        Some(fault.2.clone())
    }

    /// Answers, or does what is planned instead.
    fn answer(&mut self, command: &str, reply: &str) -> Goes {
        match self.fault(command) {
            None => self.say(&format!("{reply}\r\n")).map(|()| true),
            Some(fault) => self.misbehave(&fault),
        }
    }

    fn misbehave(&mut self, fault: &Fault) -> Goes {
        match fault {
            Fault::Say(text) => self.say(text).map(|()| true),
            Fault::SayAndClose(text) => self.say(text).map(|()| false),
            Fault::Close => Ok(false),
            Fault::Silence => {
                io::copy(&mut self.control, &mut io::sink())?;
                Ok(false)
            }
            Fault::SayForEver(text) => loop {
                self.say(text)?;
            },
        }
    }

    fn say(&mut self, text: &str) -> io::Result<()> {
        self.control.get_mut().write_all(text.as_bytes())?;
        self.control.get_mut().flush()
    }

    fn obey(&mut self, verb: &str, argument: &str) -> Goes {
        if self.script.without.contains(&verb) {
            return self.answer(verb, "500 unknown command");
        }
        match verb {
            "USER" => {
                argument.clone_into(&mut self.user);
                self.answer(verb, "331 and the password")
            }
            "PASS" => {
                let wanted = self.script.user.clone();
                let may = wanted.is_none_or(|(user, password)| user == self.user && password == argument);
                self.answer(verb, if may { "230 in" } else { "530 not you" })
            }
            "AUTH" => self.protect(),
            "PROT" => {
                self.protects_data = argument == "P";
                self.answer(verb, "200 fine")
            }
            "PWD" => self.answer(verb, "257 \"/\" is where you are"),
            "CWD" => {
                self.directory = self.path(argument) + "/";
                self.directory = self.directory.replace("//", "/");
                self.answer(verb, "250 there")
            }
            "PBSZ" | "TYPE" => self.answer(verb, "200 fine"),
            "EPSV" | "PASV" => self.passive(verb),
            "EPRT" | "PORT" => self.active(verb, argument),
            "REST" => {
                self.offset = argument.parse().unwrap_or(0);
                self.answer(verb, "350 from there")
            }
            "MDTM" | "SIZE" | "MLST" => self.tell(verb, argument),
            "RETR" => self.retrieve(argument),
            "QUIT" => {
                self.say("221 bye\r\n")?;
                Ok(false)
            }
            _ => self.answer(verb, "502 no"),
        }
    }

    fn path(&self, argument: &str) -> String {
        if argument.starts_with('/') {
            argument.to_owned()
        } else {
            format!("{}{argument}", self.directory)
        }
    }

    fn file(&self, argument: &str) -> Option<File> {
        self.server.state().files.get(&self.path(argument)).cloned()
    }

    fn tell(&mut self, verb: &str, argument: &str) -> Goes {
        let Some(file) = self.file(argument) else {
            return self.answer(verb, "550 no such file");
        };
        let size = self.script.size.unwrap_or(file.content.len() as u64);
        let reply = match verb {
            "MDTM" => format!("213 {}", file.modified),
            "SIZE" => format!("213 {size}"),
            _ => format!(
                "250-Listing\r\n type=file;size={size};modify={}; {argument}\r\n250 End",
                file.modified
            ),
        };
        self.answer(verb, &reply)
    }

    fn protect(&mut self) -> Goes {
        let Protection::OnDemand(protect) = self.protection.clone() else {
            return self.answer("AUTH", "502 no");
        };
        match self.fault("AUTH") {
            None => self.say("234 go on\r\n")?,
            Some(Fault::Say(text)) if text.starts_with("234") => self.say(&text)?,
            Some(fault) => return self.misbehave(&fault),
        }
        self.control = BufReader::new(protect(self.raw.try_clone()?)?);
        Ok(true)
    }

    fn passive(&mut self, verb: &str) -> Goes {
        let local = self.raw.local_addr()?;
        let port = if self.script.refuses_data {
            self.closed.insert(Closed::on(local.ip())?).address.port()
        } else {
            let listener = TcpListener::bind((local.ip(), 0))?;
            let port = listener.local_addr()?.port();
            self.way = Some(DataWay::Passive(listener));
            port
        };
        let reply = if verb == "EPSV" {
            format!("229 come (|||{port}|)")
        } else {
            let IpAddr::V4(mine) = local.ip() else {
                return self.answer(verb, "522 use EPSV");
            };
            let [a, b, c, d] = self.script.address.unwrap_or(mine.octets());
            let [high, low] = port.to_be_bytes();
            format!("227 come ({a},{b},{c},{d},{high},{low})")
        };
        self.answer(verb, &reply)
    }

    fn active(&mut self, verb: &str, argument: &str) -> Goes {
        let address = if verb == "EPRT" {
            let mut parts = argument.split('|').skip(2);
            let ip = parts.next().and_then(|ip| ip.parse::<IpAddr>().ok());
            let port = parts.next().and_then(|port| port.parse::<u16>().ok());
            ip.zip(port)
        } else {
            let numbers: Vec<u8> = argument.split(',').filter_map(|number| number.parse().ok()).collect();
            match numbers[..] {
                [a, b, c, d, high, low] => Some((Ipv4Addr::new(a, b, c, d).into(), u16::from_be_bytes([high, low]))),
                _ => None,
            }
        };
        let Some(address) = address else {
            return self.answer(verb, "501 what?");
        };
        self.way = Some(DataWay::Active(address.into()));
        self.answer(verb, "200 fine")
    }

    fn retrieve(&mut self, argument: &str) -> Goes {
        let offset = std::mem::take(&mut self.offset);
        let Some(file) = self.file(argument) else {
            return self.answer("RETR", "550 no such file");
        };
        let stream = match self.way.take() {
            Some(DataWay::Passive(listener)) => listener.accept()?.0,
            Some(DataWay::Active(_)) if self.script.refuses_data => {
                self.say("150 here it comes\r\n")?;
                return self.misbehave(&Fault::Silence);
            }
            Some(DataWay::Active(address)) => TcpStream::connect(address)?,
            None => return self.answer("RETR", "425 how?"),
        };
        self.server.change(|state| state.data_connections += 1);
        match self.fault("RETR") {
            None => self.say("150 here it comes\r\n")?,
            Some(Fault::Say(text)) if text.starts_with('1') => self.say(&text)?,
            Some(fault) => return self.misbehave(&fault),
        }
        let raw = stream.try_clone()?;
        let mut wire: Box<dyn Wire> = match &self.protection {
            Protection::Always(protect) | Protection::OnDemand(protect) if self.protects_data => protect(stream)?,
            _ => Box::new(stream),
        };
        let goes = self.send(&mut *wire, &file, offset);
        drop(wire);
        // The end of the stream is an end of the connection also where a copy of the socket is left.
        let _ = raw.shutdown(std::net::Shutdown::Both);
        if !goes? {
            return Ok(false);
        }
        if let Some(then) = self.script.then.take() {
            let path = self.path(argument);
            self.server.change(|state| state.files.insert(path, then));
        }
        match self.script.data {
            Data::CutAt(_) => self.answer("226", "426 cut"),
            _ => self.answer("226", "226 that was it"),
        }
    }

    fn send(&mut self, wire: &mut dyn Wire, file: &File, offset: usize) -> Goes {
        let all = &file.content[..];
        let until = |place: usize| all.get(offset..place.min(all.len()).max(offset)).unwrap_or_default();
        match self.script.data {
            Data::Whole => wire.write_all(until(all.len()))?,
            Data::CutAt(place) | Data::EndAt(place) => wire.write_all(until(place))?,
            Data::Extra(more) => {
                wire.write_all(until(all.len()))?;
                wire.write_all(&vec![b'+'; more])?;
            }
            Data::DropAt(place) => {
                wire.write_all(until(place))?;
                return Ok(false);
            }
            Data::BreakAt(place) => {
                wire.write_all(until(place))?;
                wire.flush()?;
                return Ok(true);
            }
            Data::HangAt(place) => {
                wire.write_all(until(place))?;
                wire.flush()?;
                io::copy(wire, &mut io::sink())?;
                return Ok(false);
            }
        }
        wire.finish()?;
        Ok(true)
    }
}
