//! What comes over the local socket: any bytes, in any pieces.

use backhaul::fuzzing::{Heard, control};

/// Bytes of a message at most, by turns: so few that inputs reach the limit, and as many as the service takes.
const MESSAGE_BYTES_MAX: [usize; 2] = [200, 1 << 20];

/// Any bytes as the stream of a client, whole and in pieces; the first byte says in which.
pub(crate) fn control_protocol(bytes: &[u8]) {
    let Some((first, stream)) = bytes.split_first() else {
        return;
    };
    let message_bytes_max = MESSAGE_BYTES_MAX[usize::from(first % 2)];
    let whole = control(std::iter::once(stream), message_bytes_max);
    let pieces = stream.chunks(usize::from(first / 2) + 1);
    assert_eq!(
        control(pieces, message_bytes_max),
        whole,
        "the pieces decide what is heard"
    );
    let ends = stream.split(|byte| *byte == 0).count() - 1;
    let messages = whole.iter().filter(|heard| **heard != Heard::TooLong).count();
    assert!(messages <= ends, "{messages} messages have {ends} ends");
    for heard in &whole {
        match heard {
            Heard::Answered(answer) => check_answer(answer),
            Heard::Call(method, parameters) => check_call(method, parameters),
            Heard::Broken(problem) => assert!(!problem.is_empty() && !problem.contains('\n'), "{problem:?}"),
            Heard::Silent | Heard::TooLong => {}
        }
    }
}

/// An answer is one message, which says what came of the call.
fn check_answer(answer: &[u8]) {
    let (end, text) = answer.split_last().expect("an answer is not empty");
    assert!(*end == 0 && !text.contains(&0), "an answer is not one message");
    let text = std::str::from_utf8(text).expect("an answer is text");
    let is_answer = text.starts_with("{\"error\":\"") || text.starts_with("{\"parameters\":{");
    assert!(is_answer && text.ends_with('}'), "{text}");
}

/// What was read says the same when it is written and read again.
fn check_call(method: &str, parameters: &[u8]) {
    let parameters_text = std::str::from_utf8(parameters).expect("parameters are text");
    let message =
        format!("{{\"method\":\"io.backhaul.Transfer.{method}\",\"more\":true,\"parameters\":{parameters_text}}}\0");
    let again = control(std::iter::once(message.as_bytes()), usize::MAX);
    let expected = Heard::Call(method.to_owned(), parameters.to_vec());
    assert_eq!(again, [expected], "a call that is written again says something else");
}
