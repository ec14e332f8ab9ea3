import java.net.URI;
import java.util.ArrayList;
import java.util.Collection;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.LinkedHashSet;
import java.util.List;
import java.util.Map;
import java.util.Set;
import java.util.UUID;
import py4j.GatewayServer;

/**
 * The other end of `Result.to_qupath`, for tests: a Py4J gateway whose entry point, image and
 * hierarchy have the methods of QuPath that are called there, with their signatures and returns.
 *
 * It stands in for QuPath, which is none of the tests' requirements: it draws nothing, and reads of
 * GeoJSON what is asked for afterwards. Arguments: token (or -), and, with an image open, its name,
 * width, height and address. It prints its port, and ends with its input.
 */
public class QuPathGateway {
    private final QuPathGUI gui;

    QuPathGateway(ImageData image) {
        gui = new QuPathGUI(image);
    }

    public static void main(String[] said) throws Exception {
        ImageData image = null;
        if (said.length > 1) {
            int width = Integer.parseInt(said[2]), height = Integer.parseInt(said[3]);
            image = new ImageData(new ImageServer(said[1], width, height, URI.create(said[4])));
        }
        GatewayServer.GatewayServerBuilder builder = new GatewayServer.GatewayServerBuilder();
        builder.entryPoint(new QuPathGateway(image)).javaPort(0);
        GatewayServer server = builder.authToken(said[0].equals("-") ? null : said[0]).build();
        server.start();
        System.out.println(server.getListeningPort());
        System.out.flush();
        while (System.in.read() >= 0) {}
        server.shutdown();
        System.exit(0);
    }

    // What QuPathEntryPoint has -------------------------------------------------------------

    public QuPathGUI getQuPath() {
        return gui;
    }

    public static List<PathObject> toPathObjects(String geoJson) {
        return toPathObjects(new JsonElement(new Json(geoJson).read()));
    }

    public static List<PathObject> toPathObjects(JsonElement element) {
        List<PathObject> objects = new ArrayList<>();
        for (Object feature : (List<?>) ((Map<?, ?>) element.value).get("features")) {
            objects.add(new PathObject((Map<?, ?>) feature));
        }
        return Collections.unmodifiableList(objects);
    }

    public static List<String> getObjectIds(Collection<? extends PathObject> objects) {
        return objects.stream().map(one -> one.getID().toString()).toList();
    }

    public static List<String> toFeatureCollections(
            Collection<? extends PathObject> objects, int size) {
        StringBuilder text = new StringBuilder();
        for (PathObject one : objects) {
            text.append(text.isEmpty() ? "" : ",").append(Json.write(one.feature));
        }
        return List.of("{\"type\":\"FeatureCollection\",\"features\":[" + text + "]}");
    }

    public static class JsonElement {
        final Object value;

        JsonElement(Object value) {
            this.value = value;
        }
    }

    // What is asked of the window, the image and its objects --------------------------------

    public static class QuPathGUI {
        private final ImageData image;

        QuPathGUI(ImageData image) {
            this.image = image;
        }

        public ImageData getImageData() {
            return image;
        }
    }

    public static class ImageData {
        private final ImageServer server;
        private final PathObjectHierarchy hierarchy = new PathObjectHierarchy();

        ImageData(ImageServer server) {
            this.server = server;
        }

        public ImageServer getServer() {
            return server;
        }

        public PathObjectHierarchy getHierarchy() {
            return hierarchy;
        }
    }

    public static class ImageServer {
        private final String name;
        private final int width;
        private final int height;
        private final URI uri;

        ImageServer(String name, int width, int height, URI uri) {
            this.name = name;
            this.width = width;
            this.height = height;
            this.uri = uri;
        }

        public int getWidth() {
            return width;
        }

        public int getHeight() {
            return height;
        }

        public Collection<URI> getURIs() {
            return Collections.singletonList(uri);
        }

        public ImageServer getMetadata() {
            return this;
        }

        public String getName() {
            return name;
        }
    }

    public static class PathObjectHierarchy {
        private final Set<PathObject> objects = new LinkedHashSet<>();
        public int changes;

        public synchronized boolean addObjects(Collection<? extends PathObject> added) {
            changes++;
            return objects.addAll(added);
        }

        public synchronized void removeObjects(
                Collection<? extends PathObject> removed, boolean keepChildren) {
            changes++;
            objects.removeAll(new LinkedHashSet<>(removed));
        }

        public synchronized Collection<PathObject> getAllObjects(boolean includeRoot) {
            return new LinkedHashSet<>(objects);
        }

        public Collection<PathObject> getDetectionObjects() {
            return getAllObjects(false);
        }

        public Selection getSelectionModel() {
            return new Selection();
        }
    }

    public static class Selection {
        public void clearSelection() {}
    }

    public static class PathObject {
        private final Map<?, ?> feature;
        private final UUID id;

        PathObject(Map<?, ?> feature) {
            this.feature = feature;
            if (!((Map<?, ?>) feature.get("geometry")).containsKey("coordinates")) {
                throw new IllegalArgumentException("no coordinates");
            }
            Object given = feature.get("id");
            id = given == null ? UUID.randomUUID() : UUID.fromString((String) given);
        }

        public UUID getID() {
            return id;
        }
    }

    // JSON ----------------------------------------------------------------------------------

    private static class Json {
        private final String text;
        private int at;

        Json(String text) {
            this.text = text;
        }

        Object read() {
            char first = next();
            if (first == '{') {
                at++;
                Map<String, Object> made = new LinkedHashMap<>();
                while (next() != '}') {
                    String key = (String) read();
                    next();
                    at++; // :
                    made.put(key, read());
                    at += next() == ',' ? 1 : 0;
                }
                at++;
                return made;
            }
            if (first == '[') {
                at++;
                List<Object> made = new ArrayList<>();
                while (next() != ']') {
                    made.add(read());
                    at += next() == ',' ? 1 : 0;
                }
                at++;
                return made;
            }
            return first == '"' ? string() : word();
        }

        /** Skip blanks and return what stands there. */
        private char next() {
            while (Character.isWhitespace(text.charAt(at))) {
                at++;
            }
            return text.charAt(at);
        }

        private String string() {
            StringBuilder made = new StringBuilder();
            for (at++; text.charAt(at) != '"'; at++) {
                char one = text.charAt(at);
                if (one != '\\') {
                    made.append(one);
                    continue;
                }
                one = text.charAt(++at);
                if (one == 'u') {
                    made.append((char) Integer.parseInt(text.substring(at + 1, at + 5), 16));
                    at += 4;
                } else {
                    int known = "bfnrt".indexOf(one);
                    made.append(known < 0 ? one : "\b\f\n\r\t".charAt(known));
                }
            }
            at++;
            return made.toString();
        }

        private Object word() {
            int start = at;
            while (at < text.length() && ",]} \n".indexOf(text.charAt(at)) < 0) {
                at++;
            }
            String said = text.substring(start, at);
            return switch (said) {
                case "null" -> null;
                case "true" -> Boolean.TRUE;
                case "false" -> Boolean.FALSE;
                default -> Double.valueOf(said);
            };
        }

        static String write(Object value) {
            StringBuilder made = new StringBuilder();
            if (value instanceof Map<?, ?> map) {
                map.forEach((key, one) -> made.append(made.isEmpty() ? "" : ",")
                        .append(write(key)).append(":").append(write(one)));
                return "{" + made + "}";
            }
            if (value instanceof List<?> list) {
                list.forEach(one -> made.append(made.isEmpty() ? "" : ",").append(write(one)));
                return "[" + made + "]";
            }
            if (!(value instanceof String said)) {
                return String.valueOf(value);
            }
            for (char one : said.toCharArray()) {
                boolean plain = one >= ' ' && one < 127 && one != '"' && one != '\\';
                made.append(plain ? String.valueOf(one) : String.format("\\u%04x", (int) one));
            }
            return '"' + made.toString() + '"';
        }
    }
}
