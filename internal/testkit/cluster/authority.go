package cluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"time"
)

// authority is the cluster's one certificate authority. All that it issues is valid for a day, as server and as client.
type authority struct {
	dir         string
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
	serial      int64
}

// identity are the files of a certificate.
type identity struct{ certificate, key string }

func newAuthority(dir string) (*authority, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	a := &authority{dir: dir}
	template := a.template(pkix.Name{CommonName: "fermata-test"})
	template.IsCA, template.BasicConstraintsValid, template.KeyUsage = true, true, x509.KeyUsageCertSign|x509.KeyUsageDigitalSignature
	a.certificate = template // signs itself
	_, err := a.sign("ca", template)
	if err != nil {
		return nil, err
	}
	data, err := os.ReadFile(a.bundle())
	if err != nil {
		return nil, err
	}
	block, _ := pem.Decode(data)
	a.certificate, err = x509.ParseCertificate(block.Bytes)
	return a, err
}

// bundle is the file by which others know the authority.
func (a *authority) bundle() string { return filepath.Join(a.dir, "ca.crt") }

// issue makes a certificate: name is who the bearer is to the API server, groups its groups, addresses where it serves.
func (a *authority) issue(file, name string, groups []string, addresses ...netip.Addr) (identity, error) {
	template := a.template(pkix.Name{CommonName: name, Organization: groups})
	template.KeyUsage = x509.KeyUsageDigitalSignature
	template.ExtKeyUsage = []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth, x509.ExtKeyUsageServerAuth}
	for _, address := range addresses {
		template.IPAddresses = append(template.IPAddresses, net.IP(address.AsSlice()))
	}
	return a.sign(file, template)
}

func (a *authority) template(subject pkix.Name) *x509.Certificate {
	a.serial++
	return &x509.Certificate{
		SerialNumber: big.NewInt(a.serial), Subject: subject,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
	}
}

// sign makes a key and a certificate of the template for it, and writes both.
func (a *authority) sign(file string, template *x509.Certificate) (identity, error) {
	id := identity{certificate: filepath.Join(a.dir, file+".crt"), key: filepath.Join(a.dir, file+".key")}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return id, err
	}
	if a.key == nil {
		a.key = key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	if err != nil {
		return id, err
	}
	secret, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return id, err
	}
	return id, errors.Join(
		os.WriteFile(id.certificate, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), 0o600),
		os.WriteFile(id.key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: secret}), 0o600),
	)
}
