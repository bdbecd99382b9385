package com.example.alim;

import alim.v1.GraphServiceGrpc.GraphServiceBlockingStub;
import alim.v1.StreamRequest;
import alim.v1.StreamResponse;
import io.grpc.Context;
import io.grpc.Metadata;
import io.grpc.StatusRuntimeException;
import io.grpc.stub.MetadataUtils;
import java.util.Iterator;
import java.util.NoSuchElementException;
import java.util.concurrent.atomic.AtomicReference;

/** The events of a stream, to be read once. Closing it cancels the call, unless that has ended. */
public final class Answer implements Iterable<StreamResponse>, AutoCloseable {
  private final Context.CancellableContext context = Context.current().withCancellation();
  private final AtomicReference<Metadata> headers = new AtomicReference<>();
  private final Iterator<StreamResponse> events;

  Answer(GraphServiceBlockingStub graph, StreamRequest request) {
    var capture = MetadataUtils.newCaptureMetadataInterceptor(headers, new AtomicReference<>());
    var previous = context.attach();
    try {
      events = graph.withInterceptors(capture).stream(request);
    } finally {
      context.detach(previous);
    }
  }

  @Override
  public Iterator<StreamResponse> iterator() {
    return new Iterator<>() {
      @Override
      public boolean hasNext() {
        try {
          return events.hasNext();
        } catch (StatusRuntimeException failure) {
          throw AlimException.of(failure, headers.get());
        }
      }

      @Override
      public StreamResponse next() {
        if (!hasNext()) {
          throw new NoSuchElementException();
        }
        return events.next();
      }
    };
  }

  @Override
  public void close() {
    context.cancel(null);
  }
}
