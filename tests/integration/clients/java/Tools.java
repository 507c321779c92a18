import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.ByteArrayOutputStream;
import java.io.InputStreamReader;
import java.io.PrintStream;
import java.lang.reflect.InvocationTargetException;
import java.util.List;
import java.util.concurrent.CopyOnWriteArrayList;
import org.apache.kafka.common.utils.Exit;

/**
 * Kafka's own tools, one after the other in one JVM. A line of JSON asks for each: {"main": class,
 * "args": [...], "stdin": text}; a line answers with {"status": number, "out": text, "err": text}.
 */
public class Tools {
    /** An Error, so that a tool's `catch (Exception e)` lets it through. */
    static class Ended extends Error {
        Ended() {
            super("the tool has ended", null, false, false);
        }
    }

    /** What the tool ended with; some call exit again while they handle the first. */
    private static Integer status;

    /** Where all that tools print goes; some remember the streams that they found first. */
    private static final ByteArrayOutputStream said = new ByteArrayOutputStream();
    private static final ByteArrayOutputStream complained = new ByteArrayOutputStream();

    /** What the tool wants to be done when it ends. */
    private static final List<Runnable> atExit = new CopyOnWriteArrayList<>();

    private static void exit(int code, String message) {
        if (status == null) {
            status = code;
            if (message != null)
                System.err.println(message);
        }
        throw new Ended();
    }

    private static void run(JsonNode wanted) throws Exception {
        String[] arguments = new String[wanted.get("args").size()];
        for (int i = 0; i < arguments.length; i++)
            arguments[i] = wanted.get("args").get(i).asText();
        try {
            Class.forName(wanted.get("main").asText()).getMethod("main", String[].class)
                .invoke(null, (Object) arguments);
        } catch (InvocationTargetException failure) {
            if (status == null) {
                status = 1;
                failure.getCause().printStackTrace();
            }
        }
    }

    private static ObjectNode answer(ObjectMapper json, JsonNode wanted) throws Exception {
        System.setIn(new ByteArrayInputStream(wanted.path("stdin").asText("").getBytes("UTF-8")));
        said.reset();
        complained.reset();
        status = null;
        run(wanted);
        for (Runnable hook : atExit)
            hook.run();
        atExit.clear();
        System.out.flush();
        System.err.flush();
        return json.createObjectNode().put("status", status == null ? 0 : status)
            .put("out", said.toString("UTF-8")).put("err", complained.toString("UTF-8"));
    }

    public static void main(String[] arguments) throws Exception {
        ObjectMapper json = new ObjectMapper();
        BufferedReader asked = new BufferedReader(new InputStreamReader(System.in, "UTF-8"));
        PrintStream answers = System.out;
        System.setOut(new PrintStream(said, true, "UTF-8"));
        System.setErr(new PrintStream(complained, true, "UTF-8"));
        Exit.setExitProcedure(Tools::exit);
        Exit.setHaltProcedure(Tools::exit);
        Exit.setShutdownHookAdder((name, hook) -> atExit.add(hook));
        for (String line; (line = asked.readLine()) != null;) {
            answers.println(json.writeValueAsString(answer(json, json.readTree(line))));
            answers.flush();
        }
    }
}
