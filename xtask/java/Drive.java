package lobby;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.rabbitmq.client.ConnectionFactory;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Base64;
import java.util.Locale;
import jdk.jshell.Diag;
import jdk.jshell.EvalException;
import jdk.jshell.JShell;
import jdk.jshell.Snippet;
import jdk.jshell.SnippetEvent;

/**
 * Publishes what each line of standard input says, as a Java expression, and answers with the message id or the error,
 * that of the compiler too. Expressions run in this process.
 */
public final class Drive {
    private static final String[] IMPORTS = {
        "lobby.*", "static lobby.Notify.*", "static lobby.Drive.b64", "java.math.*", "java.time.*", "java.util.*",
    };
    /** What the last expression was. */
    public static Notify.Notification said;

    /** In parts, as a literal has at most 65,535 bytes. */
    public static byte[] b64(String... parts) {
        return Base64.getDecoder().decode(String.join("", parts));
    }

    public static void main(String[] arguments) throws Exception {
        ConnectionFactory factory = new ConnectionFactory();
        factory.setUri(System.getenv("AMQP_URL"));
        PrintStream answers = new PrintStream(System.out, true, StandardCharsets.UTF_8);
        BufferedReader lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        Locale.setDefault(Locale.ROOT);
        try (Notify publisher = new Notify(factory, System.getenv("EXCHANGE"), Duration.ofSeconds(10));
                JShell shell = JShell.builder().executionEngine("local").build()) {
            shell.addToClasspath(System.getProperty("java.class.path"));
            for (String name : IMPORTS) {
                evaluate(shell, "import " + name + ";");
            }
            ObjectMapper json = new ObjectMapper();
            for (String line = lines.readLine(); line != null; line = lines.readLine()) {
                said = null;
                String answer = evaluate(shell, "lobby.Drive.said = (" + json.readValue(line, String.class) + ");");
                if (answer == null) {
                    try {
                        answer = "sent " + publisher.publish(said);
                    } catch (RuntimeException error) {
                        answer = error.getClass().getSimpleName() + ": " + error.getMessage();
                    }
                }
                answers.println(answer.replace('\n', ' '));
            }
        }
    }

    /** The error, or null. */
    private static String evaluate(JShell shell, String source) {
        for (SnippetEvent event : shell.eval(source)) {
            for (Diag problem : shell.diagnostics(event.snippet()).toList()) {
                if (problem.isError()) {
                    return "DoesNotCompile: " + problem.getMessage(Locale.ROOT);
                }
            }
            if (event.exception() instanceof EvalException error) {
                String name = error.getExceptionClassName();
                return name.substring(Math.max(name.lastIndexOf('.'), name.lastIndexOf('$')) + 1) + ": "
                        + error.getMessage();
            }
            if (event.snippet().kind() != Snippet.Kind.IMPORT) {
                shell.drop(event.snippet()); // bodies of megabytes
            }
        }
        return null;
    }
}
