// Asks ALİM in every way that a service needs: whole, typed, in a thread, with a deadline, cancelled, failing.
package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"os"
	"time"

	"example.com/alim-example/alimclient"
	alimv1 "example.com/alim-example/gen/alim/v1"
	"google.golang.org/protobuf/types/known/structpb"
)

func main() {
	target := cmp.Or(os.Getenv("ALIM_ADDRESS"), "127.0.0.1:50051")
	security := alimclient.Security{CAFile: os.Getenv("ALIM_CA_FILE"), Key: os.Getenv("ALIM_CALLER_KEY")}
	if err := run(target, security); err != nil {
		log.Fatal(err)
	}
}

func run(target string, security alimclient.Security) error {
	conn, err := alimclient.New(target, security)
	if err != nil {
		return err
	}
	defer conn.Close()
	tour := tour{alimv1.NewGraphServiceClient(conn), alimv1.NewThreadServiceClient(conn)}
	for _, part := range []func() error{tour.invoke, tour.conversation, tour.failures, tour.deadline, tour.cancel, tour.retry} {
		if err := part(); err != nil {
			return err
		}
	}
	return nil
}

type tour struct {
	alim    alimv1.GraphServiceClient
	threads alimv1.ThreadServiceClient
}

// call gives a context with a deadline and a request id. In a service, begin with the context of the request that you serve.
func call(name string, within time.Duration) (context.Context, context.CancelFunc) {
	ctx := alimclient.WithRequestID(context.Background(), uuid()+"-"+name)
	return context.WithTimeout(ctx, within)
}

func (t tour) invoke() error {
	fmt.Println("== A whole answer")
	ctx, cancel := call("invoke", time.Minute)
	defer cancel()
	reply, err := t.alim.Invoke(ctx, &alimv1.InvokeRequest{Message: "Nə vaxt suvarım?"})
	if err != nil {
		return err
	}
	fmt.Println(reply.GetResponse())
	fmt.Println("model:", reply.GetModel())
	return nil
}

func (t tour) conversation() error {
	fmt.Println("== A conversation, typed")
	thread, err := t.typeAnswer(&alimv1.StreamRequest{Message: "Nə vaxt suvarım?", StartThread: true})
	if err != nil {
		return err
	}
	again, err := t.typeAnswer(&alimv1.StreamRequest{Message: "Bəs sabah?", ThreadId: &thread})
	if err != nil {
		return err
	}
	if thread != "" && again == thread {
		fmt.Println("in the same thread")
	} else {
		fmt.Println("in another thread")
	}
	ctx, cancel := call("delete", 10*time.Second)
	defer cancel()
	_, err = t.threads.DeleteThread(ctx, &alimv1.DeleteThreadRequest{ThreadId: thread})
	return err
}

// typeAnswer prints the answer while it is made, and gives the thread that it belongs to.
func (t tour) typeAnswer(question *alimv1.StreamRequest) (thread string, err error) {
	ctx, cancel := call("stream", time.Minute)
	defer cancel()
	err = t.read(ctx, question, func(event *alimv1.StreamResponse) bool {
		switch event := event.GetEvent().(type) {
		case *alimv1.StreamResponse_Token:
			fmt.Print(event.Token.GetText())
		case *alimv1.StreamResponse_Done:
			fmt.Printf("\n%d tokens\n", event.Done.GetTokenCount())
			thread = event.Done.GetThreadId()
		}
		return true
	})
	return thread, err
}

// read calls each until the stream ends or each returns false. The context of a stream that is left must be cancelled.
func (t tour) read(ctx context.Context, question *alimv1.StreamRequest, each func(*alimv1.StreamResponse) bool) error {
	events, err := t.alim.Stream(ctx, question)
	if err != nil {
		return err
	}
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if !each(event) {
			return nil
		}
	}
}

func (t tour) failures() error {
	fmt.Println("== A question that is not valid")
	ctx, cancel := call("invalid", 10*time.Second)
	defer cancel()
	thread := "x"
	_, err := t.alim.Invoke(ctx, &alimv1.InvokeRequest{Message: "", ThreadId: &thread})
	if err := show(err); err != nil {
		return err
	}

	// The embedded ALİM fails on request.
	fmt.Println("== A stream that fails on its way")
	ctx, cancel = call("failing", 10*time.Second)
	defer cancel()
	question := &alimv1.StreamRequest{Message: "Salam", ScenarioContext: fault("agent_failed")}
	err = t.read(ctx, question, func(*alimv1.StreamResponse) bool { return true })
	if err := show(err); err != nil {
		return err
	}

	fmt.Println("== Too many questions")
	ctx, cancel = call("limited", 1500*time.Millisecond)
	defer cancel()
	_, err = t.alim.Invoke(ctx, &alimv1.InvokeRequest{Message: "Salam", ScenarioContext: fault("rate_limited")})
	return show(err)
}

// show prints the failure of a call; any other error is returned.
func show(err error) error {
	var failure *alimclient.Error
	if !errors.As(err, &failure) {
		return cmp.Or(err, errors.New("the call did not fail"))
	}
	fmt.Println(codeName(failure), failure.Reason)
	for _, field := range failure.Fields {
		fmt.Printf("  %s: %s\n", field.Name, field.Description)
	}
	if failure.RetryAfter != 0 {
		fmt.Printf("  retry after: %g s\n", failure.RetryAfter.Seconds())
	}
	if failure.Sent != nil {
		fmt.Println("  sent:", *failure.Sent)
	}
	if failure.EventsDelivered != nil {
		fmt.Println("  events delivered:", *failure.EventsDelivered)
	}
	fmt.Println("  request id:", failure.RequestID)
	return nil
}

func (t tour) deadline() error {
	fmt.Println("== A deadline that passes")
	ctx, cancel := call("deadline", 500*time.Millisecond)
	defer cancel()
	err := t.read(ctx, slow(), func(*alimv1.StreamResponse) bool { return true })
	var failure *alimclient.Error
	if !errors.As(err, &failure) {
		return cmp.Or(err, errors.New("the call did not fail"))
	}
	fmt.Println(codeName(failure))
	return nil
}

func (t tour) cancel() error {
	fmt.Println("== A stream that is cancelled")
	ctx, cancel := call("cancel", time.Minute)
	defer cancel() // else ALİM goes on to the deadline, and you pay for it
	return t.read(ctx, slow(), func(*alimv1.StreamResponse) bool {
		fmt.Println("left after the first event")
		return false
	})
}

func (t tour) retry() error {
	fmt.Println("== A call that is retried")
	ctx, cancel := call("retry", time.Minute)
	defer cancel()
	reply, err := t.alim.Invoke(ctx, &alimv1.InvokeRequest{Message: "Salam"})
	if err != nil {
		return err
	}
	if reply.GetResponse() != "" {
		fmt.Println("answered")
	}
	return nil
}

func slow() *alimv1.StreamRequest {
	return &alimv1.StreamRequest{Message: "Salam", ScenarioContext: fault("slow")}
}

func fault(name string) *structpb.Struct {
	return &structpb.Struct{Fields: map[string]*structpb.Value{"emulator_fault": structpb.NewStringValue(name)}}
}
