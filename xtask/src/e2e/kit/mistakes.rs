//! What goes wrong in silence without a publisher that checks: each mistake in each language, and what the error must name.

use super::language::Language;

/// What the mistake is, in Python, in TypeScript (compiled away or not, it is tried at run time), what the error names.
/// An empty text: the language has no such mistake.
const MISTAKES: &[(&str, &str, &str, &str)] = &[
    ("text with a blank before", r#"to_user(" 42", {})"#, r#"toUser(" 42", {})"#, "user id is"),
    ("text with a blank inside", r#"to_user("4 2", {})"#, r#"toUser("4 2", {})"#, "user id is"),
    ("digits as text", r#"to_user("42", {})"#, r#"toUser("42", {})"#, "user id is"),
    ("no text", r#"to_user("", {})"#, r#"toUser("", {})"#, "user id is"),
    ("bytes", r#"to_user(b"42", {})"#, "toUser(new Uint8Array([52, 50]), {})", "user id is"),
    ("a float", "to_user(3.7, {})", "toUser(3.7, {})", "user id is"),
    ("a float that is whole", "to_user(42.0, {})", "", "user id is"),
    ("not a number", r#"to_user(float("nan"), {})"#, "toUser(NaN, {})", "user id is"),
    ("infinity", r#"to_user(float("inf"), {})"#, "toUser(Infinity, {})", "user id is"),
    ("a decimal", r#"to_user(Decimal("42"), {})"#, "", "user id is"),
    ("true", "to_user(True, {})", "toUser(true, {})", "user id is"),
    ("false", "to_user(False, {})", "toUser(false, {})", "user id is"),
    ("nothing", "to_user(None, {})", "toUser(null, {})", "reach"),
    ("nothing, the other one", "", "toUser(undefined, {})", "reach"),
    ("an id that an object does not have", r#"to_user({}.get("id"), {})"#, "toUser(({}).id, {})", "reach"),
    ("a list", "to_user([42], {})", "toUser([42], {})", "user id is"),
    ("an object", r#"to_user({"id": 42}, {})"#, "toUser({id: 42}, {})", "user id is"),
    ("beyond 64 bits", "to_user(2**63, {})", "toUser(2n ** 63n, {})", "user id is"),
    ("below 64 bits", "to_user(-2**63 - 1, {})", "toUser(-(2n ** 63n) - 1n, {})", "user id is"),
    ("of 5,000 digits", "to_user(10**5000, {})", "toUser(10n ** 5000n, {})", "user id is"),
    ("beyond 2^53 as a number", "", "toUser(2 ** 53, {})", "beyond 2^53"),
    ("below -2^53 as a number", "", "toUser(-(2 ** 53) - 2, {})", "beyond 2^53"),
    ("the user forgotten", r#"to_user({"command": "x"})"#, r#"toUser({command: "x"})"#, ""),
    ("a broadcast to a user", "broadcast({}, user_id=42)", "broadcast({}, {userId: 42})", "to"),
    ("a broadcast to nothing", "broadcast({}, user_id=None)", "broadcast({}, {userId: undefined})", "to"),
    (
        "the broker's user as an option",
        r#"to_user(42, {}, user="guest")"#,
        r#"toUser(42, {}, {user: "guest"})"#,
        "option",
    ),
    (
        "headers as an option",
        r#"broadcast({}, headers={"user-id": 42})"#,
        r#"broadcast({}, {headers: {"user-id": 42}})"#,
        "option",
    ),
    ("no channel", "to_channel(None, {})", "toChannel(undefined, {})", "channel is"),
    ("a number for a channel", "to_channel(7, {})", "toChannel(7, {})", "channel is"),
    ("half a character in a channel", r#"to_channel("\ud800", {})"#, r#"toChannel("\ud800", {})"#, "channel"),
    ("no body", "to_user(42, None)", "toUser(42, null)", "body is"),
    ("the body forgotten", "to_user(42)", "toUser(42)", "body"),
    ("a list for a body", "to_user(42, [1, 2])", "toUser(42, [1, 2])", "body is"),
    ("text for a body", r#"to_user(42, '{"a": 1}')"#, r#"toUser(42, '{"a": 1}')"#, "body is"),
    ("bytes for a body", r#"to_user(42, b'{"a": 1}')"#, "", "body is"),
    ("a number for a body", "to_user(42, 7)", "toUser(42, 7)", "body is"),
    ("a date for a body", "to_user(42, datetime(2026, 1, 1))", "toUser(42, new Date(0))", "body"),
    ("NaN in a body", r#"to_user(42, {"x": [float("nan")]})"#, "toUser(42, {x: [NaN]})", "body"),
    (
        "infinity in a body",
        r#"to_user(42, {"x": {"y": float("-inf")}})"#,
        "toUser(42, {x: {y: -Infinity}})",
        "body",
    ),
    ("a set in a body", r#"to_user(42, {"x": {1, 2}})"#, "toUser(42, {x: new Set([1])})", "body"),
    ("a map in a body", "", "toUser(42, {x: new Map([[1, 2]])})", "body"),
    ("a map for a body", "", "toUser(42, new Map([[1, 2]]))", "body"),
    ("a bigint in a body", "", "toUser(42, {x: 1n})", "body"),
    ("a function in a body", r#"to_user(42, {"x": print})"#, "toUser(42, {x: () => 1})", "body"),
    ("undefined in a list", "", "toUser(42, {x: [undefined]})", "body"),
    ("bytes in a body", r#"to_user(42, {"x": b"1"})"#, "", "body"),
    ("half a character in a body", r#"to_user(42, {"x": "\ud800"})"#, "", "body"),
    (
        "a body that holds itself",
        "to_user(42, (lambda d: d.update(d=d) or d)({}))",
        "toUser(42, (() => { const d = {}; d.d = d; return d; })())",
        "body",
    ),
    (
        "a body over the limit",
        r#"to_user(42, {"x": "x" * 4_259_840})"#,
        r#"toUser(42, {x: "x".repeat(4_259_840)})"#,
        "limit",
    ),
    (
        "raw text that is no JSON",
        r#"to_user(42, RawJson("{'a': 1}"))"#,
        r#"toUser(42, new RawJson("{'a': 1}"))"#,
        "JSON",
    ),
    ("raw NaN", r#"to_user(42, RawJson('{"a": NaN}'))"#, r#"toUser(42, new RawJson('{"a": NaN}'))"#, "JSON"),
    ("a raw list", r#"to_user(42, RawJson("[]"))"#, r#"toUser(42, new RawJson("[]"))"#, "JSON"),
    (
        "raw bytes that are no UTF-8",
        r#"to_user(42, RawJson(b'{"a": "\xff"}'))"#,
        "toUser(42, new RawJson(new Uint8Array([0x7b, 0xff, 0x7d])))",
        "JSON",
    ),
    ("a dict as raw JSON", "to_user(42, RawJson({}))", "toUser(42, new RawJson({}))", "raw JSON is"),
    ("no time to live", "broadcast({}, expires=0)", "broadcast({}, {expires: 0})", "expires is"),
    (
        "endless time to live",
        r#"broadcast({}, expires=float("inf"))"#,
        "broadcast({}, {expires: Infinity})",
        "expires is",
    ),
    (
        "a time to live of no number",
        r#"broadcast({}, expires=float("nan"))"#,
        "broadcast({}, {expires: NaN})",
        "expires is",
    ),
    (
        "a time to live as text",
        r#"broadcast({}, expires="60")"#,
        r#"broadcast({}, {expires: "60"})"#,
        "expires is",
    ),
    (
        "fifty days to live",
        "broadcast({}, expires=50 * 86_400)",
        "broadcast({}, {expires: 50 * 86_400})",
        "expires is",
    ),
    ("priority 256", "broadcast({}, priority=256)", "broadcast({}, {priority: 256})", "priority is"),
    ("priority true", "broadcast({}, priority=True)", "broadcast({}, {priority: true})", "priority is"),
    (
        "a timestamp in milliseconds",
        "broadcast({}, timestamp=1_700_000_000_000)",
        "broadcast({}, {timestamp: 1_700_000_000_000})",
        "timestamp is",
    ),
    (
        "a long message id",
        r#"broadcast({}, message_id="é" * 128)"#,
        r#"broadcast({}, {messageId: "é".repeat(128)})"#,
        "255 bytes",
    ),
    ("a message id of no text", "broadcast({}, message_id=7)", "broadcast({}, {messageId: 7})", "give a str"),
    (
        "a broken trace context",
        r#"broadcast({}, traceparent="00-1-2-3")"#,
        r#"broadcast({}, {traceparent: "00-1-2-3"})"#,
        "traceparent is",
    ),
    (
        "a notification by hand",
        r#"Notification(None, {"user-id": None}, b"{}", {})"#,
        "new Notification(Symbol(), {}, new Uint8Array(), {})",
        "to",
    ),
    ("no notification at all", r#"{"user-id": 42}"#, r#"{"user-id": 42}"#, "publish got"),
];

/// Those that the language has: name, expression, what the error names.
pub(super) fn of(language: &Language) -> impl Iterator<Item = (&'static str, &'static str, &'static str)> {
    let mistakes = MISTAKES
        .iter()
        .map(|(name, python, typescript, why)| (*name, language.one_of(python, typescript), *why));
    mistakes.filter(|(_, expression, _)| !expression.is_empty())
}
