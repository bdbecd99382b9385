package caller;

import alim.v1.CreateThreadRequest;
import alim.v1.DeleteThreadRequest;
import alim.v1.GetThreadRequest;
import alim.v1.GraphServiceGrpc;
import alim.v1.GraphServiceGrpc.GraphServiceBlockingStub;
import alim.v1.InvokeRequest;
import alim.v1.StreamRequest;
import alim.v1.StreamResponse;
import alim.v1.Thread;
import alim.v1.ThreadServiceGrpc;
import io.grpc.Context;
import io.grpc.ManagedChannel;
import io.grpc.Status.Code;
import io.grpc.StatusRuntimeException;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.health.v1.HealthGrpc;
import java.time.Duration;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.function.BiConsumer;
import java.util.stream.Collectors;

/** The cases of a caller in Java. */
final class Cases {
  private static final String ADDRESS = System.getenv("ALIM_ADDRESS");
  private static final ManagedChannel CHANNEL = Alim.connect(ADDRESS);
  private static final GraphServiceBlockingStub ALIM = GraphServiceGrpc.newBlockingStub(CHANNEL);
  private static final List<BiConsumer<Call, GraphServiceBlockingStub>> KINDS = List.of(Call::invoke, Call::read);

  public static void main(String[] args) {
    run("invoke", Cases::invoke);
    run("stream", Cases::stream);
    run("deadline", Cases::deadline);
    run("cancel", Cases::cancel);
    run("details", Cases::details);
    run("retry-info", Cases::retryInfo);
    run("health", Cases::health);
    run("retry", Cases::retry);
    run("no-retry", Cases::noRetry);
    run("no-retry-after-event", Cases::noRetryAfterEvent);
    run("paid-runs", Cases::paidRuns);
    // What one bridge can't do, the policy's next attempt finds at the other.
    run("balance", () -> mustAllBeSentOnce("balance", System.getenv("ALIM_UNREACHING_ADDRESS"), ADDRESS));
    // A full bridge sends its calls to the free one, every one.
    run("full-bridge", () -> mustAllBeSentOnce("full", System.getenv("ALIM_FULL_ADDRESS"), ADDRESS));
    // A bridge that is NOT_SERVING gets no calls.
    run("drain", () -> mustAllBeSentOnce("drain", System.getenv("ALIM_DRAINING_ADDRESS"), ADDRESS));
    run("thread", Cases::thread);
    CHANNEL.shutdownNow();
  }

  private static void invoke() {
    var reply = new Call().invoke(ALIM);
    check(!reply.getResponse().isEmpty() && !reply.getThreadId().isEmpty(), "%s", reply);
  }

  private static void stream() {
    var events = new Call().read(ALIM);
    var tokens = events.stream().filter(it -> it.hasToken()).map(it -> it.getToken().getText()).toList();
    var text = tokens.stream().collect(Collectors.joining());
    check(text.equals(new Call().invoke(ALIM).getResponse()), "%s", text);
    var last = events.get(events.size() - 1);
    check(last.getDone().getTokenCount() == tokens.size(), "%s after %d tokens", last, tokens.size());
  }

  private static void deadline() {
    for (var kind : KINDS) {
      var call = new Call("silent");
      var failure = failureOf(() -> kind.accept(call, ALIM.withDeadlineAfter(1, TimeUnit.SECONDS)));
      check(failure.code() == Code.DEADLINE_EXCEEDED, "%s", failure);
      call.mustBeClosed();
    }
  }

  private static void cancel() {
    var call = new Call("held");
    var context = Context.current().withCancellation();
    context.run(
        () -> {
          var events = call.stream(ALIM);
          check(events.next().hasNode(), "no node");
          context.cancel(null);
          mustFail(events::next, Code.CANCELLED, "");
        });
    call.mustBeClosed();
  }

  private static void details() {
    var request = InvokeRequest.newBuilder().setThreadId("../x").build();
    var failure = mustFail(() -> ALIM.invoke(request), Code.INVALID_ARGUMENT, "INVALID_REQUEST");
    check(failure.fields().equals(List.of("message", "thread_id")), "%s", failure);
  }

  /** A 429 that says when makes grpc-java come back then, whatever the policy's codes are: nothing ran. */
  private static void retryInfo() {
    var call = new Call("rate_limited", "rate_limited", "rate_limited", "rate_limited");
    var failure = mustFail(() -> call.invoke(ALIM), Code.RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMITED");
    check(Duration.ofSeconds(1).equals(failure.retryAfter()), "%s", failure);
    call.mustBeSent(4);
  }

  private static void health() {
    for (var service : List.of("", "alim.v1.GraphService")) {
      var request = HealthCheckRequest.newBuilder().setService(service).build();
      var told = HealthGrpc.newBlockingStub(CHANNEL).check(request);
      check(told.getStatus() == ServingStatus.SERVING, "%s", told);
    }
  }

  private static void retry() {
    for (var kind : KINDS) {
      var call = new Call("unavailable_1", "unavailable_1");
      kind.accept(call, ALIM);
      call.mustBeSent(3);
    }
  }

  private static void noRetry() {
    for (var kind : KINDS) {
      var failed = new Call("failed");
      mustFail(() -> kind.accept(failed, ALIM), Code.INTERNAL, "UPSTREAM_FAILED");
      failed.mustBeSent(1);
      var reset = new Call("reset");
      mustFail(() -> kind.accept(reset, ALIM), Code.UNAVAILABLE, "UPSTREAM_INTERRUPTED");
      reset.mustBeSent(1);
    }
  }

  /** ALİM is paid a second time only where Retry-After asked for it, and within the caller's deadline. */
  private static void paidRuns() {
    for (var kind : KINDS) {
      for (var meets : List.of("unavailable", "unavailable_0", "unavailable_past", "unavailable_30")) {
        var once = new Call(meets);
        var late = ALIM.withDeadlineAfter(10, TimeUnit.SECONDS);
        mustFail(() -> kind.accept(once, late), Code.UNAVAILABLE, "UPSTREAM_UNAVAILABLE");
        once.mustBeSent(1);
      }
      var twice = new Call("unavailable_1");
      kind.accept(twice, ALIM.withDeadlineAfter(10, TimeUnit.SECONDS));
      twice.mustBeSent(2);
    }
  }

  private static void noRetryAfterEvent() {
    var call = new Call("cut");
    var events = call.stream(ALIM);
    check(events.next().hasNode(), "no node");
    check(failureOf(events::next).code() == Code.UNAVAILABLE, "another code");
    call.mustBeSent(1);
  }

  private static void thread() {
    var threads = ThreadServiceGrpc.newBlockingStub(CHANNEL);
    var call = new Call("unavailable_1");
    var wanted = Thread.newBuilder().setMetadata(call.context()).build();
    var made = call.on(threads).createThread(CreateThreadRequest.newBuilder().setThread(wanted).build());
    call.mustBeSent(2);

    var question = StreamRequest.newBuilder().setMessage("Bəs sabah?").setThreadId(made.getThreadId()).build();
    var events = new ArrayList<StreamResponse>();
    ALIM.stream(question).forEachRemaining(events::add);
    check(events.get(events.size() - 1).hasDone(), "%s", events);

    var lookUp = GetThreadRequest.newBuilder().setThreadId(made.getThreadId()).build();
    var found = threads.getThread(lookUp).getMetadata(); // ALİM may add words of its own
    check(found.getFieldsOrThrow("witness").equals(call.context().getFieldsOrThrow("witness")), "%s", found);
    threads.deleteThread(DeleteThreadRequest.newBuilder().setThreadId(made.getThreadId()).build());
    mustFail(() -> threads.getThread(lookUp), Code.NOT_FOUND, "UPSTREAM_NOT_FOUND");

    var starting = StreamRequest.newBuilder().setMessage("Salam!").setStartThread(true).build();
    var started = new ArrayList<StreamResponse>();
    ALIM.stream(starting).forEachRemaining(started::add);
    var named = started.get(started.size() - 1).getDone().getThreadId();
    threads.getThread(GetThreadRequest.newBuilder().setThreadId(named).build());
  }

  private static void mustAllBeSentOnce(String scheme, String... addresses) {
    var channel = Alim.connect(Several.target(scheme, addresses));
    for (int i = 0; i < 20; i++) {
      var call = new Call();
      call.invoke(GraphServiceGrpc.newBlockingStub(channel));
      call.mustBeSent(1);
    }
    channel.shutdownNow();
  }

  static void check(boolean holds, String format, Object... words) {
    if (!holds) {
      throw new AssertionError(format.formatted(words));
    }
  }

  private static Failure failureOf(Runnable call) {
    try {
      call.run();
    } catch (StatusRuntimeException error) {
      return Failure.of(error);
    }
    throw new AssertionError("it did not fail");
  }

  private static Failure mustFail(Runnable call, Code code, String reason) {
    var failure = failureOf(call);
    check(failure.code() == code && failure.reason().equals(reason), "%s", failure);
    return failure;
  }

  private static void run(String name, Runnable body) {
    try {
      body.run();
      System.out.printf("ok\t%s%n", name);
    } catch (RuntimeException | AssertionError error) {
      var where = List.of(error.getStackTrace()).stream().filter(it -> it.getClassName().startsWith("caller."));
      var why = "%s at %s".formatted(error, where.toList());
      System.out.printf("failed\t%s\t%s%n", name, why.replace("\n", " | "));
    }
  }
}
