package caller;

import alim.v1.GraphServiceGrpc;
import alim.v1.StreamRequest;
import io.grpc.StatusRuntimeException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.util.concurrent.TimeUnit;

/** Asks ALİM and prints the answer while it is made: java caller.Ask 127.0.0.1:50051 "Nə vaxt suvarım?" */
final class Ask {
  public static void main(String[] args) {
    var out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
    var channel = Alim.connect(args[0]);
    var alim = GraphServiceGrpc.newBlockingStub(channel).withDeadlineAfter(60, TimeUnit.SECONDS);
    try {
      var events = alim.stream(StreamRequest.newBuilder().setMessage(args[1]).build());
      events.forEachRemaining(
          event -> {
            if (event.hasToken()) {
              out.print(event.getToken().getText());
              out.flush();
            }
          });
      out.println();
    } catch (StatusRuntimeException error) {
      System.err.println(Failure.of(error));
      System.exit(1);
    } finally {
      channel.shutdownNow();
    }
  }
}
