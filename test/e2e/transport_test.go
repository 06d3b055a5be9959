package e2e

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http2"
	"golang.org/x/net/http2/hpack"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/mem"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"fermata/internal/testkit/cri"
)

// What comes over the socket and is no call, or none that anybody could take, is refused and leaves nothing; others are answered meanwhile.
func TestAbusedTransport(t *testing.T) {
	w := start(t)
	answers := func(t *testing.T) {
		t.Helper()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		_, err := w.CRI.Status(ctx, &runtimeapi.StatusRequest{})
		check(t, err)
	}
	t.Run("messages that are too long", func(t *testing.T) { w.tooLong(t); answers(t) })
	t.Run("what is no protobuf", func(t *testing.T) { w.noProtobuf(t); answers(t) })
	t.Run("what is no HTTP/2", func(t *testing.T) { w.noHTTP(t); answers(t) })
	t.Run("a thousand connections that say nothing", func(t *testing.T) {
		var held []net.Conn
		for i := range 1000 {
			c, err := net.Dial("unix", w.Socket)
			check(t, err)
			held = append(held, c)
			if i%2 == 0 { // these have begun to speak
				_, err := io.WriteString(c, http2.ClientPreface)
				check(t, err)
			}
		}
		answers(t)
		id, err := w.CRI.RunPod(t.Context(), cri.PodConfig("beside", ""))
		check(t, err)
		check(t, w.CRI.RemovePod(t.Context(), id))
		for _, c := range held {
			c.Close()
		}
	})
	left, err := w.before.Left(t.Context()) // before the daemon is another
	check(t, err)
	if len(left) != 0 {
		t.Errorf("left:\n%s", strings.Join(left, "\n"))
	}
	w.fewGoroutines(t)
}

// tooLong sends more than 16 MiB (GEN-2); the refusal names the limit.
func (w *world) tooLong(t *testing.T) {
	config := cri.PodConfig("big", "")
	config.Annotations = map[string]string{"a": strings.Repeat("x", 17<<20)}
	_, err := w.CRI.RunPod(t.Context(), config)
	if s := status.Convert(err); s.Code() != codes.ResourceExhausted || !strings.Contains(s.Message(), fmt.Sprint(16<<20)) {
		t.Errorf("17 MiB were answered %v", err)
	}
}

// rawBytes is a codec that sends bytes as they are.
type rawBytes struct{}

func (rawBytes) Name() string { return "proto" }
func (rawBytes) Marshal(v any) (mem.BufferSlice, error) {
	return mem.BufferSlice{mem.SliceBuffer(v.([]byte))}, nil
}
func (rawBytes) Unmarshal(mem.BufferSlice, any) error { return nil }

// noProtobuf sends good messages with bytes changed or missing. What cannot be parsed is refused by the library, in its words; what still can is as
// any other bad request.
func (w *world) noProtobuf(t *testing.T) {
	conn, err := grpc.NewClient(w.Endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	check(t, err)
	defer conn.Close()
	random := rand.New(rand.NewPCG(1, 2))
	good, err := proto.Marshal(&runtimeapi.ContainerStatsRequest{ContainerId: strings.Repeat("0", 64)})
	check(t, err)
	list, err := proto.Marshal(&runtimeapi.ListContainersRequest{Filter: &runtimeapi.ContainerFilter{Id: "z", LabelSelector: map[string]string{"a": "b"}}})
	check(t, err)
	refused := 0
	for i := range 2000 {
		method, b := "/runtime.v1.RuntimeService/ContainerStats", bytes.Clone(good)
		if i%2 == 0 {
			method, b = "/runtime.v1.RuntimeService/ListContainers", bytes.Clone(list)
		}
		for range 1 + random.IntN(3) {
			b[random.IntN(len(b))] = byte(random.Uint32())
		}
		b = b[:random.IntN(len(b)+1)]
		err := conn.Invoke(t.Context(), method, b, nil, grpc.ForceCodecV2(rawBytes{}))
		switch s := status.Convert(err); s.Code() {
		case codes.OK, codes.NotFound, codes.InvalidArgument:
		case codes.Internal:
			refused++
			if !strings.Contains(s.Message(), "unmarshal") {
				t.Fatalf("%x: %v", b, err)
			}
		default:
			t.Fatalf("%x: %v", b, err)
		}
	}
	if refused == 0 {
		t.Error("everything could be parsed")
	}
}

// noHTTP says things to the socket that a client does not.
func (w *world) noHTTP(t *testing.T) {
	random := rand.New(rand.NewPCG(3, 4))
	for name, say := range map[string]func(io.Writer){
		"noise": func(c io.Writer) {
			b := make([]byte, 1+random.IntN(10_000))
			for i := range b {
				b[i] = byte(random.Uint32())
			}
			c.Write(b)
		},
		"HTTP/1":              func(c io.Writer) { io.WriteString(c, "GET / HTTP/1.1\r\nHost: x\r\n\r\n") },
		"half of a beginning": func(c io.Writer) { io.WriteString(c, http2.ClientPreface[:10]) },
		"frames of noise": func(c io.Writer) {
			io.WriteString(c, http2.ClientPreface)
			f := http2.NewFramer(c, nil)
			f.AllowIllegalWrites = true
			f.WriteSettings()
			for range 50 {
				b := make([]byte, random.IntN(1000))
				if f.WriteRawFrame(http2.FrameType(random.IntN(256)), http2.Flags(random.IntN(256)), random.Uint32()>>1, b) != nil {
					return
				}
			}
		},
		"settings without end": func(c io.Writer) {
			io.WriteString(c, http2.ClientPreface)
			f := http2.NewFramer(c, nil)
			for range 10_000 {
				if f.WriteSettings(http2.Setting{ID: http2.SettingInitialWindowSize, Val: random.Uint32() >> 1}) != nil {
					return
				}
			}
		},
		"calls that are given up at once": func(c io.Writer) {
			io.WriteString(c, http2.ClientPreface)
			f := http2.NewFramer(c, nil)
			f.WriteSettings()
			var block bytes.Buffer
			e := hpack.NewEncoder(&block)
			for i := range uint32(5000) {
				block.Reset()
				for _, h := range [][2]string{{":method", "POST"}, {":scheme", "http"}, {":path", "/runtime.v1.RuntimeService/GetContainerEvents"}, {":authority", "x"}, {"content-type", "application/grpc"}, {"te", "trailers"}} {
					e.WriteField(hpack.HeaderField{Name: h[0], Value: h[1]})
				}
				id := 2*i + 1
				if f.WriteHeaders(http2.HeadersFrameParam{StreamID: id, BlockFragment: block.Bytes(), EndHeaders: true}) != nil {
					return
				}
				f.WriteData(id, true, make([]byte, 5))
				if f.WriteRSTStream(id, http2.ErrCodeCancel) != nil {
					return
				}
			}
		},
		"headers without end": func(c io.Writer) {
			io.WriteString(c, http2.ClientPreface)
			f := http2.NewFramer(c, nil)
			f.WriteSettings()
			f.WriteHeaders(http2.HeadersFrameParam{StreamID: 1, BlockFragment: []byte{0x82}})
			for range 5000 {
				if f.WriteContinuation(1, false, bytes.Repeat([]byte{0x82}, 10_000)) != nil {
					return
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			for range 20 {
				c, err := net.Dial("unix", w.Socket)
				check(t, err)
				done := make(chan struct{})
				go func() { io.Copy(io.Discard, c); close(done) }() // it may answer, and may end
				check(t, c.SetWriteDeadline(time.Now().Add(20*time.Second)))
				say(c)
				c.Close()
				<-done
			}
		})
	}
}
