import com.rabbitmq.stream.Environment;
import com.rabbitmq.stream.Producer;
import com.rabbitmq.stream.ProducerBuilder;
import java.util.Arrays;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicLong;

/**
 * What RabbitMQ's own client makes of a stream.
 *
 * RabbitProducer PORT COUNT SIZE TOGETHER ROUNDS: COUNT messages of SIZE bytes into a new stream,
 * TOGETHER of them in one entry (its "sub-entry batching"; 1 is without), until all are confirmed;
 * then the stream goes. Once unmeasured, then ROUNDS times, each with a line of JSON.
 */
class RabbitProducer {
    private static void send(Producer producer, byte[] value, long count) throws Exception {
        CountDownLatch confirmed = new CountDownLatch(1);
        AtomicLong left = new AtomicLong(count), refused = new AtomicLong();
        for (long i = 0; i < count; i++)
            producer.send(producer.messageBuilder().addData(value).build(), status -> {
                if (!status.isConfirmed())
                    refused.incrementAndGet();
                if (left.decrementAndGet() == 0)
                    confirmed.countDown();
            });
        if (!confirmed.await(120, TimeUnit.SECONDS) || refused.get() > 0)
            throw new IllegalStateException("messages were not confirmed");
    }

    private static double round(Environment environment, int number, byte[] value, long count,
            int together) throws Exception {
        String stream = "s" + number;
        environment.streamCreator().stream(stream).create();
        ProducerBuilder builder =
            environment.producerBuilder().stream(stream).maxUnconfirmedMessages(100_000);
        if (together > 1)
            builder = builder.subEntrySize(together);
        double seconds;
        try (Producer producer = builder.build()) {
            send(producer, value, 1);
            long begun = System.nanoTime();
            send(producer, value, count);
            seconds = (System.nanoTime() - begun) / 1e9;
        }
        environment.deleteStream(stream);
        return seconds;
    }

    public static void main(String[] arguments) throws Exception {
        long count = Long.parseLong(arguments[1]);
        byte[] value = new byte[Integer.parseInt(arguments[2])];
        int together = Integer.parseInt(arguments[3]), rounds = Integer.parseInt(arguments[4]);
        Arrays.fill(value, (byte) 'x');
        try (Environment environment = Environment.builder().host("127.0.0.1")
                .port(Integer.parseInt(arguments[0])).build()) {
            for (int number = 0; number <= rounds; number++) {
                double seconds = round(environment, number, value, count, together);
                if (number > 0)
                    System.out.printf("{\"operations\": %d, \"seconds\": %.6f}%n", count, seconds);
            }
        }
    }
}
