// Calls the bridge. Failures are thrown as AlimError, with all that the bridge says about them.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "alim/v1/graph_service.grpc.pb.h"
#include "alim/v1/thread_service.grpc.pb.h"

// A call that did not end with OK.
class AlimError : public std::runtime_error {
 public:
  AlimError(const grpc::Status& status, const grpc::ClientContext& context);

  grpc::StatusCode code;
  // Stable, such as UPSTREAM_RATE_LIMITED. Empty if the library ended the call by itself.
  std::string reason;
  // The fields of the request that are not valid, each with what is wrong.
  std::vector<std::pair<std::string, std::string>> fields;
  // If it is set, ask again after this time.
  std::optional<std::chrono::milliseconds> retry_after;
  // Whether ALİM may have seen the question. Unset if unknown: treat it as true.
  std::optional<bool> sent;
  // How many events a stream had delivered.
  std::optional<std::uint64_t> events_delivered;
  // Look for it in the bridge's log.
  std::string request_id;
};

// What goes with one call.
struct Call {
  std::string request_id;  // in a service, pass on the id of the request that you serve
  std::chrono::milliseconds timeout;
};

// How a channel is protected. Without authorities it is plain HTTP/2, which carries no key.
struct Security {
  std::string ca;   // PEM authorities that vouch for the bridge
  std::string key;  // sent as `authorization: Bearer`
};

// The events of a stream, to be read once. If it is destroyed before its end, the call is cancelled.
class Answer {
 public:
  Answer(alim::v1::GraphService::Stub& graph, const alim::v1::StreamRequest& question, const Call& call);
  ~Answer();
  Answer(const Answer&) = delete;
  Answer& operator=(const Answer&) = delete;

  // The next event; nothing once the answer is complete. Throws AlimError.
  std::optional<alim::v1::StreamResponse> next();

 private:
  grpc::ClientContext context_;
  std::unique_ptr<grpc::ClientReader<alim::v1::StreamResponse>> events_;
  bool ended_ = false;
};

// One client serves all threads of a process.
class AlimClient {
 public:
  // Opens a channel; in production to a name such as "dns:///alim-bridge:50051".
  AlimClient(const std::string& target, const Security& security);

  // These throw AlimError.
  alim::v1::InvokeResponse invoke(const alim::v1::InvokeRequest& question, const Call& call);
  std::unique_ptr<Answer> stream(const alim::v1::StreamRequest& question, const Call& call);
  void delete_thread(const std::string& thread_id, const Call& call);

 private:
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<alim::v1::GraphService::Stub> graph_;
  std::unique_ptr<alim::v1::ThreadService::Stub> threads_;
};
