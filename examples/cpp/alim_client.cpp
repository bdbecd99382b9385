#include "alim_client.hpp"

#include "google/rpc/error_details.pb.h"
#include "google/rpc/status.pb.h"

namespace {

// Published with the contract: it balances, checks health, sets deadlines, and retries what the bridge does not forbid.
const char kServiceConfig[] =
#include "alim/v1/service_config.inc"
    ;

const char kRequestId[] = "x-request-id";

void prepare(grpc::ClientContext& context, const Call& call) {
  context.AddMetadata(kRequestId, call.request_id);
  context.set_deadline(std::chrono::system_clock::now() + call.timeout);
}

void check(const grpc::Status& status, const grpc::ClientContext& context) {
  if (!status.ok()) throw AlimError(status, context);
}

std::shared_ptr<grpc::ChannelCredentials> credentials(const Security& security) {
  if (security.ca.empty()) {
    if (!security.key.empty()) throw std::invalid_argument("a key needs TLS: set ca too");
    return grpc::InsecureChannelCredentials();
  }
  grpc::SslCredentialsOptions options;
  options.pem_root_certs = security.ca;
  auto tls = grpc::SslCredentials(options);
  if (security.key.empty()) return tls;
  return grpc::CompositeChannelCredentials(tls, grpc::AccessTokenCredentials(security.key));
}

// A stream that had begun says its id at the start, any other call at its end.
std::string request_id(const grpc::ClientContext& context) {
  for (const auto* metadata : {&context.GetServerTrailingMetadata(), &context.GetServerInitialMetadata()}) {
    auto found = metadata->find(kRequestId);
    if (found != metadata->end()) return {found->second.data(), found->second.size()};
  }
  return {};
}

}  // namespace

AlimError::AlimError(const grpc::Status& status, const grpc::ClientContext& context)
    : std::runtime_error(status.error_message()), code(status.error_code()), request_id(::request_id(context)) {
  google::rpc::Status rich;
  if (!rich.ParseFromString(status.error_details())) return;
  google::rpc::ErrorInfo info;
  google::rpc::BadRequest bad;
  google::rpc::RetryInfo retry;
  for (const auto& detail : rich.details()) {
    if (detail.UnpackTo(&info) && info.domain() == "alim-bridge") {
      reason = info.reason();
      const auto& metadata = info.metadata();
      if (auto found = metadata.find("sent"); found != metadata.end()) sent = found->second == "true";
      if (auto found = metadata.find("eventsDelivered"); found != metadata.end()) {
        events_delivered = std::stoull(found->second);
      }
    } else if (detail.UnpackTo(&bad)) {
      for (const auto& it : bad.field_violations()) fields.emplace_back(it.field(), it.description());
    } else if (detail.UnpackTo(&retry)) {
      const auto& delay = retry.retry_delay();
      retry_after = std::chrono::milliseconds(delay.seconds() * 1000 + delay.nanos() / 1000000);
    }
  }
}

Answer::Answer(alim::v1::GraphService::Stub& graph, const alim::v1::StreamRequest& question, const Call& call) {
  prepare(context_, call);
  events_ = graph.Stream(&context_, question);
}

Answer::~Answer() {
  if (ended_) return;
  context_.TryCancel();  // else ALİM goes on to the deadline, and you pay for it
  events_->Finish();
}

std::optional<alim::v1::StreamResponse> Answer::next() {
  if (ended_) return std::nullopt;
  alim::v1::StreamResponse event;
  if (events_->Read(&event)) return event;
  ended_ = true;
  check(events_->Finish(), context_);
  return std::nullopt;
}

AlimClient::AlimClient(const std::string& target, const Security& security) {
  grpc::ChannelArguments options;
  options.SetServiceConfigJSON(kServiceConfig);
  // Finds out within 30 s that the bridge's machine is gone, while a call is open.
  options.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 20000);
  options.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 10000);
  channel_ = grpc::CreateCustomChannel(target, credentials(security), options);
  graph_ = alim::v1::GraphService::NewStub(channel_);
  threads_ = alim::v1::ThreadService::NewStub(channel_);
}

alim::v1::InvokeResponse AlimClient::invoke(const alim::v1::InvokeRequest& question, const Call& call) {
  grpc::ClientContext context;  // one for each call
  prepare(context, call);
  alim::v1::InvokeResponse reply;
  check(graph_->Invoke(&context, question, &reply), context);
  return reply;
}

std::unique_ptr<Answer> AlimClient::stream(const alim::v1::StreamRequest& question, const Call& call) {
  return std::make_unique<Answer>(*graph_, question, call);
}

void AlimClient::delete_thread(const std::string& thread_id, const Call& call) {
  grpc::ClientContext context;
  prepare(context, call);
  alim::v1::DeleteThreadRequest request;
  request.set_thread_id(thread_id);
  google::protobuf::Empty nothing;
  check(threads_->DeleteThread(&context, request, &nothing), context);
}
