//! Which RabbitMQ this is, by what it says when a connection begins. The AMQP library keeps it to itself.

/// connection.start: class 10, method 10.
const CONNECTION_START: [u8; 4] = [0, 10, 0, 10];
/// The server property's name with its length, and the letter of a long string.
const VERSION: &[u8] = b"\x07versionS";
const LENGTH: usize = 4;

/// The first number of the version in a method frame's payload; `None` of other methods, and where there is none.
pub(crate) fn major(method: &[u8]) -> Option<u16> {
    let properties = method.strip_prefix(&CONNECTION_START)?;
    let name = properties.windows(VERSION.len()).position(|part| part == VERSION)?;
    let text = properties.get(name + VERSION.len() + LENGTH..)?;
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    std::str::from_utf8(&text[..digits]).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn start(properties: &[u8]) -> Vec<u8> {
        [&CONNECTION_START[..], &[0, 9, 0, 0, 0, 99], properties].concat()
    }

    #[test]
    fn the_first_number_of_the_version_is_known() {
        let cases: [(&[u8], Option<u16>); 7] = [
            (b"\x07productS\0\0\0\x08RabbitMQ\x07versionS\0\0\0\x063.10.8\x08platformS", Some(3)),
            (b"\x07versionS\0\0\0\x054.1.0", Some(4)),
            (b"\x07versionS\0\0\0\x0210", Some(10)),
            (b"\x07versionS\0\0\0\x04dev.", None),
            (b"\x07versionS\0\0\0\x0899999999", None),
            (b"\x07versionS\0", None),
            (b"\x07productS\0\0\0\x08RabbitMQ", None),
        ];
        for (properties, expected) in cases {
            assert_eq!(major(&start(properties)), expected, "{}", String::from_utf8_lossy(properties));
        }
        assert_eq!(major(b"\0\x3c\0\x3c\x07versionS\0\0\0\x053.9.0"), None, "a delivery");
        assert_eq!(major(b""), None);
    }
}
