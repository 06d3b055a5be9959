package errs

import (
	"fmt"
	"runtime"
	"strings"
)

// Guard runs do; a panic of it becomes an [Internal] error that says where it came from, so that a bug costs one operation, which is undone like any
// other that failed, and not the process.
func Guard(do func() error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = New(Internal, "a bug in fermata (panic at %s): %v", origin(), p)
		}
	}()
	return do()
}

// origin is the innermost place outside the Go runtime on the stack of a recovering function's caller.
func origin() string {
	pcs := make([]uintptr, 32)
	frames := runtime.CallersFrames(pcs[:runtime.Callers(3, pcs)])
	for {
		f, more := frames.Next()
		if f.Function != "" && !strings.HasPrefix(f.Function, "runtime.") {
			return fmt.Sprintf("%s:%d", f.File, f.Line)
		}
		if !more {
			return "an unknown place"
		}
	}
}
