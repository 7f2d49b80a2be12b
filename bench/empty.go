package bench

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/protobuf/types/known/emptypb"
)

const emptyMethod = "/espalier.bench.Empty/Call"

// emptyService answers a call that carries nothing with nothing: the least that
// gRPC does.
var emptyService = grpc.ServiceDesc{
	ServiceName: "espalier.bench.Empty",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Call",
		Handler: func(_ any, _ context.Context, decode func(any) error, _ grpc.UnaryServerInterceptor) (any, error) {
			var req emptypb.Empty
			if err := decode(&req); err != nil {
				return nil, err
			}
			return &emptypb.Empty{}, nil
		},
	}},
}

// dialEmpty prepares a connection with the options that an agent's has.
func dialEmpty(address string) (*grpc.ClientConn, error) {
	return grpc.NewClient(address,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithStaticStreamWindowSize(4<<20),
		grpc.WithStaticConnWindowSize(8<<20),
		grpc.WithMaxHeaderListSize(16<<10),
		grpc.WithKeepaliveParams(keepalive.ClientParameters{Time: 40 * time.Second, Timeout: 20 * time.Second}),
		grpc.WithDisableServiceConfig(),
		grpc.WithDisableRetry(),
	)
}

func callEmpty(ctx context.Context, conn *grpc.ClientConn) error {
	var req, resp emptypb.Empty
	if err := conn.Invoke(ctx, emptyMethod, &req, &resp); err != nil {
		return fmt.Errorf("empty call: %w", err)
	}
	return nil
}
