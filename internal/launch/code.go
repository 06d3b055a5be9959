package launch

// The bodies are in stage_*.s. They are never called: their bytes are in code_generated.go, for every architecture, which
// TestAssembledCodeIsWhatIsShipped compares with the assembler's output and rewrites (go test ./internal/launch -run Assembled -update).

//lint:ignore U1000 vet wants a declaration of what stage_*.s defines
//go:noescape
func stageCode()

//lint:ignore U1000 vet wants a declaration of what stage_*.s defines
//go:noescape
func pauseCode()

// machineCode is the stage's and pause's code for one architecture.
type machineCode struct{ stage, pause string }
