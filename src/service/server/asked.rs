//! What a message asks for. Pure but for the calls that it names.

use serde::{Deserialize, Serialize};

use crate::service::fault::{Fault, INTERFACE};
use crate::service::message::{Request, parse_parameters, parse_request, refusal, reply};
use crate::service::methods::{Perform, by_name, waits};
use crate::service::monitor::{Monitoring, Waiting};

/// The interface that every service has.
const SERVICE: &str = "org.varlink.service";
/// The description of that interface.
const SERVICE_DESCRIPTION: &str = include_str!("../org.varlink.service.varlink");
/// The description of the interface of this service.
pub(crate) const DESCRIPTION: &str = include_str!("../io.backhaul.Transfer.varlink");

/// What is to be done for a message.
pub(crate) enum Asked {
    /// It is answered already; `None` where no answer is wanted.
    Answered(Option<Vec<u8>>),
    /// It is no call, and what comes behind it cannot be trusted.
    Broken(String),
    /// A thread has to do it.
    Perform {
        perform: Perform,
        oneway: bool,
        /// It waits for more than a disk.
        waits: bool,
    },
    /// Updates are wanted.
    Monitor(Monitoring),
    /// Operations are waited for.
    Wait(Waiting),
}

/// Reads a message.
pub(crate) fn read(message: &[u8]) -> Asked {
    let request = match parse_request(message) {
        Ok(request) => request,
        Err(problem) => return Asked::Broken(problem),
    };
    let oneway = request.oneway;
    asked_of(&request).unwrap_or_else(|fault| Asked::Answered((!oneway).then(|| refusal(&fault))))
}

fn asked_of(request: &Request<'_>) -> Result<Asked, Fault> {
    let method = request.method.as_ref();
    if request.upgrade {
        let problem = "this service speaks no other protocol";
        return Err(Fault::invalid_parameter("upgrade", problem));
    }
    let (interface, name) = method.rsplit_once('.').unwrap_or(("", method));
    match interface {
        SERVICE => {
            let answer = about(method, name, request)?;
            Ok(Asked::Answered((!request.oneway).then_some(answer)))
        }
        INTERFACE => transfer(method, name, request),
        _ => Err(Fault::interface_not_found(interface)),
    }
}

fn transfer(method: &str, name: &str, request: &Request<'_>) -> Result<Asked, Fault> {
    let oneway = request.oneway;
    match name {
        "Monitor" if !request.more || oneway => Err(Fault::expected_more()),
        "Monitor" => Ok(Asked::Monitor(parse_parameters(request.parameters)?)),
        "Wait" => {
            let waiting = parse_parameters(request.parameters)?;
            // Nothing is waited for where nobody wants to know.
            Ok(if oneway {
                Asked::Answered(None)
            } else {
                Asked::Wait(waiting)
            })
        }
        _ => match by_name(name) {
            Some(perform) => Ok(Asked::Perform {
                perform,
                oneway,
                waits: waits(name),
            }),
            None => Err(Fault::method_not_found(method)),
        },
    }
}

// ---- the interface that every service has ----

/// Answer to `GetInfo`.
#[derive(Serialize)]
struct Information {
    vendor: &'static str,
    product: &'static str,
    version: &'static str,
    url: &'static str,
    interfaces: [&'static str; 2],
}

/// Parameters of `GetInterfaceDescription`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Which {
    interface: String,
}

/// Answer to `GetInterfaceDescription`.
#[derive(Serialize)]
struct Text {
    description: &'static str,
}

/// Parameters of `GetInfo`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Nothing {}

fn about(method: &str, name: &str, request: &Request<'_>) -> Result<Vec<u8>, Fault> {
    match name {
        "GetInfo" => {
            let Nothing {} = parse_parameters(request.parameters)?;
            let information = Information {
                vendor: "backhaul",
                product: "backhaul",
                version: env!("CARGO_PKG_VERSION"),
                url: "",
                interfaces: [SERVICE, INTERFACE],
            };
            Ok(reply(&information, false))
        }
        "GetInterfaceDescription" => {
            let which: Which = parse_parameters(request.parameters)?;
            let description = match which.interface.as_str() {
                SERVICE => SERVICE_DESCRIPTION,
                INTERFACE => DESCRIPTION,
                other => return Err(Fault::interface_not_found(other)),
            };
            Ok(reply(&Text { description }, false))
        }
        _ => Err(Fault::method_not_found(method)),
    }
}
