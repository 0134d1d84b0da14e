//! AMQP by hand over a blocking socket: publishes what no client library would, and acts as the operator.

use std::{
    io::{Read, Write},
    net::TcpStream,
    time::Duration,
};

/// A connection with channel 1 open.
pub struct Raw {
    stream: TcpStream,
}

/// The wire's bytes of one table entry: name, type letter, value.
pub fn entry(name: &[u8], letter: u8, value: &[u8]) -> Vec<u8> {
    [&[name.len() as u8][..], name, &[letter], value].concat()
}

/// A table or array of the wire: length, then the content.
pub fn sized(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u32).to_be_bytes()[..], content].concat()
}

fn short(text: &str) -> Vec<u8> {
    [&[text.len() as u8][..], text.as_bytes()].concat()
}

impl Raw {
    /// Connects to `host:port` as user and password, into the virtual host.
    pub fn connect(address: &str, user: &str, password: &str, vhost: &str) -> Self {
        let stream = TcpStream::connect(address).expect("the broker is reachable");
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.set_nodelay(true).unwrap();
        let mut raw = Self { stream };
        raw.stream.write_all(b"AMQP\0\0\x09\x01").unwrap();
        raw.expect(10, 10);
        let response = format!("\0{user}\0{password}");
        let start_ok = [sized(b""), short("PLAIN"), sized(response.as_bytes()), short("en_US")].concat();
        raw.send_method(0, 10, 11, &start_ok);
        let tune = raw.expect(10, 30);
        raw.send_method(0, 10, 31, &[&tune[..6], &[0, 0]].concat());
        raw.send_method(0, 10, 40, &[short(vhost), vec![0, 0]].concat());
        raw.expect(10, 41);
        raw.call(20, 10, &[0]);
        raw
    }

    /// Publishes with a content header made of these flags and property bytes.
    pub fn publish(&mut self, exchange: &str, key: &str, flags: u16, properties: &[u8], body: &[u8]) {
        let arguments = [vec![0, 0], short(exchange), short(key), vec![0]].concat();
        self.send_method(1, 60, 40, &arguments);
        let mut header = vec![0, 60, 0, 0];
        header.extend((body.len() as u64).to_be_bytes());
        header.extend(flags.to_be_bytes());
        header.extend(properties);
        self.send_frame(2, 1, &header);
        for chunk in body.chunks(100_000) {
            self.send_frame(3, 1, chunk);
        }
    }

    /// Publishes with these header entries.
    pub fn publish_headers(&mut self, exchange: &str, entries: &[u8], body: &[u8]) {
        self.publish(exchange, "request.client.notify", 1 << 13, &sized(entries), body);
    }

    /// Publishes without properties.
    pub fn publish_plain(&mut self, exchange: &str, body: &[u8]) {
        self.publish(exchange, "request.client.notify", 0, b"", body);
    }

    /// Messages ready and consumers, or `None` if the queue does not exist.
    pub fn queue(&mut self, queue: &str) -> Option<(u32, u32)> {
        let arguments = [vec![0, 0], short(queue), vec![0b1], sized(b"")].concat();
        self.send_method(1, 50, 10, &arguments);
        let reply = self.read_method();
        if reply[..4] != [0, 50, 0, 11] {
            assert_eq!(reply[..4], [0, 20, 0, 40], "channel.close");
            self.send_method(1, 20, 41, b"");
            self.call(20, 10, &[0]);
            return None;
        }
        let after_name = 5 + usize::from(reply[4]);
        let number = |at: usize| u32::from_be_bytes(reply[at..at + 4].try_into().unwrap());
        Some((number(after_name), number(after_name + 4)))
    }

    pub fn declare_queue(&mut self, queue: &str, durable: bool, arguments: &[u8]) {
        let bits = if durable { 0b10 } else { 0 };
        self.call(50, 10, &[vec![0, 0], short(queue), vec![bits], sized(arguments)].concat());
    }

    /// Declares with these bits (passive 1, durable 2, exclusive 4, auto-delete 8); the code of a refusal, after
    /// which the channel is closed.
    pub fn try_declare_queue(&mut self, queue: &str, bits: u8, arguments: &[u8]) -> Result<(), u16> {
        let arguments = [vec![0, 0], short(queue), vec![bits], sized(arguments)].concat();
        self.send_method(1, 50, 10, &arguments);
        let reply = self.read_method();
        if reply[..4] == [0, 50, 0, 11] {
            return Ok(());
        }
        assert_eq!(reply[..4], [0, 20, 0, 40], "channel.close");
        Err(u16::from_be_bytes([reply[4], reply[5]]))
    }

    pub fn delete_queue(&mut self, queue: &str) {
        self.call(50, 40, &[vec![0, 0], short(queue), vec![0]].concat());
    }

    /// Deletes the queue and declares it again before the broker has done anything else for this connection.
    pub fn replace_queue(&mut self, queue: &str, arguments: &[u8]) {
        let declare = [vec![0, 0], short(queue), vec![0b10], sized(arguments)].concat();
        self.send_method(1, 50, 40, &[vec![0, 0], short(queue), vec![0]].concat());
        self.send_method(1, 50, 10, &declare);
        self.expect(50, 41);
        self.expect(50, 11);
    }

    pub fn bind(&mut self, queue: &str, exchange: &str, key: &str) {
        let names = [vec![0, 0], short(queue), short(exchange), short(key)].concat();
        self.call(50, 20, &[names, vec![0], sized(b"")].concat());
    }

    pub fn unbind(&mut self, queue: &str, exchange: &str, key: &str) {
        self.call(50, 50, &[vec![0, 0], short(queue), short(exchange), short(key), sized(b"")].concat());
    }

    pub fn declare_exchange(&mut self, exchange: &str, kind: &str) {
        self.call(40, 10, &[vec![0, 0], short(exchange), short(kind), vec![0b10], sized(b"")].concat());
    }

    pub fn delete_exchange(&mut self, exchange: &str) {
        self.call(40, 20, &[vec![0, 0], short(exchange), vec![0]].concat());
    }

    /// Calls a method on channel 1 and returns its answer's arguments.
    fn call(&mut self, class: u16, method: u16, arguments: &[u8]) -> Vec<u8> {
        self.send_method(1, class, method, arguments);
        self.expect(class, method + 1)
    }

    fn expect(&mut self, class: u16, method: u16) -> Vec<u8> {
        let payload = self.read_method();
        let expected = [class.to_be_bytes(), method.to_be_bytes()].concat();
        let text = String::from_utf8_lossy(&payload);
        assert_eq!(payload[..4], expected[..], "{text}");
        payload[4..].to_vec()
    }

    fn read_method(&mut self) -> Vec<u8> {
        loop {
            let mut head = [0; 7];
            self.stream.read_exact(&mut head).expect("the broker answers");
            let size = u32::from_be_bytes(head[3..].try_into().unwrap()) as usize;
            let mut payload = vec![0; size + 1];
            self.stream.read_exact(&mut payload).unwrap();
            payload.pop();
            if head[0] == 1 {
                return payload;
            }
        }
    }

    fn send_method(&mut self, channel: u16, class: u16, method: u16, arguments: &[u8]) {
        let payload = [&class.to_be_bytes()[..], &method.to_be_bytes(), arguments].concat();
        self.send_frame(1, channel, &payload);
    }

    fn send_frame(&mut self, kind: u8, channel: u16, payload: &[u8]) {
        let size = (payload.len() as u32).to_be_bytes();
        let frame = [&[kind][..], &channel.to_be_bytes(), &size, payload, &[0xce]].concat();
        self.stream.write_all(&frame).unwrap();
    }
}
