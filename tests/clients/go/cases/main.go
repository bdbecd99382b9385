// The cases of a caller in Go.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	alimv1 "buf.build/gen/go/alim/bridge/protocolbuffers/go/alim/v1"
	"caller"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
	"google.golang.org/protobuf/proto"
)

var (
	background = context.Background()
	channel    = connect(os.Getenv("ALIM_ADDRESS"))
	alim       = alimv1.NewGraphServiceClient(channel)
)

func main() {
	repeated := repeatAfter30s()
	run("invoke", invoke)
	run("stream", stream)
	run("deadline", deadline)
	run("cancel", cancel)
	run("details", details)
	run("retry-info", retryInfo)
	run("health", health)
	run("retry", retry)
	run("no-retry", noRetry)
	run("no-retry-after-event", noRetryAfterEvent)
	run("paid-runs", func() { paidRuns(repeated) })
	run("balance", balance)
	run("full-bridge", fullBridge)
	run("drain", drain)
	run("thread", thread)
}

func connect(target string, more ...grpc.DialOption) *grpc.ClientConn {
	channel, err := caller.Connect(target, more...)
	must(err)
	return channel
}

func ask(ctx context.Context, call planned) error {
	_, err := alim.Invoke(call.on(ctx), call.invoke())
	return err
}

func read(ctx context.Context, call planned) error {
	_, err := events(ctx, call)
	return err
}

func events(ctx context.Context, call planned) ([]*alimv1.StreamResponse, error) {
	events, err := alim.Stream(call.on(ctx), call.stream())
	must(err)
	return readAll(events)
}

// Reads a stream to its end, or until it fails.
func readAll(events grpc.ServerStreamingClient[alimv1.StreamResponse]) (all []*alimv1.StreamResponse, err error) {
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return all, nil
		}
		if err != nil {
			return all, err
		}
		all = append(all, event)
	}
}

var kinds = []func(context.Context, planned) error{ask, read}

func invoke() {
	reply, err := alim.Invoke(background, plan().invoke())
	must(err)
	if reply.GetResponse() == "" || reply.GetThreadId() == "" {
		fail("%v", reply)
	}
}

func stream() {
	all, err := events(background, plan())
	must(err)
	var text strings.Builder
	var tokens uint64
	for _, event := range all {
		if token := event.GetToken(); token != nil {
			text.WriteString(token.GetText())
			tokens++
		}
	}
	reply, err := alim.Invoke(background, plan().invoke())
	must(err)
	if text.String() != reply.GetResponse() {
		fail("%q is not %q", text.String(), reply.GetResponse())
	}
	if done := all[len(all)-1].GetDone(); done.GetTokenCount() != tokens {
		fail("%v after %d tokens", done, tokens)
	}
}

func deadline() {
	for _, kind := range kinds {
		ctx, cancel := context.WithTimeout(background, time.Second)
		call := plan("silent")
		if failure := caller.FailureOf(kind(ctx, call)); failure.Code != codes.DeadlineExceeded {
			fail("%+v", failure)
		}
		cancel()
		call.mustBeClosed()
	}
}

func cancel() {
	ctx, cancel := context.WithCancel(background)
	call := plan("held")
	events, err := alim.Stream(call.on(ctx), call.stream())
	must(err)
	event, err := events.Recv()
	must(err)
	if event.GetNode() == nil {
		fail("%v", event)
	}
	cancel()
	_, err = events.Recv()
	mustFail(err, codes.Canceled, "")
	call.mustBeClosed()
}

func details() {
	noUUID := "../x"
	_, err := alim.Invoke(background, &alimv1.InvokeRequest{ThreadId: &noUUID})
	mustFail(err, codes.InvalidArgument, "INVALID_REQUEST", "message", "thread_id")
}

func retryInfo() {
	for _, kind := range kinds {
		call := plan("rate_limited")
		failure := mustFail(kind(background, call), codes.ResourceExhausted, "UPSTREAM_RATE_LIMITED")
		if failure.RetryAfter != time.Second {
			fail("%v", failure.RetryAfter)
		}
		call.mustBeSent(1)
	}
}

func health() {
	for _, service := range []string{"", "alim.v1.GraphService"} {
		told, err := healthpb.NewHealthClient(channel).Check(background, &healthpb.HealthCheckRequest{Service: service})
		must(err)
		if told.GetStatus() != healthpb.HealthCheckResponse_SERVING {
			fail("%q is %v", service, told.GetStatus())
		}
	}
}

func retry() {
	for _, kind := range kinds {
		call := plan("unavailable_1", "unavailable_1")
		must(kind(background, call))
		call.mustBeSent(3)
	}
}

func noRetry() {
	for _, kind := range kinds {
		failed, reset := plan("failed"), plan("reset")
		mustFail(kind(background, failed), codes.Internal, "UPSTREAM_FAILED")
		failed.mustBeSent(1)
		mustFail(kind(background, reset), codes.Unavailable, "UPSTREAM_INTERRUPTED")
		reset.mustBeSent(1)
	}
}

func noRetryAfterEvent() {
	call := plan("cut")
	all, err := events(background, call)
	if failure := caller.FailureOf(err); len(all) != 1 || failure.Code != codes.Unavailable {
		fail("%+v after %d events", failure, len(all))
	}
	call.mustBeSent(1)
}

func thread() {
	threads, call := alimv1.NewThreadServiceClient(channel), plan("unavailable_1")
	wanted := &alimv1.Thread{Metadata: call.context}
	made, err := threads.CreateThread(call.on(background), &alimv1.CreateThreadRequest{Thread: wanted})
	must(err)
	call.mustBeSent(2)

	question := plan().stream()
	question.ThreadId = &made.ThreadId
	answer, err := alim.Stream(background, question)
	must(err)
	all, err := readAll(answer)
	must(err)
	if all[len(all)-1].GetDone() == nil {
		fail("%v", all)
	}

	found, err := threads.GetThread(background, &alimv1.GetThreadRequest{ThreadId: made.GetThreadId()})
	must(err)
	kept, sent := found.GetMetadata().GetFields()["witness"], call.context.GetFields()["witness"]
	if !proto.Equal(kept, sent) { // ALİM may add words of its own
		fail("%v", found)
	}
	_, err = threads.DeleteThread(background, &alimv1.DeleteThreadRequest{ThreadId: made.GetThreadId()})
	must(err)
	_, err = threads.GetThread(background, &alimv1.GetThreadRequest{ThreadId: made.GetThreadId()})
	mustFail(err, codes.NotFound, "UPSTREAM_NOT_FOUND")

	started, err := alim.Stream(background, &alimv1.StreamRequest{Message: message, StartThread: true})
	must(err)
	events, err := readAll(started)
	must(err)
	named := events[len(events)-1].GetDone().GetThreadId()
	_, err = threads.GetThread(background, &alimv1.GetThreadRequest{ThreadId: named})
	must(err)
}

// Begins calls of both kinds that are to be repeated after 30 s; the service config's own deadlines leave room for it.
func repeatAfter30s() <-chan error {
	ended := make(chan error, len(kinds))
	for _, kind := range kinds {
		go func() {
			call := plan("unavailable_30")
			err := kind(background, call)
			if posts := call.ask("seen").Posts; err == nil && posts != 2 {
				err = fmt.Errorf("sent %d times, not 2", posts)
			}
			ended <- err
		}()
	}
	return ended
}

// ALİM is paid a second time only where Retry-After asked for it, and within the caller's deadline.
func paidRuns(repeated <-chan error) {
	for _, kind := range kinds {
		ctx, cancel := context.WithTimeout(background, 20*time.Second)
		defer cancel()
		for _, meets := range []string{"unavailable", "unavailable_0", "unavailable_past", "unavailable_30"} {
			once := plan(meets)
			mustFail(kind(ctx, once), codes.Unavailable, "UPSTREAM_UNAVAILABLE")
			once.mustBeSent(1)
		}
		twice := plan("unavailable_1")
		must(kind(ctx, twice))
		twice.mustBeSent(2)
	}
	for range kinds {
		must(<-repeated)
	}
}

// A full bridge sends its calls to the free one, every one.
func fullBridge() {
	mustAllBeSentOnce(os.Getenv("ALIM_FULL_ADDRESS"), os.Getenv("ALIM_ADDRESS"))
}

// What one bridge can't do, the policy's next attempt finds at the other.
func balance() {
	mustAllBeSentOnce(os.Getenv("ALIM_UNREACHING_ADDRESS"), os.Getenv("ALIM_ADDRESS"))
}

// A bridge that is NOT_SERVING gets no calls.
func drain() {
	mustAllBeSentOnce(os.Getenv("ALIM_DRAINING_ADDRESS"), os.Getenv("ALIM_ADDRESS"))
}

// Makes calls to several bridges. In production that is one DNS name.
func mustAllBeSentOnce(addresses ...string) {
	several := manual.NewBuilderWithScheme("several")
	state := resolver.State{}
	for _, address := range addresses {
		state.Addresses = append(state.Addresses, resolver.Address{Addr: address})
	}
	several.InitialState(state)
	channel := connect("several:///alim-bridge", grpc.WithResolvers(several))
	defer channel.Close()
	for range 20 {
		call := plan()
		_, err := alimv1.NewGraphServiceClient(channel).Invoke(call.on(background), call.invoke())
		must(err)
		call.mustBeSent(1)
	}
}
