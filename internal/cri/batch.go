package cri

import "google.golang.org/protobuf/proto"

// batchBytes is about how much one message of a streamed list holds, far below what anybody refuses (STR-1).
const batchBytes = 1 << 20

// batch sends a list in parts, by size; an empty list sends nothing.
func batch[M proto.Message](list []M, send func([]M) error) error {
	for start, end, size := 0, 0, 0; start < len(list); start, size = end, 0 {
		for end < len(list) && (end == start || size < batchBytes) {
			size += proto.Size(list[end])
			end++
		}
		if err := send(list[start:end]); err != nil {
			return err
		}
	}
	return nil
}
