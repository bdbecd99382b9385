// What a C++ program needs to ask ALİM, beside the stubs.
#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

// Opens a channel; in production to a name such as "dns:///alim-bridge:50051".
std::shared_ptr<grpc::Channel> connect(const std::string& target, grpc::ChannelArguments options = {});

// What a status says, in its details too.
struct Failure {
  explicit Failure(const grpc::Status& status);

  grpc::StatusCode code;
  std::string message;
  std::string reason;                       // stable: docs/errors.md lists them
  std::vector<std::string> fields;          // of the request, that are not valid
  std::chrono::milliseconds retry_after{};  // zero if the bridge does not say
};
