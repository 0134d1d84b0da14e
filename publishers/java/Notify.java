package lobby; // yours

import com.fasterxml.jackson.core.JsonParser;
import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.core.JsonToken;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.rabbitmq.client.AMQP;
import com.rabbitmq.client.Channel;
import com.rabbitmq.client.Connection;
import com.rabbitmq.client.ConnectionFactory;
import com.rabbitmq.client.ShutdownSignalException;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.CharBuffer;
import java.nio.charset.CharacterCodingException;
import java.nio.charset.StandardCharsets;
import java.security.SecureRandom;
import java.time.Duration;
import java.time.Instant;
import java.util.Arrays;
import java.util.Collections;
import java.util.Date;
import java.util.HashMap;
import java.util.Locale;
import java.util.Map;
import java.util.UUID;
import java.util.concurrent.CompletableFuture;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import java.util.regex.Pattern;

/**
 * Publishes notifications to a lobby's players, with RabbitMQ's Java client. One file to copy, whence its length; Java from
 * 17 on, Kotlin too. It needs com.rabbitmq:amqp-client 5 and com.fasterxml.jackson.core:jackson-databind 2.
 *
 * <pre>{@code
 * var factory = new ConnectionFactory();
 * factory.setUri("amqp://guest:guest@127.0.0.1:5672/%2f");
 * try (var lobby = new Notify(factory)) {
 *     lobby.publish(toUser(42, Map.of("command", "notice", "style", "info", "text", "Your friend came online")));
 *     lobby.publish(broadcast(Map.of("command", "notice", "text", "Restart")).expiresIn(Duration.ofMinutes(1)));
 * }
 * }</pre>
 *
 * <p>What a lobby would answer with silence is an {@link InvalidNotification} before anything is sent. {@link #publish}
 * returns when the broker has confirmed, and throws {@link Unroutable} where no lobby is bound. The AMQP <em>property</em>
 * user-id (the broker's login name) is another thing than the header, and is never set.
 */
public final class Notify implements AutoCloseable {
    public static final String EXCHANGE = "faf-lobby";
    public static final String ROUTING_KEY = "request.client.notify";
    /** A lobby's default: 4 MiB and 64 KiB. */
    public static final int MAX_BODY_BYTES = 4_259_840;
    /** Of raw JSON; newer Jacksons read no more, and no longer numbers, as their authors fear what those cost. */
    private static final int MAX_NESTING = 1_000;
    private static final int MAX_NUMBER_LENGTH = 1_000;
    private static final int MAX_HEADERS_BYTES = 64 * 1024;
    /** The broker's: 49.7 days. */
    private static final Duration MAX_EXPIRY = Duration.ofMillis((1L << 32) - 1);
    private static final long MAX_TIMESTAMP = 253_402_300_799L;
    private static final Pattern TRACEPARENT =
            Pattern.compile("00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}");
    /** In any spelling: lobbies would pass over User-Id, and what is meant for one player would reach everyone. */
    private static final Map<String, String> RESERVED = Map.of(
            "userid", "address a player with toUser(…)",
            "channel", "address a channel with toChannel(…)",
            "traceparent", "use traceparent(…)",
            "xlobbyreceipt", "this publisher cannot wait for receipts",
            "cc", "the broker would route copies by it",
            "bcc", "the broker would route copies by it",
            "xlobbyundecodableheaders", "lobbies set it; choose another");
    private static final ObjectMapper JSON = new ObjectMapper();
    private static final SecureRandom RANDOM = new SecureRandom();

    /** Nothing was sent: this notification would not reach whom it is meant for. The text says what to change. */
    public static final class InvalidNotification extends IllegalArgumentException {
        InvalidNotification(String message) {
            super(message);
        }
    }

    /** The broker did not confirm the message. Of this very class: it cannot be reached, and nothing was sent. */
    public static class NotPublished extends RuntimeException {
        NotPublished(String message, Throwable cause) {
            super(message, cause);
        }
    }

    /**
     * Nobody heard it: no lobby is bound to the exchange, or the exchange does not exist. Publishing again is of no use
     * before a lobby has started.
     */
    public static final class Unroutable extends NotPublished {
        Unroutable(String message, Throwable cause) {
            super(message, cause);
        }
    }

    /** The broker refused the message. Publish the same notification again, later. */
    public static final class Nacked extends NotPublished {
        Nacked(String message) {
            super(message, null);
        }
    }

    /**
     * No answer: the message may or may not have been taken. Publishing the same notification again may duplicate it,
     * with the same message id.
     */
    public static final class Unconfirmed extends NotPublished {
        Unconfirmed(String message, Throwable cause) {
            super(message, cause);
        }
    }

    /** A body as written, which players get byte for byte: one UTF-8 JSON object. */
    public static final class RawJson {
        private final byte[] bytes;

        public RawJson(String text) {
            bytes = encoded("raw JSON", text);
        }

        public RawJson(byte[] utf8) {
            if (utf8 == null) {
                throw new InvalidNotification("raw JSON is null; give text or bytes");
            }
            bytes = utf8.clone();
        }
    }

    /** To every session of one player. */
    public static Notification toUser(long userId, Object body) {
        return new Notification(Map.of("user-id", userId), checkedBody(body));
    }

    /** For a boxed id: null is refused, since a message without the header reaches everyone. */
    public static Notification toUser(Long userId, Object body) {
        if (userId == null) {
            throw new InvalidNotification("user id is null, which reaches everyone; mean it with broadcast(…)");
        }
        return toUser(userId.longValue(), body);
    }

    /** To one channel. Reserved: today's lobbies acknowledge it and send it to nobody. */
    public static Notification toChannel(String name, Object body) {
        encoded("channel", name);
        return new Notification(Map.of("channel", name), checkedBody(body));
    }

    /** To every player who is logged in. */
    public static Notification broadcast(Object body) {
        return new Notification(Map.of(), checkedBody(body));
    }

    /** A checked message, made by toUser, toChannel or broadcast. It never changes: each method returns another one. */
    public static final class Notification {
        private final Map<String, Object> headers;
        private final AMQP.BasicProperties properties;
        private final byte[] body;

        private Notification(Map<String, Object> address, byte[] body) {
            this(new HashMap<>(address), new AMQP.BasicProperties.Builder()
                    .contentType("application/json")
                    .contentEncoding("utf-8")
                    .deliveryMode(2)
                    .messageId(uuid7())
                    .timestamp(new Date())
                    .build(), body);
        }

        private Notification(Map<String, Object> headers, AMQP.BasicProperties properties, byte[] body) {
            this.headers = Collections.unmodifiableMap(headers);
            this.properties = properties;
            this.body = body;
        }

        private Notification with(AMQP.BasicProperties.Builder changed) {
            return new Notification(headers, changed.build(), body);
        }

        private Notification with(String header, Object value) {
            Map<String, Object> more = new HashMap<>(headers);
            more.put(header, value);
            int bytes = 0;
            for (Map.Entry<String, Object> entry : more.entrySet()) {
                bytes += entry.getKey().getBytes(StandardCharsets.UTF_8).length + 10;
                bytes += entry.getValue() instanceof String text ? text.getBytes(StandardCharsets.UTF_8).length : 0;
            }
            if (bytes > MAX_HEADERS_BYTES) {
                throw new InvalidNotification(
                        "headers are " + bytes + " bytes, limit " + MAX_HEADERS_BYTES + "; put it into the body");
            }
            return new Notification(more, properties, body);
        }

        /** How long it may wait in the broker's queue, from 1 ms on. Unless given: for ever. */
        public Notification expiresIn(Duration time) {
            if (time == null || time.isNegative() || time.isZero() || time.compareTo(MAX_EXPIRY) > 0) {
                throw new InvalidNotification("expiry is " + time + "; give more than 0 and at most " + MAX_EXPIRY);
            }
            return with(properties.builder().expiration(Long.toString(time.plusNanos(999_999).toMillis())));
        }

        /** 0 to 255. */
        public Notification priority(int priority) {
            if (priority < 0 || priority > 255) {
                throw new InvalidNotification("priority is " + priority + "; give 0 to 255");
            }
            return with(properties.builder().priority(priority));
        }

        /** At most 255 bytes; a UUID of version 7 unless given. */
        public Notification messageId(String id) {
            return with(properties.builder().messageId(shortText("message id", id)));
        }

        public String messageId() {
            return properties.getMessageId();
        }

        /** At most 255 bytes. */
        public Notification correlationId(String id) {
            return with(properties.builder().correlationId(shortText("correlation id", id)));
        }

        /** The publishing application, at most 255 bytes. */
        public Notification appId(String id) {
            return with(properties.builder().appId(shortText("app id", id)));
        }

        /** Now unless given. */
        public Notification timestamp(Instant time) {
            if (time == null || time.getEpochSecond() < 0 || time.getEpochSecond() > MAX_TIMESTAMP) {
                throw new InvalidNotification("timestamp is " + time + "; give 1970 to 9999");
            }
            return with(properties.builder().timestamp(Date.from(time)));
        }

        /** The W3C trace context. */
        public Notification traceparent(String context) {
            if (context == null || !TRACEPARENT.matcher(context).matches()) {
                throw new InvalidNotification("traceparent is " + context + "; expected 00-<32 hex>-<16 hex>-<2 hex>");
            }
            return with("traceparent", context);
        }

        /** Your own header, which lobbies pass over. */
        public Notification header(String name, String value) {
            encoded("header " + name, value);
            return with(checkedName(name), value);
        }

        /** Your own header, which lobbies pass over. */
        public Notification header(String name, long value) {
            return with(checkedName(name), value);
        }

        /** Your own header, which lobbies pass over. */
        public Notification header(String name, boolean value) {
            return with(checkedName(name), value);
        }

        private static String checkedName(String name) {
            int length = encoded("header name", name).length;
            if (length < 1 || length > 255) {
                throw new InvalidNotification("header name of " + length + " bytes; give 1 to 255");
            }
            String instead = RESERVED.get(name.toLowerCase(Locale.ROOT).replaceAll("[^a-z0-9]", ""));
            if (instead != null) {
                throw new InvalidNotification("header " + name + " means something; " + instead);
            }
            return name;
        }
    }

    private static byte[] checkedBody(Object body) {
        byte[] bytes;
        if (body instanceof RawJson raw) {
            bytes = checkedJson(raw.bytes);
        } else {
            try {
                JsonNode json = JSON.valueToTree(body);
                if (json == null || !json.isObject()) {
                    throw new InvalidNotification("body is " + (body == null ? "null" : "a " + body.getClass().getName())
                            + ", which becomes no JSON object; give a map, a record, or new RawJson(…) for JSON");
                }
                refuseWhatJsonHasNot(json);
                bytes = encoded("body", JSON.writeValueAsString(json)); // Jackson's own bytes may hold half a character
            } catch (InvalidNotification error) {
                throw error;
            } catch (IOException | IllegalArgumentException | StackOverflowError error) {
                throw new InvalidNotification("body cannot be written as JSON: " + error);
            }
        }
        if (bytes.length > MAX_BODY_BYTES) {
            throw new InvalidNotification(
                    "body is " + bytes.length + " bytes, limit " + MAX_BODY_BYTES + "; send a reference to it");
        }
        return bytes;
    }

    /** Jackson writes them as text, which is valid JSON and never what is meant. */
    private static void refuseWhatJsonHasNot(JsonNode json) {
        if (json.isFloatingPointNumber() && !json.isBigDecimal() && !Double.isFinite(json.doubleValue())) {
            throw new InvalidNotification("body holds " + json.doubleValue() + ", which JSON cannot say");
        }
        json.forEach(Notify::refuseWhatJsonHasNot);
    }

    private static byte[] checkedJson(byte[] bytes) {
        if (bytes.length > MAX_BODY_BYTES) {
            return bytes; // refused for that
        }
        String text;
        try {
            text = StandardCharsets.UTF_8.newDecoder().decode(ByteBuffer.wrap(bytes)).toString();
        } catch (CharacterCodingException error) {
            throw new InvalidNotification("body is not UTF-8 JSON: " + error.getMessage());
        }
        text = text.startsWith("\uFEFF") ? text.substring(1) : text;
        int start = 0;
        int end = text.length();
        while (start < end && " \t\r\n".indexOf(text.charAt(start)) >= 0) start++;
        while (end > start && " \t\r\n".indexOf(text.charAt(end - 1)) >= 0) end--;
        text = text.substring(start, end);
        try (JsonParser parser = JSON.getFactory().createParser(text)) {
            if (parser.nextToken() != JsonToken.START_OBJECT) {
                throw new InvalidNotification("body is no JSON object; wrap it in one");
            }
            int depth = 1;
            while (depth > 0) {
                JsonToken token = parser.nextToken();
                depth += token.isStructStart() ? 1 : token.isStructEnd() ? -1 : 0;
                if (depth > MAX_NESTING) {
                    throw new InvalidNotification("body: nesting depth exceeds " + MAX_NESTING);
                }
                if (token.isNumeric() && parser.getTextLength() > MAX_NUMBER_LENGTH) {
                    throw new InvalidNotification("body: Number length exceeds " + MAX_NUMBER_LENGTH);
                }
            }
            if (parser.nextToken() != null) {
                throw new InvalidNotification("body is no JSON object: something follows it");
            }
        } catch (JsonProcessingException error) {
            throw new InvalidNotification("body is not JSON: " + error.getOriginalMessage());
        } catch (IOException error) {
            throw new InvalidNotification("body is not JSON: " + error);
        }
        return text.getBytes(StandardCharsets.UTF_8);
    }

    private static byte[] encoded(String what, String text) {
        if (text == null) {
            throw new InvalidNotification(what + " is null; give text");
        }
        try {
            ByteBuffer bytes = StandardCharsets.UTF_8.newEncoder().encode(CharBuffer.wrap(text));
            return Arrays.copyOf(bytes.array(), bytes.limit());
        } catch (CharacterCodingException error) {
            throw new InvalidNotification(what + " holds half a character (a lone surrogate)");
        }
    }

    private static String shortText(String what, String text) {
        if (encoded(what, text).length > 255) {
            throw new InvalidNotification(what + " is longer than 255 bytes; shorten it");
        }
        return text;
    }

    private static String uuid7() {
        long high = System.currentTimeMillis() << 16 | 0x7000 | RANDOM.nextInt(0x1000);
        long low = RANDOM.nextLong() & 0x3fff_ffff_ffff_ffffL | 0x8000_0000_0000_0000L;
        return new UUID(high, low).toString();
    }

    private final ConnectionFactory factory;
    private final String exchange;
    private final Duration timeout;
    private Connection connection;
    private Channel channel;
    /** Written by the connection's thread, before the confirm of the message that came back. */
    private volatile boolean returned;

    /** To the exchange {@link #EXCHANGE}, waiting at most 10 s for each confirm. */
    public Notify(ConnectionFactory factory) {
        this(factory, EXCHANGE, Duration.ofSeconds(10));
    }

    /**
     * Connects with the first message, and again after a failure.
     *
     * @param factory where the broker is and who logs in; a copy is kept, which uses NIO: its NioParams count, its
     *     SocketFactory and SocketConfigurator do not
     * @param timeout for connecting, name to channel, and for each confirm; from 1 ms on
     */
    public Notify(ConnectionFactory factory, String exchange, Duration timeout) {
        int limit = Math.toIntExact(timeout.toMillis());
        if (limit < 1) {
            throw new IllegalArgumentException("timeout is " + timeout + "; give at least 1 ms");
        }
        this.factory = factory.clone();
        this.factory.setConnectionTimeout(limit);
        this.factory.setHandshakeTimeout(limit);
        this.factory.setChannelRpcTimeout(limit);
        // What happens to a message that a lost connection carried is told, not mended behind the publisher's back.
        this.factory.setAutomaticRecoveryEnabled(false);
        this.factory.setTopologyRecoveryEnabled(false);
        // A broker that blocks publishers stops reading. With blocking sockets a write would then wait without limit.
        this.factory.useNio();
        this.exchange = exchange;
        this.timeout = timeout;
    }

    /**
     * Publishes, and waits for the confirm: one message after the other. For more at a time use several of these.
     *
     * @return the message id
     * @throws NotPublished nobody heard it, or it is not known: see its classes
     */
    public synchronized String publish(Notification notification) {
        if (notification == null) {
            throw new InvalidNotification("publish got null; give toUser(…), toChannel(…) or broadcast(…)");
        }
        connect();
        returned = false;
        try {
            AMQP.BasicProperties properties = notification.properties.builder().headers(notification.headers).build();
            channel.basicPublish(exchange, ROUTING_KEY, true, properties, notification.body);
            if (!channel.waitForConfirms(timeout.toMillis())) {
                throw new Nacked("the broker refused the message");
            }
        } catch (ShutdownSignalException error) {
            forget();
            if (error.getReason() instanceof AMQP.Channel.Close close && close.getReplyCode() == AMQP.NOT_FOUND) {
                throw new Unroutable("exchange '" + exchange + "' does not exist, no lobby has been here", error);
            }
            throw new Unconfirmed("the connection is lost: " + error.getMessage(), error);
        } catch (TimeoutException error) {
            forget();
            throw new Unconfirmed("no confirm within " + timeout, error);
        } catch (IOException error) {
            forget();
            throw new Unconfirmed("the connection is lost: " + error, error);
        } catch (InterruptedException error) {
            forget();
            Thread.currentThread().interrupt();
            throw new Unconfirmed("interrupted before the confirm", error);
        }
        if (returned) {
            throw new Unroutable("no lobby is bound to exchange '" + exchange + "': nobody heard it", null);
        }
        return notification.messageId();
    }

    private void connect() {
        if (channel != null && channel.isOpen()) {
            return;
        }
        forget();
        CompletableFuture<Channel> opened = new CompletableFuture<>();
        // In a thread of its own: version 5.0.0 has no limit for an NIO socket that connects, none has one for a name.
        Thread opening = new Thread(() -> open(opened), "notify-connect");
        opening.setDaemon(true);
        opening.start();
        try {
            channel = opened.orTimeout(timeout.toMillis(), TimeUnit.MILLISECONDS).get();
            connection = channel.getConnection();
        } catch (ExecutionException error) {
            opening.interrupt();
            throw cannotConnect(error.getCause());
        } catch (InterruptedException error) {
            opened.cancel(false);
            opened.thenAccept(late -> late.getConnection().abort(Math.toIntExact(timeout.toMillis())));
            opening.interrupt();
            Thread.currentThread().interrupt();
            throw cannotConnect(error);
        }
    }

    /** Leaves no connection behind for which nobody waits any longer. */
    private void open(CompletableFuture<Channel> opened) {
        Connection made = null;
        try {
            made = factory.newConnection("notify");
            Channel fresh = made.createChannel();
            fresh.confirmSelect();
            fresh.addReturnListener((code, text, from, key, properties, body) -> returned = true);
            if (opened.complete(fresh)) {
                return;
            }
        } catch (Throwable error) {
            opened.completeExceptionally(error);
        }
        if (made != null) {
            made.abort(Math.toIntExact(timeout.toMillis()));
        }
    }

    private NotPublished cannotConnect(Throwable error) {
        // The library's has no words either.
        String why = error instanceof TimeoutException && error.getMessage() == null
                ? "no answer in time (time-out " + timeout + ")" : error.toString();
        return new NotPublished("cannot connect to " + factory.getHost() + ":" + factory.getPort()
                + ", nothing was sent: " + why, error);
    }

    private void forget() {
        Connection old = connection;
        connection = null;
        channel = null;
        if (old != null) {
            old.abort(Math.toIntExact(timeout.toMillis()));
        }
    }

    /** Closes the connection, if there is one. */
    @Override
    public synchronized void close() {
        forget();
    }
}
