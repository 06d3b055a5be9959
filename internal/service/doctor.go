package service

import (
	"context"

	fermatav1 "fermata/api/fermata/v1"
	"fermata/internal/doctor"
)

// Doctor looks at everything, and mends what it finds if it is asked to.
func (s *Service) Doctor(ctx context.Context, req *fermatav1.DoctorRequest) (*fermatav1.DoctorResponse, error) {
	report := doctor.Examine(ctx, s.checks)
	resp := &fermatav1.DoctorResponse{Notes: s.notes()}
	var failed map[int]error
	if req.GetRepair() {
		failed = report.Repair(ctx, true)
	}
	for i, f := range report.Findings {
		told := &fermatav1.Finding{Area: f.Area, Object: f.Object, Problem: f.Problem, Remedy: f.Remedy}
		if err := failed[i]; err != nil {
			told.Error = err.Error()
		} else {
			told.Repaired = req.GetRepair() && f.Repair != nil
		}
		resp.Findings = append(resp.Findings, told)
	}
	for _, err := range report.Failed {
		resp.Failed = append(resp.Failed, err.Error())
	}
	return resp, ctx.Err()
}
