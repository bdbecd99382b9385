package com.example.alim;

import alim.v1.InvokeRequest;
import alim.v1.StreamRequest;
import com.google.protobuf.Struct;
import com.google.protobuf.Value;
import java.io.File;
import java.io.IOException;
import java.io.PrintStream;
import java.nio.charset.StandardCharsets;
import java.time.Duration;
import java.util.UUID;

/** Asks ALİM in every way that a service needs: whole, typed, in a thread, with a deadline, cancelled, failing. */
public final class Tour {
  private static final PrintStream out = new PrintStream(System.out, true, StandardCharsets.UTF_8);
  private static final StreamRequest SLOW =
      StreamRequest.newBuilder().setMessage("Salam").setScenarioContext(fault("slow")).build();

  private final AlimClient alim;

  private Tour(AlimClient alim) {
    this.alim = alim;
  }

  public static void main(String[] args) throws IOException {
    var target = System.getenv().getOrDefault("ALIM_ADDRESS", "127.0.0.1:50051");
    var caFile = System.getenv("ALIM_CA_FILE");
    var key = System.getenv("ALIM_CALLER_KEY");
    if (caFile == null && key != null) {
      throw new IllegalArgumentException("a key needs TLS: set ALIM_CA_FILE too");
    }
    var credentials = caFile == null ? AlimClient.plaintext() : AlimClient.tls(new File(caFile), key);
    try (var client = new AlimClient(target, credentials)) {
      var tour = new Tour(client);
      tour.invoke();
      tour.conversation();
      tour.failures();
      tour.deadline();
      tour.cancel();
      tour.retry();
    }
  }

  /** Names a call in the logs. In a service, pass on the id of the request that you serve. */
  private static String requestId(String name) {
    return UUID.randomUUID() + "-" + name;
  }

  private void invoke() {
    out.println("== A whole answer");
    var question = InvokeRequest.newBuilder().setMessage("Nə vaxt suvarım?").build();
    var reply = alim.invoke(question, requestId("invoke"), Duration.ofSeconds(60));
    out.println(reply.getResponse());
    out.println("model: " + reply.getModel());
  }

  private void conversation() {
    out.println("== A conversation, typed");
    var question = StreamRequest.newBuilder().setMessage("Nə vaxt suvarım?").setStartThread(true).build();
    var threadId = type(question);
    var again = type(StreamRequest.newBuilder().setMessage("Bəs sabah?").setThreadId(threadId).build());
    out.println(!threadId.isEmpty() && again.equals(threadId) ? "in the same thread" : "in another thread");
    alim.deleteThread(threadId, requestId("delete"), Duration.ofSeconds(10));
  }

  /** Prints the answer while it is made; gives the thread that it belongs to. */
  private String type(StreamRequest question) {
    var threadId = "";
    try (var answer = alim.stream(question, requestId("stream"), Duration.ofSeconds(60))) {
      for (var event : answer) {
        switch (event.getEventCase()) {
          case TOKEN -> {
            out.print(event.getToken().getText());
            out.flush();
          }
          case DONE -> {
            out.printf("%n%d tokens%n", event.getDone().getTokenCount());
            threadId = event.getDone().getThreadId();
          }
          default -> {} // a step of the graph, or an event of a newer bridge
        }
      }
    }
    return threadId;
  }

  private void failures() {
    out.println("== A question that is not valid");
    var invalid = InvokeRequest.newBuilder().setMessage("").setThreadId("x").build();
    show(failureOf(() -> alim.invoke(invalid, requestId("invalid"), Duration.ofSeconds(10))));

    // The embedded ALİM fails on request.
    out.println("== A stream that fails on its way");
    var failing = StreamRequest.newBuilder().setMessage("Salam").setScenarioContext(fault("agent_failed")).build();
    show(failureOf(() -> drain(failing, "failing", Duration.ofSeconds(10))));

    out.println("== Too many questions");
    var limited = InvokeRequest.newBuilder().setMessage("Salam").setScenarioContext(fault("rate_limited")).build();
    show(failureOf(() -> alim.invoke(limited, requestId("limited"), Duration.ofMillis(1500))));
  }

  private void deadline() {
    out.println("== A deadline that passes");
    out.println(failureOf(() -> drain(SLOW, "deadline", Duration.ofMillis(500))).code());
  }

  private void cancel() {
    out.println("== A stream that is cancelled");
    try (var answer = alim.stream(SLOW, requestId("cancel"), Duration.ofSeconds(60))) {
      for (var event : answer) {
        out.println("left after the first event");
        break; // Closing the answer cancels the call.
      }
    }
  }

  private void retry() {
    out.println("== A call that is retried");
    var question = InvokeRequest.newBuilder().setMessage("Salam").build();
    var reply = alim.invoke(question, requestId("retry"), Duration.ofSeconds(60));
    out.println(reply.getResponse().isEmpty() ? "empty" : "answered");
  }

  private void drain(StreamRequest question, String name, Duration timeout) {
    try (var answer = alim.stream(question, requestId(name), timeout)) {
      answer.forEach(event -> {});
    }
  }

  private static AlimException failureOf(Runnable call) {
    try {
      call.run();
    } catch (AlimException failure) {
      return failure;
    }
    throw new IllegalStateException("the call did not fail");
  }

  private static void show(AlimException failure) {
    out.println(failure.code() + " " + failure.reason());
    failure.fields().forEach((name, fault) -> out.println("  " + name + ": " + fault));
    failure.retryAfter().ifPresent(time -> out.println("  retry after: " + time.toSeconds() + " s"));
    failure.sent().ifPresent(sent -> out.println("  sent: " + sent));
    failure.eventsDelivered().ifPresent(events -> out.println("  events delivered: " + events));
    failure.requestId().ifPresent(id -> out.println("  request id: " + id));
  }

  private static Struct fault(String name) {
    return Struct.newBuilder().putFields("emulator_fault", Value.newBuilder().setStringValue(name).build()).build();
  }
}
