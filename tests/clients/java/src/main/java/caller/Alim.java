package caller;

import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import io.grpc.ManagedChannel;
import io.grpc.ManagedChannelBuilder;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.util.Map;

/** Opens channels to ALİM. */
final class Alim {
  private Alim() {}

  /** Opens a channel; in production to a name such as "dns:///alim-bridge:50051". */
  static ManagedChannel connect(String target) {
    return ManagedChannelBuilder.forTarget(target)
        .usePlaintext()
        .defaultServiceConfig(serviceConfig())
        .build();
  }

  /**
   * Published beside the .proto: balancing, health checks (with grpc-services on the classpath), timeouts, and
   * retries of what can't have run.
   */
  private static Map<String, ?> serviceConfig() {
    try (var json = Alim.class.getResourceAsStream("/alim/v1/service_config.json")) {
      var reader = new InputStreamReader(json, StandardCharsets.UTF_8);
      return new Gson().fromJson(reader, new TypeToken<Map<String, Object>>() {});
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
