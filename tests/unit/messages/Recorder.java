import java.lang.reflect.Field;
import java.lang.reflect.Modifier;
import java.lang.reflect.ParameterizedType;
import java.nio.ByteBuffer;
import java.util.ArrayList;
import java.util.Collection;
import java.util.HexFormat;
import java.util.List;
import java.util.Map;
import java.util.Random;
import java.util.TreeMap;
import java.util.stream.Collectors;

import org.apache.kafka.common.Uuid;
import org.apache.kafka.common.protocol.ByteBufferAccessor;
import org.apache.kafka.common.protocol.Message;
import org.apache.kafka.common.protocol.ObjectSerializationCache;
import org.apache.kafka.common.protocol.types.ArrayOf;
import org.apache.kafka.common.protocol.types.BoundField;
import org.apache.kafka.common.protocol.types.CompactArrayOf;
import org.apache.kafka.common.protocol.types.RawTaggedField;
import org.apache.kafka.common.protocol.types.Schema;
import org.apache.kafka.common.protocol.types.TaggedFields;
import org.apache.kafka.common.protocol.types.Type;
import org.apache.kafka.common.record.MemoryRecords;

/** Fills Kafka's own message classes by chance and prints what they write: README.md says how to run it. */
public class Recorder {
    private static final String[] PACKAGES = {
        "org.apache.kafka.common.message.%sData", "org.apache.kafka.common.message.%s",
        "org.apache.kafka.coordinator.group.generated.%s", "org.apache.kafka.common.metadata.%s"};

    private final Random random;

    private Recorder(long seed) {
        random = new Random(seed * 0x9e3779b97f4a7c15L);
    }

    public static void main(String[] titles) throws Exception {
        for (String title : titles) {
            Class<?> type = find(title);
            Message empty = (Message) type.getDeclaredConstructor().newInstance();
            for (short v = empty.lowestSupportedVersion(); v <= empty.highestSupportedVersion(); v++) {
                Recorder recorder = new Recorder(title.hashCode() * 100L + v);
                recorder.record(title, (Message) recorder.make(type, v), v, "");
            }
            recordEmpty(title, empty);
            recordUnknownTag(title, type, empty.highestSupportedVersion());
        }
    }

    private static Class<?> find(String title) throws ClassNotFoundException {
        for (String name : PACKAGES) {
            try {
                return Class.forName(String.format(name, title));
            } catch (ClassNotFoundException e) {
                continue;
            }
        }
        throw new ClassNotFoundException(title);
    }

    private static void recordEmpty(String title, Message empty) throws Exception {
        try {
            new Recorder(0).record(title, empty, empty.lowestSupportedVersion(), "");
        } catch (NullPointerException e) {
            System.err.println(title + ": the default cannot be written");
        }
    }

    private static void recordUnknownTag(String title, Class<?> type, short version) throws Exception {
        Recorder recorder = new Recorder(title.hashCode());
        Message message = (Message) recorder.make(type, version);
        Schema schema = schemaOf(type, version);
        BoundField[] fields = schema.fields();
        if (fields.length == 0 || !(fields[fields.length - 1].def.type instanceof TaggedFields))
            return;
        message.unknownTaggedFields().add(new RawTaggedField(1000, new byte[] {1, 2, 3}));
        message.unknownTaggedFields().add(new RawTaggedField(1 << 30, new byte[0]));
        recorder.record(title, message, version, " ?");
    }

    private void record(String title, Message message, short version, String mark) throws Exception {
        byte[] bytes = write(message, version);
        Message again = (Message) message.getClass().getDeclaredConstructor().newInstance();
        ByteBuffer buffer = ByteBuffer.wrap(bytes);
        again.read(new ByteBufferAccessor(buffer), version);
        if (buffer.hasRemaining() || !java.util.Arrays.equals(bytes, write(again, version)))
            throw new IllegalStateException(title + " " + version);
        System.out.printf("%n%s %d%s%n%s%n%s%n", title, version, mark,
            bytes.length == 0 ? "-" : HexFormat.of().formatHex(bytes), show(again));
    }

    private static byte[] write(Message message, short version) {
        ObjectSerializationCache cache = new ObjectSerializationCache();
        ByteBuffer buffer = ByteBuffer.allocate(message.size(cache, version));
        message.write(new ByteBufferAccessor(buffer), cache, version);
        return buffer.array();
    }

    // --- Filling ---

    private static Schema schemaOf(Class<?> type, int version) throws Exception {
        return ((Schema[]) type.getField("SCHEMAS").get(null))[version];
    }

    private static String snake(String name) {
        return name.replaceAll("(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_").toLowerCase();
    }

    private static Map<String, Field> fieldsOf(Class<?> type) {
        Map<String, Field> result = new TreeMap<>();
        for (Field field : type.getDeclaredFields()) {
            String name = field.getName();
            if (Modifier.isStatic(field.getModifiers()) || name.startsWith("_") || name.equals("next")
                || name.equals("prev"))
                continue;
            field.setAccessible(true);
            result.put(snake(name), field);
        }
        return result;
    }

    private Object make(Class<?> type, int version) throws Exception {
        Object object = type.getDeclaredConstructor().newInstance();
        Map<String, Field> fields = fieldsOf(type);
        for (BoundField bound : schemaOf(type, version).fields()) {
            if (!(bound.def.type instanceof TaggedFields)) {
                set(object, fields.get(bound.def.name), bound.def.type, version);
                continue;
            }
            for (var field : ((TaggedFields) bound.def.type).fields().values())
                if (random.nextInt(4) > 0)
                    set(object, fields.get(field.name), field.type, version);
        }
        return object;
    }

    private void set(Object object, Field field, Type type, int version) throws Exception {
        if (type instanceof Schema) {
            if (field.get(object) != null || random.nextInt(3) > 0)
                field.set(object, make(field.getType(), version));
        } else if (type.arrayElementType().isPresent()) {
            boolean nullable = type instanceof ArrayOf a ? a.isNullable() : ((CompactArrayOf) type).isNullable();
            field.set(object, nullable && random.nextInt(4) == 0 ? null
                : array(field, type.arrayElementType().get(), version));
        } else {
            field.set(object, plain(field.getType(), type));
        }
    }

    @SuppressWarnings("unchecked")
    private Object array(Field field, Type element, int version) throws Exception {
        boolean list = field.getType() == List.class;
        ParameterizedType generic = (ParameterizedType) (list ? field.getGenericType()
            : field.getType().getGenericSuperclass());
        Class<?> of = (Class<?>) generic.getActualTypeArguments()[0];
        Collection<Object> result = list ? new ArrayList<>()
            : (Collection<Object>) field.getType().getDeclaredConstructor().newInstance();
        for (int i = random.nextInt(8) == 0 ? 0 : 1 + random.nextInt(2); i > 0; i--)
            result.add(element instanceof Schema ? make(of, version) : plain(of, element));
        return result;
    }

    private Object plain(Class<?> java, Type type) {
        if (type.isNullable() && java != Uuid.class && random.nextInt(4) == 0)
            return null;
        if (java == boolean.class)
            return random.nextBoolean();
        if (java == byte.class || java == Byte.class)
            return (byte) random.nextInt();
        if (java == short.class || java == Short.class)
            return (short) random.nextInt();
        if (java == int.class || java == Integer.class)
            return type == Type.UINT16 ? random.nextInt(65536) : random.nextInt();
        if (java == long.class || java == Long.class)
            return random.nextLong();
        if (java == double.class || java == Double.class)
            return random.nextGaussian();
        if (java == Uuid.class)
            return new Uuid(random.nextLong(), random.nextLong());
        if (java == String.class)
            return word();
        byte[] bytes = new byte[random.nextInt(6)];
        random.nextBytes(bytes);
        if (java == byte[].class)
            return bytes;
        return java == ByteBuffer.class ? ByteBuffer.wrap(bytes)
            : MemoryRecords.readableRecords(ByteBuffer.wrap(bytes));
    }

    private String word() {
        int length = random.nextInt(40) == 0 ? 126 + random.nextInt(8) : random.nextInt(6);
        return random.ints(length, 'a', 'z' + 1).mapToObj(c -> "" + (char) c).collect(Collectors.joining());
    }

    // --- Showing: what is zero, empty or false is left out ---

    private static String show(Object object) throws Exception {
        List<String> parts = new ArrayList<>();
        for (Map.Entry<String, Field> entry : fieldsOf(object.getClass()).entrySet()) {
            String text = value(entry.getValue().get(object));
            if (!List.of("0", "[]", "\"\"", "x", "false", "x" + "0".repeat(32)).contains(text))
                parts.add(entry.getKey() + "=" + text);
        }
        return "{" + String.join(" ", parts) + "}";
    }

    private static String value(Object value) throws Exception {
        if (value == null)
            return "null";
        if (value instanceof Double d)
            return String.valueOf(Double.doubleToLongBits(d));
        if (value instanceof String s)
            return '"' + s + '"';
        if (value instanceof Uuid u)
            return String.format("x%016x%016x", u.getMostSignificantBits(), u.getLeastSignificantBits());
        if (value instanceof byte[] b)
            return "x" + HexFormat.of().formatHex(b);
        if (value instanceof MemoryRecords r)
            return value(r.buffer());
        if (value instanceof ByteBuffer b) {
            byte[] bytes = new byte[b.remaining()];
            b.duplicate().get(bytes);
            return value(bytes);
        }
        if (value instanceof Collection<?> c) {
            List<String> parts = new ArrayList<>();
            for (Object element : c)
                parts.add(value(element));
            return "[" + String.join(" ", parts) + "]";
        }
        return value instanceof Message ? show(value) : String.valueOf(value);
    }
}
