package wire

import (
	"context"

	"google.golang.org/grpc"

	espalierv1 "espalier/proto/espalier/v1"
)

// Ask polls over conn. The errors are those of gRPC and of PollAnswerFromWire.
func Ask(ctx context.Context, conn grpc.ClientConnInterface, p Poll, named bool) (PollAnswer, error) {
	resp, err := espalierv1.NewSyncServiceClient(conn).Poll(ctx, PollToWire(p, named))
	if err != nil {
		return PollAnswer{}, err
	}
	return PollAnswerFromWire(resp, len(p.Held))
}
