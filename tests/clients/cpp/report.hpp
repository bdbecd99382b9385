// Runs cases, prints a line for each, and asks the witness what came of the calls.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "alim/v1/graph_service.pb.h"
#include "caller.hpp"

const char kMessage[] = "Fermada susuzluq var, nə edim?";

std::string surroundings(const std::string& name);

void run(const std::string& name, const std::function<void()>& body);

[[noreturn]] void fail(const std::string& why);

void must(bool holds, const std::string& what);

// A planned call: the witness knows it by its id, and its attempts meet what is planned for them.
class Planned {
 public:
  explicit Planned(std::vector<std::string> meets = {});

  const std::string& id() const { return id_; }
  google::protobuf::Struct plan() const;
  alim::v1::InvokeRequest invoke() const;
  alim::v1::StreamRequest stream() const;

  void must_be_sent(int times) const;
  // Waits until the bridge has hung up.
  void must_be_closed() const;

 private:
  int ask(const std::string& question, const std::string& count) const;

  std::string id_;
  std::vector<std::string> meets_;
};

Failure must_fail(const grpc::Status& status, grpc::StatusCode code, const std::string& reason);
