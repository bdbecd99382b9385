package com.example.alim;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Metadata;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.Collections;
import java.util.LinkedHashMap;
import java.util.Map;
import java.util.Optional;
import java.util.OptionalLong;

/** A call that did not end with OK, with all that the bridge says about it. Its cause is grpc-java's own exception. */
public final class AlimException extends RuntimeException {
  private static final long serialVersionUID = 1;
  static final Metadata.Key<String> REQUEST_ID =
      Metadata.Key.of("x-request-id", Metadata.ASCII_STRING_MARSHALLER);

  private final Status.Code code;
  private final String requestId;
  private String reason = "";
  private final LinkedHashMap<String, String> fields = new LinkedHashMap<>();
  private Duration retryAfter;
  private Boolean sent;
  private Long eventsDelivered;

  /** Reads the exception of a blocking stub. */
  public static AlimException of(StatusRuntimeException cause) {
    return of(cause, null);
  }

  /** Reads the exception of a BlockingV2 stub. */
  public static AlimException of(StatusException cause) {
    return of(cause, null);
  }

  /** A stream that had begun says its request id in its headers, any other call in its trailers. */
  static AlimException of(Exception cause, Metadata headers) {
    var trailers = Status.trailersFromThrowable(cause);
    var requestId = trailers == null ? null : trailers.get(REQUEST_ID);
    if (requestId == null && headers != null) {
      requestId = headers.get(REQUEST_ID);
    }
    return new AlimException(cause, requestId);
  }

  private AlimException(Exception cause, String requestId) {
    super(cause.getMessage(), cause);
    this.code = Status.fromThrowable(cause).getCode();
    this.requestId = requestId;
    try {
      for (Any detail : StatusProto.fromThrowable(cause).getDetailsList()) {
        read(detail);
      }
    } catch (InvalidProtocolBufferException malformed) {
      addSuppressed(malformed);
    }
  }

  private void read(Any detail) throws InvalidProtocolBufferException {
    if (detail.is(ErrorInfo.class)) {
      read(detail.unpack(ErrorInfo.class));
    } else if (detail.is(BadRequest.class)) {
      for (var violation : detail.unpack(BadRequest.class).getFieldViolationsList()) {
        fields.put(violation.getField(), violation.getDescription());
      }
    } else if (detail.is(RetryInfo.class)) {
      var delay = detail.unpack(RetryInfo.class).getRetryDelay();
      retryAfter = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
    }
  }

  private void read(ErrorInfo info) {
    if (!info.getDomain().equals("alim-bridge")) {
      return;
    }
    reason = info.getReason();
    var metadata = info.getMetadataMap();
    if (metadata.containsKey("sent")) {
      sent = Boolean.valueOf(metadata.get("sent"));
    }
    if (metadata.containsKey("eventsDelivered")) {
      eventsDelivered = Long.valueOf(metadata.get("eventsDelivered"));
    }
  }

  public Status.Code code() {
    return code;
  }

  /** Stable, such as UPSTREAM_RATE_LIMITED. Empty if the library ended the call by itself. */
  public String reason() {
    return reason;
  }

  /** The fields of the request that are not valid, each with what is wrong. */
  public Map<String, String> fields() {
    return Collections.unmodifiableMap(fields);
  }

  /** If it is present, ask again after this time. */
  public Optional<Duration> retryAfter() {
    return Optional.ofNullable(retryAfter);
  }

  /** Whether ALİM may have seen the question. Empty if unknown: treat it as true. */
  public Optional<Boolean> sent() {
    return Optional.ofNullable(sent);
  }

  /** How many events a stream had delivered. */
  public OptionalLong eventsDelivered() {
    return eventsDelivered == null ? OptionalLong.empty() : OptionalLong.of(eventsDelivered);
  }

  /** Look for it in the bridge's log. */
  public Optional<String> requestId() {
    return Optional.ofNullable(requestId);
  }
}
