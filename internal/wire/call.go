package wire

import (
	"context"
	"time"

	"google.golang.org/grpc"

	"espalier/internal/delta"
	espalierv1 "espalier/proto/espalier/v1"
)

// Poll asks over conn what has become of what is held. The errors are those of
// gRPC and of PollResponseFromWire.
func Poll(ctx context.Context, conn grpc.ClientConnInterface, held []delta.Held) (next time.Duration, answers []Answer, err error) {
	resp, err := espalierv1.NewSyncServiceClient(conn).Poll(ctx, PollRequestToWire(held))
	if err != nil {
		return 0, nil, err
	}
	return PollResponseFromWire(resp, len(held))
}
