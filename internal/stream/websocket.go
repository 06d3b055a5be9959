package stream

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"

	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"

	"fermata/internal/pod"
)

// webSocket holds a session in v5.channel.k8s.io: v4, and a client may close its stdin alone (KEP-4006).
func (c *session) webSocket(d *command, do func(*pod.Streams) error) {
	o := d.o
	kind := func(wanted bool, kind wsstream.ChannelType) wsstream.ChannelType {
		if wanted {
			return kind
		}
		return wsstream.IgnoreChannel
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{remotecommand.StreamProtocolV5Name: {Binary: true, Channels: []wsstream.ChannelType{
		remotecommand.StreamStdIn:  kind(o.Stdin, wsstream.ReadChannel),
		remotecommand.StreamStdOut: kind(o.Stdout, wsstream.WriteChannel),
		remotecommand.StreamStdErr: kind(o.Stderr, wsstream.WriteChannel),
		remotecommand.StreamErr:    wsstream.WriteChannel,
		remotecommand.StreamResize: wsstream.ReadChannel,
	}}})
	conn.SetIdleTimeout(idleTimeout)
	_, channels, err := conn.Open(c, c.request)
	if err != nil {
		c.server.log.Debug("upgrade to WebSocket", "error", err) // the client has been told
		return
	}
	defer conn.Close()
	first := remotecommand.StreamErr
	if o.Stdout {
		first = remotecommand.StreamStdOut
	}
	channels[first].Write(nil) // says that the session has begun
	sizes := make(chan remotecommand.TerminalSize)
	c.server.work.Go(func() { c.resizes(channels[remotecommand.StreamResize], sizes) })
	s := d.streams(channels[remotecommand.StreamStdIn], channels[remotecommand.StreamStdOut], channels[remotecommand.StreamStdErr], sizes)
	// A client that is gone is told nothing.
	_, _ = channels[remotecommand.StreamErr].Write(status(do(s)))
}

// resizes passes on the sizes that a client sends, until the session ends.
func (c *session) resizes(from io.Reader, to chan<- remotecommand.TerminalSize) {
	defer close(to)
	for d := json.NewDecoder(from); ; {
		var size remotecommand.TerminalSize
		if d.Decode(&size) != nil {
			io.Copy(io.Discard, from) // unread it would block the session
			return
		}
		select {
		case to <- size:
		case <-c.ctx.Done():
			return
		}
	}
}

// status is how a session ended: a metav1.Status, from v4 on.
func status(err error) []byte {
	type cause struct {
		Reason  string `json:"reason"`
		Message string `json:"message"`
	}
	type details struct {
		Causes []cause `json:"causes"`
	}
	s := struct {
		Status  string   `json:"status"`
		Message string   `json:"message,omitempty"`
		Reason  string   `json:"reason,omitempty"`
		Details *details `json:"details,omitempty"`
		Code    int      `json:"code,omitempty"`
	}{Status: "Success"}
	var exited exitCode
	switch {
	case errors.As(err, &exited):
		s.Status, s.Reason = "Failure", remotecommand.NonZeroExitCodeReason
		s.Details = &details{[]cause{{remotecommand.ExitCodeCauseType, strconv.Itoa(int(exited))}}}
	case err != nil:
		s.Status, s.Reason, s.Code = "Failure", "InternalError", http.StatusInternalServerError
	}
	s.Message = message(err)
	b, err := json.Marshal(s)
	if err != nil {
		return nil // strings and a number: cannot be
	}
	return b
}

// message is how a session ended, for people; "" is success.
func message(err error) string {
	var exited exitCode
	switch {
	case err == nil:
		return ""
	case errors.As(err, &exited):
		return fmt.Sprintf("command terminated with non-zero exit code: %v", exited)
	}
	return fmt.Sprintf("Internal error occurred: %v", err)
}
