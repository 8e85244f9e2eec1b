//! Exit codes: distinct, documented, stable.

use crate::Error;

/// How the command ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Success,
    TransferFailed,
    BadInput,
    UnknownId,
    Locked,
    Journal,
    Local,
    Refused,
    TimedOut,
    NoEngine,
    Interrupted,
    Terminated,
    /// `journal verify` found a torn tail, or damage.
    TornTail,
    Corrupt,
}

/// The table of exit codes as `--help` and the man page show it.
pub(super) const HELP: &str = "\
Exit codes:
  0    done
  1    an operation ended in an error
  2    bad input: an argument, URL, header, destination or digest
  3    no operation or group has this id or name
  4    another process works on the state directory
  5    the journal is damaged, or of another format
  6    the state directory or another local file cannot be used
  7    refused now: the state of the operation, or another one with the same destination or URL
  8    the time of --timeout has passed
  9    no engine is running here
  130  interrupted (SIGINT); 143 terminated (SIGTERM)
  'journal verify': 0 clean, 1 torn tail, 2 corrupt

Environment:
  STATE_DIRECTORY, XDG_STATE_HOME, HOME   where the state directory is, in this order, without --state-dir
                                          (/var/lib/backhaul for root without STATE_DIRECTORY)
  SSL_CERT_FILE, SSL_CERT_DIR             certificates that HTTPS trusts, without --ca-bundle
  http_proxy, https_proxy, ftp_proxy,     proxies by scheme, for the rest, and the servers without one; the names in
  all_proxy, no_proxy                     capitals count too, but not HTTP_PROXY
  BACKHAUL_LOG                            what is logged: error, warn (default), info, debug, trace";

impl Exit {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Success => 0,
            Self::TransferFailed | Self::TornTail => 1,
            Self::BadInput | Self::Corrupt => 2,
            Self::UnknownId => 3,
            Self::Locked => 4,
            Self::Journal => 5,
            Self::Local => 6,
            Self::Refused => 7,
            Self::TimedOut => 8,
            Self::NoEngine => 9,
            Self::Interrupted => 130,
            Self::Terminated => 143,
        }
    }

    pub(super) fn for_error(error: &Error) -> Self {
        match error {
            Error::Invalid { .. } | Error::DestinationExists(_) => Self::BadInput,
            Error::UnknownId(_) | Error::UnknownGroup { .. } | Error::UnknownCompletionGroup(_) => Self::UnknownId,
            Error::Locked { .. } => Self::Locked,
            Error::Conflict { .. }
            | Error::Expectation { .. }
            | Error::NotNow { .. }
            | Error::Unsuccessful { .. }
            | Error::GroupInUse { .. }
            | Error::CompletionGroupNotNow { .. }
            | Error::LimitReached { .. } => Self::Refused,
            Error::NotSalvaged { .. } => Self::Journal,
            Error::Journal(error) => match error.as_ref() {
                backhaul_journal::Error::Corrupt { .. } | backhaul_journal::Error::Unsupported { .. } => Self::Journal,
                _ => Self::Local,
            },
            Error::Vault { .. } | Error::Io(..) | Error::Service(_) | Error::Disconnected(_) => Self::Local,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{CompletionGroupId, TransferId};

    #[test]
    fn groups_that_are_not_there_or_cannot_now_have_the_codes_of_operations_like_that() {
        let (app, name) = (String::from("a"), String::from("g"));
        let id = CompletionGroupId([7; 16]);
        let unknown = [
            Error::UnknownId(TransferId([7; 16])),
            Error::UnknownGroup {
                app: app.clone(),
                name: name.clone(),
            },
            Error::UnknownCompletionGroup(id),
        ];
        assert_eq!(unknown.map(|error| Exit::for_error(&error).code()), [3; 3]);
        let problem = String::from("is enabled already");
        let refused = [
            Error::NotNow {
                id: TransferId([7; 16]),
                problem: problem.clone(),
            },
            Error::GroupInUse {
                app,
                name,
                live_members: 1,
            },
            Error::CompletionGroupNotNow { id, problem },
        ];
        assert_eq!(refused.map(|error| Exit::for_error(&error).code()), [7; 3]);
    }
}
