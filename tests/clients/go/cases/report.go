package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"

	alimv1 "buf.build/gen/go/alim/bridge/protocolbuffers/go/alim/v1"
	"caller"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/protobuf/types/known/structpb"
)

const message = "Fermada susuzluq var, nə edim?"

// A planned call: the witness knows it by its id, and its attempts meet what is planned for them.
type planned struct {
	id      string
	context *structpb.Struct
}

func plan(meets ...string) planned {
	words := make([]any, len(meets))
	for i, word := range meets {
		words[i] = word
	}
	context, err := structpb.NewStruct(map[string]any{"witness": words})
	must(err)
	return planned{rand.Text(), context}
}

func (call planned) invoke() *alimv1.InvokeRequest {
	return &alimv1.InvokeRequest{Message: message, ScenarioContext: call.context}
}

func (call planned) stream() *alimv1.StreamRequest {
	return &alimv1.StreamRequest{Message: message, ScenarioContext: call.context}
}

func (call planned) on(ctx context.Context) context.Context {
	return metadata.AppendToOutgoingContext(ctx, "x-request-id", call.id)
}

// Asserts how often it was sent.
func (call planned) mustBeSent(times int) {
	if posts := call.ask("seen").Posts; posts != times {
		fail("sent %d times, not %d", posts, times)
	}
}

// Waits until the bridge has hung up.
func (call planned) mustBeClosed() {
	if closed := call.ask("closed").Closed; closed != 1 {
		fail("closed %d times", closed)
	}
}

type seen struct{ Posts, Closed int }

func (call planned) ask(question string) (told seen) {
	reply, err := http.Get(fmt.Sprintf("%s/%s/%s", os.Getenv("ALIM_WITNESS"), question, call.id))
	must(err)
	defer reply.Body.Close()
	must(json.NewDecoder(reply.Body).Decode(&told))
	return told
}

func mustFail(err error, code codes.Code, reason string, fields ...string) caller.Failure {
	failure := caller.FailureOf(err)
	if failure.Code != code || failure.Reason != reason || !slices.Equal(failure.Fields, fields) {
		fail("%+v is not %v %s %v", failure, code, reason, fields)
	}
	return failure
}

func must(err error) {
	if err != nil {
		fail("%v", err)
	}
}

func fail(format string, words ...any) {
	panic(fmt.Sprintf(format, words...))
}

func run(name string, body func()) {
	defer func() {
		if why := recover(); why != nil {
			fmt.Printf("failed\t%s\t%s\n", name, strings.ReplaceAll(fmt.Sprint(why), "\n", " | "))
		} else {
			fmt.Printf("ok\t%s\n", name)
		}
	}()
	body()
}
