// Package caller is what a Go program needs to ask ALİM, beside the stubs.
package caller

import (
	_ "embed"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // without it the service config's health checks are off
	"google.golang.org/grpc/status"
)

// Published beside the .proto: balancing, health checks, timeouts, and retries of what can't have run.
//
//go:embed service_config.json
var serviceConfig string

// Connect opens a channel; in production to a name such as "dns:///alim-bridge:50051".
func Connect(target string, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultServiceConfig(serviceConfig),
	}
	return grpc.NewClient(target, append(options, more...)...)
}

// Failure is what a status says, in its details too.
type Failure struct {
	Code       codes.Code
	Message    string
	Reason     string        // stable: docs/errors.md lists them
	Fields     []string      // of the request, that break a rule
	RetryAfter time.Duration // zero where the bridge does not say
}

// FailureOf reads a call's error.
func FailureOf(err error) Failure {
	said := status.Convert(err)
	failure := Failure{Code: said.Code(), Message: said.Message()}
	for _, detail := range said.Details() {
		switch detail := detail.(type) {
		case *errdetails.ErrorInfo:
			failure.Reason = detail.GetReason()
		case *errdetails.BadRequest:
			for _, violation := range detail.GetFieldViolations() {
				failure.Fields = append(failure.Fields, violation.GetField())
			}
		case *errdetails.RetryInfo:
			failure.RetryAfter = detail.GetRetryDelay().AsDuration()
		}
	}
	return failure
}
