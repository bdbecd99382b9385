// Package alimclient opens connections to the bridge whose calls fail with an *Error.
package alimclient

import (
	"context"
	_ "embed"
	"errors"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	_ "google.golang.org/grpc/health" // without it the service config's health checks are off
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/metadata"
)

// Published with the contract: it balances, checks health, sets deadlines, and retries what the bridge does not forbid.
//
//go:embed service_config.json
var serviceConfig string

// Security says how a connection is protected. The zero value is plain HTTP/2.
type Security struct {
	CAFile string // PEM authorities that vouch for the bridge
	Key    string // sent as `authorization: Bearer`, over TLS alone
}

// New opens a connection; in production to a name such as "dns:///alim-bridge:50051".
func New(target string, security Security, more ...grpc.DialOption) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if security.CAFile != "" {
		tls, err := credentials.NewClientTLSFromFile(security.CAFile, "")
		if err != nil {
			return nil, err
		}
		transport = tls
	}
	options := []grpc.DialOption{
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultServiceConfig(serviceConfig),
		// Finds out within 30 s that the bridge's machine is gone, while a call is open.
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 20 * time.Second, Timeout: 10 * time.Second}),
		grpc.WithChainUnaryInterceptor(convertUnary),
		grpc.WithChainStreamInterceptor(convertStream),
	}
	if security.Key != "" {
		if security.CAFile == "" {
			return nil, errors.New("a key needs TLS: set CAFile too")
		}
		options = append(options, grpc.WithPerRPCCredentials(bearer(security.Key)))
	}
	return grpc.NewClient(target, append(options, more...)...)
}

// WithRequestID names the calls of ctx in the logs. In a service, pass on the id of the request that you serve.
func WithRequestID(ctx context.Context, id string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, requestID, id)
}

type bearer string

func (key bearer) GetRequestMetadata(context.Context, ...string) (map[string]string, error) {
	return map[string]string{"authorization": "Bearer " + string(key)}, nil
}

func (bearer) RequireTransportSecurity() bool { return true }
