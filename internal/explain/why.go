package explain

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"fermata/internal/errs"
	"fermata/internal/image"
	"fermata/internal/pod"
)

// Answer is why something is as it is: the first line says it, the rest proves it and says what to do.
type Answer struct {
	// Object is what was asked about: "pod default/web", "container app of pod default/web", "image docker.io/library/nginx:1".
	Object string
	// Headline is the answer in one sentence: state, since when, the stage it is in or failed in, the cause.
	Headline string
	// Stage is "network" or the like; Culprit who is to blame ("CNI plugin bridge"); both "" where nothing is wrong.
	Stage, Culprit string
	// Wrong says that something is not as it should be.
	Wrong bool
	// Evidence and Advice are sentences.
	Evidence, Advice []string
}

// Why explains a pod (by name, namespace/name or the beginning of its ID), a container (by name, POD/NAME or the beginning of its ID) or an
// image (by name), also one that failed or went within the last hour. NotFound if nothing is known by that name.
func (e *Explainer) Why(name string) (*Answer, error) {
	now := time.Now()
	stories := e.Stories.Stories()
	for _, s := range stories { // newest first
		if isPod(&s, name) {
			return e.whyPod(&s, now), nil
		}
	}
	for _, s := range stories {
		for _, r := range slices.Backward(s.Containers) {
			if isContainer(&s, &r, name) {
				return whyContainer(&s, &r, now), nil
			}
		}
	}
	if a := e.whyImage(name, now); a != nil {
		return a, nil
	}
	return nil, errs.New(errs.NotFound, "explain %q: no pod, container or pull of that name, now or within the last hour", name)
}

func isPod(s *pod.Story, name string) bool {
	md := s.Pod.Config.M.GetMetadata()
	return name == md.GetName() || name == md.GetNamespace()+"/"+md.GetName() || len(name) >= 4 && strings.HasPrefix(s.Pod.ID, name)
}

func isContainer(s *pod.Story, r *pod.ContainerRecord, name string) bool {
	own, of := r.Config.M.GetMetadata().GetName(), s.Pod.Config.M.GetMetadata()
	return name == own || name == of.GetName()+"/"+own || name == of.GetNamespace()+"/"+of.GetName()+"/"+own || len(name) >= 4 && strings.HasPrefix(r.ID, name)
}

// whyPod explains a pod, and where that is well, the worst of its containers.
func (e *Explainer) whyPod(s *pod.Story, now time.Time) *Answer {
	a := &Answer{Object: s.Title()}
	defer func() { a.Evidence = append(a.Evidence, podEvidence(s)...) }()
	if failed := lastFailure(s.Pod.Stages); pod.Failed(s.Pod.Reason) {
		a.Wrong = true
		a.Headline = fmt.Sprintf("%s could not be made %s: %s", a.Object, ago(now, s.Gone), s.Pod.Message)
		a.blame(failed)
		return a
	}
	if !s.Gone.IsZero() {
		a.Headline = fmt.Sprintf("%s was removed %s; it was made %s", a.Object, ago(now, s.Gone), ago(now, s.Pod.Created))
		if inner := worst(s, now); inner != nil && inner.Wrong {
			a.Headline += ". Before, " + inner.Headline
			a.Wrong, a.Stage, a.Culprit, a.Advice = true, inner.Stage, inner.Culprit, inner.Advice
		}
		return a
	}
	switch s.Pod.State {
	case pod.Preparing:
		a.Wrong = true
		if failed := lastFailure(s.Pod.Stages); failed != nil {
			a.Headline = fmt.Sprintf("%s could not be made, and what was done for it is being undone: stage %s: %s", a.Object, failed.Name, failed.Error)
			a.blame(failed)
			return a
		}
		under := underWay(s.Pod.Stages)
		a.Headline = fmt.Sprintf("%s is being made for %s: stage %s", a.Object, lasting(now.Sub(s.Pod.Created)), inStage(under, now))
		if under != nil {
			a.Stage = under.Name
		}
		if e.Working != nil {
			if plugin, verb, since, at := e.Working(s.Pod.ID); at {
				a.Culprit = "CNI plugin " + plugin
				a.Headline += fmt.Sprintf("; CNI plugin %s has not answered %s for %s", plugin, verb, lasting(now.Sub(since)))
			}
		}
		a.advise()
	case pod.NotReady:
		a.Wrong = s.Pod.Reason != "Stopped"
		a.Headline = fmt.Sprintf("%s is not ready: %s", a.Object, because(s.Pod.Reason, s.Pod.Message))
		a.blame(lastFailure(s.Pod.Stages))
		if s.Pod.Reason == "PauseEnded" {
			a.Stage, a.Culprit = "pause", "pause"
		}
	default:
		e.whyReady(a, s, now)
	}
	return a
}

// whyReady explains a pod that is ready: by its containers, or why it has none.
func (e *Explainer) whyReady(a *Answer, s *pod.Story, now time.Time) {
	if inner := worst(s, now); inner != nil {
		inner.Object, inner.Evidence = a.Object, append(a.Evidence, inner.Evidence...)
		*a = *inner
		return
	}
	a.Headline = fmt.Sprintf("%s is ready since %s and has no container: nobody has asked for one", a.Object, lasting(now.Sub(s.Pod.Created)))
	if len(s.Containers) > 0 {
		return
	}
	for _, p := range e.Pulls.Attempts() { // the kubelet pulls between making a pod and its first container
		if p.Began.Before(s.Pod.Created) {
			continue
		}
		image := whyPull(&p, now)
		a.Wrong = image.Wrong
		a.Headline += "; meanwhile, " + image.Headline
		a.Stage, a.Culprit, a.Advice = image.Stage, image.Culprit, image.Advice
		return
	}
}

// worst explains the container of a pod that matters: one that went wrong last, else one under way, else any. Nil for a pod without.
func worst(s *pod.Story, now time.Time) (found *Answer) {
	for _, r := range slices.Backward(s.Containers) {
		a := whyContainer(s, &r, now)
		if a.Wrong {
			return a
		}
		if found == nil && r.State != pod.Removing {
			found = a
		}
	}
	return found
}

// whyContainer explains one container.
func whyContainer(s *pod.Story, r *pod.ContainerRecord, now time.Time) *Answer {
	a := &Answer{Object: fmt.Sprintf("container %s of %s", r.Config.M.GetMetadata().GetName(), s.Title())}
	failed, under := lastFailure(r.Stages), underWay(r.Stages)
	switch {
	case r.Exit == nil && failed != nil && failed.Pipeline == "create":
		a.Wrong = true
		a.Headline = fmt.Sprintf("%s could not be created %s: stage %s: %s", a.Object, ago(now, failed.End), failed.Name, failed.Error)
		a.blame(failed)
	case r.Reason == "StartError":
		a.Wrong = true
		a.Headline = fmt.Sprintf("%s did not start %s: stage %s", a.Object, ago(now, r.Exit.Finished), r.Message)
		a.blame(failed)
	case r.Exit != nil:
		whyExited(a, r, now)
	case under != nil:
		a.Wrong, a.Stage = true, under.Name
		a.Headline = fmt.Sprintf("%s is in stage %s", a.Object, inStage(under, now))
	case r.State == pod.StateRun:
		a.Headline = fmt.Sprintf("%s runs since %s", a.Object, lasting(now.Sub(r.Started)))
	case r.State == pod.Created:
		a.Headline = fmt.Sprintf("%s was created %s and not started: nobody has asked for it yet", a.Object, ago(now, r.Created))
	default:
		a.Headline = fmt.Sprintf("%s is %s", a.Object, r.State)
	}
	a.Evidence = append(a.Evidence, containerEvidence(r)...)
	return a
}

// whyExited explains a container that ran and ended.
func whyExited(a *Answer, r *pod.ContainerRecord, now time.Time) {
	x := r.Exit
	ran := fmt.Sprintf("%s after %s", ago(now, x.Finished), lasting(x.Finished.Sub(r.Started)))
	limit := r.Resources.M.GetMemoryLimitInBytes()
	switch {
	case x.OOMKilled && limit > 0:
		a.Wrong, a.Culprit = true, fmt.Sprintf("memory limit of %s", sizeOf(limit))
		a.Headline = fmt.Sprintf("%s was killed %s because its memory limit of %s was reached (OOMKilled, exit code %d)", a.Object, ran, sizeOf(limit), x.Code)
	case x.OOMKilled:
		a.Wrong, a.Culprit = true, "memory limit of a cgroup above it, or the machine's memory"
		a.Headline = fmt.Sprintf("%s was killed %s for want of memory (OOMKilled, exit code %d); it has no limit of its own", a.Object, ran, x.Code)
	case r.Reason == "Unknown":
		a.Wrong = true
		a.Headline = fmt.Sprintf("%s ended, nobody knows how: %s", a.Object, r.Message)
	case x.Signal != 0 && r.Signalled:
		a.Headline = fmt.Sprintf("%s was asked to stop and was ended by signal %d (%v) %s", a.Object, int(x.Signal), x.Signal, ran)
	case x.Signal != 0:
		a.Wrong, a.Culprit = true, fmt.Sprintf("signal %d (%v)", int(x.Signal), x.Signal)
		a.Headline = fmt.Sprintf("%s was ended by signal %d (%v) %s, and not by the kubelet", a.Object, int(x.Signal), x.Signal, ran)
	case x.Code != 0 && !r.Signalled:
		a.Wrong, a.Culprit = true, "its own program"
		a.Headline = fmt.Sprintf("%s ended by itself with exit code %d %s", a.Object, x.Code, ran)
		a.Advice = append(a.Advice, "its last words are in "+r.LogPath)
	default:
		a.Headline = fmt.Sprintf("%s ended with exit code %d %s", a.Object, x.Code, ran)
	}
	a.Stage = "running"
	a.advise()
}

// whyImage explains the newest pull of an image; nil if there was none.
func (e *Explainer) whyImage(name string, now time.Time) *Answer {
	for _, p := range e.Pulls.Attempts() {
		if p.Ref == name || strings.HasSuffix(p.Ref, "/"+name) || strings.HasSuffix(strings.TrimSuffix(p.Ref, ":latest"), "/"+name) {
			return whyPull(&p, now)
		}
	}
	return nil
}

func whyPull(p *image.Attempt, now time.Time) *Answer {
	a := &Answer{Object: "image " + p.Ref, Stage: "pull"}
	had := fmt.Sprintf("%s of %s, %d of %d layers", sizeOf(p.Bytes), sizeOf(p.Total), p.Layers, p.LayersTotal)
	switch {
	case p.Ended.IsZero():
		a.Headline = fmt.Sprintf("image %s is being pulled for %s: %s", p.Ref, lasting(now.Sub(p.Began)), had)
	case p.Err == nil:
		a.Headline = fmt.Sprintf("image %s was pulled %s in %s", p.Ref, ago(now, p.Ended), lasting(p.Ended.Sub(p.Began)))
	default:
		a.Wrong, a.Culprit = true, p.Culprit().String()
		a.Headline = fmt.Sprintf("image %s could not be pulled %s: %v", p.Ref, ago(now, p.Ended), p.Err)
	}
	a.advise()
	return a
}

// blame takes over what a failed stage says.
func (a *Answer) blame(s *pod.Stage) {
	if s != nil {
		a.Stage, a.Culprit = s.Name, s.Culprit
	}
	a.advise()
}

// remedies are what to do about a culprit, by how it begins.
var remedies = []struct{ culprit, do string }{
	{"CNI plugin", "look at the plugin's own log and its configuration in /etc/cni/net.d; `fermata debts` lists what it has not given back"},
	{"address range", "remove pods that are not needed (`fermata pods`), or start the daemon with a larger --subnet"},
	{"registry", "is the registry reachable from this node? Mirrors are set in hosts.toml (`fermata config explain`)"},
	{"credentials for", "give the pod an imagePullSecret for this registry"},
	{"image", "is the name right? The registry answers that it has no such image"},
	{"disk", "make room (`fermata images`, `crictl rmi --prune`, logs), or mount it writable"},
	{"seccomp profile", "put the profile there (the kubelet's --root-dir has a seccomp directory), or correct localhostProfile"},
	{"program", "correct `command`, or use an image that has the program for this machine's architecture"},
	{"mount source", "make the path on the node, or correct the volume"},
	{"memory limit", "raise the limit, or have the program use less"},
}

// advise adds what to do about the culprit.
func (a *Answer) advise() {
	for _, r := range remedies {
		if a.Culprit != "" && strings.HasPrefix(a.Culprit, r.culprit) && !slices.Contains(a.Advice, r.do) {
			a.Advice = append(a.Advice, r.do)
		}
	}
}

// lastFailure is the newest stage that failed, nil if none did.
func lastFailure(stages []pod.Stage) *pod.Stage {
	for i, s := range slices.Backward(stages) {
		if s.Error != "" {
			return &stages[i]
		}
	}
	return nil
}

// underWay is the stage that has begun and not ended, nil if none has.
func underWay(stages []pod.Stage) *pod.Stage {
	for i, s := range slices.Backward(stages) {
		if s.End.IsZero() {
			return &stages[i]
		}
	}
	return nil
}

func inStage(s *pod.Stage, now time.Time) string {
	if s == nil {
		return "none yet"
	}
	return fmt.Sprintf("%s, for %s", s.Name, lasting(now.Sub(s.Start)))
}

// podEvidence is what is known of a pod's stages.
func podEvidence(s *pod.Story) []string {
	evidence := []string{fmt.Sprintf("sandbox %s, cgroup %s, addresses %v", s.Pod.ID, s.Pod.Cgroup, s.Pod.IPs)}
	return append(evidence, stagesEvidence(s.Pod.Stages)...)
}

func containerEvidence(r *pod.ContainerRecord) []string {
	evidence := []string{fmt.Sprintf("container %s of image %s, log %s", r.ID, r.ImageName, r.LogPath)}
	return append(evidence, stagesEvidence(r.Stages)...)
}

func stagesEvidence(stages []pod.Stage) (lines []string) {
	for _, s := range stages {
		line := fmt.Sprintf("stage %s/%s: ", s.Pipeline, s.Name)
		switch {
		case s.End.IsZero():
			line += "under way since " + s.Start.Format(time.RFC3339Nano)
		case s.Error != "":
			line += fmt.Sprintf("failed after %s: %s", lasting(s.End.Sub(s.Start)), s.Error)
		default:
			line += lasting(s.End.Sub(s.Start))
		}
		lines = append(lines, line)
	}
	return lines
}

func because(reason, message string) string {
	if message == "" {
		return reason
	}
	return reason + ": " + message
}

// ago says when something was, for people.
func ago(now, then time.Time) string { return lasting(now.Sub(then)) + " ago" }

// lasting is a duration in few digits: 1.2ms, 340ms, 12.3s, 4m5s.
func lasting(d time.Duration) string {
	switch {
	case d < time.Second:
		return d.Round(10 * time.Microsecond).String()
	case d < time.Minute:
		return d.Round(10 * time.Millisecond).String()
	}
	return d.Round(time.Second).String()
}

// sizeOf is a size in few digits.
func sizeOf(n int64) string {
	const kib = 1024
	switch {
	case n >= kib*kib*kib:
		return fmt.Sprintf("%.1f GiB", float64(n)/(kib*kib*kib))
	case n >= kib*kib:
		return fmt.Sprintf("%.1f MiB", float64(n)/(kib*kib))
	case n >= kib:
		return fmt.Sprintf("%.1f KiB", float64(n)/kib)
	}
	return fmt.Sprintf("%d B", n)
}
