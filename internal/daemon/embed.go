package daemon

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

//go:embed all:embedded
var embedded embed.FS

// unpackKeeper puts the embedded keeper below dir, under the digest of its contents, and returns its path; "" if none was built in. Keepers of
// other versions stay: one may be running.
func unpackKeeper(dir string) (string, error) {
	b, err := embedded.ReadFile("embedded/fermata-keeper")
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(b)
	path := filepath.Join(dir, hex.EncodeToString(sum[:8]), "fermata-keeper")
	if have, err := os.ReadFile(path); err == nil && sha256.Sum256(have) == sum {
		return path, nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return "", err
	}
	tmp := path + ".new"
	if err := os.WriteFile(tmp, b, 0o700); err != nil {
		return "", err
	}
	return path, os.Rename(tmp, path)
}
