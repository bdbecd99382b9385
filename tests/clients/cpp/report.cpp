#include "report.hpp"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <stdexcept>

namespace {

// The body of a GET from the witness, which closes the connection after it.
std::string get(const std::string& url) {
  const std::string scheme = "http://";
  const auto path = url.find('/', scheme.size()), colon = url.find(':', scheme.size());
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(std::stoi(url.substr(colon + 1)));
  inet_pton(AF_INET, url.substr(scheme.size(), colon - scheme.size()).c_str(), &address.sin_addr);
  const int connection = socket(AF_INET, SOCK_STREAM, 0);
  const auto request = "GET " + url.substr(path) + " HTTP/1.1\r\nhost: witness\r\n\r\n";
  std::string reply;
  if (connect(connection, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0 &&
      write(connection, request.data(), request.size()) == static_cast<ssize_t>(request.size())) {
    char part[4096];
    for (ssize_t size; (size = read(connection, part, sizeof part)) > 0;) reply.append(part, size);
  }
  close(connection);
  const auto body = reply.find("\r\n\r\n");
  if (body == std::string::npos) fail("the witness does not answer");
  return reply.substr(body + 4);
}

}  // namespace

std::string surroundings(const std::string& name) {
  const char* value = std::getenv(name.c_str());
  if (!value) fail(name + " is not set");
  return value;
}

void run(const std::string& name, const std::function<void()>& body) {
  try {
    body();
    std::cout << "ok\t" << name << std::endl;
  } catch (const std::exception& error) {
    std::string why = error.what();
    std::replace(why.begin(), why.end(), '\n', '|');
    std::cout << "failed\t" << name << "\t" << why << std::endl;
  }
}

void fail(const std::string& why) { throw std::runtime_error(why); }

void must(bool holds, const std::string& what) {
  if (!holds) fail(what);
}

Planned::Planned(std::vector<std::string> meets) : meets_(std::move(meets)) {
  std::ifstream("/proc/sys/kernel/random/uuid") >> id_;
}

google::protobuf::Struct Planned::plan() const {
  google::protobuf::Struct made;
  auto* words = (*made.mutable_fields())["witness"].mutable_list_value();
  for (const auto& word : meets_) words->add_values()->set_string_value(word);
  return made;
}

alim::v1::InvokeRequest Planned::invoke() const {
  alim::v1::InvokeRequest request;
  request.set_message(kMessage);
  *request.mutable_scenario_context() = plan();
  return request;
}

alim::v1::StreamRequest Planned::stream() const {
  alim::v1::StreamRequest request;
  request.set_message(kMessage);
  *request.mutable_scenario_context() = plan();
  return request;
}

void Planned::must_be_sent(int times) const {
  const int posts = ask("seen", "posts");
  must(posts == times, "sent " + std::to_string(posts) + " times, not " + std::to_string(times));
}

void Planned::must_be_closed() const { must(ask("closed", "closed") == 1, "the bridge has not hung up"); }

int Planned::ask(const std::string& question, const std::string& count) const {
  const auto told = get(surroundings("ALIM_WITNESS") + "/" + question + "/" + id_);
  const auto key = "\"" + count + "\": ";
  const auto found = told.find(key);
  if (found == std::string::npos) fail("the witness said " + told);
  return std::stoi(told.substr(found + key.size()));
}

Failure must_fail(const grpc::Status& status, grpc::StatusCode code, const std::string& reason) {
  Failure failure(status);
  must(failure.code == code && failure.reason == reason,
       "not " + std::to_string(code) + " " + reason + " but " + std::to_string(failure.code) + " " + failure.reason + ": " + failure.message);
  return failure;
}
