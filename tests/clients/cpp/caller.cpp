#include "caller.hpp"

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace {

// Published beside the .proto: balancing, health checks, timeouts, and retries of what can't have run.
const char kServiceConfig[] =
#include "service_config.inc"
    ;

}  // namespace

std::shared_ptr<grpc::Channel> connect(const std::string& target, grpc::ChannelArguments options) {
  options.SetServiceConfigJSON(kServiceConfig);
  return grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), options);
}

Failure::Failure(const grpc::Status& status) : code(status.error_code()), message(status.error_message()) {
  google::rpc::Status rich;
  if (!rich.ParseFromString(status.error_details())) return;
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad;
  google::rpc::RetryInfo retry;
  for (const auto& detail : rich.details()) {
    if (detail.UnpackTo(&info)) {
      reason = info.reason();
    } else if (detail.UnpackTo(&bad)) {
      for (const auto& violation : bad.field_violations()) fields.push_back(violation.field());
    } else if (detail.UnpackTo(&retry)) {
      retry_after = std::chrono::milliseconds(retry.retry_delay().seconds() * 1000 + retry.retry_delay().nanos() / 1000000);
    }
  }
}
