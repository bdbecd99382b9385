// The cases of a caller in C++.
#include <thread>

#include "alim/v1/graph_service.grpc.pb.h"
#include "alim/v1/thread_service.grpc.pb.h"
#include "health.grpc.pb.h"
#include "report.hpp"

using alim::v1::GraphService;
using alim::v1::InvokeResponse;
using alim::v1::StreamResponse;
using alim::v1::ThreadService;
using namespace std::chrono_literals;

namespace {

std::shared_ptr<grpc::Channel> channel;
std::unique_ptr<GraphService::Stub> alim_stub;

struct Answer {
  grpc::Status status;
  std::vector<StreamResponse> events;
};

// No timeout leaves the service config's own.
void prepare(grpc::ClientContext& context, const Planned& call, std::chrono::milliseconds timeout) {
  context.AddMetadata("x-request-id", call.id());
  if (timeout > 0ms) context.set_deadline(std::chrono::system_clock::now() + timeout);
}

InvokeResponse invoked(const alim::v1::InvokeRequest& request) {
  grpc::ClientContext context;
  InvokeResponse reply;
  auto status = alim_stub->Invoke(&context, request, &reply);
  must(status.ok(), status.error_message());
  return reply;
}

Answer read(grpc::ClientContext& context, const alim::v1::StreamRequest& request) {
  Answer answer;
  auto events = alim_stub->Stream(&context, request);
  StreamResponse event;
  while (events->Read(&event)) answer.events.push_back(event);
  answer.status = events->Finish();
  return answer;
}

grpc::Status ask(const Planned& call, std::chrono::milliseconds timeout = 0ms) {
  grpc::ClientContext context;
  prepare(context, call, timeout);
  InvokeResponse reply;
  return alim_stub->Invoke(&context, call.invoke(), &reply);
}

grpc::Status ask_stream(const Planned& call, std::chrono::milliseconds timeout = 0ms) {
  grpc::ClientContext context;
  prepare(context, call, timeout);
  return read(context, call.stream()).status;
}

const auto kinds = {ask, ask_stream};

void invoke() {
  auto reply = invoked(Planned().invoke());
  must(!reply.response().empty() && !reply.thread_id().empty(), reply.ShortDebugString());
}

void stream() {
  grpc::ClientContext context;
  auto answer = read(context, Planned().stream());
  must(answer.status.ok(), answer.status.error_message());
  std::string text;
  std::size_t tokens = 0, nodes = 0;
  for (const auto& event : answer.events) {
    text += event.token().text();
    tokens += event.has_token();
    nodes += event.has_node();
  }
  must(text == invoked(Planned().invoke()).response(), "not what Invoke answers: " + text);
  must(nodes > 0, "no node");
  must(answer.events.back().done().token_count() == tokens, answer.events.back().ShortDebugString());
}

void deadline() {
  for (auto kind : kinds) {
    Planned call({"silent"});
    Failure failure(kind(call, 1s));
    must(failure.code == grpc::DEADLINE_EXCEEDED, failure.message);
    call.must_be_closed();
  }
}

void cancel() {
  Planned call({"held"});
  grpc::ClientContext context;
  prepare(context, call, 0ms);
  auto events = alim_stub->Stream(&context, call.stream());
  StreamResponse event;
  must(events->Read(&event) && event.has_node(), "no node first");
  context.TryCancel();
  must(!events->Read(&event), "an event after the cancel");
  must(events->Finish().error_code() == grpc::CANCELLED, "not CANCELLED");
  call.must_be_closed();
}

void details() {
  const std::vector<std::string> wrong = {"message", "thread_id"};
  alim::v1::InvokeRequest request;
  request.set_thread_id("../x");
  grpc::ClientContext context, other;
  InvokeResponse reply;
  auto failure = must_fail(alim_stub->Invoke(&context, request, &reply), grpc::INVALID_ARGUMENT, "INVALID_REQUEST");
  must(failure.fields == wrong, "other fields of Invoke");
  alim::v1::StreamRequest question;
  question.set_thread_id("../x");
  failure = must_fail(read(other, question).status, grpc::INVALID_ARGUMENT, "INVALID_REQUEST");
  must(failure.fields == wrong, "other fields of Stream");
}

void retry_info() {
  for (auto kind : kinds) {
    Planned call({"rate_limited"});
    auto failure = must_fail(kind(call, 0ms), grpc::RESOURCE_EXHAUSTED, "UPSTREAM_RATE_LIMITED");
    must(failure.retry_after == 1s, std::to_string(failure.retry_after.count()) + " ms");
    call.must_be_sent(1);
  }
}

void health() {
  auto stub = grpc::health::v1::Health::NewStub(channel);
  for (const auto* service : {"", "alim.v1.GraphService"}) {
    grpc::ClientContext context;
    grpc::health::v1::HealthCheckRequest request;
    grpc::health::v1::HealthCheckResponse told;
    request.set_service(service);
    auto status = stub->Check(&context, request, &told);
    must(status.ok() && told.status() == grpc::health::v1::HealthCheckResponse::SERVING, told.ShortDebugString());
  }
}

void retry() {
  for (auto kind : kinds) {
    Planned call({"unavailable_1", "unavailable_1"});
    auto status = kind(call, 0ms);
    must(status.ok(), status.error_message());
    call.must_be_sent(3);
  }
}

void no_retry() {
  for (auto kind : kinds) {
    Planned failed({"failed"}), reset({"reset"});
    must_fail(kind(failed, 0ms), grpc::INTERNAL, "UPSTREAM_FAILED");
    failed.must_be_sent(1);
    must_fail(kind(reset, 0ms), grpc::UNAVAILABLE, "UPSTREAM_INTERRUPTED");
    reset.must_be_sent(1);
  }
}

void no_retry_after_event() {
  Planned call({"cut"});
  grpc::ClientContext context;
  prepare(context, call, 0ms);
  auto answer = read(context, call.stream());
  must(answer.events.size() == 1, std::to_string(answer.events.size()) + " events");
  must_fail(answer.status, grpc::UNAVAILABLE, "UPSTREAM_STREAM_TRUNCATED");
  call.must_be_sent(1);
}

// Makes calls of both kinds that are to be repeated after 30 s; the service config's own deadlines leave room for it.
void repeat_after_30s() {
  for (auto kind : kinds) {
    Planned call({"unavailable_30"});
    auto status = kind(call, 0ms);
    must(status.ok(), status.error_message());
    call.must_be_sent(2);
  }
}

// ALİM is paid a second time only if Retry-After asked for it, and within the caller's deadline.
void paid_runs() {
  for (auto kind : kinds) {
    for (const auto* meets : {"unavailable", "unavailable_0", "unavailable_past", "unavailable_30"}) {
      Planned once({meets});
      must_fail(kind(once, 20s), grpc::UNAVAILABLE, "UPSTREAM_UNAVAILABLE");
      once.must_be_sent(1);
    }
    Planned twice({"unavailable_1"});
    auto status = kind(twice, 20s);
    must(status.ok(), status.error_message());
    twice.must_be_sent(2);
  }
}

// Makes calls to several bridges. In production that is one DNS name, which is then the authority too.
void must_all_be_sent_once(const std::string& one, const std::string& other) {
  grpc::ChannelArguments options;
  options.SetString(GRPC_ARG_DEFAULT_AUTHORITY, "alim-bridge");
  auto stub = GraphService::NewStub(connect("ipv4:" + one + "," + other, options));
  for (int n = 0; n < 20; n++) {
    Planned call;
    grpc::ClientContext context;
    prepare(context, call, 0ms);
    InvokeResponse reply;
    auto status = stub->Invoke(&context, call.invoke(), &reply);
    must(status.ok(), status.error_message());
    call.must_be_sent(1);
  }
}

void thread() {
  auto threads = ThreadService::NewStub(channel);
  Planned call({"unavailable_1"});
  alim::v1::CreateThreadRequest wanted;
  *wanted.mutable_thread()->mutable_metadata() = call.plan();
  grpc::ClientContext creating;
  prepare(creating, call, 0ms);
  alim::v1::Thread made;
  auto status = threads->CreateThread(&creating, wanted, &made);
  must(status.ok(), status.error_message());
  call.must_be_sent(2);

  auto question = Planned().stream();
  question.set_thread_id(made.thread_id());
  grpc::ClientContext streaming;
  auto answer = read(streaming, question);
  must(answer.status.ok() && answer.events.back().has_done(), answer.status.error_message());

  alim::v1::GetThreadRequest which;
  which.set_thread_id(made.thread_id());
  grpc::ClientContext getting, deleting, missing;
  alim::v1::Thread found;
  status = threads->GetThread(&getting, which, &found);
  must(status.ok(), status.error_message());
  const auto kept = found.metadata().fields().find("witness");  // ALİM may add words of its own
  must(kept != found.metadata().fields().end(), found.ShortDebugString());
  must(kept->second.list_value().values(0).string_value() == "unavailable_1", found.ShortDebugString());
  alim::v1::DeleteThreadRequest last;
  last.set_thread_id(made.thread_id());
  google::protobuf::Empty nothing;
  status = threads->DeleteThread(&deleting, last, &nothing);
  must(status.ok(), status.error_message());
  must_fail(threads->GetThread(&missing, which, &found), grpc::NOT_FOUND, "UPSTREAM_NOT_FOUND");

  alim::v1::StreamRequest start;
  start.set_message(kMessage);
  start.set_start_thread(true);
  grpc::ClientContext starting, naming;
  answer = read(starting, start);
  must(answer.status.ok(), answer.status.error_message());
  which.set_thread_id(answer.events.back().done().thread_id());
  status = threads->GetThread(&naming, which, &found);
  must(status.ok(), status.error_message());
}

}  // namespace

int main() {
  const auto address = surroundings("ALIM_ADDRESS");
  channel = connect(address);
  alim_stub = GraphService::NewStub(channel);
  std::string repeated;
  std::thread repeating([&] {
    try {
      repeat_after_30s();
    } catch (const std::exception& error) {
      repeated = std::string("after 30 s: ") + error.what();
    }
  });
  run("invoke", invoke);
  run("stream", stream);
  run("deadline", deadline);
  run("cancel", cancel);
  run("details", details);
  run("retry-info", retry_info);
  run("health", health);
  run("retry", retry);
  run("no-retry", no_retry);
  run("no-retry-after-event", no_retry_after_event);
  run("balance", [&] { must_all_be_sent_once(surroundings("ALIM_UNREACHING_ADDRESS"), address); });
  run("full-bridge", [&] { must_all_be_sent_once(surroundings("ALIM_FULL_ADDRESS"), address); });
  run("drain", [&] { must_all_be_sent_once(surroundings("ALIM_DRAINING_ADDRESS"), address); });
  run("thread", thread);
  run("paid-runs", [&] {
    paid_runs();
    repeating.join();
    must(repeated.empty(), repeated);
  });
  if (repeating.joinable()) repeating.join();
}
