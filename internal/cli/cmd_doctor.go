package cli

import (
	"context"
	"fmt"

	"github.com/spf13/pflag"

	fermatav1 "fermata/api/fermata/v1"
)

var doctorCommand = command{
	name: "doctor", args: "", group: groupDaemon, max: 0,
	brief: "compare what is recorded with what the kernel has",
	long: `Looks at pods and their processes, cgroups, addresses, links, host ports, images, files and mounts, and says of each
difference what mends it. The daemon looks once a minute by itself, and mends what can be nobody's but its own; this looks
now, and --repair also kills what is in cgroups of nobody's. The exit code is 0 only if nothing is left to mend.`,
	example: "fermata doctor\nfermata doctor --repair",
	build: func(s *session, flags *pflag.FlagSet) func(context.Context, []string) error {
		repair := flags.Bool("repair", false, "mend what can be mended")
		return func(ctx context.Context, _ []string) error { return s.doctor(ctx, *repair) }
	},
}

func (s *session) doctor(ctx context.Context, repair bool) error {
	client, err := s.fermata(ctx)
	if err != nil {
		return err
	}
	report, err := client.Doctor(ctx, &fermatav1.DoctorRequest{Repair: repair})
	if err != nil {
		return fmt.Errorf("examine: %w", err)
	}
	left := len(report.GetFailed())
	for _, f := range report.GetFindings() {
		if !f.GetRepaired() {
			left++
		}
	}
	done, err := s.structured(report, "")
	if !done && err == nil {
		err = s.printReport(report)
	}
	if err == nil && left > 0 {
		err = &exit{1}
	}
	return err
}

func (s *session) printReport(report *fermatav1.DoctorResponse) error {
	if len(report.GetFindings()) > 0 {
		t := newTable("AREA", "WHAT", "PROBLEM", "REMEDY")
		for _, f := range report.GetFindings() {
			remedy := f.GetRemedy()
			switch {
			case f.GetRepaired():
				remedy = "mended: " + remedy
			case f.GetError() != "":
				remedy = "not mended: " + f.GetError()
			}
			t.add(f.GetArea(), f.GetObject(), f.GetProblem(), remedy)
		}
		if err := t.print(s.Stdout); err != nil {
			return err
		}
	}
	for _, why := range report.GetFailed() {
		fmt.Fprintln(s.Stdout, "could not look:", why)
	}
	if len(report.GetFindings())+len(report.GetFailed()) == 0 {
		fmt.Fprintln(s.Stdout, "Everything is as recorded.")
	}
	for _, n := range report.GetNotes() {
		fmt.Fprintln(s.Stdout, "note:", n)
	}
	return nil
}
