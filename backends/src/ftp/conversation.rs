//! Which reply answers which command. Pure.

use super::replies::{Reply, ReplyReader};
use crate::WebErrorStatus;
use crate::problem::Problem;

/// Most bytes of all replies to one transfer; a greeting of some screens, and a hundred short replies, fit many times.
const REPLY_BYTES_MAX: usize = 64 * 1024;

/// What was said on the control connection, as far as it matters.
#[derive(Debug, Default)]
pub(super) struct Conversation {
    reader: ReplyReader,
    reply_bytes: usize,
    /// The last command without its arguments, in upper case; empty before the first.
    command: String,
    /// The last reply to that command.
    last: Option<Reply>,
    /// The transfer was accepted, and then it was said how it ended.
    has_transferred: bool,
}

impl Conversation {
    pub(super) fn sent(&mut self, command: &[u8]) {
        let verb = command.split(u8::is_ascii_whitespace).next().unwrap_or_default();
        self.command = String::from_utf8_lossy(verb).to_ascii_uppercase();
        self.last = None;
    }

    /// Takes a line; gives the reply that it ends.
    pub(super) fn heard(&mut self, line: &[u8]) -> Result<Option<&Reply>, Problem> {
        self.reply_bytes += line.len();
        if self.reply_bytes > REPLY_BYTES_MAX {
            let text = format!("more than {REPLY_BYTES_MAX} bytes of replies");
            return Err(Problem::bad_reply(&text));
        }
        let reply = self.reader.take(line).map_err(|_| {
            let status = WebErrorStatus::ERROR_HTTP_INVALID_SERVER_RESPONSE;
            Problem::permanent(status, "the server does not speak FTP, or not clearly, on this port")
        })?;
        let Some(reply) = reply else {
            return Ok(None);
        };
        self.has_transferred |= self.command == "RETR" && matches!(reply.code, 200..300);
        Ok(Some(self.last.insert(reply)))
    }

    pub(super) fn command(&self) -> &str {
        &self.command
    }

    pub(super) fn last(&self) -> Option<&Reply> {
        self.last.as_ref()
    }

    pub(super) fn has_transferred(&self) -> bool {
        self.has_transferred
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "a failed unwrap is a failed test")]
mod tests {
    use super::*;

    #[test]
    fn a_reply_belongs_to_the_last_command_and_its_arguments_are_not_kept() {
        let mut conversation = Conversation::default();
        assert_eq!(conversation.heard(b"220 ready\r\n").unwrap().unwrap().code, 220);
        assert_eq!(conversation.command(), "");
        conversation.sent(b"pass hush\r\n");
        assert_eq!((conversation.command(), conversation.last()), ("PASS", None));
        assert!(conversation.heard(b"230-a\r\n").unwrap().is_none());
        assert!(conversation.heard(b"230 b\r\n").unwrap().is_some());
        assert_eq!(conversation.last().unwrap().code, 230);
        assert!(!format!("{conversation:?}").contains("hush"));
    }

    #[test]
    fn a_transfer_is_over_with_the_second_reply_to_it() {
        let mut conversation = Conversation::default();
        for (line, is_over) in [(b"150 here\r\n", false), (b"226 done\r\n", true)] {
            if !is_over {
                conversation.sent(b"RETR a\r\n");
            }
            conversation.heard(line).unwrap();
            assert_eq!(conversation.has_transferred(), is_over);
        }
    }

    #[test]
    fn replies_have_an_end() {
        let mut conversation = Conversation::default();
        let line = format!("220-{}\r\n", "x".repeat(1000));
        let taken = (0..1000)
            .take_while(|_| conversation.heard(line.as_bytes()).is_ok())
            .count();
        assert_eq!(taken, REPLY_BYTES_MAX / line.len());
    }
}
