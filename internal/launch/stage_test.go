package launch

import (
	"syscall"
	"testing"
)

func TestSmoke(t *testing.T) {
	b := NewBuilder(Native())
	b.Do("say", Write, 1, "hello", 5)
	b.Do("run", Execve, "/bin/echo", []string{"echo", "world"}, []string{"A=b"})
	l := start(t, run{program: finish(t, b)})
	if err := l.failed(finish(t, b)); err != nil {
		t.Fatal(err)
	}
	if l.wait() != 0 || l.output() != "helloworld" {
		t.Errorf("%v %q", l.status, l.output())
	}
	b = NewBuilder(Native())
	b.Do("pivot_root", PivotRoot, ".", ".")
	p := finish(t, b)
	l = start(t, run{program: p, sys: syscall.SysProcAttr{}})
	t.Log(l.failed(p))
}
