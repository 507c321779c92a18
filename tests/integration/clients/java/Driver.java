// kafka-clients 4.x. The commands are those of ../driver.py.

import com.fasterxml.jackson.databind.JsonNode;
import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.node.ArrayNode;
import com.fasterxml.jackson.databind.node.ObjectNode;
import java.io.BufferedReader;
import java.io.InputStreamReader;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.time.Duration;
import java.util.ArrayList;
import java.util.Base64;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Properties;
import java.util.Set;
import java.util.TreeSet;
import java.util.concurrent.ExecutionException;
import java.util.concurrent.Future;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.AlterConfigOp;
import org.apache.kafka.clients.admin.ConfigEntry;
import org.apache.kafka.clients.admin.NewPartitions;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.admin.RecordsToDelete;
import org.apache.kafka.clients.consumer.ConsumerRecord;
import org.apache.kafka.clients.consumer.KafkaConsumer;
import org.apache.kafka.clients.consumer.OffsetAndMetadata;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;
import org.apache.kafka.clients.producer.RecordMetadata;
import org.apache.kafka.common.TopicPartition;
import org.apache.kafka.common.config.ConfigResource;
import org.apache.kafka.common.serialization.ByteArrayDeserializer;
import org.apache.kafka.common.serialization.ByteArraySerializer;

public final class Driver {
    private static final ObjectMapper JSON = new ObjectMapper();

    private String bootstrap;
    private final Map<String, String> security = new HashMap<>();
    private KafkaConsumer<byte[], byte[]> member;

    private Driver(String bootstrap) {
        this.bootstrap = bootstrap;
    }

    private static byte[] raw(JsonNode text) {
        return text == null || text.isNull() ? null : Base64.getDecoder().decode(text.asText());
    }

    private static String b64(byte[] bytes) {
        return bytes == null ? null : Base64.getEncoder().encodeToString(bytes);
    }

    private Properties properties(Object... more) {
        Properties properties = new Properties();
        properties.put("bootstrap.servers", bootstrap);
        properties.putAll(security);
        for (int i = 0; i < more.length; i += 2)
            properties.put(more[i], String.valueOf(more[i + 1]));
        return properties;
    }

    private KafkaProducer<byte[], byte[]> producer(Object... more) {
        Properties properties = properties(more);
        properties.putIfAbsent("linger.ms", "20");
        properties.put("max.request.size", String.valueOf(64 << 20));
        properties.put("max.block.ms", "20000");
        return new KafkaProducer<>(properties, new ByteArraySerializer(), new ByteArraySerializer());
    }

    private KafkaConsumer<byte[], byte[]> consumer(Object... more) {
        Properties properties = properties(more);
        properties.put("enable.auto.commit", "false");
        properties.put("auto.offset.reset", "earliest");
        properties.put("max.partition.fetch.bytes", String.valueOf(8 << 20));
        return new KafkaConsumer<>(properties, new ByteArrayDeserializer(), new ByteArrayDeserializer());
    }

    private static ObjectNode message(ConsumerRecord<byte[], byte[]> record) {
        ObjectNode node = JSON.createObjectNode();
        node.put("partition", record.partition()).put("offset", record.offset());
        node.put("timestamp", record.timestamp());
        node.put("key", b64(record.key())).put("value", b64(record.value()));
        ArrayNode headers = node.putArray("headers");
        record.headers().forEach(h -> headers.addArray().add(h.key()).add(b64(h.value())));
        return node;
    }

    // --- Security ---

    private static String module(JsonNode c) {
        String packages = "org.apache.kafka.common.security.";
        switch (c.get("mechanism").asText()) {
        case "GSSAPI":
            return "com.sun.security.auth.module.Krb5LoginModule required useKeyTab=true storeKey=true keyTab=\""
                    + c.get("keytab").asText() + "\" principal=\"" + c.get("principal").asText() + "\";";
        case "OAUTHBEARER":
            return packages + "oauthbearer.OAuthBearerLoginModule required;";
        default:
            String kind = c.get("mechanism").asText().equals("PLAIN") ? "plain.Plain" : "scram.Scram";
            return packages + kind + "LoginModule required username=\"" + c.get("user").asText()
                    + "\" password=\"" + c.get("password").asText() + "\";";
        }
    }

    private ObjectNode secure(JsonNode c) throws Exception {
        bootstrap = c.get("bootstrap").asText();
        security.clear();
        security.put("security.protocol", c.get("protocol").asText());
        security.put("ssl.truststore.type", "PEM");
        security.put("ssl.truststore.location", c.get("ca").asText());
        if (c.hasNonNull("certificate")) {
            security.put("ssl.keystore.type", "PEM");
            security.put("ssl.keystore.certificate.chain", Files.readString(Path.of(c.get("certificate").asText())));
            security.put("ssl.keystore.key", Files.readString(Path.of(c.get("key").asText())));
        }
        if (c.hasNonNull("mechanism")) {
            security.put("sasl.mechanism", c.get("mechanism").asText());
            security.put("sasl.jaas.config", module(c));
        }
        if (c.hasNonNull("service")) {
            System.setProperty("java.security.krb5.conf", c.get("krb5").asText());
            security.put("sasl.kerberos.service.name", c.get("service").asText());
        }
        if (c.hasNonNull("token")) {
            String url = Path.of(c.get("token").asText()).toUri().toString();
            System.setProperty("org.apache.kafka.sasl.oauthbearer.allowed.urls", url);
            security.put("sasl.oauthbearer.token.endpoint.url", url);
            security.put("sasl.login.callback.handler.class",
                    "org.apache.kafka.common.security.oauthbearer.OAuthBearerLoginCallbackHandler");
        }
        return JSON.createObjectNode();
    }

    // --- Producing ---

    private ObjectNode produce(JsonNode c) throws Exception {
        int acks = c.path("acks").asInt(-1);
        ObjectNode answer = JSON.createObjectNode();
        try (var producer = producer("acks", acks == -1 ? "all" : acks,
                "compression.type", c.path("codec").asText("none"),
                "enable.idempotence", c.path("idempotent").asBoolean(false),
                "delivery.timeout.ms", 20000, "request.timeout.ms", 10000)) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (JsonNode m : c.get("messages")) {
                var record = new ProducerRecord<>(c.get("topic").asText(),
                        c.get("partition").isNull() ? null : c.get("partition").asInt(),
                        m.path("timestamp").isIntegralNumber() ? m.get("timestamp").asLong() : null,
                        raw(m.get("key")), raw(m.get("value")));
                for (JsonNode header : m.path("headers"))
                    record.headers().add(header.get(0).asText(), raw(header.get(1)));
                sent.add(producer.send(record));
            }
            producer.flush();
            ArrayNode offsets = answer.putArray("offsets");
            for (var done : sent) {
                long offset = done.get().offset();
                offsets.add(acks == 0 ? -1 : offset);
            }
        }
        return answer;
    }

    private ObjectNode transaction(JsonNode c) throws Exception {
        ObjectNode answer = JSON.createObjectNode();
        var producer = producer("transactional.id", c.get("id").asText(), "delivery.timeout.ms", 20000,
                "request.timeout.ms", 10000, "compression.type", c.path("codec").asText("none"));
        producer.initTransactions();
        producer.beginTransaction();
        ArrayNode offsets = answer.putArray("offsets");
        List<Future<RecordMetadata>> sent = new ArrayList<>();
        for (JsonNode m : c.get("messages"))
            sent.add(producer.send(new ProducerRecord<>(c.get("topic").asText(), c.get("partition").asInt(),
                    raw(m.get("key")), raw(m.get("value")))));
        producer.flush();
        for (var done : sent)
            offsets.add(done.get().offset());
        String end = c.get("end").asText();
        if (end.equals("commit"))
            producer.commitTransaction();
        else if (end.equals("abort"))
            producer.abortTransaction();
        if (!end.equals("open"))
            producer.close();
        return answer;
    }

    private ObjectNode numbers(JsonNode c) throws Exception {
        boolean idempotent = c.get("idempotent").asBoolean();
        int first = c.get("first").asInt(), count = c.get("count").asInt(), acknowledged = 0;
        try (var producer = producer("acks", "all", "enable.idempotence", idempotent,
                "max.in.flight.requests.per.connection", idempotent ? 5 : 1, "linger.ms", 1,
                "batch.size", 1000, "retry.backoff.ms", 50, "reconnect.backoff.max.ms", 200,
                "delivery.timeout.ms", 60000, "request.timeout.ms", 10000)) {
            List<Future<RecordMetadata>> sent = new ArrayList<>();
            for (int n = first; n < first + count; n++)
                sent.add(producer.send(new ProducerRecord<>(c.get("topic").asText(),
                        c.get("partition").asInt(), null, Integer.toString(n).getBytes(StandardCharsets.UTF_8))));
            producer.flush();
            for (var done : sent) {
                done.get();
                acknowledged++;
            }
        }
        return JSON.createObjectNode().put("acknowledged", acknowledged);
    }

    // --- Consuming ---

    private ObjectNode consume(JsonNode c) {
        JsonNode from = c.get("from");
        var at = new TopicPartition(c.get("topic").asText(), c.get("partition").asInt());
        int count = c.get("count").asInt();
        ObjectNode answer = JSON.createObjectNode();
        ArrayNode messages = answer.putArray("messages");
        try (var consumer = consumer("isolation.level", c.path("isolation").asText("read_uncommitted"))) {
            consumer.assign(List.of(at));
            if (from.has("offset"))
                consumer.seek(at, from.get("offset").asLong());
            else if (from.has("time"))
                consumer.seek(at, consumer.offsetsForTimes(Map.of(at, from.get("time").asLong())).get(at).offset());
            else if (from.asText().equals("latest"))
                consumer.seekToEnd(List.of(at));
            else
                consumer.seekToBeginning(List.of(at));
            long end = System.currentTimeMillis() + c.get("timeout_ms").asLong();
            long last = count < 0 ? consumer.endOffsets(List.of(at)).get(at) : Long.MAX_VALUE;
            while ((count < 0 ? consumer.position(at) < last : messages.size() < count)
                    && System.currentTimeMillis() < end)
                for (var record : consumer.poll(Duration.ofMillis(100)))
                    if (count < 0 || messages.size() < count)
                        messages.add(message(record));
        }
        return answer;
    }

    private ObjectNode join(JsonNode c) {
        List<Object> more = new ArrayList<>(List.of("group.id", c.get("group").asText(),
                "session.timeout.ms", 6000, "heartbeat.interval.ms", 500));
        if (!c.path("instance").isNull() && c.has("instance"))
            more.addAll(List.of("group.instance.id", c.get("instance").asText()));
        member = consumer(more.toArray());
        member.subscribe(List.of(c.get("topic").asText()));
        return JSON.createObjectNode();
    }

    private ObjectNode poll(JsonNode c) {
        ObjectNode answer = JSON.createObjectNode();
        ArrayNode messages = answer.putArray("messages");
        long end = System.currentTimeMillis() + c.get("timeout_ms").asLong();
        while (messages.size() < c.get("count").asInt() && System.currentTimeMillis() < end)
            member.poll(Duration.ofMillis(100)).forEach(r -> messages.add(message(r)));
        var assigned = new TreeSet<Integer>();
        member.assignment().forEach(p -> assigned.add(p.partition()));
        ArrayNode partitions = answer.putArray("assigned");
        assigned.forEach(partitions::add);
        return answer;
    }

    private ObjectNode commit() {
        member.commitSync(Duration.ofSeconds(20));
        return JSON.createObjectNode();
    }

    private ObjectNode leave() {
        member.close();
        return JSON.createObjectNode();
    }

    // --- Administration ---

    private interface Act {
        ObjectNode with(Admin admin) throws Exception;
    }

    private ObjectNode admin(Act act) throws Exception {
        try (Admin admin = Admin.create(properties("default.api.timeout.ms", 20000, "request.timeout.ms", 10000))) {
            ObjectNode answer = act.with(admin);
            return answer == null ? JSON.createObjectNode() : answer;
        }
    }

    private ObjectNode committed(JsonNode c) throws Exception {
        String group = c.get("group").asText();
        return admin(a -> {
            var found = a.listConsumerGroupOffsets(group).partitionsToOffsetAndMetadata().get();
            ObjectNode answer = JSON.createObjectNode();
            ArrayNode offsets = answer.putArray("offsets");
            for (JsonNode p : c.get("partitions")) {
                var at = found.get(new TopicPartition(c.get("topic").asText(), p.asInt()));
                offsets.add(at == null ? -1 : at.offset());
            }
            return answer;
        });
    }

    private ObjectNode setOffset(JsonNode c) throws Exception {
        var at = new TopicPartition(c.get("topic").asText(), c.get("partition").asInt());
        return admin(a -> {
            a.alterConsumerGroupOffsets(c.get("group").asText(),
                    Map.of(at, new OffsetAndMetadata(c.get("offset").asLong()))).all().get();
            return null;
        });
    }

    private static Map<String, String> map(JsonNode node) {
        Map<String, String> map = new HashMap<>();
        node.fields().forEachRemaining(e -> map.put(e.getKey(), e.getValue().asText()));
        return map;
    }

    private ObjectNode create(JsonNode c) throws Exception {
        var topic = new NewTopic(c.get("topic").asText(), Optional.of(c.get("partitions").asInt()), Optional.empty());
        topic.configs(map(c.get("config")));
        return admin(a -> {
            a.createTopics(List.of(topic)).all().get();
            return null;
        });
    }

    private ObjectNode alter(JsonNode c) throws Exception {
        var resource = new ConfigResource(ConfigResource.Type.TOPIC, c.get("topic").asText());
        List<AlterConfigOp> ops = new ArrayList<>();
        map(c.get("config")).forEach((n, v) -> ops.add(
                new AlterConfigOp(new ConfigEntry(n, v), AlterConfigOp.OpType.SET)));
        return admin(a -> {
            a.incrementalAlterConfigs(Map.of(resource, ops)).all().get();
            return null;
        });
    }

    private ObjectNode describe(JsonNode c) throws Exception {
        var resource = new ConfigResource(ConfigResource.Type.TOPIC, c.get("topic").asText());
        return admin(a -> {
            ObjectNode answer = JSON.createObjectNode();
            ObjectNode config = answer.putObject("config");
            a.describeConfigs(List.of(resource)).all().get().get(resource).entries()
                    .forEach(e -> config.put(e.name(), e.value()));
            return answer;
        });
    }

    private ObjectNode describeGroup(JsonNode c) throws Exception {
        String group = c.get("group").asText();
        return admin(a -> {
            var found = a.describeConsumerGroups(List.of(group)).all().get().get(group);
            return JSON.createObjectNode().put("state", found.groupState().toString())
                    .put("members", found.members().size());
        });
    }

    private ObjectNode groups() throws Exception {
        return admin(a -> {
            ObjectNode answer = JSON.createObjectNode();
            ArrayNode groups = answer.putArray("groups");
            a.listConsumerGroups().all().get().forEach(g -> groups.add(g.groupId()));
            return answer;
        });
    }

    private ObjectNode topics() throws Exception {
        return admin(a -> {
            ObjectNode answer = JSON.createObjectNode();
            ArrayNode topics = answer.putArray("topics");
            a.listTopics().names().get().forEach(topics::add);
            return answer;
        });
    }

    private ObjectNode run(String name, JsonNode c) throws Exception {
        String topic = c.path("topic").asText();
        switch (name) {
        case "secure": return secure(c);
        case "produce": return produce(c);
        case "numbers": return numbers(c);
        case "transaction": return transaction(c);
        case "consume": return consume(c);
        case "join": return join(c);
        case "poll": return poll(c);
        case "commit": return commit();
        case "leave": return leave();
        case "committed": return committed(c);
        case "set_offset": return setOffset(c);
        case "create": return create(c);
        case "alter": return alter(c);
        case "describe": return describe(c);
        case "topics": return topics();
        case "groups": return groups();
        case "describe_group": return describeGroup(c);
        case "delete":
            return admin(a -> { a.deleteTopics(Set.of(topic)).all().get(); return null; });
        case "add_partitions":
            return admin(a -> {
                a.createPartitions(Map.of(topic, NewPartitions.increaseTo(c.get("count").asInt()))).all().get();
                return null;
            });
        case "delete_records":
            return admin(a -> {
                a.deleteRecords(Map.of(new TopicPartition(topic, c.get("partition").asInt()),
                        RecordsToDelete.beforeOffset(c.get("before").asLong()))).all().get();
                return null;
            });
        case "delete_group":
            return admin(a -> { a.deleteConsumerGroups(List.of(c.get("group").asText())).all().get(); return null; });
        default:
            return JSON.createObjectNode().put("unsupported", "the client has no such call");
        }
    }

    private static String said(Throwable error) {
        StringBuilder text = new StringBuilder();
        for (Throwable cause = error; cause != null; cause = cause.getCause())
            if (!(cause instanceof ExecutionException))
                text.append(text.length() > 0 ? " / " : "").append(cause);
        return text.toString();
    }

    public static void main(String[] arguments) throws Exception {
        Driver driver = new Driver(arguments[0]);
        var lines = new BufferedReader(new InputStreamReader(System.in, StandardCharsets.UTF_8));
        for (String line; (line = lines.readLine()) != null; ) {
            JsonNode command = JSON.readTree(line);
            ObjectNode answer;
            try {
                answer = driver.run(command.get("do").asText(), command);
            } catch (Exception error) {
                answer = JSON.createObjectNode().put("error", said(error));
            }
            System.out.println(JSON.writeValueAsString(answer));
            System.out.flush();
        }
        System.exit(0);
    }
}
