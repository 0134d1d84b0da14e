//! What a verified token's claims must say, and who they name.
//!
//! Pure: runs after the signature, `exp` and `nbf` were checked.

use lobby_sessions::Identity;
use notify_protocol::UserId;
use serde_json::{Map, Value};

/// Reads the identity from the claims.
///
/// # Errors
/// Which claim is wrong, for the log.
pub fn identity(claims: &Map<String, Value>, scope: &str) -> Result<Identity, String> {
    let user = user_id(claims.get("sub"))?;
    if !scope.is_empty() && !has_scope(claims, scope) {
        return Err(format!("the scope {scope:?} is in neither `scp` nor `scope`"));
    }
    let login = login(claims).map_or_else(|| format!("user-{user}"), str::to_owned);
    Ok(Identity { user, login, expires_at: claims.get("exp").and_then(unix_seconds) })
}

fn user_id(sub: Option<&Value>) -> Result<UserId, String> {
    let id = match sub {
        Some(Value::Number(number)) => number.as_i64(),
        // FAF sends a decimal string; a sign of plus is no part of one.
        Some(Value::String(text)) if !text.starts_with('+') => {
            UserId::from_ascii(text.as_bytes()).map(UserId::get)
        }
        _ => None,
    };
    id.map(UserId::new).ok_or_else(|| "`sub` is not an integer".to_owned())
}

fn has_scope(claims: &Map<String, Value>, scope: &str) -> bool {
    let in_list = |list: &[Value]| list.iter().any(|s| s.as_str() == Some(scope));
    let in_text = |text: &str| text.split(' ').any(|s| s == scope);
    let scp = match claims.get("scp") {
        Some(Value::Array(list)) => in_list(list),
        Some(Value::String(text)) => in_text(text),
        _ => false,
    };
    scp || claims.get("scope").and_then(Value::as_str).is_some_and(in_text)
}

fn login(claims: &Map<String, Value>) -> Option<&str> {
    let ext = claims.get("ext").and_then(|ext| ext.get("username"));
    [ext, claims.get("preferred_username"), claims.get("username")]
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .find(|name| !name.is_empty() && name.len() <= 256)
}

fn unix_seconds(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_f64().map(|seconds| seconds as u64))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(claims: Value) -> Result<(i64, String), String> {
        let claims = claims.as_object().expect("an object").clone();
        identity(&claims, "lobby").map(|who| (who.user.get(), who.login))
    }

    #[test]
    fn the_user_id_is_an_integer_or_its_decimal_string() {
        for (sub, want) in [(json!(42), 42), (json!("42"), 42), (json!(0), 0), (json!("-7"), -7)] {
            let got = read(json!({"sub": sub, "scp": ["lobby"]})).map(|(id, _)| id);
            assert_eq!(got, Ok(want), "{sub}");
        }
        for sub in [json!(4.2), json!(4.0), json!("4.2"), json!(""), json!(" 42"), json!("+42"), json!(true)]
        {
            assert!(read(json!({"sub": sub, "scp": ["lobby"]})).is_err(), "{sub}");
        }
        for sub in [json!(null), json!([42]), json!({"id": 42}), json!("9223372036854775808"), json!("٤٢")]
        {
            assert!(read(json!({"sub": sub, "scp": ["lobby"]})).is_err(), "{sub}");
        }
        assert!(read(json!({"scp": ["lobby"]})).is_err());
    }

    #[test]
    fn the_scope_may_stand_in_three_places_and_must_match_whole() {
        for claims in [
            json!({"scp": ["x", "lobby"]}),
            json!({"scp": "x lobby"}),
            json!({"scope": "lobby y"}),
            json!({"scp": [], "scope": "lobby"}),
        ] {
            let mut claims = claims;
            claims["sub"] = json!(1);
            assert!(read(claims.clone()).is_ok(), "{claims}");
        }
        for claims in [
            json!({}),
            json!({"scp": ["lobbyist"]}),
            json!({"scope": ["lobby"]}),
            json!({"scp": {"lobby": true}}),
            json!({"scope": "Lobby"}),
            json!({"scp": "a,lobby"}),
        ] {
            let mut claims = claims;
            claims["sub"] = json!(1);
            assert!(read(claims.clone()).is_err(), "{claims}");
        }
    }

    #[test]
    fn the_login_name_comes_from_the_first_place_that_has_one() {
        let all = json!({"sub": 1, "scp": "lobby", "ext": {"username": "a"}, "preferred_username": "b", "username": "c"});
        assert_eq!(read(all.clone()), Ok((1, "a".to_owned())));
        let mut claims = all;
        for (remove, want) in [("ext", "b"), ("preferred_username", "c"), ("username", "user-1")] {
            claims.as_object_mut().expect("an object").remove(remove);
            assert_eq!(read(claims.clone()), Ok((1, want.to_owned())));
        }
    }
}
