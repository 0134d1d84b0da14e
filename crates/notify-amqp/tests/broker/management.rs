//! The broker's management API, as far as these tests need it.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

use serde_json::Value;

fn request(method: &str, path: &str, body: &str) -> (u16, String) {
    let url = std::env::var("LOBBY_TEST_MANAGEMENT_URL").expect("LOBBY_TEST_MANAGEMENT_URL is set");
    let rest = url.strip_prefix("http://").expect("an http URL").trim_end_matches('/').to_owned();
    let (login, address) = rest.rsplit_once('@').expect("user and password in the URL");
    let mut stream = TcpStream::connect(address).expect("the management API is reachable");
    stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let request = format!(
        "{method} {path} HTTP/1.0\r\nHost: {address}\r\nAuthorization: Basic {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        base64(login.as_bytes()),
        body.len()
    );
    stream.write_all(request.as_bytes()).unwrap();
    let mut response = String::new();
    stream.read_to_string(&mut response).unwrap();
    let status = response.split(' ').nth(1).and_then(|code| code.parse().ok()).expect("a status line");
    let body = response.split_once("\r\n\r\n").map_or("", |(_, body)| body).to_owned();
    (status, body)
}

/// The virtual host of `AMQP_URL` as a path segment.
fn vhost() -> String {
    let url = std::env::var("AMQP_URL").expect("AMQP_URL names a broker");
    let url = notify_amqp::BrokerUrl::parse(&url).unwrap();
    url.vhost().bytes().map(|byte| format!("%{byte:02x}")).collect()
}

/// Closes the connections that call themselves `name`; returns how many there were.
fn close_connections_once(name: &str) -> usize {
    let (status, body) = request("GET", "/api/connections", "");
    assert_eq!(status, 200, "{body}");
    let connections: Vec<Value> = serde_json::from_str(&body).unwrap();
    let matching = connections.iter().filter(|c| c["client_properties"]["connection_name"] == name);
    let names: Vec<_> = matching.filter_map(|c| c["name"].as_str()).collect();
    for name in &names {
        let path = format!("/api/connections/{}", name.replace(' ', "%20").replace('>', "%3E"));
        let (status, _) = request("DELETE", &path, "");
        assert!(status == 204 || status == 404, "{status}");
    }
    names.len()
}

/// Closes the connection that calls itself `name`; it may take seconds to appear.
pub async fn close_connection(name: &str) {
    for _ in 0..200 {
        let name = name.to_owned();
        if tokio::task::spawn_blocking(move || close_connections_once(&name)).await.unwrap() > 0 {
            return;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("connection {name} did not appear in the management API");
}

/// The connection that calls itself `name`, as the management API shows it; it may take seconds to appear.
pub async fn connection(name: &str) -> Value {
    for _ in 0..200 {
        let listed = tokio::task::spawn_blocking(|| request("GET", "/api/connections", "")).await.unwrap();
        let connections: Vec<Value> = serde_json::from_str(&listed.1).unwrap();
        // The figures of a connection come some time after its name.
        let complete =
            |c: &Value| c["client_properties"]["connection_name"] == name && !c["timeout"].is_null();
        if let Some(connection) = connections.into_iter().find(complete) {
            return connection;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    panic!("connection {name} did not appear in the management API");
}

/// Creates a user who has no password: a certificate alone lets it in.
pub fn put_user_without_password(name: &str) {
    let (status, body) = request("PUT", &format!("/api/users/{name}"), r#"{"password_hash":"","tags":""}"#);
    assert!(status == 201 || status == 204, "{status} {body}");
}

/// Limits how many connections a user may have.
pub fn limit_connections(user: &str, most: u32) {
    let path = format!("/api/user-limits/{user}/max-connections");
    let (status, body) = request("PUT", &path, &format!(r#"{{"value":{most}}}"#));
    assert!(status == 201 || status == 204, "{status} {body}");
}

/// Creates a user without any permission on any virtual host.
pub fn put_user(name: &str, password: &str) {
    let (status, body) =
        request("PUT", &format!("/api/users/{name}"), &format!(r#"{{"password":"{password}","tags":""}}"#));
    assert!(status == 201 || status == 204, "{status} {body}");
}

/// Gives a user permissions on the virtual host.
pub fn put_permissions(name: &str, configure: &str, write: &str, read: &str) {
    let body = format!(r#"{{"configure":"{configure}","write":"{write}","read":"{read}"}}"#);
    let (status, body) = request("PUT", &format!("/api/permissions/{}/{name}", vhost()), &body);
    assert!(status == 201 || status == 204, "{status} {body}");
}

pub fn delete_user(name: &str) {
    let _ = request("DELETE", &format!("/api/users/{name}"), "");
}

/// The queue as the management API shows it.
pub fn queue(name: &str) -> Value {
    let (status, body) = request("GET", &format!("/api/queues/{}/{name}", vhost()), "");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The names of all queues of the virtual host.
pub fn queues() -> std::collections::BTreeSet<String> {
    let (status, body) = request("GET", &format!("/api/queues/{}?columns=name", vhost()), "");
    assert_eq!(status, 200, "{body}");
    let queues: Vec<Value> = serde_json::from_str(&body).unwrap();
    queues.iter().filter_map(|queue| queue["name"].as_str().map(str::to_owned)).collect()
}

/// The bindings of a queue.
pub fn bindings(queue: &str) -> Value {
    let (status, body) = request("GET", &format!("/api/queues/{}/{queue}/bindings", vhost()), "");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

/// The exchange as the management API shows it.
pub fn exchange(name: &str) -> Value {
    let (status, body) = request("GET", &format!("/api/exchanges/{}/{name}", vhost()), "");
    assert_eq!(status, 200, "{body}");
    serde_json::from_str(&body).unwrap()
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let encode = |chunk: &[u8]| {
        let mut group = [0; 3];
        group[..chunk.len()].copy_from_slice(chunk);
        let bits = u32::from_be_bytes([0, group[0], group[1], group[2]]);
        (0..4)
            .map(move |n| (n, (bits >> (18 - 6 * n)) & 63))
            .map({
                let len = chunk.len();
                move |(n, six)| if n > len { '=' } else { LETTERS[six as usize] as char }
            })
            .collect::<String>()
    };
    bytes.chunks(3).map(encode).collect()
}
