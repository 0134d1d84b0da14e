import static lobby.Notify.broadcast;
import static lobby.Notify.toUser;

import com.rabbitmq.client.ConnectionFactory;
import java.time.Duration;
import java.util.Map;
import lobby.Notify;
import lobby.Notify.RawJson;

/** Publishes two notifications and waits for the broker's confirms. */
final class Publish {
    public static void main(String[] arguments) throws Exception {
        var factory = new ConnectionFactory();
        factory.setUri(System.getenv("AMQP_URL"));
        try (var lobby = new Notify(factory)) {
            var notice = Map.of("command", "notice", "style", "info", "text", "Your friend came online");
            System.out.println("confirmed " + lobby.publish(toUser(42, notice).expiresIn(Duration.ofMinutes(1))));
            lobby.publish(broadcast(new RawJson("{\"command\":\"notice\",\"n\":1.10}"))); // byte for byte
        }
    }
}
