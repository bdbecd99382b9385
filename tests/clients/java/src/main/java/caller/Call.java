package caller;

import alim.v1.GraphServiceGrpc.GraphServiceBlockingStub;
import alim.v1.InvokeRequest;
import alim.v1.InvokeResponse;
import alim.v1.StreamRequest;
import alim.v1.StreamResponse;
import com.google.gson.Gson;
import com.google.protobuf.ListValue;
import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import io.grpc.Metadata;
import io.grpc.stub.AbstractStub;
import io.grpc.stub.MetadataUtils;
import java.io.IOException;
import java.io.InputStreamReader;
import java.io.UncheckedIOException;
import java.net.URI;
import java.util.ArrayList;
import java.util.Iterator;
import java.util.List;
import java.util.UUID;

/** A call that the witness knows by its id, whose attempts meet what is planned for them. */
final class Call {
  private static final Metadata.Key<String> ID =
      Metadata.Key.of("x-request-id", Metadata.ASCII_STRING_MARSHALLER);
  private static final String MESSAGE = "Fermada susuzluq var, nə edim?";

  private final String id = UUID.randomUUID().toString();
  private final Struct context;

  Call(String... meets) {
    var words = ListValue.newBuilder();
    List.of(meets).forEach(word -> words.addValues(Value.newBuilder().setStringValue(word)));
    var list = Value.newBuilder().setListValue(words).build();
    context = Struct.newBuilder().putFields("witness", list).build();
  }

  InvokeResponse invoke(GraphServiceBlockingStub alim) {
    return on(alim).invoke(InvokeRequest.newBuilder().setMessage(MESSAGE).setScenarioContext(context).build());
  }

  Iterator<StreamResponse> stream(GraphServiceBlockingStub alim) {
    return on(alim).stream(StreamRequest.newBuilder().setMessage(MESSAGE).setScenarioContext(context).build());
  }

  List<StreamResponse> read(GraphServiceBlockingStub alim) {
    var events = new ArrayList<StreamResponse>();
    stream(alim).forEachRemaining(events::add);
    return events;
  }

  Struct context() {
    return context;
  }

  /** Makes this one call with that stub. */
  <S extends AbstractStub<S>> S on(S alim) {
    var headers = new Metadata();
    headers.put(ID, id);
    return alim.withInterceptors(MetadataUtils.newAttachHeadersInterceptor(headers));
  }

  void mustBeSent(int times) {
    Cases.check(ask("seen").posts == times, "sent %d times, not %d", ask("seen").posts, times);
  }

  /** Waits until the bridge has hung up. */
  void mustBeClosed() {
    Cases.check(ask("closed").closed == 1, "closed %d times", ask("seen").closed);
  }

  private record Seen(int posts, int closed) {}

  private Seen ask(String question) {
    var url = URI.create("%s/%s/%s".formatted(System.getenv("ALIM_WITNESS"), question, id));
    try (var reply = new InputStreamReader(url.toURL().openStream())) {
      return new Gson().fromJson(reply, Seen.class);
    } catch (IOException e) {
      throw new UncheckedIOException(e);
    }
  }
}
