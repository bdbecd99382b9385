// Asks ALİM in every way that a service needs: whole, typed, in a thread, with a deadline, cancelled, failing.

#include <cstdlib>
#include <fstream>
#include <iostream>
#include <iterator>

#include "alim_client.hpp"

using alim::v1::InvokeRequest;
using alim::v1::StreamRequest;
using namespace std::chrono_literals;

namespace {

std::string environment(const char* name, const char* otherwise = "") {
  const char* value = std::getenv(name);
  return value ? value : otherwise;
}

std::string read_file(const std::string& path) {
  std::ifstream file(path);
  if (!file) throw std::runtime_error("can't read " + path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// Names a call in the logs.
Call call(const std::string& name, std::chrono::milliseconds timeout) {
  return {read_file("/proc/sys/kernel/random/uuid").substr(0, 36) + "-" + name, timeout};
}

template <typename Request>
Request question(const std::string& message, const std::string& fault = "") {
  Request request;
  request.set_message(message);
  if (!fault.empty()) {
    (*request.mutable_scenario_context()->mutable_fields())["emulator_fault"].set_string_value(fault);
  }
  return request;
}

void invoke(AlimClient& alim) {
  std::cout << "== A whole answer\n";
  auto reply = alim.invoke(question<InvokeRequest>("Nə vaxt suvarım?"), call("invoke", 60s));
  std::cout << reply.response() << "\nmodel: " << reply.model() << "\n";
}

// Prints the answer while it is made; gives the thread that it belongs to.
std::string type(AlimClient& alim, const StreamRequest& request) {
  std::string thread_id;
  auto answer = alim.stream(request, call("stream", 60s));
  while (auto event = answer->next()) {
    if (event->has_token()) {
      std::cout << event->token().text() << std::flush;
    } else if (event->has_done()) {
      std::cout << "\n" << event->done().token_count() << " tokens\n";
      thread_id = event->done().thread_id();
    }
  }
  return thread_id;
}

void conversation(AlimClient& alim) {
  std::cout << "== A conversation, typed\n";
  auto first = question<StreamRequest>("Nə vaxt suvarım?");
  first.set_start_thread(true);
  auto thread_id = type(alim, first);
  auto second = question<StreamRequest>("Bəs sabah?");
  second.set_thread_id(thread_id);
  auto again = type(alim, second);
  std::cout << (!thread_id.empty() && again == thread_id ? "in the same thread\n" : "in another thread\n");
  alim.delete_thread(thread_id, call("delete", 10s));
}

void drain(AlimClient& alim, const StreamRequest& request, const Call& call) {
  auto answer = alim.stream(request, call);
  while (answer->next()) {
  }
}

template <typename Function>
AlimError failure_of(Function function) {
  try {
    function();
  } catch (const AlimError& failure) {
    return failure;
  }
  throw std::logic_error("the call did not fail");
}

const char* name_of(grpc::StatusCode code) {
  switch (code) {
    case grpc::INVALID_ARGUMENT: return "INVALID_ARGUMENT";
    case grpc::DEADLINE_EXCEEDED: return "DEADLINE_EXCEEDED";
    case grpc::RESOURCE_EXHAUSTED: return "RESOURCE_EXHAUSTED";
    case grpc::INTERNAL: return "INTERNAL";
    case grpc::UNAVAILABLE: return "UNAVAILABLE";
    default: return "another code";
  }
}

void show(const AlimError& failure) {
  std::cout << name_of(failure.code) << " " << failure.reason << "\n";
  for (const auto& [name, fault] : failure.fields) std::cout << "  " << name << ": " << fault << "\n";
  if (failure.retry_after) std::cout << "  retry after: " << failure.retry_after->count() / 1000.0 << " s\n";
  if (failure.sent) std::cout << "  sent: " << std::boolalpha << *failure.sent << "\n";
  if (failure.events_delivered) std::cout << "  events delivered: " << *failure.events_delivered << "\n";
  std::cout << "  request id: " << failure.request_id << "\n";
}

void failures(AlimClient& alim) {
  std::cout << "== A question that is not valid\n";
  auto invalid = question<InvokeRequest>("");
  invalid.set_thread_id("x");
  show(failure_of([&] { alim.invoke(invalid, call("invalid", 10s)); }));

  // The embedded ALİM fails on request.
  std::cout << "== A stream that fails on its way\n";
  show(failure_of([&] { drain(alim, question<StreamRequest>("Salam", "agent_failed"), call("failing", 10s)); }));

  std::cout << "== Too many questions\n";
  show(failure_of([&] { alim.invoke(question<InvokeRequest>("Salam", "rate_limited"), call("limited", 1500ms)); }));
}

void deadline(AlimClient& alim) {
  std::cout << "== A deadline that passes\n";
  auto failure = failure_of([&] { drain(alim, question<StreamRequest>("Salam", "slow"), call("deadline", 500ms)); });
  std::cout << name_of(failure.code) << "\n";
}

void cancel(AlimClient& alim) {
  std::cout << "== A stream that is cancelled\n";
  auto answer = alim.stream(question<StreamRequest>("Salam", "slow"), call("cancel", 60s));
  if (answer->next()) std::cout << "left after the first event\n";
  // The end of `answer` cancels the call.
}

void retry(AlimClient& alim) {
  std::cout << "== A call that is retried\n";
  auto reply = alim.invoke(question<InvokeRequest>("Salam"), call("retry", 60s));
  std::cout << (reply.response().empty() ? "empty\n" : "answered\n");
}

}  // namespace

int main() try {
  auto ca_file = environment("ALIM_CA_FILE");
  Security security{ca_file.empty() ? "" : read_file(ca_file), environment("ALIM_CALLER_KEY")};
  AlimClient alim(environment("ALIM_ADDRESS", "127.0.0.1:50051"), security);
  invoke(alim);
  conversation(alim);
  failures(alim);
  deadline(alim);
  cancel(alim);
  retry(alim);
} catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
