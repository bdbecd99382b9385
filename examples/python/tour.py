"""Asks ALİM in every way that a service needs: whole, typed, in a thread, with a deadline, cancelled, failing."""

import os
from uuid import uuid4

import grpc
from alim.v1.graph_service_pb2 import InvokeRequest, StreamRequest
from alim.v1.graph_service_pb2_grpc import GraphServiceStub
from alim.v1.thread_service_pb2 import DeleteThreadRequest
from alim.v1.thread_service_pb2_grpc import ThreadServiceStub
from alim_client import connect
from alim_errors import AlimError, alim_errors


def request_id(name: str) -> list[tuple[str, str]]:
    """The metadata that names a call in the logs. In a service, pass on the id of the request that you serve."""
    return [("x-request-id", f"{uuid4()}-{name}")]


def invoke(alim: GraphServiceStub) -> None:
    print("== A whole answer")
    reply = alim.Invoke(InvokeRequest(message="Nə vaxt suvarım?"), timeout=60, metadata=request_id("invoke"))
    print(reply.response)
    print(f"model: {reply.model}")


def type_answer(alim: GraphServiceStub, question: StreamRequest) -> str:
    """Prints the answer while it is made; gives the thread that it belongs to."""
    thread_id = ""
    for event in alim.Stream(question, timeout=60, metadata=request_id("stream")):
        match event.WhichOneof("event"):
            case "token":
                print(event.token.text, end="", flush=True)
            case "done":
                print(f"\n{event.done.token_count} tokens")
                thread_id = event.done.thread_id
    return thread_id


def conversation(alim: GraphServiceStub, threads: ThreadServiceStub) -> None:
    print("== A conversation, typed")
    thread_id = type_answer(alim, StreamRequest(message="Nə vaxt suvarım?", start_thread=True))
    again = type_answer(alim, StreamRequest(message="Bəs sabah?", thread_id=thread_id))
    print("in the same thread" if thread_id and again == thread_id else "in another thread")
    threads.DeleteThread(DeleteThreadRequest(thread_id=thread_id), timeout=10, metadata=request_id("delete"))


def show(failure: AlimError) -> None:
    print(failure.code.name, failure.reason)
    for name, fault in failure.fields.items():
        print(f"  {name}: {fault}")
    if failure.retry_after is not None:
        print(f"  retry after: {failure.retry_after:g} s")
    print(f"  sent: {str(failure.sent).lower()}")
    if failure.events_delivered is not None:
        print(f"  events delivered: {failure.events_delivered}")
    print(f"  request id: {failure.request_id}")


def failures(alim: GraphServiceStub) -> None:
    print("== A question that is not valid")
    try:
        with alim_errors():
            alim.Invoke(InvokeRequest(message="", thread_id="x"), timeout=10, metadata=request_id("invalid"))
    except AlimError as failure:
        show(failure)

    # The embedded ALİM fails on request.
    print("== A stream that fails on its way")
    question = StreamRequest(message="Salam", scenario_context={"emulator_fault": "agent_failed"})
    try:
        with alim_errors():
            for _ in alim.Stream(question, timeout=10, metadata=request_id("failing")):
                pass
    except AlimError as failure:
        show(failure)

    print("== Too many questions")
    question = InvokeRequest(message="Salam", scenario_context={"emulator_fault": "rate_limited"})
    try:
        with alim_errors():
            alim.Invoke(question, timeout=1.5, metadata=request_id("limited"))
    except AlimError as failure:
        show(failure)


SLOW = StreamRequest(message="Salam", scenario_context={"emulator_fault": "slow"})


def deadline(alim: GraphServiceStub) -> None:
    print("== A deadline that passes")
    try:
        with alim_errors():
            for _ in alim.Stream(SLOW, timeout=0.5, metadata=request_id("deadline")):
                pass
    except AlimError as failure:
        print(failure.code.name)


def cancel(alim: GraphServiceStub) -> None:
    print("== A stream that is cancelled")
    events = alim.Stream(SLOW, timeout=60, metadata=request_id("cancel"))
    try:
        for _ in events:
            print("left after the first event")
            break
    finally:
        events.cancel()  # Else ALİM goes on, and you pay for it, until `events` is collected.


def retry(alim: GraphServiceStub) -> None:
    print("== A call that is retried")
    reply = alim.Invoke(InvokeRequest(message="Salam"), timeout=60, metadata=request_id("retry"))
    print("answered" if reply.response else "empty")


def main() -> None:
    target = os.environ.get("ALIM_ADDRESS", "127.0.0.1:50051")
    channel: grpc.Channel = connect(target, os.environ.get("ALIM_CA_FILE", ""), os.environ.get("ALIM_CALLER_KEY", ""))
    with channel, alim_errors():
        alim = GraphServiceStub(channel)
        invoke(alim)
        conversation(alim, ThreadServiceStub(channel))
        failures(alim)
        deadline(alim)
        cancel(alim)
        retry(alim)


if __name__ == "__main__":
    main()
