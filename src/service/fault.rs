//! Errors on the wire: what the engine refuses gets a name and parameters, and comes back as the error it was.

use std::borrow::Cow;
use std::path::PathBuf;
use std::sync::Arc;

use backhaul_backends::WebErrorStatus;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::error::Error;
use crate::operation::TransferStatus;
use crate::wire;

/// The interface of this service.
pub(crate) const INTERFACE: &str = "io.backhaul.Transfer";

/// An error of a transfer by its name.
#[derive(Serialize, Deserialize)]
struct Named(#[serde(with = "wire::status")] WebErrorStatus);

/// Why a call was refused, as it is sent.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Fault {
    error: String,
    parameters: Map<String, Value>,
}

/// A refusal, and which element of a list it is about.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) error: Error,
    pub(crate) index: Option<usize>,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self { error, index: None }
    }
}

impl From<(usize, Error)> for Refused {
    fn from((index, error): (usize, Error)) -> Self {
        Self {
            error,
            index: Some(index),
        }
    }
}

impl Fault {
    fn new(error: impl Into<String>, parameters: Value) -> Self {
        let parameters = match parameters {
            Value::Object(parameters) => parameters,
            _ => Map::new(),
        };
        Self {
            error: error.into(),
            parameters,
        }
    }

    /// A parameter that is missing, unknown, or of the wrong type. `problem` tells of it where `path` does not.
    pub(crate) fn invalid_parameter(path: &str, problem: &str) -> Self {
        let problem = &*without_value(problem);
        // Only the text names a field that is missing or unknown.
        let quoted = problem
            .split('`')
            .nth(1)
            .filter(|_| problem.starts_with("missing field") || problem.starts_with("unknown field") || path == ".");
        let name = match (path, quoted) {
            (".", Some(field)) => field.to_owned(),
            (".", None) => "parameters".to_owned(),
            (path, Some(field)) if !path.ends_with(field) => format!("{path}.{field}"),
            (path, _) => path.to_owned(),
        };
        Self::new(
            "org.varlink.service.InvalidParameter",
            json!({ "parameter": name, "message": format!("{name}: {problem}") }),
        )
    }

    pub(crate) fn method_not_found(method: &str) -> Self {
        Self::new("org.varlink.service.MethodNotFound", json!({ "method": method }))
    }

    pub(crate) fn interface_not_found(interface: &str) -> Self {
        Self::new(
            "org.varlink.service.InterfaceNotFound",
            json!({ "interface": interface }),
        )
    }

    /// The method answers several times, which has to be asked for.
    pub(crate) fn expected_more() -> Self {
        Self::new("org.varlink.service.ExpectedMore", json!({}))
    }

    /// Only root and the user of the service may come in.
    pub(crate) fn permission_denied() -> Self {
        let problem = "only root and the user of this service may speak to it";
        Self::new(format!("{INTERFACE}.PermissionDenied"), json!({ "message": problem }))
    }

    /// What ends a connection: a message that is none, or one too many of something.
    pub(crate) fn disconnected(problem: &str) -> Self {
        Self::new(format!("{INTERFACE}.Disconnected"), json!({ "message": problem }))
    }

    /// The parameter that was wrong, where that was it.
    #[cfg(test)]
    pub(crate) fn parameter(&self) -> Option<&str> {
        self.parameters.get("parameter")?.as_str()
    }

    /// As it came over the wire.
    pub(crate) fn received(error: String, parameters: Map<String, Value>) -> Self {
        Self { error, parameters }
    }

    fn text(&self, name: &str) -> String {
        let value = self.parameters.get(name).and_then(Value::as_str);
        value.unwrap_or_default().to_owned()
    }

    fn parsed<T: for<'de> Deserialize<'de>>(&self, name: &str) -> Option<T> {
        serde_json::from_value(self.parameters.get(name)?.clone()).ok()
    }
}

impl From<Refused> for Fault {
    fn from(refused: Refused) -> Self {
        let error = refused.error;
        let message = error.to_string();
        let (name, parameters) = match &error {
            Error::Invalid { field, value, problem } => {
                ("Invalid", json!({ "field": field, "value": value, "problem": problem }))
            }
            Error::UnknownId(id) => ("UnknownId", json!({ "id": id })),
            Error::Locked { path, holder } => {
                let path = path.to_string_lossy();
                ("Locked", json!({ "path": path, "holder": holder }))
            }
            Error::Conflict {
                field,
                value,
                id,
                status,
            } => (
                "Conflict",
                json!({ "field": field, "value": value, "id": id, "status": status }),
            ),
            Error::Expectation {
                field,
                value,
                id,
                status,
            } => (
                "Expectation",
                json!({ "field": field, "value": value, "id": id, "status": status }),
            ),
            Error::DestinationExists(path) => ("DestinationExists", json!({ "path": path.to_string_lossy() })),
            Error::NotNow { id, problem } => ("NotNow", json!({ "id": id, "problem": problem })),
            Error::Unsuccessful {
                id,
                status,
                error,
                problem,
            } => (
                "Unsuccessful",
                json!({ "id": id, "status": status, "error": error.map(Named), "problem": problem }),
            ),
            Error::LimitReached { limit, max } => ("LimitReached", json!({ "limit": limit, "max": max })),
            Error::Vault { path, problem } => ("Vault", json!({ "path": path.to_string_lossy(), "problem": problem })),
            other => of_groups(other).unwrap_or(("Failed", json!({}))),
        };
        let mut fault = Self::new(format!("{INTERFACE}.{name}"), parameters);
        fault.parameters.insert("message".into(), message.into());
        if let Some(index) = refused.index {
            fault.parameters.insert("index".into(), index.into());
        }
        fault
    }
}

/// Errors about groups.
fn of_groups(error: &Error) -> Option<(&'static str, Value)> {
    Some(match error {
        Error::UnknownGroup { app, name } => ("UnknownGroup", json!({ "app": app, "name": name })),
        Error::GroupInUse {
            app,
            name,
            live_members,
        } => (
            "GroupInUse",
            json!({ "app": app, "name": name, "live_members": live_members }),
        ),
        Error::UnknownCompletionGroup(id) => ("UnknownCompletionGroup", json!({ "id": id })),
        Error::CompletionGroupNotNow { id, problem } => {
            ("CompletionGroupNotNow", json!({ "id": id, "problem": problem }))
        }
        _ => return None,
    })
}

impl From<Fault> for Refused {
    fn from(fault: Fault) -> Self {
        let index = fault.parsed::<usize>("index");
        let error = known(&fault).unwrap_or_else(|| {
            let message = fault.text("message");
            Error::Service(Arc::from(if message.is_empty() {
                fault.error.clone()
            } else {
                message
            }))
        });
        Self { error, index }
    }
}

/// The error that it was before it was sent.
fn known(fault: &Fault) -> Option<Error> {
    let name = fault.error.strip_prefix(INTERFACE)?.strip_prefix('.')?;
    let text = |name: &str| fault.text(name);
    let status = || fault.parsed::<TransferStatus>("status");
    Some(match name {
        "Invalid" => Error::Invalid {
            field: text("field").into(),
            value: text("value"),
            problem: text("problem"),
        },
        "UnknownId" => Error::UnknownId(fault.parsed("id")?),
        "Locked" => Error::Locked {
            path: PathBuf::from(text("path")),
            holder: fault.parsed("holder")?,
        },
        "Conflict" => Error::Conflict {
            field: text("field").into(),
            value: text("value"),
            id: fault.parsed("id")?,
            status: status()?,
        },
        "Expectation" => Error::Expectation {
            field: text("field").into(),
            value: text("value"),
            id: fault.parsed("id")?,
            status: status()?,
        },
        "DestinationExists" => Error::DestinationExists(PathBuf::from(text("path"))),
        "NotNow" => Error::NotNow {
            id: fault.parsed("id")?,
            problem: text("problem"),
        },
        "Unsuccessful" => Error::Unsuccessful {
            id: fault.parsed("id")?,
            status: status()?,
            error: fault.parsed::<Option<Named>>("error")?.map(|Named(error)| error),
            problem: text("problem"),
        },
        "LimitReached" => Error::LimitReached {
            limit: text("limit").into(),
            max: fault.parsed("max")?,
        },
        "Vault" => Error::Vault {
            path: PathBuf::from(text("path")),
            problem: text("problem").into(),
        },
        "UnknownGroup" => Error::UnknownGroup {
            app: text("app"),
            name: text("name"),
        },
        "GroupInUse" => Error::GroupInUse {
            app: text("app"),
            name: text("name"),
            live_members: fault.parsed("live_members")?,
        },
        "UnknownCompletionGroup" => Error::UnknownCompletionGroup(fault.parsed("id")?),
        "CompletionGroupNotNow" => Error::CompletionGroupNotNow {
            id: fault.parsed("id")?,
            problem: text("problem"),
        },
        "Disconnected" => Error::Disconnected(Arc::from(text("message"))),
        _ => return None,
    })
}

/// What JSON says of a value of the wrong type, without the value: it may be a secret.
pub(crate) fn without_value(problem: &str) -> Cow<'_, str> {
    let is_of_value = problem.starts_with("invalid type: ") || problem.starts_with("invalid value: ");
    let (true, Some((found, expected))) = (is_of_value, problem.rsplit_once(", expected ")) else {
        return Cow::Borrowed(problem);
    };
    let kind = found.split(['`', '"']).next().unwrap_or_default().trim_end();
    Cow::Owned(format!("{kind}, expected {expected}"))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;
    use crate::operation::{CompletionGroupId, TransferId};

    /// One error of each name that comes back as itself.
    fn named() -> Vec<Error> {
        let id = TransferId([7; 16]);
        vec![
            Error::invalid("url", "x", "is no URL"),
            Error::UnknownId(id),
            Error::Locked {
                path: "/s/LOCK".into(),
                holder: Some("pid 7".into()),
            },
            Error::Conflict {
                field: "destination".into(),
                value: "/d".into(),
                id,
                status: TransferStatus::Waiting,
            },
            Error::Expectation {
                field: "size".into(),
                value: "7".into(),
                id,
                status: TransferStatus::Running,
            },
            Error::DestinationExists("/d".into()),
            Error::NotNow {
                id,
                problem: "is paused".into(),
            },
            Error::Unsuccessful {
                id,
                status: TransferStatus::Error,
                error: Some(WebErrorStatus::NOT_FOUND),
                problem: "is gone".into(),
            },
            Error::UnknownGroup {
                app: "a".into(),
                name: "g".into(),
            },
            Error::GroupInUse {
                app: "a".into(),
                name: "g".into(),
                live_members: 3,
            },
            Error::UnknownCompletionGroup(CompletionGroupId([8; 16])),
            Error::CompletionGroupNotNow {
                id: CompletionGroupId([8; 16]),
                problem: "is enabled".into(),
            },
            Error::limit("operations", 7),
            Error::Vault {
                path: "/v".into(),
                problem: "is empty".into(),
            },
        ]
    }

    #[test]
    fn an_error_comes_back_as_the_one_that_was_sent() {
        for error in named() {
            let sent = Fault::from(Refused::from((3, error.clone())));
            let back = Refused::from(sent);
            assert_eq!(back.index, Some(3));
            assert_eq!(format!("{:?}", back.error), format!("{error:?}"));
        }
    }

    #[test]
    fn every_error_with_a_name_in_the_description_comes_back_as_itself() {
        let description = include_str!("io.backhaul.Transfer.varlink").lines();
        let described = description.filter_map(|line| line.strip_prefix("error ")?.split(' ').next());
        // The first keeps only its message; the others are said of a connection, not of a call.
        let others = ["Failed", "Disconnected", "PermissionDenied"];
        let described: BTreeSet<&str> = described.filter(|name| !others.contains(name)).collect();
        let sent: Vec<Fault> = named().into_iter().map(|error| Refused::from(error).into()).collect();
        let sent = sent
            .iter()
            .filter_map(|fault| fault.error.strip_prefix(INTERFACE)?.strip_prefix('.'));
        assert_eq!(sent.collect::<BTreeSet<_>>(), described);
    }

    #[test]
    fn an_error_without_a_name_of_its_own_keeps_its_message() {
        let error = Error::io("read", "/x", std::io::Error::other("broken"));
        let text = error.to_string();
        let back = Refused::from(Fault::from(Refused::from(error)));
        assert_eq!(back.error.to_string(), text);
    }
}
