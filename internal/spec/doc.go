// Package spec says what a container is: it maps a CRI request, an image's configuration and facts about the host onto an OCI runtime
// spec, and nothing else does.
//
// It is pure: no clock, no files, no system calls; equal inputs give equal specs, so each rule has a golden file (testdata: input,
// dashes, expected). Every refusal is errs.InvalidArgument (or Unimplemented) and names the CRI field. The mounts, devices and
// identities that need a look at the machine arrive already looked up, in [Input].
//
// What belongs elsewhere: making it so (package engine), finding things out (package daemon), names and states (package pod).
package spec
