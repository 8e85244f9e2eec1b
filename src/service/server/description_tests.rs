//! The description of the interface says what the code does.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::asked::DESCRIPTION;
use crate::engine::Description;
use crate::error::Error;
use crate::groups::GroupView;
use crate::operation::{
    Collision, CompletionGroupId, CostPolicy, Priority, Reason, TransferBehavior, TransferId, TransferStatus,
};
use crate::service::download::{Change, Download, Login};
use crate::service::fault::{Fault, Refused};
use crate::service::message::parse_parameters;
use crate::service::methods::groups::{
    AcknowledgeCompletionGroup, AllCompletionGroups, AllGroups, CompletionGroup, CompletionGroups, CompletionStage,
    CreateCompletionGroup, CreateGroup, CreatedCompletionGroup, EnableCompletionGroup, Groups, MakeCurrent,
    OneCompletionGroup, OneGroup, RemoveCompletionGroup, RemoveGroup, SetGroup, ShowCompletionGroup,
};
use crate::service::methods::reading::{Downloaded, DownloadedRanges, HasRead, Read};
use crate::service::methods::spooling::{Spool, SpooledSoFar};
use crate::service::methods::{
    Acknowledge, AllCreated, Attend, Cancel, Create, Created, Describe, Done, ForgetApp, Forgotten, List, Listed,
    METHODS, Pause, Remove, Resume, Set, Show, Shown, Start,
};
use crate::service::monitor::{Monitoring, Selection, Stand, Update, Waited, Waiting};
use crate::wire;

type Names = BTreeSet<String>;

/// What stands behind the names of the description: for methods two lists, for others one.
#[derive(Default)]
struct Described {
    types: BTreeMap<String, Names>,
    methods: BTreeMap<String, (Names, Names)>,
    errors: BTreeMap<String, Names>,
}

/// Reads the part of the language that the description uses.
fn described() -> Described {
    let lines = DESCRIPTION.lines().filter(|line| !line.trim_start().starts_with('#'));
    let text = lines.collect::<Vec<_>>().join("\n");
    let mut out = Described::default();
    let mut rest = text.as_str();
    while let Some((word, after)) = rest.trim_start().split_once(char::is_whitespace) {
        if word == "interface" {
            rest = after.split_once('\n').unwrap().1;
            continue;
        }
        let (name, after) = after.split_at(after.find('(').unwrap());
        let (list, after) = list_of(after);
        rest = after;
        let name = name.trim().to_owned();
        match word {
            "type" => drop(out.types.insert(name, list)),
            "error" => drop(out.errors.insert(name, list)),
            "method" => {
                let (answer, after) = list_of(after.trim_start().strip_prefix("->").unwrap().trim_start());
                rest = after;
                out.methods.insert(name, (list, answer));
            }
            other => panic!("'{other}' is no word of the language"),
        }
    }
    out
}

/// The names in a list in brackets, and what comes behind it. No list here holds another one.
fn list_of(text: &str) -> (Names, &str) {
    let (list, rest) = text.strip_prefix('(').unwrap().split_once(')').unwrap();
    let names = list.split(',').map(|field| field.split(':').next().unwrap().trim());
    let names: Vec<&str> = names.filter(|name| !name.is_empty()).collect();
    let set: Names = names.iter().map(|name| (*name).to_owned()).collect();
    assert_eq!(set.len(), names.len(), "a name stands twice in {list}");
    for name in &set {
        assert!(
            name.chars()
                .all(|letter| letter.is_ascii_alphanumeric() || letter == '_')
        );
    }
    (set, rest)
}

/// Names that a message of serde lists: what it expected.
fn expected<T: DeserializeOwned>(text: &str) -> Names {
    let raw: Box<RawValue> = RawValue::from_string(text.to_owned()).unwrap();
    let Err(fault) = parse_parameters::<T>(Some(&raw)) else {
        panic!("{text} is taken");
    };
    let said = serde_json::to_value(&fault).unwrap()["parameters"]["message"]
        .as_str()
        .unwrap()
        .to_owned();
    let Some((_, list)) = said.split_once("expected ") else {
        assert!(said.contains("there are no fields"), "{said}");
        return Names::new();
    };
    list.split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn fields<T: DeserializeOwned>() -> Names {
    expected::<T>("{\"\":1}")
}

fn variants<T: DeserializeOwned>() -> Names {
    expected::<T>("\"\"")
}

fn keys(value: &impl Serialize) -> Names {
    let value = serde_json::to_value(value).unwrap();
    value.as_object().unwrap().keys().cloned().collect()
}

/// An operation with everything that one may have.
fn operation() -> crate::engine::OperationView {
    serde_json::from_value(json!({
        "id": TransferId([1; 16]), "kind": "download", "owner_uid": 0, "app": "", "group": null, "completion_group": TransferId([1; 16]), "url": "",
        "destination": "/d", "priority": "low", "status": "Idle", "reason": null,
        "next_attempt_at": null, "bytes_done": 0, "ranges": [[0, 1]], "bytes_total": null, "restarts": 0, "attempts": 0,
        "bytes_wasted": 0, "error": { "status": "Timeout", "code": null, "message": "" },
        "created_at": wire::moment(1), "ended_at": null, "acknowledged": false, "actual_url": null, "status_code": null,
        "content_type": null, "resumable": null, "expected_type": null, "recoverable": [], "sources": [], "source": "",
        "digests": [], "unverified": false, "method": "GET", "response_headers": [], "response_headers_cut": false
    }))
    .unwrap()
}

fn group() -> GroupView {
    serde_json::from_value(json!({ "app": "", "name": "", "behavior": "parallel", "live_members": 0 })).unwrap()
}

fn completion_group() -> CompletionGroup {
    serde_json::from_value(json!({
        "id": TransferId([1; 16]), "app": "", "name": null, "command": null, "state": "open", "remaining": 0, "members": [],
        "runs": 0, "problem": null, "next_run_at": null, "created_at": wire::moment(1), "sealed_at": null,
        "fired_at": null, "closed_at": null
    }))
    .unwrap()
}

#[test]
#[expect(clippy::too_many_lines, reason = "it is a table")]
fn the_description_has_every_method_with_its_parameters_and_its_answer() {
    let described = described();
    let names: BTreeSet<&str> = METHODS
        .iter()
        .map(|(name, ..)| *name)
        .chain(["Monitor", "Wait"])
        .collect();
    let done = || keys(&Done {});
    let operations = || vec![operation()];
    let description = Description {
        version: String::new(),
        pid: 0,
        state_directory: String::new(),
        device: 0,
        inode: 0,
        operations: 0,
        running: 0,
        unacknowledged_lost: 0,
    };
    let waited = Waited {
        operations: operations(),
        timed_out: false,
    };
    let listed = Listed {
        operations: operations(),
        next: Some(1),
    };
    let read = HasRead {
        bytes: Vec::new(),
        generation: 0,
        end_of_file: false,
    };
    let downloaded = Downloaded {
        generation: 0,
        ranges: Vec::new(),
    };
    let update = Update {
        missed: true,
        completion_groups: vec![completion_group().into()],
        ..Update::default()
    };
    let methods: Vec<(&str, Names, Names)> = vec![
        ("Describe", fields::<Describe>(), keys(&description)),
        (
            "Create",
            fields::<Create>(),
            keys(&AllCreated { operations: Vec::new() }),
        ),
        ("Start", fields::<Start>(), done()),
        ("Pause", fields::<Pause>(), done()),
        ("Resume", fields::<Resume>(), done()),
        ("Cancel", fields::<Cancel>(), done()),
        ("Remove", fields::<Remove>(), done()),
        ("Acknowledge", fields::<Acknowledge>(), done()),
        ("Set", fields::<Set>(), done()),
        ("Attend", fields::<Attend>(), done()),
        ("ForgetApp", fields::<ForgetApp>(), keys(&Forgotten { operations: 0 })),
        ("Show", fields::<Show>(), keys(&Shown { operation: operation() })),
        ("List", fields::<List>(), keys(&listed)),
        ("Read", fields::<Read>(), keys(&read)),
        ("DownloadedRanges", fields::<DownloadedRanges>(), keys(&downloaded)),
        (
            "Spool",
            fields::<Spool>(),
            keys(&SpooledSoFar {
                id: String::new(),
                len_bytes: 0,
            }),
        ),
        (
            "CreateGroup",
            fields::<CreateGroup>(),
            keys(&OneGroup { group: group() }),
        ),
        ("SetGroup", fields::<SetGroup>(), keys(&OneGroup { group: group() })),
        ("RemoveGroup", fields::<RemoveGroup>(), done()),
        ("Groups", fields::<Groups>(), keys(&AllGroups { groups: vec![group()] })),
        ("MakeCurrent", fields::<MakeCurrent>(), done()),
        (
            "CreateCompletionGroup",
            fields::<CreateCompletionGroup>(),
            keys(&CreatedCompletionGroup {
                id: CompletionGroupId([1; 16]),
            }),
        ),
        ("EnableCompletionGroup", fields::<EnableCompletionGroup>(), done()),
        (
            "AcknowledgeCompletionGroup",
            fields::<AcknowledgeCompletionGroup>(),
            done(),
        ),
        ("RemoveCompletionGroup", fields::<RemoveCompletionGroup>(), done()),
        (
            "ShowCompletionGroup",
            fields::<ShowCompletionGroup>(),
            keys(&OneCompletionGroup {
                group: completion_group(),
            }),
        ),
        (
            "CompletionGroups",
            fields::<CompletionGroups>(),
            keys(&AllCompletionGroups { groups: Vec::new() }),
        ),
        ("Wait", fields::<Waiting>(), keys(&waited)),
        ("Monitor", fields::<Monitoring>(), keys(&update)),
    ];
    assert_eq!(methods.iter().map(|(name, ..)| *name).collect::<BTreeSet<_>>(), names);
    assert_eq!(
        described.methods.keys().map(String::as_str).collect::<BTreeSet<_>>(),
        names
    );
    for (name, parameters, answer) in methods {
        assert_eq!(described.methods[name], (parameters, answer), "{name}");
    }
}

#[test]
fn the_description_has_every_type_with_its_names() {
    let operation = operation();
    let created = Created {
        id: operation.id,
        existed: false,
        differences: Vec::new(),
    };
    let statuses = TransferStatus::all().iter().map(ToString::to_string);
    let types = BTreeMap::from([
        ("Priority", variants::<Priority>()),
        ("TransferBehavior", variants::<TransferBehavior>()),
        ("Group", keys(&group())),
        ("CompletionStage", variants::<CompletionStage>()),
        ("CompletionGroup", keys(&completion_group())),
        ("CostPolicy", variants::<CostPolicy>()),
        ("Collision", variants::<Collision>()),
        ("Status", statuses.collect()),
        ("Stand", variants::<Stand>()),
        ("Failure", keys(operation.error.as_ref().unwrap())),
        ("Operation", keys(&operation)),
        ("Login", fields::<Login>()),
        ("Download", fields::<Download>()),
        ("Change", fields::<Change>()),
        ("Created", keys(&created)),
        ("Selection", fields::<Selection>()),
    ]);
    let described = described().types;
    let described: BTreeMap<&str, Names> = described
        .iter()
        .map(|(name, list)| (name.as_str(), list.clone()))
        .collect();
    assert_eq!(described, types);
    assert_eq!(described["Status"], variants::<TransferStatus>());
}

#[test]
fn the_description_explains_every_reason() {
    let explained: Names = DESCRIPTION
        .lines()
        .filter_map(|line| line.strip_prefix("  #   ")?.split_once(": "))
        .map(|(name, _)| name.to_owned())
        .collect();
    let reasons: Names = Reason::all().iter().map(|(reason, _)| reason.to_string()).collect();
    assert_eq!(explained, reasons);
    assert_eq!(explained, variants::<Reason>());
}

#[test]
fn the_description_has_every_error_with_its_parameters() {
    let id = TransferId([1; 16]);
    let status = TransferStatus::Idle;
    let conflict = |field: &'static str| (field.into(), String::new());
    let (field, value) = conflict("url");
    let errors = [
        Error::invalid("url", "", ""),
        Error::UnknownId(id),
        Error::Locked {
            path: "/l".into(),
            holder: None,
        },
        Error::Conflict {
            field,
            value,
            id,
            status,
        },
        Error::Expectation {
            field: "size".into(),
            value: String::new(),
            id,
            status,
        },
        Error::DestinationExists("/d".into()),
        Error::NotNow {
            id,
            problem: String::new(),
        },
        Error::Unsuccessful {
            id,
            status,
            error: None,
            problem: String::new(),
        },
        Error::UnknownGroup {
            app: String::new(),
            name: String::new(),
        },
        Error::GroupInUse {
            app: String::new(),
            name: String::new(),
            live_members: 1,
        },
        Error::UnknownCompletionGroup(CompletionGroupId([1; 16])),
        Error::CompletionGroupNotNow {
            id: CompletionGroupId([1; 16]),
            problem: String::new(),
        },
        Error::limit("operations", 1),
        Error::Vault {
            path: "/v".into(),
            problem: "".into(),
        },
        Error::Service("".into()),
    ];
    let faults = errors.into_iter().map(|error| Fault::from(Refused::from((1, error))));
    let faults = faults.chain([Fault::disconnected(""), Fault::permission_denied()]);
    let errors: BTreeMap<String, Names> = faults
        .map(|fault| {
            let fault: Value = serde_json::to_value(fault).unwrap();
            let name = fault["error"]
                .as_str()
                .unwrap()
                .strip_prefix("io.backhaul.Transfer.")
                .unwrap();
            (name.to_owned(), keys(&fault["parameters"]))
        })
        .collect();
    assert_eq!(described().errors, errors);
}
