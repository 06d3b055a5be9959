package image_test

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"fermata/internal/testkit/handmade"
	"fermata/internal/testkit/registry"
)

// BenchmarkPull pulls an image of 14 layers and 300 MB unpacked from loopback: a few large files, many small ones, half compressible.
func BenchmarkPull(b *testing.B) {
	for name, c := range map[string]handmade.Compression{"gzip": handmade.Gzip, "zstd": handmade.Zstd, "plain": handmade.Plain} {
		b.Run(name, func(b *testing.B) {
			img := handmade.New()
			var total int64
			for i := range 14 {
				l := bulk(c, uint64(i), 300<<20/14)
				total += int64(len(l.Tar))
				img.Layers = append(img.Layers, l)
			}
			reg, err := registry.Start(registry.Options{})
			if err != nil {
				b.Fatal(err)
			}
			defer reg.Close()
			reg.Push("bench:v1", img)
			b.SetBytes(total)
			for b.Loop() {
				b.StopTimer()
				s := openB(b)
				b.StartTimer()
				pullB(b, s, reg.Host()+"/bench:v1")
			}
		})
	}
}

// bulk makes a layer of about size bytes: half of them in files of 4 MiB, half in files of 8 KiB.
func bulk(c handmade.Compression, seed uint64, size int) handmade.Layer {
	r := rand.New(rand.NewPCG(seed, 1))
	var all []handmade.Entry
	for i := 0; size > 0; i++ {
		n := 8 << 10
		if i%512 == 0 {
			n = 4 << 20
		}
		data := make([]byte, n)
		for j := 0; j+8 <= n/2; j += 8 {
			v := r.Uint64()
			for k := range 8 {
				data[j+k] = byte(v >> (8 * k))
			}
		}
		all = append(all, handmade.File(fmt.Sprintf("l%d/d%d/f%d", seed, i/100, i), string(data)))
		size -= n
	}
	return handmade.NewLayer(c, all...)
}
