package keeper

import (
	"fmt"
	"slices"
	"sync"

	"fermata/internal/errs"
	"fermata/internal/linux"
)

// maxFollowers bounds who follows one stream of a process, and allFollowers who follow any: their pipes are descriptors of the keeper's
// ([descriptorsSpare]).
const (
	maxFollowers = 16
	allFollowers = descriptorsSpare / 3
)

// followers are the pipes to which a stream is copied as it is read. The keeper waits for none: one that has no room for what was read is given up, so
// that its reader sees an end rather than a gap.
type followers struct {
	server *Server
	mu     sync.Mutex
	pipes  []*follower
	ended  bool
}

// follower is one pipe. Its reader's end is told by the epoll loop.
type follower struct {
	of    *followers
	pipe  *linux.FD
	token uint64
}

// add takes the writing end of a pipe.
func (f *followers) add(pipe *linux.FD) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return pipe.Close() // its reader sees the end at once
	}
	if len(f.pipes) >= maxFollowers || !f.server.countFollower(1) {
		pipe.Close()
		return errs.New(errs.ResourceExhausted, "follow output: %d follow this stream, and no more can", len(f.pipes))
	}
	w := &follower{of: f, pipe: pipe}
	token, err := f.server.follow(pipe, linux.PollOnce, w) // hang-ups are always told
	if err != nil {
		f.server.countFollower(-1)
		pipe.Close()
		return err
	}
	w.token = token
	f.pipes = append(f.pipes, w)
	return nil
}

// write copies what was read.
func (f *followers) write(p []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.pipes = slices.DeleteFunc(f.pipes, func(w *follower) bool {
		if n, err := w.pipe.WriteNow(p); err == nil && n == len(p) {
			return false
		}
		w.close()
		return true
	})
}

// end closes all pipes, and those that come later.
func (f *followers) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	for _, w := range f.pipes {
		w.close()
	}
	f.pipes = nil
}

// close frees the pipe. The caller holds followers.mu and drops it from the list.
func (w *follower) close() {
	w.of.server.unfollow(w.pipe, w.token)
	w.of.server.countFollower(-1)
	w.pipe.Close()
}

// news is told once: the reader is gone.
func (w *follower) news() {
	w.of.mu.Lock()
	defer w.of.mu.Unlock()
	if i := slices.Index(w.of.pipes, w); i >= 0 {
		w.of.pipes = slices.Delete(w.of.pipes, i, i+1)
		w.close()
	}
}

// countFollower counts those there are, and reports whether there is room for one more.
func (s *Server) countFollower(by int32) bool {
	if s.followers.Add(by) <= allFollowers || by < 0 {
		return true
	}
	s.followers.Add(-by)
	return false
}

// copyTo has a process's streams copied to pipes, of which it takes duplicates.
func (p *process) copyTo(streams []string, pipes []*linux.FD) error {
	if len(streams) != len(pipes) {
		return errs.New(errs.InvalidArgument, "follow %s: %d descriptors came for %d streams", p.id, len(pipes), len(streams))
	}
	p.mu.Lock()
	var out *output
	if p.launched {
		out = p.output
	}
	p.mu.Unlock()
	if out == nil {
		return errs.New(errs.FailedPrecondition, "follow %s: the keeper does not read its output", p.id)
	}
	for i, name := range streams {
		dup, err := pipes[i].Dup()
		if err != nil {
			return err
		}
		if err := out.copyTo(name, dup); err != nil {
			return fmt.Errorf("follow %s of %s: %w", name, p.id, err)
		}
	}
	return nil
}

// copyTo takes the writing end of a pipe for a stream.
func (o *output) copyTo(name string, pipe *linux.FD) error {
	if err := pipe.SetNonblock(true); err != nil {
		pipe.Close()
		return err
	}
	for _, s := range o.streams {
		if s.name == name {
			return s.followers.add(pipe)
		}
	}
	pipe.Close()
	return errs.New(errs.FailedPrecondition, "there is no such stream")
}
