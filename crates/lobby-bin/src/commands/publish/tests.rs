use clap::Parser;
use notify_protocol::TRACEPARENT_HEADER;

use super::*;

#[derive(Debug, Parser)]
struct Command {
    #[command(flatten)]
    args: PublishArgs,
}

fn args(line: &str) -> Result<PublishArgs, clap::Error> {
    Command::try_parse_from(std::iter::once("publish").chain(line.split(' '))).map(|command| command.args)
}

#[test]
fn f19_exactly_one_address_must_be_given() {
    for good in [
        "--user 42 {}",
        "--user -1 {}",
        "--channel m {}",
        "--broadcast -",
        "--envelopes x.jsonl",
        "--broadcast",
    ] {
        assert!(args(good).is_ok(), "{good}");
    }
    for bad in [
        "{}",
        "--user 42 --broadcast {}",
        "--user 42 --channel m {}",
        "--user true {}",
        "--user 4.2 {}",
        "--lines x",
    ] {
        assert!(args(bad).is_err(), "{bad}");
    }
}

#[test]
fn f19_flags_become_the_message() {
    let all = "--user 42 --expires 60s --message-id m --correlation-id c --priority 7 {}";
    let message = args(all).expect("arguments").bare(b" {\"a\":1.10}\n").expect("a message");
    let properties = message.properties();
    assert_eq!(message.address(), Address::User(UserId::new(42)));
    assert_eq!(message.body(), b"{\"a\":1.10}");
    assert_eq!(properties.expiration.as_deref(), Some("60000"));
    assert_eq!(properties.message_id.as_deref(), Some("m"));
    assert_eq!((properties.correlation_id.as_deref(), properties.priority), (Some("c"), Some(7)));
    for body in [&b"[]"[..], b"", b"{\"a\":NaN}", b"{\"a\":\"\xff\"}"] {
        assert!(args("--broadcast -").expect("arguments").bare(body).is_err(), "{body:?}");
    }
}

#[test]
fn k15_a_trace_context_comes_from_the_flag_or_from_the_envelope_and_is_checked() {
    let flag = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let own = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b8-00";
    let traceparent = |message: &Message| {
        let mut headers = message.headers().filter(|(name, _)| *name == TRACEPARENT_HEADER);
        headers.next().map(|(_, value)| format!("{value:?}")).unwrap_or_default()
    };
    let bare = args(&format!("--broadcast --traceparent {flag} {{}}")).expect("arguments").bare(b"{}");
    assert!(traceparent(&bare.expect("a message")).contains(flag));
    let lines = args(&format!("--envelopes --traceparent {flag} -")).expect("arguments");
    let line = |line: &str| lines.line(line.as_bytes()).map(|message| traceparent(&message));
    assert!(line(r#"{"broadcast":true,"body":{}}"#).expect("a message").contains(flag));
    let with_its_own = format!(r#"{{"broadcast":true,"body":{{}},"traceparent":"{own}"}}"#);
    assert!(line(&with_its_own).expect("a message").contains(own));
    assert!(line(r#"{"broadcast":true,"body":{},"traceparent":"here"}"#).is_err());
    assert!(args("--broadcast --traceparent here {}").expect("arguments").bare(b"{}").is_err());
}

#[test]
fn f19_what_can_be_read_only_once_is_not_read_in_advance() {
    let here = env!("CARGO_MANIFEST_DIR");
    for (given, file) in [("-", false), ("/dev/null", false), (here, false), ("/nowhere/x", true)] {
        assert_eq!(input::is_file(given), file, "{given}");
    }
    let refused = check("/dev/null", |_| Ok(())).expect_err("no file");
    assert_eq!(refused.code, Failure::FILE);
    assert!(refused.error.to_string().contains("is read twice"), "{:#}", refused.error);
}

#[test]
fn f19_an_envelope_says_to_whom_and_its_body_stays_as_it_is() {
    let args = args("--envelopes --expires 5s -").expect("arguments");
    let message =
        args.line(br#"{"user-id":42,"body":{"b":1e400, "b":1.10},"expires":"60s"}"#).expect("a message");
    assert_eq!(message.address(), Address::User(UserId::new(42)));
    assert_eq!(message.body(), br#"{"b":1e400, "b":1.10}"#);
    assert_eq!(message.properties().expiration.as_deref(), Some("60000"));
    let everyone = args.line(br#"{"broadcast":true,"body":{}}"#).expect("a message");
    assert_eq!(
        (everyone.address(), everyone.properties().expiration.as_deref()),
        (Address::Everyone, Some("5000"))
    );
}

#[test]
fn f19_an_envelope_that_is_wrong_is_never_a_broadcast() {
    let args = args("--envelopes -").expect("arguments");
    for (line, says) in [
        (r#"{"body":{}}"#, "nobody is addressed"),
        (r#"{"user-id":null,"body":{}}"#, "null"),
        (r#"{"user-id":null,"broadcast":true,"body":{}}"#, "null"),
        (r#"{"user-id":true,"body":{}}"#, "boolean"),
        (r#"{"user-id":42.0,"body":{}}"#, "floating point"),
        (r#"{"user-id":" 42","body":{}}"#, "string"),
        (r#"{"user-id":42,"broadcast":true,"body":{}}"#, "only one"),
        (r#"{"broadcast":false,"body":{}}"#, "is false"),
        (r#"{"user_id":42,"broadcast":true,"body":{}}"#, "unknown field"),
        (r#"{"user-id":42,"user-id":43,"body":{}}"#, "duplicate field"),
        (r#"{"user-id":42,"body":[]}"#, "array"),
        (r#"{"user-id":42}"#, "body"),
        (r#"{"user-id":42,"body":{},"expires":"soon"}"#, "expires"),
    ] {
        let error = format!("{:#}", args.line(line.as_bytes()).expect_err(line));
        assert!(error.contains(says), "{line}: {error}");
    }
}
