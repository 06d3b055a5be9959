package spec

import (
	"fmt"
	"strconv"
	"strings"
	"syscall"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/errs"
)

// Real-time signals as libc numbers them: the kernel's first two (32, 33) are the threading library's.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// signalNames are the names of CRI's enum Signal, without "SIG"; aliases of the architecture's numbers included.
var signalNames = map[string]syscall.Signal{
	"ABRT": syscall.SIGABRT, "ALRM": syscall.SIGALRM, "BUS": syscall.SIGBUS, "CHLD": syscall.SIGCHLD, "CLD": syscall.SIGCHLD,
	"CONT": syscall.SIGCONT, "FPE": syscall.SIGFPE, "HUP": syscall.SIGHUP, "ILL": syscall.SIGILL, "INT": syscall.SIGINT,
	"IO": syscall.SIGIO, "IOT": syscall.SIGIOT, "KILL": syscall.SIGKILL, "PIPE": syscall.SIGPIPE, "POLL": syscall.SIGPOLL,
	"PROF": syscall.SIGPROF, "PWR": syscall.SIGPWR, "QUIT": syscall.SIGQUIT, "SEGV": syscall.SIGSEGV, "STKFLT": syscall.SIGSTKFLT,
	"STOP": syscall.SIGSTOP, "SYS": syscall.SIGSYS, "TERM": syscall.SIGTERM, "TRAP": syscall.SIGTRAP, "TSTP": syscall.SIGTSTP,
	"TTIN": syscall.SIGTTIN, "TTOU": syscall.SIGTTOU, "URG": syscall.SIGURG, "USR1": syscall.SIGUSR1, "USR2": syscall.SIGUSR2,
	"VTALRM": syscall.SIGVTALRM, "WINCH": syscall.SIGWINCH, "XCPU": syscall.SIGXCPU, "XFSZ": syscall.SIGXFSZ,
}

// StopSignal is the signal that asks a container to end (CRI STP-1): the config's, else the image's, else SIGTERM.
func StopSignal(config *runtimeapi.ContainerConfig, img Image) (syscall.Signal, error) {
	if s := config.GetStopSignal(); s != runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT {
		return parseSignal("stop_signal", strings.TrimPrefix(s.String(), "SIGNAL_"))
	}
	if img.StopSignal != "" {
		return parseSignal("image StopSignal", img.StopSignal)
	}
	return syscall.SIGTERM, nil
}

// parseSignal reads "15", "TERM", "SIGTERM", "SIGRTMIN+3" and CRI's "SIGRTMINPLUS3"; any case.
func parseSignal(field, text string) (syscall.Signal, error) {
	if n, err := strconv.ParseUint(text, 10, 7); err == nil && n >= 1 && n <= sigRTMax {
		return syscall.Signal(n), nil
	}
	name := strings.TrimPrefix(strings.ToUpper(text), "SIG")
	if s, ok := signalNames[name]; ok {
		return s, nil
	}
	name = strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(name)
	if after, ok := strings.CutPrefix(name, "RTMIN"); ok {
		if n, ok := realTime(sigRTMin, after, '+'); ok {
			return n, nil
		}
	}
	if after, ok := strings.CutPrefix(name, "RTMAX"); ok {
		if n, ok := realTime(sigRTMax, after, '-'); ok {
			return n, nil
		}
	}
	return 0, errs.New(errs.InvalidArgument, "%s: unknown signal %q", field, text)
}

func realTime(base int, offset string, sign byte) (syscall.Signal, bool) {
	if offset == "" {
		return syscall.Signal(base), true
	}
	n, err := strconv.ParseUint(offset[1:], 10, 5)
	if offset[0] != sign || err != nil {
		return 0, false
	}
	s := base + int(n)
	if sign == '-' {
		s = base - int(n)
	}
	return syscall.Signal(s), s >= sigRTMin && s <= sigRTMax
}

// CRISignal is a signal as ContainerStatus.stop_signal says it.
func CRISignal(s syscall.Signal) runtimeapi.Signal {
	name := ""
	switch {
	case s == sigRTMin:
		name = "SIGRTMIN"
	case s == sigRTMax:
		name = "SIGRTMAX"
	case s > sigRTMin && s <= sigRTMin+15:
		name = fmt.Sprintf("SIGRTMINPLUS%d", s-sigRTMin)
	case s > sigRTMin+15 && s < sigRTMax:
		name = fmt.Sprintf("SIGRTMAXMINUS%d", sigRTMax-s)
	default:
		for n, v := range signalNames {
			if v != s || n == "CLD" || n == "IOT" || n == "POLL" {
				continue
			}
			name = "SIG" + n
		}
	}
	return runtimeapi.Signal(runtimeapi.Signal_value["SIGNAL_"+name])
}
