"""The cases of a caller with grpcurl, which finds the contract by reflection."""

import json
import re
import signal
import subprocess

from report import ADDRESS, SERVICE, Call, run, skip

INVOKE, STREAM = f"{SERVICE}/Invoke", f"{SERVICE}/Stream"
NOT_OK = 64  # grpcurl exits with this and the code added


def command(*words: str, fields: dict | None = None, call: Call | None = None) -> list[str]:
    data = ["-d", json.dumps(fields)] if fields is not None else []
    headers = ["-H", f"x-request-id: {call.id}"] if call else []
    return ["grpcurl", "-plaintext", *data, *headers, *words[:-1], ADDRESS, words[-1]]


def grpcurl(*words: str, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*words, **options), capture_output=True, text=True, timeout=30)


def ask(method: str, call: Call, *options: str) -> subprocess.CompletedProcess[str]:
    return grpcurl(*options, method, fields=call.fields, call=call)


def objects(text: str) -> list[dict]:
    """The JSON objects that stand one after the other in a text."""
    found, decoder = [], json.JSONDecoder()
    while text := text.lstrip():
        value, end = decoder.raw_decode(text)
        found.append(value)
        text = text[end:]
    return found


def details(said: subprocess.CompletedProcess[str]) -> dict[str, dict]:
    """The details of a failure, by their type."""
    _, *listed = re.split(r"\n\s+\d+\)\t", said.stderr)
    found = map(json.loads, listed)
    return {detail["@type"].rpartition(".")[2]: detail for detail in found}


def invoke():
    said = ask(INVOKE, Call())
    assert said.returncode == 0, said
    assert json.loads(said.stdout)["response"]


def stream():
    *events, last = objects(ask(STREAM, Call()).stdout)
    text = "".join(event["token"].get("text", "") for event in events if "token" in event)
    assert text == json.loads(ask(INVOKE, Call()).stdout)["response"]
    assert int(last["done"]["tokenCount"]) == sum("token" in event for event in events)


def deadline():
    for method in (INVOKE, STREAM):
        call = Call(("silent",))
        said = ask(method, call, "-max-time", "1")
        assert "Code: DeadlineExceeded" in said.stderr, said
        assert call.was_closed()


def cancel():
    call = Call(("held",))
    words = command(STREAM, fields=call.fields, call=call)
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as grpcurl:
        assert grpcurl.stdout.readline() == "{\n"
        grpcurl.send_signal(signal.SIGINT)
    assert call.was_closed()


def bad_request():
    said = grpcurl(INVOKE, fields={"message": "", "thread_id": "../x"})
    assert said.returncode == NOT_OK + 3, said
    told = details(said)
    assert told["ErrorInfo"]["reason"] == "INVALID_REQUEST"
    assert [it["field"] for it in told["BadRequest"]["fieldViolations"]] == ["message", "thread_id"]


def retry_info():
    call = Call(("rate_limited",))
    told = details(ask(STREAM, call))
    assert told["ErrorInfo"]["reason"] == "UPSTREAM_RATE_LIMITED"
    assert told["RetryInfo"]["retryDelay"] == "1s"
    assert call.posts() == 1


def health():
    for service in ("", SERVICE):
        said = grpcurl("grpc.health.v1.Health/Check", fields={"service": service})
        assert json.loads(said.stdout) == {"status": "SERVING"}


def no_retry():
    for meets, code, reason in (("failed", 13, "UPSTREAM_FAILED"), ("reset", 14, "UPSTREAM_INTERRUPTED")):
        for method in (INVOKE, STREAM):
            call = Call((meets,))
            said = ask(method, call)
            assert said.returncode == NOT_OK + code, said
            assert details(said)["ErrorInfo"]["reason"] == reason
            assert call.posts() == 1


def paid_runs():
    """grpcurl repeats nothing by itself."""
    for meets in ("unavailable", "unavailable_0", "unavailable_past", "unavailable_1"):
        call = Call((meets,))
        assert ask(INVOKE, call).returncode == NOT_OK + 14
        assert call.posts() == 1, meets


def no_retry_after_event():
    call = Call(("cut",))
    said = ask(STREAM, call)
    assert [list(event) for event in objects(said.stdout)] == [["node"]]
    assert said.returncode == NOT_OK + 14, said
    assert call.posts() == 1


def thread():
    threads = "alim.v1.ThreadService"
    made = json.loads(grpcurl(f"{threads}/CreateThread", fields={"thread": {"metadata": {"farm": "ferma-1"}}}).stdout)
    name = {"thread_id": made["threadId"]}
    *_, last = objects(grpcurl(STREAM, fields={"message": "Salam"} | name).stdout)
    assert "done" in last
    found = json.loads(grpcurl(f"{threads}/GetThread", fields=name).stdout)
    assert found["metadata"]["farm"] == "ferma-1"  # ALİM may add words of its own
    assert grpcurl(f"{threads}/DeleteThread", fields=name).returncode == 0
    assert "UPSTREAM_NOT_FOUND" in grpcurl(f"{threads}/GetThread", fields=name).stderr
    *_, last = objects(grpcurl(STREAM, fields={"message": "Salam", "start_thread": True}).stdout)
    assert grpcurl(f"{threads}/GetThread", fields={"thread_id": last["done"]["threadId"]}).returncode == 0


run("thread", thread)
run("invoke", invoke)
run("stream", stream)
run("deadline", deadline)
run("cancel", cancel)
run("details", bad_request)
run("retry-info", retry_info)
run("health", health)
run("no-retry", no_retry)
run("no-retry-after-event", no_retry_after_event)
run("paid-runs", paid_runs)
for case in ("retry", "balance", "full-bridge", "drain"):
    skip(case, "grpcurl reads no service config")
