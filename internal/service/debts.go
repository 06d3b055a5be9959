package service

import (
	"context"

	fermatav1 "fermata/api/fermata/v1"
	"fermata/internal/network"
)

// Debtor knows what network plugins have not given back.
type Debtor interface {
	Debts() []network.Debt
	PayDebts(ctx context.Context) error
}

// Debts lists them. That some could not be paid now is told by their errors, not by the call's.
func (s *Service) Debts(ctx context.Context, req *fermatav1.DebtsRequest) (*fermatav1.DebtsResponse, error) {
	if req.GetRetry() {
		_ = s.debts.PayDebts(ctx)
	}
	resp := &fermatav1.DebtsResponse{}
	for _, d := range s.debts.Debts() {
		resp.Debts = append(resp.Debts, &fermatav1.Debt{
			PodId: d.SandboxID, PodNamespace: d.PodNamespace, PodName: d.PodName, Network: d.Network,
			Since: d.Since.UnixNano(), Next: d.Next.UnixNano(), Tries: uint32(d.Tries), Error: d.Error,
		})
	}
	return resp, ctx.Err()
}
