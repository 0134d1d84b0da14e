import com.fasterxml.jackson.core.JsonProcessingException;
import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import java.time.Duration;
import java.util.Date;
import java.util.UUID;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.TimeoutException;
import org.springframework.amqp.AmqpException;
import org.springframework.amqp.core.Message;
import org.springframework.amqp.core.MessageBuilder;
import org.springframework.amqp.core.MessageBuilderSupport;
import org.springframework.amqp.core.MessageDeliveryMode;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory;
import org.springframework.amqp.rabbit.connection.CorrelationData;
import org.springframework.amqp.rabbit.core.RabbitTemplate;

/**
 * Publishes notifications to a lobby's players, with Spring AMQP (spring-rabbit 4, Java from 17 on, Kotlin too).
 * A file to copy; it also needs jackson-databind 2.
 *
 * <p>A player's id is a {@code long}: it cannot be missing, text or a float. What a lobby would drop is an
 * {@link IllegalArgumentException} before anything is sent; what the broker did not confirm is an
 * {@link AmqpException}.
 */
public final class Notify {
    static final String EXCHANGE = "faf-lobby";
    static final String ROUTING_KEY = "request.client.notify";
    static final int MAX_BODY_BYTES = 4_259_840;
    private static final ObjectMapper JSON = new ObjectMapper();

    private final RabbitTemplate template;
    private final Duration confirmTimeout;

    /** The connection factory's confirms and returns are switched on here: without them a publisher learns nothing. */
    public Notify(CachingConnectionFactory connections, Duration confirmTimeout) {
        connections.setPublisherConfirmType(CachingConnectionFactory.ConfirmType.CORRELATED);
        connections.setPublisherReturns(true);
        template = new RabbitTemplate(connections);
        template.setMandatory(true);
        this.confirmTimeout = confirmTimeout;
    }

    /** To every session of one player. Returns the message id once the broker has confirmed. */
    public String toUser(long userId, Object body) {
        return publish(message(body).setHeader("user-id", userId).build());
    }

    /** To every player who is logged in. */
    public String broadcast(Object body) {
        return publish(message(body).build());
    }

    /** The AMQP property user-id is another thing than the header, and is never set. */
    private static MessageBuilderSupport<Message> message(Object body) {
        byte[] bytes;
        try {
            JsonNode json = JSON.valueToTree(body);
            if (json == null || !json.isObject()) {
                throw new IllegalArgumentException("body is no JSON object; give a map or a record");
            }
            refuseNotFinite(json);
            bytes = JSON.writeValueAsBytes(json);
        } catch (JsonProcessingException error) {
            throw new IllegalArgumentException("body cannot be written as JSON", error);
        }
        if (bytes.length > MAX_BODY_BYTES) {
            throw new IllegalArgumentException("body is " + bytes.length + " bytes, limit " + MAX_BODY_BYTES);
        }
        return MessageBuilder.withBody(bytes)
                .setContentType("application/json")
                .setContentEncoding("utf-8")
                .setDeliveryMode(MessageDeliveryMode.PERSISTENT)
                .setMessageId(UUID.randomUUID().toString())
                .setTimestamp(new Date());
    }

    /** Jackson writes them as text, which is valid JSON and never what is meant. */
    private static void refuseNotFinite(JsonNode json) {
        if (json.isDouble() && !Double.isFinite(json.doubleValue())
                || json.isFloat() && !Float.isFinite(json.floatValue())) {
            throw new IllegalArgumentException("body holds " + json + ", which JSON cannot say");
        }
        json.forEach(Notify::refuseNotFinite);
    }

    private String publish(Message message) {
        String id = message.getMessageProperties().getMessageId();
        CorrelationData outcome = new CorrelationData(id);
        template.send(EXCHANGE, ROUTING_KEY, message, outcome);
        try {
            CorrelationData.Confirm confirm = outcome.getFuture().get(confirmTimeout.toMillis(), TimeUnit.MILLISECONDS);
            if (outcome.getReturned() != null) {
                throw new AmqpException("no lobby is bound to exchange '" + EXCHANGE + "': nobody heard it");
            }
            if (!confirm.ack()) {
                throw new AmqpException("the broker refused the message: " + confirm.reason());
            }
            return id;
        } catch (TimeoutException | ExecutionException error) {
            throw new AmqpException("no confirm: the message may or may not have been taken", error);
        } catch (InterruptedException error) {
            Thread.currentThread().interrupt();
            throw new AmqpException("interrupted before the confirm", error);
        }
    }
}
