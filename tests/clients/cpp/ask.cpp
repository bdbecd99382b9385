// Asks ALİM and prints the answer while it is made: ask 127.0.0.1:50051 "Nə vaxt suvarım?"
#include <iostream>

#include "alim/v1/graph_service.grpc.pb.h"
#include "caller.hpp"

int main(int, char** words) {
  auto alim = alim::v1::GraphService::NewStub(connect(words[1]));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
  alim::v1::StreamRequest question;
  question.set_message(words[2]);

  auto events = alim->Stream(&context, question);
  alim::v1::StreamResponse event;
  while (events->Read(&event)) {
    if (event.has_token()) std::cout << event.token().text() << std::flush;
  }
  grpc::Status status = events->Finish();
  if (status.ok()) {
    std::cout << "\n";
    return 0;
  }
  Failure failure(status);
  std::cerr << failure.code << " " << failure.reason << ": " << failure.message << "\n";
  return 1;
}
