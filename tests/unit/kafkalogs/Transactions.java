// Makes the logs of recorded.txt on a fresh broker of Kafka: README.md.

import java.util.List;
import java.util.Map;
import java.util.Properties;
import org.apache.kafka.clients.admin.Admin;
import org.apache.kafka.clients.admin.NewTopic;
import org.apache.kafka.clients.producer.KafkaProducer;
import org.apache.kafka.clients.producer.ProducerRecord;

public class Transactions {
    static String servers;

    static KafkaProducer<String, String> producer(String transactionalId) {
        Properties config = new Properties();
        String serializer = "org.apache.kafka.common.serialization.StringSerializer";
        config.put("bootstrap.servers", servers);
        config.put("key.serializer", serializer);
        config.put("value.serializer", serializer);
        config.put("linger.ms", "0");
        if (transactionalId != null)
            config.put("transactional.id", transactionalId);
        KafkaProducer<String, String> producer = new KafkaProducer<>(config);
        if (transactionalId != null)
            producer.initTransactions();
        return producer;
    }

    static void send(KafkaProducer<String, String> producer, String topic, String value)
            throws Exception {
        producer.send(new ProducerRecord<>(topic, 0, null, value)).get();
    }

    public static void main(String[] arguments) throws Exception {
        servers = arguments[0];
        Map<String, String> small = Map.of("segment.bytes", "700");
        try (Admin admin = Admin.create(Map.of("bootstrap.servers", servers))) {
            admin.createTopics(List.of(new NewTopic("txns", 1, (short) 1).configs(small),
                                       new NewTopic("open", 1, (short) 1).configs(small)))
                    .all().get();
        }
        KafkaProducer<String, String> plain = producer(null), x = producer("x"), y = producer("y");
        for (String topic : List.of("txns", "open")) {
            send(plain, topic, "plain 1");
            x.beginTransaction();
            send(x, topic, "committed 1");
            send(x, topic, "committed 2");
            x.commitTransaction();
            x.beginTransaction();
            send(x, topic, "aborted 1");
            x.abortTransaction();
            y.beginTransaction();
            send(y, topic, "aborted 2");
            send(plain, topic, "plain 2");
            x.beginTransaction();
            send(x, topic, "committed 3");
            for (int i = 3; i <= 8; i++)
                send(y, topic, "aborted " + i);
            x.commitTransaction();
            send(plain, topic, "plain 3");
            y.abortTransaction();
            send(plain, topic, "plain 4");
            y.beginTransaction();
            send(y, topic, "committed 4");
            y.commitTransaction();
        }
        send(plain, "open", "plain 5");
        y.beginTransaction();
        send(y, "open", "undecided 1");
        send(plain, "open", "plain 6");
        x.beginTransaction();
        send(x, "open", "aborted 9");
        x.abortTransaction();
        send(plain, "open", "plain 7");
        Runtime.getRuntime().halt(0); // y's transaction stays open
    }
}
