package alimclient

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

const requestID = "x-request-id"

// Error is the failure of a call, with all that the bridge says about it. Read it by errors.As.
type Error struct {
	Code            codes.Code
	Message         string
	Reason          string        // stable, such as UPSTREAM_RATE_LIMITED; empty if the library ended the call by itself
	Fields          []Field       // of the request, that are not valid
	RetryAfter      time.Duration // if it is not zero, ask again after this time
	Sent            *bool         // whether ALİM may have seen the question; nil if unknown: treat it as true
	EventsDelivered *uint64       // of a stream that had begun
	RequestID       string        // look for it in the bridge's log

	cause error
}

// Field is a field of the request that is not valid, with what is wrong.
type Field struct{ Name, Description string }

func (e *Error) Error() string {
	return fmt.Sprintf("%s %s: %s", e.Code, e.Reason, e.Message)
}

// Unwrap gives the library's own error.
func (e *Error) Unwrap() error { return e.cause }

// GRPCStatus lets status.Code and status.FromError read an *Error.
func (e *Error) GRPCStatus() *status.Status { return status.Convert(e.cause) }

func newError(err error, metadata ...metadata.MD) error {
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	said := status.Convert(err)
	e := &Error{Code: said.Code(), Message: said.Message(), cause: err}
	for _, md := range metadata {
		if ids := md.Get(requestID); len(ids) > 0 {
			e.RequestID = ids[0]
		}
	}
	for _, detail := range said.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			e.read(detail)
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				e.Fields = append(e.Fields, Field{violation.GetField(), violation.GetDescription()})
			}
		case *errdetails.RetryInfo:
			e.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	return e
}

func (e *Error) read(info *errdetails.ErrorInfo) {
	if info.GetDomain() != "alim-bridge" {
		return
	}
	e.Reason = info.GetReason()
	if sent, err := strconv.ParseBool(info.GetMetadata()["sent"]); err == nil {
		e.Sent = &sent
	}
	if events, err := strconv.ParseUint(info.GetMetadata()["eventsDelivered"], 10, 64); err == nil {
		e.EventsDelivered = &events
	}
}

func convertUnary(ctx context.Context, method string, request, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, options ...grpc.CallOption) error {
	var trailer metadata.MD
	err := invoke(ctx, method, request, reply, conn, append(options, grpc.Trailer(&trailer))...)
	return newError(err, trailer)
}

func convertStream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, open grpc.Streamer, options ...grpc.CallOption) (grpc.ClientStream, error) {
	stream, err := open(ctx, desc, conn, method, options...)
	if err != nil {
		return nil, newError(err)
	}
	return convertedStream{stream}, nil
}

type convertedStream struct{ grpc.ClientStream }

func (s convertedStream) RecvMsg(message any) error {
	err := s.ClientStream.RecvMsg(message)
	if err == nil || errors.Is(err, io.EOF) {
		return err
	}
	// A stream that had begun says its id at the start, any other call at its end.
	header, _ := s.Header()
	return newError(err, header, s.Trailer())
}
