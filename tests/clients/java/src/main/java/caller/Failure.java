package caller;

import com.google.protobuf.Any;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.rpc.BadRequest;
import com.google.rpc.ErrorInfo;
import com.google.rpc.RetryInfo;
import io.grpc.Status;
import io.grpc.StatusRuntimeException;
import io.grpc.protobuf.StatusProto;
import java.time.Duration;
import java.util.List;

/**
 * What a status says, in its details too.
 *
 * @param reason stable: docs/errors.md lists them
 * @param fields of the request, that break a rule
 * @param retryAfter null where the bridge does not say
 */
record Failure(Status.Code code, String message, String reason, List<String> fields, Duration retryAfter) {

  static Failure of(StatusRuntimeException error) {
    String reason = "";
    List<String> fields = List.of();
    Duration retryAfter = null;
    try {
      for (Any detail : StatusProto.fromThrowable(error).getDetailsList()) {
        if (detail.is(ErrorInfo.class)) {
          reason = detail.unpack(ErrorInfo.class).getReason();
        } else if (detail.is(BadRequest.class)) {
          var violations = detail.unpack(BadRequest.class).getFieldViolationsList();
          fields = violations.stream().map(BadRequest.FieldViolation::getField).toList();
        } else if (detail.is(RetryInfo.class)) {
          var delay = detail.unpack(RetryInfo.class).getRetryDelay();
          retryAfter = Duration.ofSeconds(delay.getSeconds(), delay.getNanos());
        }
      }
    } catch (InvalidProtocolBufferException e) {
      throw new IllegalArgumentException(e);
    }
    var status = error.getStatus();
    return new Failure(status.getCode(), status.getDescription(), reason, fields, retryAfter);
  }
}
