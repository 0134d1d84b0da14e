import static lobby.Notify.toUser;

import java.time.Duration;
import java.util.Map;
import lobby.Notify;
import org.springframework.amqp.rabbit.connection.CachingConnectionFactory;

/** Publishes from a Spring service, to where its own connection factory goes and with the same login. */
final class WithSpring {
    private final Notify lobby;

    WithSpring(CachingConnectionFactory spring) {
        lobby = new Notify(spring.getRabbitConnectionFactory(), Notify.EXCHANGE, Duration.ofSeconds(5));
    }

    String friendCameOnline(long player) {
        return lobby.publish(toUser(player, Map.of("command", "notice", "text", "Your friend came online")));
    }
}
