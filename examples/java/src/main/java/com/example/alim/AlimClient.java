package com.example.alim;

import alim.v1.DeleteThreadRequest;
import alim.v1.GraphServiceGrpc;
import alim.v1.InvokeRequest;
import alim.v1.InvokeResponse;
import alim.v1.StreamRequest;
import alim.v1.ThreadServiceGrpc;
import com.google.gson.Gson;
import com.google.gson.reflect.TypeToken;
import io.grpc.ChannelCredentials;
import io.grpc.CompositeChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.TlsChannelCredentials;
import io.grpc.stub.AbstractStub;
import io.grpc.stub.MetadataUtils;
import java.io.File;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.Map;
import java.util.concurrent.TimeUnit;

/** Calls the bridge. One client serves all threads of a process; its calls fail with an {@link AlimException}. */
public final class AlimClient implements AutoCloseable {
  private final ManagedChannel channel;
  private final GraphServiceGrpc.GraphServiceBlockingStub graph;
  private final ThreadServiceGrpc.ThreadServiceBlockingStub threads;

  /** Opens a channel; in production to a name such as "dns:///alim-bridge:50051". */
  public AlimClient(String target, ChannelCredentials credentials) {
    channel =
        Grpc.newChannelBuilder(target, credentials)
            .defaultServiceConfig(serviceConfig())
            // Finds out within 30 s that the bridge's machine is gone, while a call is open.
            .keepAliveTime(20, TimeUnit.SECONDS)
            .keepAliveTimeout(10, TimeUnit.SECONDS)
            .build();
    graph = GraphServiceGrpc.newBlockingStub(channel);
    threads = ThreadServiceGrpc.newBlockingStub(channel);
  }

  /** TLS. The key is sent as `authorization: Bearer`; null sends none. */
  public static ChannelCredentials tls(File caFile, String key) throws IOException {
    var tls = TlsChannelCredentials.newBuilder().trustManager(caFile).build();
    return key == null ? tls : CompositeChannelCredentials.create(tls, new BearerKey(key));
  }

  /** Plain HTTP/2, which carries no key. */
  public static ChannelCredentials plaintext() {
    return InsecureChannelCredentials.create();
  }

  public InvokeResponse invoke(InvokeRequest request, String requestId, Duration timeout) {
    try {
      return prepare(graph, requestId, timeout).invoke(request);
    } catch (StatusRuntimeException failure) {
      throw AlimException.of(failure);
    }
  }

  /** Close the answer: if it is left before its end, that cancels the call. */
  public Answer stream(StreamRequest request, String requestId, Duration timeout) {
    return new Answer(prepare(graph, requestId, timeout), request);
  }

  public void deleteThread(String threadId, String requestId, Duration timeout) {
    try {
      var request = DeleteThreadRequest.newBuilder().setThreadId(threadId).build();
      prepare(threads, requestId, timeout).deleteThread(request);
    } catch (StatusRuntimeException failure) {
      throw AlimException.of(failure);
    }
  }

  /** A stub for one call: its deadline runs from here, so that a stub with a deadline must not be kept. */
  private static <S extends AbstractStub<S>> S prepare(S stub, String requestId, Duration timeout) {
    var headers = new Metadata();
    headers.put(AlimException.REQUEST_ID, requestId);
    return stub.withDeadlineAfter(timeout).withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
  }

  /**
   * Published with the contract: it balances, checks health (with grpc-services on the classpath), sets deadlines, and retries
   * what the bridge does not forbid.
   */
  private static Map<String, ?> serviceConfig() {
    try (var json = AlimClient.class.getResourceAsStream("/alim/v1/service_config.json")) {
      var reader = new InputStreamReader(json, StandardCharsets.UTF_8);
      return new Gson().fromJson(reader, new TypeToken<Map<String, Object>>() {});
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }

  @Override
  public void close() {
    channel.shutdownNow();
  }
}
