// Asks ALİM and prints the answer while it is made: go run ./ask 127.0.0.1:50051 "Nə vaxt suvarım?"
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	alimv1 "buf.build/gen/go/alim/bridge/protocolbuffers/go/alim/v1"
	"caller"
)

func main() {
	if err := ask(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintf(os.Stderr, "%+v\n", caller.FailureOf(err))
		os.Exit(1)
	}
}

func ask(target, message string) error {
	channel, err := caller.Connect(target)
	if err != nil {
		return err
	}
	defer channel.Close()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()

	events, err := alimv1.NewGraphServiceClient(channel).Stream(ctx, &alimv1.StreamRequest{Message: message})
	if err != nil {
		return err
	}
	for {
		event, err := events.Recv()
		if errors.Is(err, io.EOF) {
			fmt.Println()
			return nil
		}
		if err != nil {
			return err
		}
		if token := event.GetToken(); token != nil {
			fmt.Print(token.GetText())
		}
	}
}
